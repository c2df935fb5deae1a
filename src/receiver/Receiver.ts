/**
 * The webhook receiver: `POST /webhook/{namespace}/{name}` asks a GatewaySync for a ref, or tells it of a push; `GET`
 * says how far it is. `POST /webhook/{namespace}` and `POST /webhook` do it for every GatewaySync of the repository in
 * the body. Runs on every replica.
 *
 * A request goes: body → GatewaySync in the store → credentials → what it means → live look-up before a 404 → patch.
 * Nothing about a GatewaySync is told before the credentials fit. Every answer is JSON. An answer of 2xx means that it
 * is persisted; what may succeed later is 503 with `Retry-After`, never 500.
 *
 * Failed attempts are counted by client address, and only failed ones are refused for their number: behind an Ingress
 * all senders share one address. Authorised deliveries are counted by credential and path.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { ByteSize, Cause, Duration, Effect, identity, Layer, Metric, Option } from "effect"
import { HttpMiddleware, HttpRouter, HttpServer, type HttpServerRequest } from "effect/http"
import type { IpNetwork } from "effect/net"
import { createServer } from "node:http"
import type * as GatewaySync from "../api/GatewaySync.ts"
import type { Store } from "../kubernetes/Store.ts"
import * as Traceparent from "../telemetry/Traceparent.ts"
import * as AnnotationWriter from "./AnnotationWriter.ts"
import * as Answer from "./Answer.ts"
import { Authorizer, type Signed } from "./Authorizer.ts"
import * as BodyReader from "./BodyReader.ts"
import * as Goodbye from "./Goodbye.ts"
import * as Hook from "./Hook.ts"
import * as OwnCredentials from "./OwnCredentials.ts"
import * as Payload from "./Payload.ts"
import * as RateLimit from "./RateLimit.ts"
import type * as Reader from "./Reader.ts"

/** Bytes of a body at most; a longer one is refused, never cut. */
export const mostBytes = ByteSize.mebibytes(4)

/** Bytes of all bodies that are being read. */
const mostBytesInAll = ByteSize.mebibytes(64)

export const requests = Metric.counter("stoker_webhook_receiver_requests_total", {
  description: "Webhook requests by sender and status code.",
  incremental: true
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

export interface Limits {
  /** Failed attempts of one client address in a minute; 0: any number. */
  readonly failuresPerMinute: number
  /** Deliveries by one credential to one path in a minute; 0: any number. */
  readonly deliveriesPerMinute: number
  /** How long a client may take for the headers, for all of a request, and until the next one. */
  readonly headerTimeout: Duration.Duration
  readonly requestTimeout: Duration.Duration
  readonly idleTimeout: Duration.Duration
}

export const defaultLimits: Limits = {
  failuresPerMinute: 60,
  deliveriesPerMinute: 6000,
  headerTimeout: Duration.seconds(10),
  requestTimeout: Duration.seconds(30),
  // Longer than that of the usual load balancers (60 s), or they send into a closing connection.
  idleTimeout: Duration.seconds(65)
}

export interface Options {
  /** With the index `RepositoryIdentity.index`. */
  readonly store: Store<GatewaySync.GatewaySync>
  readonly limits?: Partial<Limits>
  /** Proxies whose `X-Forwarded-For` is believed. */
  readonly trustedProxies?: ReadonlyArray<IpNetwork.IpNetwork>
}

type Answered<E = never> = Effect.Effect<Answer.Answer, E | AnnotationWriter.WriteError>
type Params = Readonly<Record<string, string | undefined>>

const wrongMethod = (method: string, allow: string): Answer.Answer =>
  Answer.refused(405, `${method} is not for this: use ${allow}`, { headers: { allow } })

/** A GET that carries something, as Argo CD and Kargo send it unless told otherwise, or Gitea when told so. */
const usePost = Answer.refused(400, "use POST: a GET with a body or a payload changes nothing")

const encodingOf = ({ headers }: Signed): string | undefined => {
  const encoding = headers["content-encoding"]
  return encoding === undefined || encoding === "" || encoding === "identity" ? undefined : encoding
}

const decode = (signed: Signed): Reader.Reading => Payload.read(signed.headers, signed.body)

/** For the router of the {@link layer}: a name that came out empty must not turn a hook for one into one for many. */
export const routerConfig = {
  maxParamLength: 253,
  caseSensitive: true,
  ignoreDuplicateSlashes: false,
  ignoreTrailingSlash: false
}

/** The routes, on an `HttpRouter` with the {@link routerConfig}. */
export const layer = ({ limits: changed, store }: Options) =>
  HttpRouter.use(
    Effect.fnUntraced(function* (router) {
      const limits = { ...defaultLimits, ...changed }
      const authorizer = yield* Authorizer
      const ownCredentials = yield* OwnCredentials.make
      const writer = yield* AnnotationWriter.make(store)
      const hook = Hook.make({ authorizer, ownCredentials, store, writer })
      const bodies = yield* BodyReader.make({ most: mostBytes, inAll: mostBytesInAll })
      const failures = yield* RateLimit.make(limits.failuresPerMinute)
      const deliveries = yield* RateLimit.make(limits.deliveriesPerMinute)

      const unauthorized = (request: HttpServerRequest.HttpServerRequest) =>
        Effect.map(
          failures.take(Option.getOrElse(request.remoteAddress, () => "")),
          Option.match({
            onNone: () => Answer.unauthorized,
            onSome: (seconds): Answer.Answer => ({ ...Answer.tooMany(seconds, "wrong credentials"), isNoise: true })
          })
        )

      const unlessTooMany = <E>(credential: string, path: string, next: Answered<E>): Answered<E> =>
        Effect.flatMap(
          deliveries.take(`${credential} ${path}`),
          Option.match({
            onNone: () => next,
            onSome: (seconds) => Effect.succeed(Answer.tooMany(seconds, "deliveries"))
          })
        )

      const signedOf = (request: HttpServerRequest.HttpServerRequest) =>
        Effect.suspend(() => {
          const { headers } = request
          const announced = Number(headers["content-length"] ?? 0)
          // It waits to be asked for its body, and only then can it be told that it is too long.
          if (headers["expect"] !== undefined && announced <= Number(mostBytes)) {
            NodeHttpServerRequest.toServerResponse(request).writeContinue()
          }
          const body = bodies.read(NodeHttpServerRequest.toIncomingMessage(request), announced)
          return Effect.map(body, (body): Signed => ({ headers, body }))
        })

      /** For one GatewaySync. */
      const toOne = Effect.fnUntraced(function* (
        request: HttpServerRequest.HttpServerRequest,
        { name, namespace }: Params
      ) {
        if (request.method !== "POST" && request.method !== "GET") return wrongMethod(request.method, "GET, POST")
        const signed = yield* signedOf(request)
        const ref = isName(namespace) && isName(name) ? { namespace, name } : undefined
        const known = ref === undefined ? Option.none() : yield* store.get(ref)
        const own = Option.isSome(known) ? yield* ownCredentials(known.value) : undefined
        const credential = yield* authorizer.authorize(signed, own)
        if (Option.isNone(credential)) return yield* unauthorized(request)

        const answer = Effect.gen(function* () {
          if (request.method === "GET" && (signed.body.length > 0 || hasPayload(request.url))) return usePost
          const encoding = encodingOf(signed)
          if (encoding !== undefined) return Answer.encoded(encoding)
          const reading = request.method === "GET" ? undefined : decode(signed)
          if (reading?._tag === "Invalid") return Answer.refused(400, reading.message)

          if (ref === undefined) return Answer.notFound
          // A GET is read live: the store may not have yet what a POST has just written.
          const cr = Option.isSome(known) && reading !== undefined ? known.value : yield* writer.read(ref)
          const late = Option.isSome(known) ? own : yield* ownCredentials(cr)
          // It came after the store's last look, and it may bring credentials of its own.
          if (Option.isNone(known) && late !== undefined) {
            if (Option.isNone(yield* authorizer.authorize(signed, late))) return yield* unauthorized(request)
          }
          if (reading === undefined) return Answer.reported(cr, authorizer.isOpen && late === undefined)
          if (reading._tag === "Ignored") return Answer.ignored(reading.sender, reading.reason, cr)
          const span = yield* Effect.option(Effect.currentSpan)
          return Answer.decided(reading, yield* writer.write(ref, reading.deliveries, span))
        })
        return yield* unlessTooMany(credential.value, `${namespace}/${name}`, answer)
      })

      /** For every GatewaySync of the repository in the body. */
      const toAll = Effect.fnUntraced(function* (request: HttpServerRequest.HttpServerRequest, { namespace }: Params) {
        if (request.method !== "POST" && request.method !== "GET") return wrongMethod(request.method, "POST")
        const signed = yield* signedOf(request)
        if (request.method === "GET") {
          return signed.body.length > 0 || hasPayload(request.url) ? usePost : wrongMethod("GET", "POST")
        }
        const encoding = encodingOf(signed)
        const admitted = yield* hook.admit(signed, namespace, () =>
          encoding === undefined ? decode(signed) : { _tag: "Invalid", message: "" }
        )
        if (Option.isNone(admitted)) return yield* unauthorized(request)
        const { credential, gatewaySyncs, reading } = admitted.value
        const answer = Effect.suspend((): Answered => {
          if (encoding !== undefined) return Effect.succeed(Answer.encoded(encoding))
          if (namespace !== undefined && !isName(namespace)) return Effect.succeed(Answer.notFound)
          switch (reading._tag) {
            case "Invalid":
              return Effect.succeed(Answer.refused(400, reading.message))
            case "Ignored":
              return Effect.succeed(Answer.ignoredHere(reading.sender, reading.reason))
            case "Request":
              return hook.deliver(reading, gatewaySyncs)
          }
        })
        return yield* unlessTooMany(credential, namespace ?? "", answer)
      })

      type To = typeof toOne | typeof toAll

      const handle = Effect.fnUntraced(function* (
        to: To,
        request: HttpServerRequest.HttpServerRequest,
        params: Params
      ) {
        const result = yield* to(request, params).pipe(
          Effect.catchTags({
            TooLong: ({ message }) => Effect.succeed(Answer.refused(413, message)),
            GivenUp: ({ message }) => Effect.succeed(Answer.tryAgain(message, message)),
            BrokenOff: ({ message }) => Effect.succeed(Answer.refused(400, message))
          }),
          Effect.catch((error) => Effect.succeed(Answer.failed(error))),
          Effect.onInterrupt(() => Effect.logInfo("webhook sender hung up before it was answered")),
          recover
        )
        yield* note(request, result)
        return Answer.respond(result)
      })

      const route = (path: `/${string}`, to: To) =>
        router.add("*", path, (request) =>
          Effect.flatMap(HttpRouter.params, (params) => {
            const where = present({
              namespace: isName(params["namespace"]) ? params["namespace"] : undefined,
              name: isName(params["name"]) ? params["name"] : undefined,
              delivery: Payload.deliveryId(request.headers)
            })
            return handle(to, request, params).pipe(
              Effect.annotateLogs(where),
              Effect.withSpan(
                "accept",
                {
                  kind: "server",
                  attributes: where,
                  ...Option.match(Traceparent.parse(request.headers["traceparent"]), {
                    onNone: () => ({}),
                    onSome: (parent) => ({ parent })
                  })
                },
                // It costs more than the span, and there is but one place.
                { captureStackTrace: false }
              )
            )
          })
        )
      yield* route("/webhook/:namespace/:name", toOne)
      yield* route("/webhook/:namespace", toAll)
      yield* route("/webhook", toAll)
    })
  )

/** Where Gitea puts it when its hook is set to GET. */
const hasPayload = (url: string): boolean => /[?&]payload=/.test(url)

const present = (facts: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined))

/** One log line, one count, and what the span tells. */
const note = Effect.fnUntraced(function* (request: HttpServerRequest.HttpServerRequest, answer: Answer.Answer) {
  const sender = answer.sender ?? "unknown"
  yield* Metric.update(Metric.withAttributes(requests, { source: sender, status_code: String(answer.status) }), 1)
  const reason = answer.detail ?? answer.body["error"] ?? answer.body["reason"] ?? answer.body["message"]
  const facts = present({ sender, ref: answer.ref, status: answer.status, gatewaysyncs: answer.count, reason })
  yield* Effect.annotateCurrentSpan(facts)
  const outcome =
    request.method === "GET"
      ? "asked"
      : answer.status === 202
        ? "accepted"
        : answer.status === 200
          ? "ignored"
          : "refused"
  const log = answer.status === 503 ? Effect.logWarning : answer.isNoise === true ? Effect.logDebug : Effect.logInfo
  yield* log(`webhook ${outcome}`).pipe(Effect.annotateLogs(facts))
})

const elsewhere = Answer.respond(
  Answer.refused(
    404,
    "nothing is here: webhooks go to POST /webhook/{namespace}/{name}, /webhook/{namespace} or /webhook"
  )
)

/**
 * A server with this route alone. When its layer closes, it tells its clients, takes no new connection, answers what it
 * has begun, and ends in 23 s at most (see Goodbye).
 *
 * @param options.port 0 for a free one; `HttpServer` tells which
 * @param options.host all addresses when absent
 */
export const serve = (options: Options & { readonly port: number; readonly host?: string }) => {
  const limits = { ...defaultLimits, ...options.limits }
  const { trustedProxies = [] } = options
  const believing = trustedProxies.length === 0 ? identity : HttpMiddleware.xForwardedHeaders({ trustedProxies })
  // All of a request is at least its headers.
  const headerTimeout = Duration.toMillis(Duration.min(limits.headerTimeout, limits.requestTimeout))
  return Layer.suspend(() => {
    const server = createServer({
      headersTimeout: headerTimeout,
      requestTimeout: Duration.toMillis(limits.requestTimeout),
      connectionsCheckingInterval: Math.min(5000, headerTimeout),
      keepAliveTimeout: Duration.toMillis(limits.idleTimeout)
    })
    const goodbye = Goodbye.make(server)
    const served = Layer.unwrap(
      Effect.map(HttpRouter.toHttpEffect(layer(options)), (routes) =>
        HttpServer.serve(
          routes.pipe(
            Effect.catchTag("HttpServerError", () => Effect.succeed(elsewhere)),
            Effect.catchCause((cause: Cause.Cause<never>) =>
              Effect.map(recover(Effect.failCause(cause)), Answer.respond)
            ),
            believing,
            goodbye.middleware
          )
        )
      )
    )
    // They end in this order.
    return goodbye.notice.pipe(
      Layer.provideMerge(served),
      Layer.provideMerge(goodbye.cut),
      Layer.provideMerge(
        NodeHttpServer.layerServer(() => server, {
          port: options.port,
          gracefulShutdownTimeout: Goodbye.longestFinish,
          ...(options.host === undefined ? {} : { host: options.host })
        })
      )
    )
  }).pipe(
    // The span `accept` is ours.
    Layer.provide(Layer.succeed(HttpMiddleware.TracerDisabledWhen, () => true)),
    Layer.provide(Layer.succeed(HttpRouter.RouterConfig, routerConfig))
  )
}
