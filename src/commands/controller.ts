/**
 * `stoker controller`: resolves refs, tells the agents, receives webhooks. Every replica mirrors and receives; one leads.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Config, Deferred, Effect, Exit, Layer, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { SecureRandom } from "effect/crypto"
import { HttpServer } from "effect/http"
import * as Names from "../api/Names.ts"
import * as CustomResource from "../controller/CustomResource.ts"
import { GatewaySyncController } from "../controller/GatewaySyncController.ts"
import { Definition } from "../controller/Definition.ts"
import { InstallationTokens } from "../controller/InstallationTokens.ts"
import { Memory } from "../controller/Memory.ts"
import { Metrics } from "../controller/Metrics.ts"
import { SharedRefs } from "../controller/SharedRefs.ts"
import { Stores } from "../controller/Stores.ts"
import { GitCommand } from "../git/GitCommand.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import { EventRecorder } from "../kubernetes/EventRecorder.ts"
import { KubeConfig } from "../kubernetes/KubeConfig.ts"
import * as LeaderElection from "../kubernetes/LeaderElection.ts"
import * as Precedence from "../kubernetes/Precedence.ts"
import { Authorizer } from "../receiver/Authorizer.ts"
import * as Receiver from "../receiver/Receiver.ts"
import { Health } from "../telemetry/Health.ts"
import * as MetricsServer from "../telemetry/MetricsServer.ts"
import * as ProbeServer from "../telemetry/ProbeServer.ts"
import { Supervisor } from "../telemetry/Supervisor.ts"
import * as Telemetry from "../telemetry/Telemetry.ts"
import { version } from "../Version.ts"
import * as ReceiverFlags from "./ReceiverFlags.ts"

export interface Address {
  readonly host?: string
  readonly port: number
}

/** An address as Go programs take it, `:8081` or `127.0.0.1:8081`; `0` is no address; none when it is neither. */
export const parseAddress = (text: string): Option.Option<Address | "off"> => {
  if (text === "0") return Option.some("off")
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:]*):(\d{1,5})$/.exec(text)
  const port = Number(match?.[2])
  if (match === null || port > 65_535) return Option.none()
  const host = match[1]!.replace(/^\[|\]$/g, "")
  return Option.some(host === "" ? { port } : { host, port })
}

const address = (name: string, standard: string, what: string) =>
  Flag.String(name).pipe(
    Flag.withDescription(`Address of ${what}; port 0 takes a free one, 0 is none`),
    Flag.withDefault(standard),
    Flag.filterMap(parseAddress, () => `an address (${standard}, 127.0.0.1${standard}), or 0 for none`)
  )

/** Says where it listens: programs that gave port 0 read it from this line. */
const listening = (what: string) =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { address } = yield* HttpServer.HttpServer
      const port = "port" in address ? address.port : 0
      yield* Effect.annotateLogs(Effect.logInfo("listening"), { what, port })
    })
  )

interface Flags {
  readonly leaderElect: boolean
  readonly healthProbeBindAddress: Address | "off"
  readonly metricsBindAddress: Address | "off"
  readonly metricsSecure: boolean
  readonly webhookCertPath: string
  readonly webhookReceiverPort: number
  readonly webhookReceiver: ReceiverFlags.Flags
  readonly updateCrd: boolean
}

/** Up in the order of the lines, down in the opposite one. */
const main = Effect.fnUntraced(function* (flags: Flags) {
  const { healthProbeBindAddress: probes, metricsBindAddress: metrics } = flags
  const { register, started } = yield* Health
  const { failed, supervise } = yield* Supervisor
  if (flags.webhookCertPath !== "") {
    yield* Effect.logWarning("--webhook-cert-path is not used: this version serves no admission webhook yet")
  }

  let phase: "starting" | "running" | "stopping" = "starting"
  yield* register(
    "ready",
    "process",
    Effect.suspend(() => (phase === "running" ? Effect.void : Effect.fail(phase)))
  )
  if (probes !== "off") yield* ProbeServer.serve(probes)
  if (metrics !== "off") {
    if (flags.metricsSecure) {
      yield* Effect.logWarning(
        "metrics are not served: this version cannot yet ask callers for a token; --metrics-secure=false serves them in the clear"
      )
    } else yield* MetricsServer.serve(metrics)
  }

  const context = yield* Layer.build(
    Layer.provideMerge(
      flags.leaderElect
        ? GatewaySyncController.layer.pipe(Layer.provide(LeaderElection.whileLeading))
        : GatewaySyncController.layer,
      Layer.mergeAll(
        Stores.layer,
        Definition.layer,
        InstallationTokens.layer,
        SharedRefs.layer,
        Metrics.layer,
        SecureRandom.layerWebCrypto,
        events
      )
    ).pipe(
      Layer.provideMerge([Memory.layer, LeaderElection.Term.layer, Precedence.layer]),
      Layer.provide(GitCommand.layer)
    )
  )
  yield* Effect.gen(function* () {
    const stores = yield* Stores
    const controller = yield* GatewaySyncController
    for (const { store, what } of [
      { what: "gatewaysyncs", store: stores.gatewaySyncs.store },
      { what: "pods", store: stores.pods.store },
      { what: "configmaps", store: stores.maps.store }
    ]) {
      yield* register(
        "ready",
        what,
        Effect.flatMap(store.isReady, (isReady) => (isReady ? Effect.void : Effect.fail("not listed yet")))
      )
    }

    // The leader's work is begun after the receiver, and must be drained after it: its fiber waits from here on.
    const receiving = yield* Deferred.make<void>()
    const work = Effect.scoped(Effect.andThen(supervise("controller", controller.run), Effect.never))
    yield* supervise(
      flags.leaderElect ? "election" : "leader",
      Effect.andThen(Deferred.await(receiving), flags.leaderElect ? elected(work) : work)
    )

    // Before the stores are complete, so that who comes early is told to come again.
    if (flags.webhookReceiverPort !== 0) {
      const receiver = Receiver.serve({
        ...ReceiverFlags.options(flags.webhookReceiver),
        store: stores.gatewaySyncs.store,
        port: flags.webhookReceiverPort
      })
      yield* Layer.build(
        Layer.provideMerge(listening("webhook-receiver"), receiver).pipe(Layer.provide(Authorizer.layer))
      )
    }

    // Before anything is written that an older definition refuses.
    if (flags.updateCrd) yield* CustomResource.update(version)
    yield* stores.ready
    yield* Effect.logInfo("the stores are complete")
    yield* Deferred.succeed(receiving, undefined)

    phase = "running"
    yield* Effect.addFinalizer(() => {
      phase = "stopping"
      return Effect.logInfo("stopping")
    })
    yield* started
    return yield* failed
  }).pipe(Effect.provide(context))
}, Effect.scoped)

const podName = Config.String("POD_NAME").pipe(Config.withDefault("stoker"))

/** What still waits when the process stops is written after the Lease was given back (docs/decisions/lease-before-events.md). */
const events = Layer.unwrap(
  Effect.gen(function* () {
    return EventRecorder.layer({ controller: Names.eventController, instance: yield* podName })
  })
)

/** Runs the work while this process leads. Its Lease goes over connections of its own. */
const elected = Effect.fnUntraced(function* <A, E, R>(work: Effect.Effect<A, E, R>) {
  const { namespace } = yield* KubeConfig
  const { uuidV4 } = yield* SecureRandom.SecureRandom
  const own = yield* Layer.build(Layer.fresh(ApiClient.layer))
  const mine = yield* Effect.context<R>()
  yield* LeaderElection.lead(
    {
      namespace,
      name: Names.lease,
      identity: `${yield* podName}_${(yield* uuidV4()).slice(0, 8)}`,
      lost: Effect.andThen(
        Effect.logFatal("the lease was lost, so this process ends at once: another may lead"),
        // No grace: what a leader does after this may undo what the next one does.
        Effect.sync(() => process.exit(1))
      )
    },
    Effect.provide(work, mine)
  ).pipe(Effect.provide(own))
})

const base = Layer.mergeAll(Health.layer, Supervisor.layer, ApiClient.layer).pipe(
  Layer.provideMerge(KubeConfig.layer),
  Layer.provideMerge(NodeServices.layer)
)

const command = Command.make(
  "controller",
  {
    leaderElect: Flag.Boolean("leader-elect").pipe(
      Flag.withDescription("Lead only with the Lease; needed with more than one replica"),
      Flag.withDefault(false)
    ),
    healthProbeBindAddress: address("health-probe-bind-address", ":8081", "/healthz and /readyz"),
    metricsBindAddress: address("metrics-bind-address", ":8443", "/metrics"),
    metricsSecure: Flag.Boolean("metrics-secure").pipe(
      Flag.withDescription("Metrics only over TLS and to callers with a token"),
      Flag.withDefault(true)
    ),
    webhookCertPath: Flag.String("webhook-cert-path").pipe(
      Flag.withDescription("Folder with tls.crt and tls.key of the admission server"),
      Flag.withDefault("")
    ),
    webhookReceiverPort: Flag.Int("webhook-receiver-port").pipe(
      Flag.withDescription("Port of the webhook receiver; 0 = off"),
      Flag.withDefault(9444)
    ),
    webhookReceiver: ReceiverFlags.flags,
    updateCrd: Flag.Boolean("update-crd").pipe(
      Flag.withDescription("Bring the definition of GatewaySync up to this version at start"),
      Flag.withDefault(false)
    )
  },
  (flags) =>
    Effect.provide(main(flags), base).pipe(
      Effect.tapError((error) => Effect.logFatal(error.message)),
      Effect.tapDefect((defect) => Effect.logFatal("a defect ends this process", defect)),
      Effect.provide(Telemetry.layer({ service: "stoker-controller", version }))
    )
).pipe(Command.withDescription("Resolves refs, tells the agents, receives webhooks"))

export const run = (args: ReadonlyArray<string>): void =>
  Command.runWith(command, { version })(args).pipe(Effect.provide(NodeServices.layer), (program) =>
    NodeRuntime.runMain(program, {
      // What ends us was logged, in the form of the other lines.
      disableErrorReporting: true,
      // SIGTERM is how Kubernetes asks for a clean stop.
      teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) || Exit.hasInterrupts(exit) ? 0 : 1)
    })
  )
