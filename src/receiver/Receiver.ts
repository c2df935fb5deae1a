/**
 * The webhook receiver: `POST /webhook/{namespace}/{name}` asks a GatewaySync for a ref, or tells it of a push; `GET`
 * says how far it is. Runs on every replica.
 *
 * A request goes: body → GatewaySync in the store → credentials → what it means → live look-up before a 404 → patch.
 * Nothing about a GatewaySync is told before the credentials fit. Every answer is JSON. An answer of 2xx means that it
 * is persisted; what may succeed later is 503 with `Retry-After`, never 500.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { ByteSize, Cause, Duration, Effect, Layer, Metric, Option } from "effect"
import {
  HttpIncomingMessage,
  HttpMiddleware,
  HttpRouter,
  HttpServer,
  type HttpServerError,
  type HttpServerRequest
} from "effect/http"
import { createServer } from "node:http"
import type * as GatewaySync from "../api/GatewaySync.ts"
import type { Store } from "../kubernetes/Store.ts"
import * as Traceparent from "../telemetry/Traceparent.ts"
import * as AnnotationWriter from "./AnnotationWriter.ts"
import * as Answer from "./Answer.ts"
import { Authorizer } from "./Authorizer.ts"
import * as OwnCredentials from "./OwnCredentials.ts"
import * as Payload from "./Payload.ts"

/** Bytes of a body at most; a longer one is refused, never cut. */
export const mostBytes = ByteSize.mebibytes(4)

/** How long a sender waits for the API server. GitHub, GitLab and Bitbucket hang up after 10 s, Argo CD never. */
const longestWait = Duration.seconds(9)

export const requests = Metric.counter("stoker_webhook_receiver_requests_total", {
  description: "Webhook requests by sender and status code.",
  incremental: true
})

/** A delivery that was handed over is written all the same: its repetition is harmless. */
const soon = Effect.timeoutOrElse({
  duration: longestWait,
  orElse: () =>
    Effect.fail(
      new AnnotationWriter.NotTaken({
        message: `the Kubernetes API server took longer than ${Duration.toSeconds(longestWait)} s`
      })
    )
})

/** What Kubernetes takes as a name; anything else in the path names no object, and never becomes part of a URL. */
const isName = (text: string | undefined): text is string =>
  text !== undefined && text.length <= 253 && /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text)

/** Any cause as an answer. A client that hung up gets none. */
const recover = Effect.catchCause((cause: Cause.Cause<never>) =>
  Cause.hasInterruptsOnly(cause)
    ? Effect.failCause(cause)
    : Effect.as(Effect.logError("a webhook request failed in an unforeseen way", cause), Answer.broken)
)

export interface Options {
  readonly store: Store<GatewaySync.GatewaySync>
}

/** The route, on an `HttpRouter` whose `maxParamLength` is at least 253. */
export const layer = ({ store }: Options) =>
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const authorizer = yield* Authorizer
      const ownCredentials = yield* OwnCredentials.make
      const writer = yield* AnnotationWriter.make(store)

      const answer = Effect.fnUntraced(function* (
        request: HttpServerRequest.HttpServerRequest,
        params: Readonly<Record<string, string | undefined>>
      ): Effect.fn.Return<Answer.Answer, AnnotationWriter.WriteError | HttpServerError.HttpServerError> {
        if (request.method !== "POST" && request.method !== "GET") {
          return Answer.refused(405, `${request.method} is not for webhooks: use POST`, {
            headers: { allow: "GET, POST" }
          })
        }
        const body = new Uint8Array(
          yield* Effect.provideService(request.arrayBuffer, HttpIncomingMessage.MaxBodySize, mostBytes)
        )
        const signed = { headers: request.headers, body }
        const { name, namespace } = params
        const ref = isName(namespace) && isName(name) ? { namespace, name } : undefined
        const known = ref === undefined ? Option.none() : yield* store.get(ref)
        const own = Option.isSome(known) ? yield* ownCredentials(known.value) : undefined
        if (!(yield* authorizer.isAuthorized(signed, own))) return Answer.unauthorized

        if (request.method === "GET" && body.length > 0) {
          return Answer.refused(
            400,
            "use POST: a GET with a body changes nothing (Argo CD and Kargo send GET unless told otherwise)"
          )
        }
        const encoding = request.headers["content-encoding"]
        if (encoding !== undefined && encoding !== "identity") {
          return Answer.refused(415, `send the body as it is, without content-encoding ${encoding.slice(0, 32)}`)
        }
        const reading = request.method === "GET" ? undefined : Payload.read(request.headers, body)
        if (reading?._tag === "Invalid") return Answer.refused(400, reading.message)

        if (ref === undefined) return Answer.notFound
        // A GET is read live: the store may not have yet what a POST has just written.
        const cr = Option.isSome(known) && reading !== undefined ? known.value : yield* soon(writer.read(ref))
        if (Option.isNone(known)) {
          // It came after the store's last look, and it may bring credentials of its own.
          const late = yield* ownCredentials(cr)
          if (late !== undefined && !(yield* authorizer.isAuthorized(signed, late))) return Answer.unauthorized
        }
        if (reading === undefined) return Answer.reported(cr)
        if (reading._tag === "Ignored") return Answer.ignored(reading.sender, reading.reason, cr)
        const span = yield* Effect.option(Effect.currentSpan)
        return Answer.decided(reading, yield* soon(writer.write(ref, reading.deliveries, span)))
      })

      const handle = Effect.fnUntraced(function* (
        request: HttpServerRequest.HttpServerRequest,
        params: Readonly<Record<string, string | undefined>>
      ) {
        const result = yield* answer(request, params).pipe(
          Effect.catchTag("HttpServerError", ({ reason }) =>
            Effect.succeed(
              reason._tag === "RequestParseError" && reason.reason === "BodyTooLarge"
                ? Answer.refused(413, `the body is longer than ${ByteSize.format(mostBytes)}`)
                : Answer.refused(400, "the body broke off")
            )
          ),
          Effect.catch((error) => Effect.succeed(Answer.failed(error))),
          Effect.onInterrupt(() => Effect.logInfo("webhook sender hung up before it was answered")),
          recover
        )
        yield* note(request, result)
        return Answer.respond(result)
      })

      yield* router.add("*", "/webhook/:namespace/:name", (request) =>
        Effect.flatMap(HttpRouter.params, (params) => {
          const where = present({
            namespace: isName(params["namespace"]) ? params["namespace"] : undefined,
            name: isName(params["name"]) ? params["name"] : undefined,
            delivery: Payload.deliveryId(request.headers)
          })
          return handle(request, params).pipe(
            Effect.annotateLogs(where),
            Effect.withSpan("accept", {
              kind: "server",
              attributes: where,
              ...Option.match(Traceparent.parse(request.headers["traceparent"]), {
                onNone: () => ({}),
                onSome: (parent) => ({ parent })
              })
            })
          )
        })
      )
    })
  )

const present = (facts: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined))

/** One log line, one count, and what the span tells. */
const note = Effect.fnUntraced(function* (request: HttpServerRequest.HttpServerRequest, answer: Answer.Answer) {
  const sender = answer.sender ?? "unknown"
  yield* Metric.update(Metric.withAttributes(requests, { source: sender, status_code: String(answer.status) }), 1)
  const reason = answer.detail ?? answer.body["error"] ?? answer.body["reason"] ?? answer.body["message"]
  const facts = present({ sender, ref: answer.ref, status: answer.status, reason })
  yield* Effect.annotateCurrentSpan(facts)
  const outcome =
    request.method === "GET"
      ? "asked"
      : answer.status === 202
        ? "accepted"
        : answer.status === 200
          ? "ignored"
          : "refused"
  const log = answer.status === 503 ? Effect.logWarning : Effect.logInfo
  yield* log(`webhook ${outcome}`).pipe(Effect.annotateLogs(facts))
})

const elsewhere = Answer.respond(
  Answer.refused(404, "nothing is here: webhooks go to POST /webhook/{namespace}/{name}")
)

/**
 * A server with this route alone. When its layer closes, it takes no new connection and answers what it has begun.
 *
 * @param options.port 0 for a free one; `HttpServer` tells which
 * @param options.host all addresses when absent
 */
export const serve = (options: Options & { readonly port: number; readonly host?: string }) =>
  Layer.unwrap(
    Effect.map(HttpRouter.toHttpEffect(layer(options)), (routes) =>
      HttpServer.serve(
        routes.pipe(
          Effect.catchTag("HttpServerError", () => Effect.succeed(elsewhere)),
          Effect.catchCause((cause: Cause.Cause<never>) => Effect.map(recover(Effect.failCause(cause)), Answer.respond))
        )
      )
    )
  ).pipe(
    // The span `accept` is ours.
    Layer.provide(Layer.succeed(HttpMiddleware.TracerDisabledWhen, () => true)),
    Layer.provide(Layer.succeed(HttpRouter.RouterConfig, { maxParamLength: 253 })),
    Layer.provideMerge(
      NodeHttpServer.layerServer(
        () =>
          createServer({
            headersTimeout: 10_000,
            requestTimeout: 30_000,
            connectionsCheckingInterval: 5000,
            // Longer than that of the usual load balancers (60 s), or they send into a closing connection.
            keepAliveTimeout: 65_000
          }),
        { port: options.port, ...(options.host === undefined ? {} : { host: options.host }) }
      )
    )
  )
