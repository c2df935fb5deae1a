/**
 * `stoker agent`: the sidecar of one gateway. Its flags are its environment (see `agent/Settings`), besides `PROBE_PORT` (8082),
 * `METRICS_PORT` (8083; 0 is any free port) and `OTEL_*`.
 */
import * as NodeChildProcessSpawner from "@effect/platform-node/NodeChildProcessSpawner"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodePath from "@effect/platform-node/NodePath"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cause, Config, Effect, Exit, FileSystem, Layer, Schema } from "effect"
import { Agent } from "../agent/Agent.ts"
import * as GatewayAddress from "../agent/GatewayAddress.ts"
import { Owner } from "../agent/Owner.ts"
import { Repository } from "../agent/Repository.ts"
import { Settings } from "../agent/Settings.ts"
import { StatusReporter } from "../agent/StatusReporter.ts"
import { Sync } from "../agent/Sync.ts"
import { Volume } from "../agent/Volume.ts"
import { Wanted } from "../agent/Wanted.ts"
import { GitCommand } from "../git/GitCommand.ts"
import * as ApiToken from "../ignition/ApiToken.ts"
import { GatewayClient } from "../ignition/GatewayClient.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import { version } from "../Version.ts"
import { KubeConfig } from "../kubernetes/KubeConfig.ts"
import { Health } from "../telemetry/Health.ts"
import * as MetricsServer from "../telemetry/MetricsServer.ts"
import * as ProbeServer from "../telemetry/ProbeServer.ts"
import { Supervisor } from "../telemetry/Supervisor.ts"
import * as Telemetry from "../telemetry/Telemetry.ts"

const volume = Layer.unwrap(Effect.map(Settings, ({ dataPath }) => Volume.layer(dataPath)))

const gateway = Layer.unwrap(
  Effect.gen(function* () {
    const { apiKeyFile } = yield* Settings
    const fs = yield* FileSystem.FileSystem
    const token = Effect.provideService(ApiToken.fromFile(apiKeyFile), FileSystem.FileSystem, fs)
    const url = Effect.provideContext(GatewayAddress.current, yield* Effect.context<Settings | Wanted>())
    return GatewayClient.layer({ url, token })
  })
)

const PortOrFree = Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 0, maximum: 65535 })))

/** First up, last down. */
const servers = Layer.effectDiscard(
  Effect.gen(function* () {
    yield* ProbeServer.serve({ port: yield* Config.schema(PortOrFree, "PROBE_PORT").pipe(Config.withDefault(8082)) })
    yield* MetricsServer.serve({
      port: yield* Config.schema(PortOrFree, "METRICS_PORT").pipe(Config.withDefault(8083))
    })
  })
)

/** What `NodeServices` has, without what an agent never uses. */
const platform = NodeChildProcessSpawner.layer.pipe(
  Layer.provideMerge(Layer.mergeAll(NodeFileSystem.layer, NodePath.layer))
)

/** Everything but the environment that a test replaces. */
export const main = (version: string) =>
  Agent.layer(version).pipe(
    Layer.provide(Sync.layer),
    Layer.provide(Owner.layer),
    Layer.provide([StatusReporter.layer, Repository.layer, gateway]),
    Layer.provide(Wanted.layer),
    Layer.provide([volume, GitCommand.layer, ApiClient.layer.pipe(Layer.provide(KubeConfig.layer))]),
    Layer.provide(servers),
    Layer.provideMerge([Settings.layer, Supervisor.layer, Health.layer]),
    Layer.provide(Telemetry.layer({ service: "stoker-agent", version })),
    Layer.provide(platform)
  )

export const run = (_args: ReadonlyArray<string>): void =>
  Effect.gen(function* () {
    const { failed } = yield* Supervisor
    return yield* failed
  }).pipe(
    Effect.provide(main(version)),
    NodeRuntime.runMain({
      // SIGTERM is how a pod ends, and no failure.
      teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause) ? 0 : 1)
    })
  )
