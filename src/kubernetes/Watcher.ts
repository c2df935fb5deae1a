/**
 * Lists a collection, then watches it, for ever: what a store needs to mirror the API server.
 *
 * *Guarantees.* Events of one object come in order. After every `InitDone` the objects announced since the last `Init`
 * are the whole collection; what was known before and is not among them is gone. The view never goes back in time,
 * unless the API server itself did (a restored etcd). Nothing ends it but interruption: each failure is an event.
 *
 * *Assumptions.* The Schema decodes `metadata.name` and whatever else the caller reads; checks are skipped, because the
 * API server made them. Fields that it does not name cost no memory.
 *
 * *Recovery.* A clean end: watch again from the last resourceVersion. 410 in any form, or a resourceVersion that lies in
 * the future (asked for after each failure, and after a watch without a line): list again. 429: after Retry-After. A
 * connection that says nothing (not even bookmarks) is cut and opened again. No answer at all: again within seven
 * seconds. All else: the same request again, after a back-off that only two quiet minutes reset.
 */
import { Clock, Duration, Effect, Option, Random, Schema, Stream } from "effect"
import { ApiClient, type Selection } from "./ApiClient.ts"
import * as ApiErrors from "./ApiError.ts"
import { ApiError } from "./ApiError.ts"
import * as Pages from "./Pages.ts"
import type * as Resource from "./Resource.ts"

/** Identity of an object, read apart from the rest, so that what cannot be decoded can still be named and deleted. */
export interface Identity extends Resource.ObjectRef {
  readonly uid: string
  readonly resourceVersion: string
}

export type Event<A> =
  /** A list begins: buffer until `InitDone`. */
  | { readonly _tag: "Init" }
  | { readonly _tag: "InitApply"; readonly id: Identity; readonly object: A }
  | { readonly _tag: "InitDone" }
  | { readonly _tag: "Apply"; readonly id: Identity; readonly object: A }
  | { readonly _tag: "Delete"; readonly id: Identity }
  /** One object that does not decode; the rest goes on. Say so once per uid and resourceVersion. */
  | {
      readonly _tag: "Invalid"
      readonly id: Option.Option<Identity>
      readonly message: string
      readonly initial: boolean
    }
  /** A failure, and when it is tried again. */
  | { readonly _tag: "Failed"; readonly error: ApiError; readonly retryIn: Duration.Duration }

export interface Options<A> extends Selection {
  readonly resource: Resource.Resource
  readonly schema: Schema.Codec<A, unknown>
  /** Objects a page; {@link Pages.size} by default. */
  readonly pageSize?: number
  /** After so long without a byte a connection counts as dead; by default {@link silence}. */
  readonly silence?: Duration.Duration
}

/** No byte for so long, though a bookmark comes every minute: the connection is dead. */
export const silence = Duration.seconds(130)

/** Delays after failures: 0.8 s, doubling to 30 s, each with jitter in [d, 2d). Two minutes without a failure reset it. */
export const backoff = (failures: number, random: number): Duration.Duration =>
  Duration.millis(Math.min(30_000, 800 * 2 ** Math.min(failures, 10)) * (1 + random))
/** As long as nobody answers at all: it costs the API server nothing, and who waits longer is deaf when it is back. */
const whileAway = (failures: number, random: number): Duration.Duration => backoff(Math.min(failures, 2), random)
const calm = Duration.toMillis(Duration.minutes(2))

const RawIdentity = Schema.Struct({
  metadata: Schema.Struct({
    name: Schema.String,
    namespace: Schema.String.pipe(Schema.withDecodingDefaultKey(Effect.succeed(""))),
    uid: Schema.String.pipe(Schema.withDecodingDefaultKey(Effect.succeed(""))),
    resourceVersion: Schema.String.pipe(Schema.withDecodingDefaultKey(Effect.succeed("")))
  })
})
const decodeIdentity = Schema.decodeUnknownOption(RawIdentity)

const RawEvent = Schema.Struct({ type: Schema.String, object: Schema.Unknown })
const decodeEvent = Schema.decodeUnknownOption(Schema.fromJsonString(RawEvent))
const RawStatus = Schema.Struct({ code: Schema.Int.pipe(Schema.withDecodingDefaultKey(Effect.succeed(500))) })
const decodeCode = Schema.decodeUnknownOption(RawStatus)
const RawVersion = Schema.Struct({ metadata: Schema.Struct({ resourceVersion: Schema.String }) })
const decodeVersion = Schema.decodeUnknownOption(RawVersion)

/**
 * Runs for ever; `emit` is awaited, so a slow reader slows the watch down instead of filling memory. Events come in
 * batches, as they came over the wire.
 */
export const run = Effect.fnUntraced(function* <A, R>(
  options: Options<A>,
  emit: (events: ReadonlyArray<Event<A>>) => Effect.Effect<void, never, R>
) {
  const client = yield* ApiClient
  const decode = Schema.decodeUnknownResult(options.schema)
  const operation = `WATCH ${options.resource.plural} ${options.namespace ?? "(all namespaces)"}`
  let failures = 0
  let lastFailure = 0
  /** Failures without an answer, in a row. */
  let away = 0
  /** The last resourceVersion seen; absent means: list whatever is newest. */
  let seen: string | undefined

  const object = (raw: unknown, initial: boolean): Event<A> => {
    const identity = Option.map(decodeIdentity(raw), ({ metadata }): Identity => metadata)
    const decoded = decode(raw, { disableChecks: true })
    if (decoded._tag === "Success" && Option.isSome(identity)) {
      return { _tag: initial ? "InitApply" : "Apply", id: identity.value, object: decoded.success }
    }
    const message = decoded._tag === "Failure" ? decoded.failure.message : "it has no metadata.name"
    return { _tag: "Invalid", id: identity, message, initial }
  }

  const failed = Effect.fnUntraced(function* (error: ApiError, isAway = false) {
    const now = yield* Clock.currentTimeMillis
    if (now - lastFailure > calm) failures = 0
    lastFailure = now
    const asked = error.reason._tag === "TooManyRequests" ? error.reason.retryAfterMillis : 0
    const random = yield* Random.next
    // Counted apart: an API server that has just come back may refuse the first request.
    const own = isAway ? whileAway(away++, random) : backoff(failures++, random)
    const retryIn = asked > 0 ? Duration.millis(asked * (1 + (yield* Random.next) * 0.2)) : own
    yield* emit([{ _tag: "Failed", error, retryIn }])
    yield* Effect.sleep(retryIn)
  })

  const list = Effect.gen(function* () {
    yield* emit([{ _tag: "Init" }])
    let version = seen
    yield* Stream.runForEach(Pages.of(client, options.resource, { ...options, resourceVersion: seen }), (page) => {
      version = page.resourceVersion
      return emit(page.items.map((item) => object(item, true)))
    })
    yield* emit([{ _tag: "InitDone" }])
    return version
  })

  /** What a line says; an `ERROR` event ends the watch. */
  const line = (text: string, events: Array<Event<A>>): ApiError | undefined => {
    const event = Option.getOrUndefined(decodeEvent(text))
    if (event === undefined) {
      events.push({ _tag: "Invalid", id: Option.none(), message: "a line of the watch is no event", initial: false })
      return undefined
    }
    if (event.type === "ERROR") {
      const code = Option.match(decodeCode(event.object), { onNone: () => 500, onSome: ({ code }) => code })
      return new ApiError({ operation, reason: ApiErrors.reasonOf(code, event.object) })
    }
    const version = Option.getOrUndefined(decodeVersion(event.object))?.metadata.resourceVersion
    if (event.type === "BOOKMARK") {
      bookmarks = true
      seen = version ?? seen
      return undefined
    }
    if (event.type === "DELETED") {
      const identity = Option.getOrUndefined(decodeIdentity(event.object))
      if (identity !== undefined) events.push({ _tag: "Delete", id: identity.metadata })
    } else if (event.type === "ADDED" || event.type === "MODIFIED") {
      events.push(object(event.object, false))
    }
    seen = version ?? seen
    return undefined
  }

  /** Whether a bookmark ever came: an API server without watch cache sends none, and is silent without being dead. */
  let bookmarks = false
  let watches = 0

  /** One watch from `seen` on. Succeeds with the number of its lines when the API server ended it. */
  const watch = Effect.gen(function* () {
    // Random, so that the watches of a process do not all end at once; below the 295 s at which some proxies cut.
    const timeoutSeconds = yield* Random.nextIntBetween(240, 289)
    const idle = bookmarks || watches++ === 0 ? (options.silence ?? silence) : Duration.seconds(timeoutSeconds + 5)
    let lines = 0
    yield* client.watch(options.resource, { ...options, resourceVersion: seen ?? "", timeoutSeconds }).pipe(
      Stream.timeoutOrElse({
        duration: idle,
        orElse: () =>
          Stream.fail(
            new ApiError({
              operation,
              reason: new ApiErrors.TimedOut({ message: `not a byte for ${Duration.toSeconds(idle)} s` })
            })
          )
      }),
      Stream.runForEachArray((batch) =>
        Effect.suspend(() => {
          const events: Array<Event<A>> = []
          let ended: ApiError | undefined
          for (const text of batch) {
            if (text === "") continue
            lines++
            ended = line(text, events)
            if (ended !== undefined) break
          }
          const emitted = events.length === 0 ? Effect.void : emit(events)
          return ended === undefined ? emitted : Effect.andThen(emitted, Effect.fail(ended))
        })
      )
    )
    return lines
  })

  /** Whether our resourceVersion lies in the future: such a watch is answered 200 and silence, for ever. */
  const probe = Effect.suspend(() => client.list(options.resource, { ...options, limit: 1, resourceVersion: seen }))

  /** Watches until the view must be listed again. */
  const watchUntilLost = Effect.gen(function* () {
    let brief = 0
    while (true) {
      const started = yield* Clock.currentTimeMillis
      const lines = yield* watch
      const isBrief = (yield* Clock.currentTimeMillis) - started < 1000
      brief = isBrief ? brief + 1 : 0
      // An API server that stops, or a proxy, may end a watch right after a line; one that keeps doing so is not well.
      if (isBrief && (lines === 0 || brief > 3)) {
        yield* failed(
          new ApiError({ operation, reason: new ApiErrors.Unreachable({ message: "the watch ended at once" }) })
        )
      }
      if (lines === 0) yield* probe
    }
  })

  let listed = false
  while (true) {
    let answered = false
    const round = Effect.gen(function* () {
      if (!listed) {
        seen = yield* list
        listed = true
      } else {
        // After a failure the API server may be back with an older etcd.
        yield* probe
      }
      answered = true
      away = 0
      return yield* watchUntilLost
    })
    yield* round.pipe(
      Effect.catch((error: ApiError) => {
        const tag = error.reason._tag
        if (tag === "Expired" || tag === "TooLargeResourceVersion") {
          // The next list must not insist on a resourceVersion that is gone.
          seen = undefined
          listed = false
        }
        return failed(error, !answered && (tag === "Unreachable" || tag === "TimedOut"))
      })
    )
  }
})
