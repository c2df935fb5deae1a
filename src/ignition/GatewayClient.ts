import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as ByteSize from "effect/ByteSize"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Headers from "effect/http/Headers"
import * as HttpClient from "effect/http/HttpClient"
import type { HttpClientError } from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type { HttpClientResponse } from "effect/http/HttpClientResponse"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as ApiToken from "./ApiToken.ts"
import {
  Commissioning,
  ConnectionLost,
  Forbidden,
  GatewayError,
  type GatewayErrorReason,
  LockHeld,
  LockTimeout,
  NotFound,
  NotRunning,
  Redirect,
  Refused,
  ScanUnfinished,
  Timeout,
  TokenUnusable,
  Unauthorized,
  UnexpectedAnswer
} from "./GatewayError.ts"
import { fromStatusPing, GatewayState } from "./GatewayState.ts"

/** The two halves of a gateway's files that are scanned on their own: `projects/` and `config/`. */
export const ScanKind = Schema.Literals(["projects", "config"])
export type ScanKind = typeof ScanKind.Type

/** `lastScanTimestamp` in epoch milliseconds of the gateway's clock, `lastScanDuration` in milliseconds. */
export const ScanState = Schema.Struct({
  scanActive: Schema.Boolean,
  lastScanTimestamp: Schema.Finite,
  lastScanDuration: Schema.Finite
})
export type ScanState = typeof ScanState.Type

/** A gateway without scan locks (`Unsupported`) is written and scanned without. */
export type ScanLock = Data.TaggedEnum<{
  Held: { readonly actor: string; readonly remaining: Duration.Duration }
  Unsupported: {}
}>
export const ScanLock = Data.taggedEnum<ScanLock>()

/** How long a lock is waited for, and how long it is held at most. */
export interface LockTimes {
  readonly acquireTimeout: Duration.Input
  readonly holdTimeout: Duration.Input
}

const text = Schema.optional(Schema.NullOr(Schema.String))

/** A Designer session. `uptime` in milliseconds. */
export const Designer = Schema.Struct({
  id: Schema.String,
  user: text,
  project: text,
  address: text,
  timezone: text,
  uptime: Schema.optional(Schema.NullOr(Schema.Finite))
})
export type Designer = typeof Designer.Type

export const GatewayInfo = Schema.Struct({
  name: Schema.String,
  ignitionVersion: Schema.String,
  edition: text,
  deploymentMode: text,
  redundancyRole: text,
  hostname: text
})
export type GatewayInfo = typeof GatewayInfo.Type

/** Deadlines: `request` for one request with its whole answer, `scan` from the scan's POST to its end. */
export interface Deadlines {
  readonly request: Duration.Input
  readonly scan: Duration.Input
}

export const defaultDeadlines: Deadlines = { request: "5 seconds", scan: "5 minutes" }

export interface Options {
  /** As `http://localhost:8088`, without a path. Run for every use: the port may be edited while we run. */
  readonly url: Effect.Effect<string>
  /** Run for every use; see `ApiToken.fromFile`. */
  readonly token: Effect.Effect<ApiToken.ApiToken, TokenUnusable>
  readonly deadlines?: Partial<Deadlines>
}

/** How long between two looks at a running scan: 10 ms at first, growing to half a second. */
export const scanPolling = Schedule.min([Schedule.exponential("10 millis", 1.5), Schedule.spaced("500 millis")])

/**
 * The API of one Ignition gateway, as far as Stoker needs it.
 *
 * **Guarantees**: only 200 with the JSON of the route counts; redirects are never followed; every request ends
 * within its deadline; the token is read for every request and is sent to the API routes only; each request carries
 * the `traceparent` of its span.
 *
 * **Errors**: `GatewayError`, whose `reason` names cause and way out, and whose `next` says what follows from it.
 * Nothing is tried twice here: who calls knows what else has to be done again.
 */
export class GatewayClient extends Context.Service<
  GatewayClient,
  {
    /** What the gateway says of itself; never fails. */
    readonly state: Effect.Effect<GatewayState>
    /**
     * Takes the scan lock: scans of this kind wait while it is held, so that none reads a half-written tree.
     * There is no way to give it back: the next `requestScan` of this kind or the end of `holdTimeout` frees it.
     * Both times are sent as whole seconds, rounded up. A lock that our token holds already, from a process that was
     * killed or a write that failed, is as good while a quarter of `holdTimeout` is left of it. It cannot be prolonged:
     * one with less is waited for, and taken again when it is over.
     */
    readonly acquireScanLock: (kind: ScanKind, timeouts: LockTimes) => Effect.Effect<ScanLock, GatewayError>
    /** Fails with `LockHeld` while another than our token holds the scan lock; where that cannot be told, nobody does. */
    readonly checkScanLock: (kind: ScanKind) => Effect.Effect<void, GatewayError>
    /** Asks for a scan and frees the lock, whoever holds it. The answer means "taken", never "done". */
    readonly requestScan: (kind: ScanKind) => Effect.Effect<ScanState, GatewayError>
    readonly scanState: (kind: ScanKind) => Effect.Effect<ScanState, GatewayError>
    /** Scans, and waits until a scan has ended that began after this call. */
    readonly scan: (kind: ScanKind) => Effect.Effect<ScanState, GatewayError>
    readonly designers: Effect.Effect<ReadonlyArray<Designer>, GatewayError>
    readonly gatewayInfo: Effect.Effect<GatewayInfo, GatewayError>
  }
>()("stoker/ignition/GatewayClient") {
  /** Needs an `HttpClient` that leaves redirects alone (Node's does, `fetch` does not). */
  static readonly layerNoDeps = (options: Options): Layer.Layer<GatewayClient, never, HttpClient.HttpClient> =>
    Layer.effect(GatewayClient, make(options))

  /**
   * On `node:http`. The gateway shares our pod and its certificate is self-signed, so TLS is not verified.
   * A connection for each request: over loopback it costs next to nothing, and a gateway that restarts cannot reset one
   * that was kept.
   */
  static readonly layer = (options: Options): Layer.Layer<GatewayClient> =>
    GatewayClient.layerNoDeps(options).pipe(
      // Fresh: layers are shared by reference, and nobody else may get a client that trusts everybody.
      Layer.provide(Layer.fresh(NodeHttpClient.layerNodeHttpOptions({ keepAlive: false, rejectUnauthorized: false })))
    )
}

const api = "/data/api/v1"
/** What must be left of a lock that we hold already. */
const ownShare = 0.25
const maxAnswer = ByteSize.mebibytes(4)

const decoder = <S extends Schema.Constraint>(schema: S) => Schema.decodeUnknownEffect(Schema.fromJsonString(schema))
const decodeScanState = decoder(ScanState)
const decodeLock = decoder(Schema.Struct({ actor: Schema.String, remaining: Schema.Finite }))
const decodeDesigners = decoder(Schema.Struct({ items: Schema.Array(Designer) }))
const decodeInfo = decoder(GatewayInfo)

const make = Effect.fnUntraced(function* (options: Options) {
  const deadlines = { ...defaultDeadlines, ...options.deadlines }
  const scanDeadline = Duration.fromInputUnsafe(deadlines.scan)
  const requestDeadline = Duration.fromInputUnsafe(deadlines.request)
  const client = (yield* HttpClient.HttpClient).pipe(
    HttpClient.mapRequestEffect((request) =>
      Effect.map(options.url, (url) => HttpClientRequest.prependUrl(request, url))
    ),
    // The connection is given up with the scope, so that an answer nobody reads does not hold it.
    HttpClient.withScope
  )

  /** One request, whole answer, one deadline. The body is read only for 200; of others it is never looked at. */
  const exchange = (request: HttpClientRequest.HttpClientRequest, deadline: Duration.Duration) =>
    client.execute(request).pipe(
      Effect.flatMap((response) =>
        response.status === 200
          ? Effect.map(response.text, (body) => ({ response, body }))
          : Effect.succeed({ response, body: "" })
      ),
      Effect.scoped,
      Effect.provideService(HttpIncomingMessage.MaxBodySize, maxAnswer),
      Effect.updateService(Headers.CurrentRedactedNames, (names) => [...names, ApiToken.headerName]),
      Effect.mapError(transportReason),
      Effect.timeoutOrElse({
        duration: deadline,
        orElse: () => new Timeout({ after: Duration.toMillis(deadline) })
      })
    )

  const failedAs = (request: string, reason: GatewayErrorReason) =>
    Effect.flatMap(options.url, (gateway) => new GatewayError({ gateway, request, reason }))
  const failed = (request: HttpClientRequest.HttpClientRequest, reason: GatewayErrorReason) =>
    failedAs(`${request.method} ${request.url}`, reason)

  const state = exchange(HttpClientRequest.get("/StatusPing"), requestDeadline).pipe(
    Effect.flatMap(({ body, response }) =>
      response.status === 200
        ? fromStatusPing(body)
        : Effect.succeed(GatewayState.Unknown({ text: `StatusPing answered ${response.status}${whereTo(response)}` }))
    ),
    Effect.catch((reason) =>
      Effect.succeed(
        reason._tag === "Refused"
          ? GatewayState.Down()
          : GatewayState.Unknown({ text: `StatusPing: ${reason.message}` })
      )
    )
  )

  const ask = Effect.fnUntraced(
    function* (request: HttpClientRequest.HttpClientRequest, deadline: Duration.Duration) {
      const token = yield* options.token
      const { body, response } = yield* exchange(
        HttpClientRequest.setHeader(request, ApiToken.headerName, Redacted.value(token.header)),
        deadline
      )
      const reason = refusal(response, token.name, (yield* options.url).startsWith("https:"))
      if (reason === undefined) return body
      // Some answer like this, and not by the way to the set-up page.
      const isSetUp = response.status === 400 && (yield* state)._tag === "Commissioning"
      return yield* isSetUp ? new Commissioning() : reason
    },
    (effect, request) => effect.pipe(Effect.catch((reason) => failed(request, reason)))
  )

  const askFor = Effect.fnUntraced(function* <A>(
    request: HttpClientRequest.HttpClientRequest,
    decode: (body: string) => Effect.Effect<A, Schema.SchemaError>,
    deadline: Duration.Duration = requestDeadline
  ) {
    const body = yield* ask(request, deadline)
    return yield* decode(body).pipe(
      Effect.catch(() =>
        failed(request, new UnexpectedAnswer({ status: 200, detail: "the body is not the JSON of this route" }))
      )
    )
  })

  const scanState = (kind: ScanKind) => askFor(HttpClientRequest.get(`${api}/scan/${kind}`), decodeScanState)
  const requestScan = (kind: ScanKind) => askFor(HttpClientRequest.post(`${api}/scan/${kind}`), decodeScanState)

  /** Undefined where that cannot be had. */
  const holder = (kind: ScanKind) =>
    askFor(HttpClientRequest.get(`${api}/scan-lock/${kind}`), decodeLock).pipe(
      Effect.catch(({ reason }) =>
        Effect.succeed(reason._tag === "UnexpectedAnswer" && reason.status === 204 ? ("nobody" as const) : undefined)
      )
    )

  const ourName = Effect.map(Effect.option(options.token), (token) => Option.getOrUndefined(token)?.name)

  const checkScanLock = Effect.fnUntraced(function* (kind: ScanKind) {
    const lock = yield* holder(kind)
    if (lock === undefined || lock === "nobody" || lock.actor === (yield* ourName)) return
    return yield* failedAs(`scan of ${kind}`, new LockHeld(lock))
  })

  const takeLock = Effect.fnUntraced(function* (kind: ScanKind, timeouts: LockTimes) {
    const request = HttpClientRequest.post(`${api}/scan-lock/${kind}`).pipe(
      HttpClientRequest.bodyJsonUnsafe({
        acquireTimeout: wholeSeconds(timeouts.acquireTimeout),
        holdTimeout: wholeSeconds(timeouts.holdTimeout)
      })
    )
    const deadline = Duration.sum(Duration.seconds(wholeSeconds(timeouts.acquireTimeout)), requestDeadline)
    return heldBy(yield* askFor(request, decodeLock, deadline))
  })

  const acquireScanLock: (typeof GatewayClient)["Service"]["acquireScanLock"] = Effect.fn("scan-lock")(
    function* (kind: ScanKind, timeouts: LockTimes) {
      yield* Effect.annotateCurrentSpan({ "gateway.scan.kind": kind })
      return yield* takeLock(kind, timeouts)
    },
    (effect, kind, timeouts) =>
      Effect.catchReason(
        effect,
        "GatewayError",
        "LockHeld",
        Effect.fnUntraced(function* (_, { gateway, request }: GatewayError) {
          const lock = yield* holder(kind)
          // It ran out in between.
          if (lock === "nobody") return yield* takeLock(kind, timeouts)
          const ours = yield* ourName
          const enough = Duration.toSeconds(timeouts.holdTimeout) * ownShare
          if (lock === undefined || lock.actor !== ours) {
            return yield* new GatewayError({ gateway, request, reason: new LockHeld(lock ?? {}) })
          }
          if (lock.remaining < enough) {
            // Whole seconds, rounded up; then a few looks, so that no scan gets in between.
            const pause = Duration.seconds(Math.max(lock.remaining - 1, 0.05))
            return yield* Effect.delay(acquireScanLock(kind, timeouts), pause)
          }
          return heldBy(lock)
        })
      ),
    Effect.catchReason("GatewayError", "NotFound", () => Effect.succeed<ScanLock>(ScanLock.Unsupported()))
  )

  const scanOnce = Effect.fnUntraced(function* (kind: ScanKind, before: number) {
    const ended = (scan: ScanState) => !scan.scanActive && scan.lastScanTimestamp > before
    const answer = yield* requestScan(kind)
    if (ended(answer)) return answer
    return yield* scanState(kind).pipe(
      Effect.repeat({ schedule: scanPolling, until: ended }),
      Effect.timeoutOrElse({
        duration: scanDeadline,
        orElse: () => failedAs(`scan of ${kind}`, new ScanUnfinished({ after: Duration.toMillis(scanDeadline) }))
      })
    )
  })

  const scan = Effect.fn("scan")(function* (kind: ScanKind) {
    yield* Effect.annotateCurrentSpan({ "gateway.scan.kind": kind })
    const before = yield* scanState(kind)
    const scanned = yield* scanOnce(kind, before.lastScanTimestamp)
    // A POST joins a running scan, and that one may have passed our files before they were there: once more.
    return before.scanActive ? yield* scanOnce(kind, scanned.lastScanTimestamp) : scanned
  })

  const designers = askFor(HttpClientRequest.get(`${api}/designers`), decodeDesigners).pipe(
    Effect.map((list) => list.items),
    Effect.withSpan("designers")
  )

  const gatewayInfo = askFor(HttpClientRequest.get(`${api}/gateway-info`), decodeInfo).pipe(
    Effect.withSpan("gateway-info")
  )

  return GatewayClient.of({
    state,
    acquireScanLock,
    checkScanLock,
    requestScan,
    scanState,
    scan,
    designers,
    gatewayInfo
  })
})

const heldBy = ({ actor, remaining }: { readonly actor: string; readonly remaining: number }): ScanLock =>
  ScanLock.Held({ actor, remaining: Duration.seconds(remaining) })

const wholeSeconds = (duration: Duration.Input) => Math.max(1, Math.ceil(Duration.toSeconds(duration)))

const NodeCode = Schema.Struct({ code: Schema.String })
const hasCode = Schema.is(NodeCode)

// The library's error holds the whole request, token included: only Node's error code leaves here.
const transportReason = (error: HttpClientError): ConnectionLost | Refused | UnexpectedAnswer => {
  if (error.reason._tag === "InvalidUrlError") {
    return new UnexpectedAnswer({ status: 0, detail: "the gateway's address is not a URL" })
  }
  const cause = error.cause
  if (Predicate.isTagged(cause, "MaxBytesError")) {
    return new UnexpectedAnswer({ status: 200, detail: "the body is larger than any answer of this route" })
  }
  const code = hasCode(cause) ? cause.code : "unknown"
  return code === "ECONNREFUSED" ? new Refused() : new ConnectionLost({ code })
}

/** Why an answer does not count, or undefined for 200. */
const refusal = (response: HttpClientResponse, tokenName: string, secure: boolean): GatewayErrorReason | undefined => {
  const { status } = response
  if (status === 200) return undefined
  if (status >= 300 && status < 400) return redirect(response)
  switch (status) {
    case 401:
      return new Unauthorized({ tokenName })
    case 402:
      return new UnexpectedAnswer({ status, detail: "the gateway's licence or trial does not allow it" })
    case 403:
      return new Forbidden({ tokenName, secure })
    case 404:
      return new NotFound()
    case 408:
      return new LockTimeout()
    case 409:
      return new LockHeld({})
    case 503:
      return new NotRunning()
    default:
      return new UnexpectedAnswer({ status, detail: "only 200 counts" })
  }
}

const whereTo = (response: HttpClientResponse): string =>
  response.status >= 300 && response.status < 400 ? `: ${redirect(response).message}` : ""

const redirect = (response: HttpClientResponse): Commissioning | Redirect => {
  const location = Option.getOrUndefined(
    Option.flatMap(Option.fromNullishOr(response.headers["location"]), (location) =>
      Option.fromNullishOr(URL.parse(location, response.url))
    )
  )
  return location?.pathname.startsWith("/welcome") === true
    ? new Commissioning()
    : new Redirect({ status: response.status, host: location?.host ?? "an unknown host" })
}
