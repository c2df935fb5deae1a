import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberHandle from "effect/FiberHandle"
import type * as FileSystem from "effect/FileSystem"
import { constTrue } from "effect/Function"
import * as HttpMiddleware from "effect/http/HttpMiddleware"
import type { ServeError } from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import type * as Path from "effect/Path"
import type * as Scope from "effect/Scope"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as Http from "node:http"
import * as Https from "node:https"
import * as Access from "./gateway/Access.ts"
import * as ControlApi from "./gateway/ControlApi.ts"
import * as Designers from "./gateway/Designers.ts"
import * as Faults from "./gateway/Faults.ts"
import * as GatewayApi from "./gateway/GatewayApi.ts"
import { configResource, effectiveConfig, type GatewayModel, type ScanKind } from "./gateway/GatewayModel.ts"
import * as Scanner from "./gateway/Scanner.ts"
import * as Seed from "./gateway/Seed.ts"
import { until } from "./gateway/Until.ts"

export interface Options {
  readonly dataDir: string
  readonly name?: string
  /** 0 (the default): a free one. It stays the same over restarts. */
  readonly port?: number
  readonly controlPort?: number
  /** With these it speaks HTTPS. */
  readonly tls?: { readonly key: string; readonly cert: string }
  /**
   * Who may use the API: `open` anybody; `checked` (the default) the tokens found in `ignition/api-token` at boot, as
   * far as `ignition/security-properties` lets them; and in any case `tokens` (`name:secret`), which may do everything.
   */
  readonly access?: "open" | "checked"
  readonly tokens?: ReadonlyArray<string>
  /** Whether it boots at once (the default), or stays down until `setPhase`. */
  readonly boots?: boolean
  readonly seed?: Seed.SeedPolicy
  /** Default: `Seed.minimal`. */
  readonly seedFiles?: Seed.Files
  /**
   * What a volume without a commissioned installation goes through: `none` (the default) nothing, `automatic` leaves
   * commissioning by itself, `manual` when `commission` is called. Either rewrites security-properties.
   */
  readonly commissioning?: "none" | "automatic" | "manual"
  /** From the open port to a context that runs. */
  readonly startupTime?: Duration.Input
  /** How long a restart keeps answering RUNNING before the port closes. */
  readonly lingerTime?: Duration.Input
  /** How long a scan stays active after it has read the disk. */
  readonly scanDuration?: Duration.Input
  /** How often `projects/` is scanned unasked. Default: never. */
  readonly scanFrequency?: Duration.Input
  /** Whether it signs each `resource.json` anew whose signature does not fit, on disk, as it is loaded. Default: no. */
  readonly resigns?: boolean
  /** False: a gateway that has no scan locks. */
  readonly locks?: boolean
  /** The deployment mode, whose collection comes before core. */
  readonly mode?: string
}

export interface Counters {
  /** Requests by `METHOD /path`. */
  readonly requests: Readonly<Record<string, number>>
  readonly unlockedWrites: ReadonlyArray<Scanner.UnlockedWrite>
  readonly lockExpiries: Readonly<Record<ScanKind, number>>
}

/**
 * An Ignition gateway as Stoker meets it: it boots from a data directory, is asked to scan it, and says what it loaded.
 * Below `/__sim/` of `controlUrl` (and of `url`, while it is up) other processes drive it; see `ControlApi`.
 */
export interface SimulatedGateway {
  readonly name: string
  readonly url: string
  readonly controlUrl: string
  readonly dataDir: string
  readonly phase: Effect.Effect<GatewayApi.Phase>
  readonly awaitPhase: (phase: GatewayApi.Phase) => Effect.Effect<void>
  /** `down` closes the port as a killed process does; anything else boots a gateway that is down, else sets the phase. */
  readonly setPhase: (phase: GatewayApi.Phase) => Effect.Effect<void>
  /** Returns at once; the port goes and comes again. */
  readonly restart: Effect.Effect<void>
  /** Accepts what commissioning asks for. */
  readonly commission: Effect.Effect<void>
  readonly forceSecure: (target: string | undefined) => Effect.Effect<void>
  readonly model: Effect.Effect<GatewayModel>
  /** The first model, now or later, of which `test` is true. */
  readonly awaitModel: (test: (model: GatewayModel) => boolean) => Effect.Effect<GatewayModel>
  /** Every model it had, the oldest first: what a test of "never a mix of two commits" goes through. */
  readonly history: Effect.Effect<ReadonlyArray<Scanner.Revision>>
  readonly awaitHistory: (test: (history: ReadonlyArray<Scanner.Revision>) => boolean) => Effect.Effect<void>
  /** When no scan of this kind runs. */
  readonly awaitIdle: (kind: ScanKind) => Effect.Effect<void>
  readonly scans: Effect.Effect<ReadonlyArray<Scanner.ScanRequest>>
  /** The scan POST with this index (0 is the first ever), as soon as it has come. */
  readonly awaitScan: (index: number) => Effect.Effect<Scanner.ScanRequest>
  readonly setScanBehaviour: (behaviour: Scanner.ScanBehaviour) => Effect.Effect<void>
  readonly log: Effect.Effect<ReadonlyArray<Scanner.LogEntry>>
  readonly awaitLog: (test: (entry: Scanner.LogEntry) => boolean) => Effect.Effect<void>
  readonly counters: Effect.Effect<Counters>
  readonly designers: Designers.Designers
  readonly faults: Faults.Faults
}

/** A gateway that lives as long as its scope. Returns when the port is open, or at once where it does not boot. */
export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<SimulatedGateway, ServeError, FileSystem.FileSystem | Path.Path | Scope.Scope> {
  const { access = "checked", commissioning = "none", dataDir, mode = "core", name = "gateway" } = options
  const seed = yield* Seed.make(dataDir, options.seed ?? "none", options.seedFiles ?? Seed.minimal)
  const scanner = yield* Scanner.make({
    dataDir,
    duration: options.scanDuration ?? 0,
    resigns: options.resigns ?? false
  })
  const designers = yield* Designers.make
  const faults = yield* Faults.make
  const phase = yield* SubscriptionRef.make<GatewayApi.Phase>("down")
  const secureTarget = yield* SubscriptionRef.make<string | undefined>(undefined)
  const accepted = yield* SubscriptionRef.make(commissioning !== "manual")
  const tokens = yield* SubscriptionRef.make<Access.Tokens>(new Map())
  const requests = new Map<string, number>()
  const life = yield* FiberHandle.make<never, ServeError>()
  const successor = yield* FiberHandle.make()

  const model = Effect.map(SubscriptionRef.get(scanner.history), Scanner.modelOf)
  const setPhase = (next: GatewayApi.Phase) => SubscriptionRef.set(phase, next)

  const judge = (header: string | undefined, writes: boolean) =>
    access === "open" || (header !== undefined && options.tokens?.includes(header) === true)
      ? Effect.succeed<Access.Verdict>("allowed")
      : Effect.map(model, (_) =>
          Access.judge({
            header,
            tokens: SubscriptionRef.getUnsafe(tokens),
            properties: Access.propertiesOf(configResource(_, "ignition/security-properties", mode)),
            writes,
            secure: options.tls !== undefined
          })
        )

  const restart = FiberHandle.run(
    successor,
    Effect.gen(function* () {
      yield* Effect.sleep(options.lingerTime ?? 0)
      yield* FiberHandle.clear(life)
      yield* FiberHandle.run(life, boot)
    })
  ).pipe(Effect.asVoid)

  const gatewayApp = yield* GatewayApi.make({
    name,
    phase: SubscriptionRef.get(phase),
    judge,
    scanner,
    designers,
    faults,
    locks: options.locks ?? true,
    forceSecure: SubscriptionRef.get(secureTarget),
    restart,
    count: (route) => Effect.sync(() => requests.set(route, (requests.get(route) ?? 0) + 1)).pipe(Effect.asVoid)
  })

  const createServer = () => (options.tls === undefined ? Http.createServer() : Https.createServer(options.tls))
  const scheme = options.tls === undefined ? "http" : "https"
  const port = yield* freePort(options.port ?? 0)

  const gateway: Omit<SimulatedGateway, "controlUrl"> = {
    name,
    url: `${scheme}://localhost:${port}`,
    dataDir,
    phase: SubscriptionRef.get(phase),
    awaitPhase: (wanted) => Effect.asVoid(until(phase, (_) => _ === wanted)),
    setPhase: (next) =>
      Effect.gen(function* () {
        if (next === "down") {
          yield* FiberHandle.clear(successor)
          return yield* FiberHandle.clear(life)
        }
        if ((yield* SubscriptionRef.get(phase)) !== "down") return yield* setPhase(next)
        yield* FiberHandle.run(life, boot)
      }),
    restart,
    commission: SubscriptionRef.set(accepted, true),
    forceSecure: (target) => SubscriptionRef.set(secureTarget, target),
    model,
    awaitModel: (test) =>
      Effect.map(
        until(scanner.history, (_) => test(Scanner.modelOf(_))),
        Scanner.modelOf
      ),
    history: SubscriptionRef.get(scanner.history),
    awaitHistory: (test) => Effect.asVoid(until(scanner.history, test)),
    awaitIdle: scanner.idle,
    scans: scanner.requests,
    awaitScan: scanner.awaitRequest,
    setScanBehaviour: scanner.setBehaviour,
    log: SubscriptionRef.get(scanner.log),
    awaitLog: (test) => Effect.asVoid(until(scanner.log, (_) => _.some(test))),
    counters: Effect.gen(function* () {
      return {
        requests: Object.fromEntries(requests),
        unlockedWrites: yield* scanner.unlockedWrites,
        lockExpiries: {
          projects: yield* scanner.locks.projects.expiries,
          config: yield* scanner.locks.config.expiries
        }
      }
    }),
    designers,
    faults
  }
  const controlApp = yield* ControlApi.make(gateway)

  /** One life, from the chart's init container to the killed process. Never ends by itself. */
  const boot: Effect.Effect<never, ServeError> = Effect.gen(function* () {
    yield* seed.plant
    yield* serve(createServer, port, dispatch(gatewayApp, controlApp))
    yield* setPhase("starting")
    yield* Effect.sleep(options.startupTime ?? 0)
    yield* scanner.boot
    if (!(yield* seed.isCommissioned)) {
      if (commissioning === "none") {
        yield* seed.markCommissioned
      } else {
        yield* setPhase("commissioning")
        yield* until(accepted, (_) => _)
        yield* seed.commission(configResource(yield* model, "ignition/security-properties", mode))
        yield* scanner.boot
      }
    }
    yield* SubscriptionRef.set(tokens, Access.tokensOf(effectiveConfig(yield* model, mode)))
    yield* setPhase("running")
    return yield* options.scanFrequency === undefined
      ? Effect.never
      : Effect.forever(Effect.delay(scanner.scanByTimer("projects"), options.scanFrequency))
  }).pipe(Effect.scoped, Effect.ensuring(Effect.andThen(scanner.stop, setPhase("down"))))

  const control = yield* serve(() => Http.createServer(), options.controlPort ?? 0, controlApp)
  if (options.boots ?? true) {
    const first = yield* FiberHandle.run(life, boot)
    yield* Effect.raceFirst(
      until(phase, (_) => _ !== "down"),
      Fiber.join(first)
    )
  }
  return { ...gateway, controlUrl: `http://localhost:${control.port}` }
})

const dispatch = (gateway: GatewayApi.App, control: GatewayApi.App): GatewayApi.App =>
  Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
    request.url.startsWith("/__sim/") ? control : gateway
  )

/** Serves as long as the scope is open; then every connection is cut, as by a killed process. */
const serve = Effect.fnUntraced(function* (
  createServer: () => Http.Server | Https.Server,
  port: number,
  app: GatewayApi.App
) {
  const node = createServer()
  const server = yield* NodeHttpServer.make(() => node, { port, host: "127.0.0.1" })
  // The server shields handlers from interruption; one that never answers must end with the port.
  yield* server
    .serve(Effect.interruptible(app))
    .pipe(Effect.provideService(HttpMiddleware.TracerDisabledWhen, constTrue))
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      node.close()
      node.closeAllConnections()
    })
  )
  return { port: portOf(node) }
})

const portOf = (server: Http.Server | Https.Server) => {
  const address = server.address()
  return address === null || typeof address === "string" ? 0 : address.port
}

/** A port that nobody uses now; the system hands the same one out again only much later. */
const freePort = (wanted: number) =>
  wanted !== 0
    ? Effect.succeed(wanted)
    : Effect.scoped(
        Effect.gen(function* () {
          const node = Http.createServer()
          yield* NodeHttpServer.make(() => node, { port: 0, host: "127.0.0.1" })
          return portOf(node)
        })
      )
