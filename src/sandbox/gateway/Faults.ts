import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

/**
 * What goes wrong with an answer.
 *
 * - `Status`: this status, with an HTML page (or `body` of `contentType`).
 * - `Delay`: the right answer, `millis` later.
 * - `SlowBody`: the right answer, a byte each `millis`.
 * - `Silence`: nothing at all.
 * - `HangAfterHeaders`: 200, the first byte, and no more.
 * - `CutMidBody`: 200, the first byte, and the connection is closed.
 * - `Html`: 200 with a login page.
 * - `Redirect`: 302 to `location`.
 */
export const Failure = Schema.TaggedUnion({
  Status: {
    status: Schema.Int,
    body: Schema.optionalKey(Schema.String),
    contentType: Schema.optionalKey(Schema.String)
  },
  Delay: { millis: Schema.Finite },
  SlowBody: { millis: Schema.Finite },
  Silence: {},
  HangAfterHeaders: {},
  CutMidBody: {},
  Html: {},
  Redirect: { location: Schema.String }
})
export type Failure = typeof Failure.Type

/** `route` as `POST /data/api/v1/scan/projects`, with `*` at its end for all that begin so; `times`: how often, else for ever. */
export const RouteFault = Schema.Struct({
  route: Schema.String,
  failure: Failure,
  times: Schema.optionalKey(Schema.Int)
})
export type RouteFault = typeof RouteFault.Type

/** The failures waiting to happen. */
export interface Faults {
  readonly inject: (fault: RouteFault) => Effect.Effect<void>
  readonly clear: Effect.Effect<void>
  /** The answer of `route`, or what goes wrong instead. */
  readonly around: <E, R>(
    route: string,
    answer: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
  ) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
}

export const page = (text: string, status = 200) =>
  HttpServerResponse.text(`<!DOCTYPE html><html><body>${text}</body></html>`, { status, contentType: "text/html" })

const firstByte = (rest: Stream.Stream<Uint8Array, string>) =>
  HttpServerResponse.stream(Stream.concat(Stream.succeed(new TextEncoder().encode("{")), rest), {
    contentType: "application/json",
    contentLength: 100
  })

const slowed = (millis: number) => (response: HttpServerResponse.HttpServerResponse) =>
  response.body._tag !== "Uint8Array"
    ? response
    : HttpServerResponse.stream(
        Stream.fromIterable(response.body.body).pipe(
          Stream.map((byte) => Uint8Array.of(byte)),
          Stream.tap(() => Effect.sleep(millis))
        ),
        { status: response.status, contentType: response.body.contentType, contentLength: response.body.contentLength }
      )

export const make: Effect.Effect<Faults> = Effect.sync(() => {
  let pending: ReadonlyArray<RouteFault> = []

  const take = (route: string): Failure | undefined => {
    const fault = pending.find((_) =>
      _.route.endsWith("*") ? route.startsWith(_.route.slice(0, -1)) : _.route === route
    )
    if (fault?.times !== undefined) {
      const times = fault.times - 1
      pending = pending.flatMap((_) => (_ !== fault ? [_] : times > 0 ? [{ ...fault, times }] : []))
    }
    return fault?.failure
  }

  return {
    inject: (fault) =>
      Effect.sync(() => {
        pending = [...pending, fault]
      }),
    clear: Effect.sync(() => {
      pending = []
    }),
    around: (route, answer) =>
      Effect.suspend(() => {
        const failure = take(route)
        return failure === undefined
          ? answer
          : Failure.match(failure, {
              Status: ({ body, contentType, status }) =>
                Effect.succeed(
                  body === undefined
                    ? page(`Error ${status}`, status)
                    : HttpServerResponse.text(body, { status, contentType: contentType ?? "application/json" })
                ),
              Delay: ({ millis }) => Effect.delay(answer, millis),
              SlowBody: ({ millis }) => Effect.map(answer, slowed(millis)),
              Silence: () => Effect.never,
              HangAfterHeaders: () => Effect.succeed(firstByte(Stream.never)),
              CutMidBody: () => Effect.succeed(firstByte(Stream.fail("cut"))),
              Html: () => Effect.succeed(page("Please log in")),
              Redirect: ({ location }) => Effect.succeed(HttpServerResponse.redirect(location))
            })
      })
  }
})
