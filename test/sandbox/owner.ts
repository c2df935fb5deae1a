/** Owns a control plane until it is killed: what ControlPlane.test.ts lets die without a chance to clean up. */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Option } from "effect"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"

NodeRuntime.runMain(
  Effect.gen(function* () {
    const { adminKubeconfig, apiServer, etcd } = yield* ControlPlane
    const pids = yield* Effect.all([apiServer.pid, etcd.pid]).pipe(Effect.map((all) => all.flatMap(Option.toArray)))
    yield* Console.log(JSON.stringify({ pids, adminKubeconfig }))
    return yield* Effect.never
  }).pipe(Effect.provide(ControlPlane.layer))
)
