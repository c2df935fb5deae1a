/**
 * `stoker uninstall`: what the chart's pre-delete hook runs. Stops the controllers, then frees the GatewaySyncs of their
 * finalizer, so that they can be deleted when nobody is there to do it.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Exit, Layer } from "effect"
import { Command, Flag } from "effect/cli"
import * as Uninstall from "../controller/Uninstall.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import { KubeConfig } from "../kubernetes/KubeConfig.ts"
import * as Telemetry from "../telemetry/Telemetry.ts"
import { version } from "../Version.ts"

const command = Command.make(
  "uninstall",
  { deployment: Flag.String("deployment").pipe(Flag.withDescription("The controller's Deployment, in our namespace")) },
  ({ deployment }) =>
    Effect.gen(function* () {
      const { namespace } = yield* KubeConfig
      yield* Uninstall.run({ namespace, name: deployment })
    }).pipe(
      Effect.provide(ApiClient.layer.pipe(Layer.provideMerge(KubeConfig.layer))),
      Effect.tapError((error) => Effect.logFatal(error.message)),
      Effect.provide(Telemetry.layer({ service: "stoker-uninstall", version }))
    )
).pipe(Command.withDescription("Stops the controllers and takes their finalizer off every GatewaySync"))

export const run = (args: ReadonlyArray<string>): void =>
  Command.runWith(command, { version })(args).pipe(Effect.provide(NodeServices.layer), (program) =>
    NodeRuntime.runMain(program, {
      // What ends us was logged, in the form of the other lines.
      disableErrorReporting: true,
      teardown: (exit, onExit) => onExit(Exit.isSuccess(exit) ? 0 : 1)
    })
  )
