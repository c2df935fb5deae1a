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
 * all senders share one address. Authorised deliveries are counted by credential and path. Only requests that are let in
 * are traced.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { ByteSize, Cause, Clock, Context, Duration, Effect, identity, Layer, Metric, Option, Result } from "effect"
import { HttpMiddleware, HttpRouter, HttpServer, type HttpServerRequest } from "effect/http"
import type { IpNetwork } from "effect/net"
import { createServer } from "node:http"
import * as GatewaySync from "../api/GatewaySync.ts"
import type { Store } from "../kubernetes/Store.ts"
import * as Traceparent from "../telemetry/Traceparent.ts"
import * as AnnotationWriter from "./AnnotationWriter.ts"
import * as Answer from "./Answer.ts"
import * as Authorizer from "./Authorizer.ts"
import * as Body from "./Body.ts"
import * as BodyReader from "./BodyReader.ts"
import * as Client from "./Client.ts"
import * as Goodbye from "./Goodbye.ts"
import * as Hook from "./Hook.ts"
import * as OwnCredentials from "./OwnCredentials.ts"
import * as Payload from "./Payload.ts"
import * as RateLimit from "./RateLimit.ts"
import * as Reader from "./Reader.ts"

/** Bytes of a body at most; a longer one is refused, never cut. */
export const mostBytes = ByteSize.mebibytes(4)

/** Bytes of all bodies of requests that are not answered yet. */
const mostBytesInAll = ByteSize.mebibytes(64)

export const requests = Metric.counter("stoker_webhook_receiver_requests_total", {
  description: "Webhook requests by sender and status code.",
  incremental: true
})

export const duration = Metric.histogram("stoker_webhook_receiver_request_duration_seconds", {
  description: "How long webhook requests took, by sender: from their headers to the answer.",
  boundaries: Metric.exponentialBoundaries({ start: 0.001, factor: 2, count: 14 })
})

/** What Kubernetes takes as a name; anything else in the path names no object, and never becomes part of a URL. */
const isName = (text: string | undefined): text is string => text !== undefined && GatewaySync.isObjectName(text)

/** Any cause as an answer. A client that hung up gets none. */
const answerOf = (cause: Cause.Cause<Answer.Failure>): Effect.Effect<Answer.Answer> =>
  Option.match(Cause.findErrorOption(cause), {
    onSome: (error) => Effect.succeed(Answer.failed(error)),
    onNone: () =>
      Cause.hasInterruptsOnly(cause)
        ? Effect.failCause(cause as Cause.Cause<never>)
        : Effect.as(Effect.logError("a webhook request failed in an unforeseen way", cause), Answer.broken)
  })

export interface Limits {
  /**
   * Attempts with wrong credentials by one client (an address of IPv4, a network of IPv6) in a minute; 0: any number. Of
   * what else is refused before a client is let in, the log tells as many.
   */
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
  /** With the indexes `RepositoryIdentity.index` and `GatewaySync.byOwnCredentials`. */
  readonly store: Store<GatewaySync.GatewaySync>
  readonly limits?: Partial<Limits>
  /** Proxies whose `X-Forwarded-For` is believed. */
  readonly trustedProxies?: ReadonlyArray<IpNetwork.IpNetwork>
}

type Params = Readonly<Record<string, string | undefined>>

interface Asking {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly params: Params
  /** Whom it is counted by. Told when it came: of a socket that is closed nobody knows the address any more. */
  readonly client: string
}

/** A request that is let in. */
interface Admitted {
  /** By which it is, and to which path: what deliveries are counted by. */
  readonly credential: string
  readonly path: string
  readonly answer: Effect.Effect<Answer.Answer, Answer.Failure>
}

const wrongMethod = (method: string, allow: string): Answer.Answer =>
  Answer.refused(405, `${method} is not for this: use ${allow}`, { headers: { allow } })

/** A GET that carries something, as Argo CD and Kargo send it unless told otherwise, or Gitea when told so. */
const usePost = Answer.refused(400, "use POST: a GET with a body or a payload changes nothing")

const encodingOf = ({ headers }: Body.Received): string | undefined => {
  const encoding = headers["content-encoding"]
  return encoding === undefined || encoding === "" || encoding === "identity" ? undefined : encoding
}

/** By the sender's id, where the headers do not tell it. */
const named = (answer: Answer.Answer, reading: Reader.Request): Answer.Answer => {
  const [{ id }] = reading.deliveries
  return id === undefined ? answer : { ...answer, delivery: id }
}

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
      const authorizer = yield* Authorizer.Authorizer
      const ownCredentials = yield* OwnCredentials.make(store)
      const writer = yield* AnnotationWriter.make(store)
      const hook = Hook.make({ authorizer, ownCredentials, store, writer })
      const bodies = yield* BodyReader.make({ most: mostBytes, inAll: mostBytesInAll })
      const series = makeSeries()
      const failures = yield* RateLimit.make(limits.failuresPerMinute)
      /** What else is refused before anybody is let in: counted for the log alone. */
      const refusals = yield* RateLimit.make(limits.failuresPerMinute)
      const deliveries = yield* RateLimit.make(limits.deliveriesPerMinute)

      const refuse = (answer: Answer.Answer) => Effect.fail<Answer.Refused>({ _tag: "Refused", answer })

      /** Whose attempt it is, when it may still be told. */
      const attempt = (limit: RateLimit.RateLimit, client: string) =>
        Effect.map(
          limit.take(client),
          Result.map((unlogged): Answer.Attempt => ({ client, ...(unlogged === 0 ? {} : { unlogged }) }))
        )

      /** @param detail for the log: why nobody can have the right ones */
      const unauthorized = (client: string, detail?: string) =>
        Effect.flatMap(
          attempt(failures, client),
          Result.match({
            onSuccess: (attempt) =>
              refuse({ ...Answer.unauthorized, attempt, ...(detail === undefined ? {} : { detail }) }),
            onFailure: (seconds) => refuse({ ...Answer.tooMany(seconds, "wrong credentials"), isNoise: true })
          })
        )

      /** Who is not let in fills no log. */
      const muted = (client: string, answer: Answer.Answer) =>
        // Those two are counted already.
        answer.status === 401 || answer.status === 429
          ? Effect.succeed(answer)
          : Effect.map(
              attempt(refusals, client),
              Result.match({
                onSuccess: (attempt): Answer.Answer => ({ ...answer, attempt }),
                onFailure: (): Answer.Answer => ({ ...answer, isNoise: true })
              })
            )

      const unlessTooMany = (admitted: Admitted) =>
        Effect.flatMap(
          deliveries.take(`${admitted.credential} ${admitted.path}`),
          Result.match({
            onSuccess: () => Effect.succeed(admitted),
            onFailure: (seconds) => refuse(Answer.tooMany(seconds, "deliveries"))
          })
        )

      const receive = <A, E>(
        request: HttpServerRequest.HttpServerRequest,
        use: (received: Body.Received, letIn: Effect.Effect<void>) => Effect.Effect<A, E>
      ) =>
        Effect.suspend(() => {
          const { headers } = request
          const announced = Number(headers["content-length"] ?? 0)
          // It waits to be asked for its body, and only then can it be told that it is too long.
          if (headers["expect"] !== undefined && announced <= Number(mostBytes)) {
            NodeHttpServerRequest.toServerResponse(request).writeContinue()
          }
          const incoming = NodeHttpServerRequest.toIncomingMessage(request)
          return bodies.use(incoming, announced, (body, letIn) => use(Body.received(headers, body), letIn))
        })

      /** For one GatewaySync. */
      const toOne = Effect.fnUntraced(function* (
        { client, params: { name, namespace }, request }: Asking,
        received: Body.Received
      ): Effect.fn.Return<Admitted, Answer.Failure> {
        const ref = isName(namespace) && isName(name) ? { namespace, name } : undefined
        const known = ref === undefined ? Option.none() : yield* store.get(ref)
        const offered = yield* Authorizer.proofsOf(received)
        const ownOf = (cr: GatewaySync.GatewaySync) =>
          GatewaySync.hasOwnCredentials(cr) ? ownCredentials.of(cr, offered) : Effect.undefined
        const own = Option.isSome(known) ? yield* ownOf(known.value) : undefined
        const credential = yield* authorizer.authorize(offered, own?.credentials)
        if (Option.isNone(credential)) return yield* unauthorized(client, own?.problems[0])

        const answer = Effect.gen(function* () {
          if (request.method === "GET" && (received.body.length > 0 || hasPayload(request.url))) return usePost
          const encoding = encodingOf(received)
          if (encoding !== undefined) return Answer.encoded(encoding)
          const reading = request.method === "GET" ? undefined : Payload.read(received)
          if (reading?._tag === "Invalid") return Answer.refused(400, reading.message)

          if (ref === undefined) return Answer.notFound
          // A GET is read live: the store may not have yet what a POST has just written.
          const cr = Option.isSome(known) && reading !== undefined ? known.value : yield* writer.read(ref)
          const late = Option.isSome(known) ? own : yield* ownOf(cr)
          // It came after the store's last look, and it may bring credentials of its own.
          if (Option.isNone(known) && late !== undefined) {
            if (Option.isNone(yield* authorizer.authorize(offered, late.credentials))) {
              return yield* unauthorized(client, late.problems[0])
            }
          }
          if (reading === undefined) return Answer.reported(cr, authorizer.isOpen && late === undefined)
          if (reading._tag === "Ignored") return Answer.ignored(reading.sender, reading.reason, cr)
          const span = yield* Effect.option(Effect.currentSpan)
          return named(Answer.decided(reading, yield* writer.write(ref, reading.deliveries, span)), reading)
        })
        return { credential: credential.value, path: `${namespace}/${name}`, answer }
      })

      /** For every GatewaySync of the repository in the body. */
      const toAll = Effect.fnUntraced(function* (
        { client, params: { namespace }, request }: Asking,
        received: Body.Received
      ): Effect.fn.Return<Admitted, Answer.Failure> {
        if (request.method === "GET") {
          return yield* refuse(
            received.body.length > 0 || hasPayload(request.url) ? usePost : wrongMethod("GET", "POST")
          )
        }
        const encoding = encodingOf(received)
        const admission = yield* hook.admit(received, namespace, () =>
          encoding === undefined ? Payload.read(received) : Reader.invalid("")
        )
        if (admission._tag === "Refused") return yield* unauthorized(client, admission.detail)
        const { credential, reading } = admission
        const answer = Effect.suspend((): Effect.Effect<Answer.Answer> => {
          if (encoding !== undefined) return Effect.succeed(Answer.encoded(encoding))
          if (namespace !== undefined && !isName(namespace)) return Effect.succeed(Answer.notFound)
          switch (reading._tag) {
            case "Invalid":
              return Effect.succeed(Answer.refused(400, reading.message))
            case "Ignored":
              return Effect.succeed(Answer.ignoredHere(reading.sender, reading.reason))
            case "Request":
              return Effect.map(hook.deliver(reading, admission), (answer) => named(answer, reading))
          }
        })
        return { credential, path: namespace ?? "", answer }
      })

      interface To {
        readonly methods: string
        readonly admit: typeof toOne | typeof toAll
      }

      const handle = Effect.fnUntraced(function* (
        to: To,
        request: HttpServerRequest.HttpServerRequest,
        params: Params
      ) {
        const begun = yield* Clock.currentTimeNanos
        const client = Client.keyOf(request.remoteAddress)
        const where = present({
          namespace: isName(params["namespace"]) ? params["namespace"] : undefined,
          name: isName(params["name"]) ? params["name"] : undefined,
          delivery: Payload.deliveryId(request.headers)
        })
        const noted = (answer: Effect.Effect<Answer.Answer>) =>
          Effect.tap(answer, (told) => note(series, { request, begun, where }, told))
        let isLetIn = false
        const isKnown = request.method === "POST" || request.method === "GET"
        const answered = (received: Body.Received, letIn: Effect.Effect<void>) =>
          to.admit({ client, params, request }, received).pipe(
            Effect.flatMap(unlessTooMany),
            Effect.tap(() => {
              isLetIn = true
              return letIn
            }),
            Effect.flatMap(({ answer }) =>
              answer.pipe(
                Effect.catchCause(answerOf),
                noted,
                traced(begun, request.headers["traceparent"], where),
                Effect.annotateLogs(where)
              )
            ),
            AnnotationWriter.inTime
          )
        const hungUp = (attempt: Answer.Attempt) =>
          Effect.annotateLogs(Effect.logInfo("webhook sender hung up before it was answered"), { ...where, ...attempt })
        const answer = yield* (
          isKnown ? receive(request, answered) : refuse(wrongMethod(request.method, to.methods))
        ).pipe(
          Effect.catchCause((cause) =>
            noted(Effect.flatMap(Effect.annotateLogs(answerOf(cause), where), (told) => muted(client, told)))
          ),
          Effect.onInterrupt(() =>
            // Who is let in is never lost among strangers: that it gives up may be all that is seen of a slow API server.
            isLetIn
              ? hungUp({ client })
              : Effect.flatMap(
                  attempt(refusals, client),
                  Result.match({ onSuccess: hungUp, onFailure: () => Effect.void })
                )
          )
        )
        return Answer.respond(answer)
      })

      const route = (path: `/${string}`, to: To) =>
        router.add("*", path, (request) => Effect.flatMap(HttpRouter.params, (params) => handle(to, request, params)))
      const one: To = { methods: "GET, POST", admit: toOne }
      const all: To = { methods: "POST", admit: toAll }
      yield* route("/webhook/:namespace/:name", one)
      yield* route("/webhook/:namespace", all)
      yield* route("/webhook", all)
    })
  )

/** Where Gitea puts it when its hook is set to GET. */
const hasPayload = (url: string): boolean => /[?&]payload=/.test(url)

const present = (facts: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined))

/**
 * In the span `accept`, which began when the request did. Only who is let in has one: strangers must not fill the store of
 * traces. By the tracer itself, since the options of a span take no time of its beginning.
 */
const traced =
  (startTime: bigint, traceparent: string | undefined, attributes: Readonly<Record<string, unknown>>) =>
  <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.gen(function* () {
      const tracer = yield* Effect.tracer
      const parent = Traceparent.parse(traceparent)
      const span = tracer.span({
        name: "accept",
        kind: "server",
        parent,
        root: false,
        sampled: Option.match(parent, { onNone: () => true, onSome: ({ sampled }) => sampled }),
        annotations: Context.empty(),
        links: [],
        startTime
      })
      for (const [key, value] of Object.entries(attributes)) span.attribute(key, value)
      return yield* effect.pipe(
        // A stack trace costs more than the span, and there is but one place.
        Effect.withParentSpan(span, { captureStackTrace: false }),
        Effect.onExit((exit) => Effect.map(Clock.currentTimeNanos, (now) => span.end(now, exit)))
      )
    })

/** As much of a reason as is told: what a sender writes may be in it. */
const longestReason = 500

const seriesOf = (source: string, status_code: string) => ({
  counted: Metric.withAttributes(requests, { source, status_code }),
  took: Metric.withAttributes(duration, { source })
})

/** The series of an answer, each made once: that costs more than to count. No caller can choose what they are named. */
const makeSeries = (): typeof seriesOf => {
  const made = new Map<string, ReturnType<typeof seriesOf>>()
  return (source, status_code) => {
    const key = `${source} ${status_code}`
    const series = made.get(key) ?? seriesOf(source, status_code)
    made.set(key, series)
    return series
  }
}

interface Asked {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly begun: bigint
  /** Namespace, name and the sender's id, as far as they are known. */
  readonly where: Readonly<Record<string, unknown>>
}

/** One log line, one count, how long it took, and what the span tells, where there is one. */
const note = Effect.fnUntraced(function* (
  series: typeof seriesOf,
  { begun, request, where }: Asked,
  answer: Answer.Answer
) {
  const sender = answer.sender ?? "unknown"
  const { counted, took } = series(sender, String(answer.status))
  yield* Metric.update(counted, 1)
  yield* Metric.update(took, Number((yield* Clock.currentTimeNanos) - begun) / 1e9)
  if (answer.isNoise === true) return
  const reason = answer.detail ?? answer.body["error"] ?? answer.body["reason"] ?? answer.body["message"]
  const facts = present({
    ...where,
    sender,
    ...answer.attempt,
    ...Reader.optional("delivery", answer.delivery),
    ref: answer.ref,
    status: answer.status,
    gatewaysyncs: answer.count,
    reason: reason === undefined ? undefined : String(reason).slice(0, longestReason)
  })
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
            Effect.catchCause((cause: Cause.Cause<never>) => Effect.map(answerOf(cause), Answer.respond)),
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
