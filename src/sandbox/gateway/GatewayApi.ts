import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Schema from "effect/Schema"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Verdict } from "./Access.ts"
import type { Designers } from "./Designers.ts"
import * as Faults from "./Faults.ts"
import { ScanKind } from "./GatewayModel.ts"
import { modelOf, type Scanner } from "./Scanner.ts"

/**
 * Where a gateway is in its life. `down` has no port; the others answer `StatusPing`, and only `running` answers the API.
 */
export const Phase = Schema.Literals(["down", "starting", "commissioning", "running", "faulted", "stopping"])
export type Phase = typeof Phase.Type

export interface Parts {
  readonly name: string
  readonly phase: Effect.Effect<Phase>
  readonly judge: (header: string | undefined, writes: boolean) => Effect.Effect<Verdict>
  readonly scanner: Scanner
  readonly designers: Designers
  readonly faults: Faults.Faults
  /** False for a gateway older than the scan locks. */
  readonly locks: boolean
  /** Where everything but `StatusPing` is redirected to, as a gateway that forces HTTPS does. */
  readonly forceSecure: Effect.Effect<string | undefined>
  readonly restart: Effect.Effect<void>
  readonly count: (route: string) => Effect.Effect<void>
}

export type App = Effect.Effect<HttpServerResponse.HttpServerResponse, never, HttpServerRequest.HttpServerRequest>

const base = "/data/api/v1"
const json = (body: unknown) => Effect.succeed(HttpServerResponse.jsonUnsafe(body))

const LockRequest = Schema.Struct({
  acquireTimeout: Schema.optionalKey(Schema.Int),
  holdTimeout: Schema.optionalKey(Schema.Int)
})
const lockRequest = HttpServerRequest.schemaBodyJson(LockRequest)

const listParameters = new Set(["limit", "offset", "sortBy", "search", "filter"])
const levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]

/** The list envelope. A parameter that the gateway does not know is a filter, and matches nothing. */
const envelope = (items: ReadonlyArray<unknown>, query: URLSearchParams, more: ReadonlyArray<string> = []) => {
  const unknown = [...query.keys()].some((_) => !listParameters.has(_) && !more.includes(_))
  const matching = unknown ? [] : items
  const [limit, offset] = [Number(query.get("limit") ?? -1), Number(query.get("offset") ?? 0)]
  return {
    items: matching.slice(offset, limit < 0 ? undefined : offset + limit),
    metadata: { total: items.length, matching: matching.length, limit, offset },
    metrics: {}
  }
}

const queryOf = (request: HttpServerRequest.HttpServerRequest) =>
  new URL(request.url, "http://gateway.invalid").searchParams

const statusPing: Readonly<Record<Phase, object>> = {
  down: {},
  starting: { state: "STARTING" },
  commissioning: { state: "RUNNING", details: "COMMISSIONING" },
  running: { state: "RUNNING" },
  faulted: { state: "FAULTED" },
  stopping: { state: "STOPPING" }
}

const contextStatus: Readonly<Record<Phase, string>> = {
  down: "",
  starting: "STARTING",
  commissioning: "NEEDS_COMMISSIONING",
  running: "RUNNING",
  faulted: "FAULTED",
  stopping: "STOPPING"
}

/** The routes of an Ignition 8.3 gateway that Stoker may meet. */
export const make = Effect.fnUntraced(function* (parts: Parts) {
  const { designers, scanner } = parts
  const router = yield* HttpRouter.make

  /** An API route: 401 and 403 come after 404, so only here. */
  const route = <E>(
    method: "GET" | "POST" | "DELETE",
    path: `/${string}`,
    answer: (
      request: HttpServerRequest.HttpServerRequest
    ) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, HttpServerRequest.HttpServerRequest>
  ) =>
    router.add(method, `${base}${path}`, (request) =>
      Effect.flatMap(parts.judge(request.headers["x-ignition-api-token"], method !== "GET"), (verdict) => {
        if (verdict === "unknown") return Effect.succeed(Faults.page("Unauthorized", 401))
        if (verdict === "forbidden") return Effect.succeed(Faults.page("Forbidden", 403))
        return answer(request)
      }).pipe(Effect.catchCause(() => Effect.succeed(Faults.page("Internal error", 500))))
    )

  for (const kind of ScanKind.literals) {
    const lock = scanner.locks[kind]
    yield* route("POST", `/scan/${kind}`, (request) =>
      Effect.flatMap(scanner.request(kind, request.headers["traceparent"]), json)
    )
    yield* route("GET", `/scan/${kind}`, () => Effect.flatMap(scanner.state(kind), json))
    if (!parts.locks) continue
    yield* route("POST", `/scan-lock/${kind}`, (request) =>
      lockRequest.pipe(
        Effect.flatMap(({ acquireTimeout = 10, holdTimeout = 60 }) =>
          lock.acquire({
            actor: request.headers["x-ignition-api-token"]?.split(":")[0] ?? "anonymous",
            acquireTimeout: Duration.seconds(acquireTimeout),
            holdTimeout: Duration.seconds(holdTimeout),
            idle: scanner.idle(kind)
          })
        ),
        Effect.flatMap(json),
        Effect.catchTags({
          AlreadyHeld: () => Effect.succeed(HttpServerResponse.empty({ status: 409 })),
          NotAcquired: () => Effect.succeed(HttpServerResponse.empty({ status: 408 })),
          SchemaError: () => Effect.succeed(HttpServerResponse.empty({ status: 400 })),
          HttpServerError: () => Effect.succeed(HttpServerResponse.empty({ status: 400 }))
        })
      )
    )
    yield* route("GET", `/scan-lock/${kind}`, () =>
      Effect.flatMap(lock.current, (held) =>
        held === undefined ? Effect.succeed(HttpServerResponse.empty({ status: 204 })) : json(held)
      )
    )
  }

  yield* route("GET", "/designers", (request) =>
    Effect.flatMap(designers.list, (all) => json(envelope(all, queryOf(request))))
  )

  yield* route("GET", "/gateway-info", () =>
    json({
      name: parts.name,
      ignitionVersion: "8.3.6 (simulated)",
      edition: "standard",
      deploymentMode: "",
      redundancyRole: "Independent",
      hostname: "localhost",
      port: 8088,
      allowUnsignedModules: false,
      timeZone: "UTC",
      timeZoneId: "UTC"
    })
  )

  const projectNames = Effect.map(SubscriptionRef.get(scanner.history), (_) => Object.keys(modelOf(_).projects))
  yield* route("GET", "/projects/names", (request) =>
    Effect.flatMap(projectNames, (names) => json(envelope(names, queryOf(request))))
  )
  yield* route("GET", "/projects/list", (request) =>
    Effect.flatMap(projectNames, (names) =>
      json(
        envelope(
          names.map((name) => ({ name })),
          queryOf(request)
        )
      )
    )
  )

  yield* route("GET", "/logs", (request) =>
    Effect.flatMap(SubscriptionRef.get(scanner.log), (log) => {
      const query = queryOf(request)
      const least = levels.indexOf(query.get("minLevel") ?? "TRACE")
      const [from, to] = [Number(query.get("startTime") ?? 0), Number(query.get("endTime") ?? Infinity)]
      const entries = log.filter((_) => levels.indexOf(_.level) >= least && _.timestamp >= from && _.timestamp <= to)
      return json(envelope(entries, query, ["minLevel", "startTime", "endTime"]))
    })
  )

  yield* route("GET", "/restart-tasks/pending", () => json({ pending: [] }))
  yield* route("POST", "/restart-tasks/restart", () => Effect.andThen(parts.restart, json(true)))

  yield* router.add(
    "GET",
    "/StatusPing",
    Effect.flatMap(parts.phase, (phase) => json(statusPing[phase]))
  )
  yield* router.add(
    "GET",
    "/system/gwinfo",
    Effect.map(parts.phase, (phase) =>
      HttpServerResponse.text(
        `ContextStatus=${contextStatus[phase]};PlatformName=Ignition-${parts.name};Version=8.3.6;RedundancyStatus=Master;RedundantState=Good;RedundantNodeActiveStatus=Active;`,
        { status: phase === "running" || phase === "commissioning" ? 200 : 503 }
      )
    )
  )
  yield* router.add("GET", "/welcome", Effect.succeed(Faults.page("Welcome to Ignition: accept the licence")))

  const routes = router.asHttpEffect().pipe(
    Effect.scoped,
    Effect.catchCause(() => Effect.succeed(Faults.page("Not found", 404)))
  )

  const app: App = Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const path = new URL(request.url, "http://gateway.invalid").pathname
    const name = `${request.method} ${path}`
    yield* parts.count(name)
    return yield* parts.faults.around(name, behind(path, request.url))
  })

  /** What stands before the routes: forced HTTPS, and a context that does not run. */
  const behind = Effect.fnUntraced(function* (path: string, url: string) {
    const phase = yield* parts.phase
    const secure = yield* parts.forceSecure
    if (path !== "/StatusPing" && secure !== undefined) return HttpServerResponse.redirect(`${secure}${url}`)
    if (path.startsWith("/data/")) {
      if (phase === "commissioning") return HttpServerResponse.redirect("/welcome")
      if (phase !== "running") return Faults.page("The gateway is not running", 503)
    }
    return yield* routes
  })

  return app
})
