/** A controller whose cluster goes back in time under it: what it remembers of what never happened must not count. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import type { GatewaySync } from "../../src/api/GatewaySync.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as ControllerProcess from "../commands/ControllerProcess.ts"
import * as Cluster from "../controller/Cluster.ts"
import * as Connection from "../kubernetes/Connection.ts"
import * as Restore from "./Restore.ts"

const services = Layer.mergeAll(Connection.layer, GitServer.layer, NodeServices.layer, NodeHttpClient.layerNodeHttp)

layer(Cluster.definitions.pipe(Layer.provideMerge(services)), { excludeTestServices: true, timeout: "3 minutes" })(
  "A controller under which etcd is restored from an older copy",
  (it) => {
    it.effect(
      "goes back with it, and does again what is to be done: polls, requests, new GatewaySyncs (half a minute)",
      () =>
        Effect.gen(function* () {
          const plant = yield* Cluster.plant("restored")
          const { adminKubeconfig } = yield* ControlPlane
          const has = (commit: string) => (cr: GatewaySync) => cr.status.lastSyncCommit === commit
          const told = (name: string) => Effect.map(plant.data(`stoker-metadata-${name}`), ({ commit }) => commit)
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          const polling = { enabled: true, interval: "1s" }
          yield* plant.create("polled", { polling })
          yield* plant.create("promoted", {})
          const controller = yield* ControllerProcess.start(adminKubeconfig)
          for (const name of ["polled", "promoted"]) yield* Cluster.until(plant.get(name), has(first))

          const restore = yield* Restore.snapshot
          // All this will never have happened.
          const second = yield* plant.repository.commit({ files: { a: "2" } })
          yield* plant.repository.setRef("refs/tags/v2", second)
          const promotion = { ref: "v2", id: "delivery-1" }
          assert.strictEqual(yield* controller.post("/webhook/restored/promoted", promotion), 202)
          yield* plant.create("late", {})
          for (const name of ["polled", "promoted", "late"]) yield* Cluster.until(plant.get(name), has(second))
          const late = yield* plant.get("late")
          // Nor does the remote stay as it is.
          const third = yield* plant.repository.commit({ files: { a: "3" } })
          yield* plant.repository.setRef("refs/tags/v2", third)
          yield* Cluster.until(plant.get("polled"), has(third))
          yield* restore

          // It takes the API server several seconds each to tell that a watch is in the future.
          yield* Cluster.until(plant.get("polled"), has(third), "60 seconds")
          yield* Cluster.until(told("polled"), (commit) => commit === third)

          // Another one of that name is no longer the one that the controller saw.
          yield* plant.create("late", {})
          const anew = yield* Cluster.until(plant.get("late"), has(third), "60 seconds")
          assert.notStrictEqual(anew.metadata.uid, late.metadata.uid)
          for (const [resource, name] of [
            [Resource.configMaps, "stoker-metadata-late"],
            [Resource.roles, "stoker-agent-late"]
          ] as const) {
            const found = yield* plant.client.get(resource, plant.ref(name))
            assert.include(JSON.stringify(found), anew.metadata.uid)
          }

          // The request is gone, and with it what it led to: the spec counts, as it was or, asked again, as it is now.
          const back = yield* Cluster.until(plant.get("promoted"), ({ status }) => status.lastSyncRef === "main")
          assert.isUndefined(RequestedRef.override(back.metadata.annotations))
          assert.include([first, third], back.status.lastSyncCommit)
          yield* Cluster.until(told("promoted"), (commit) => commit === back.status.lastSyncCommit)

          // Its sender may repeat it: it was never handled.
          yield* Cluster.until(controller.post("/webhook/restored/promoted", promotion), (status) => status === 202)
          const again = yield* Cluster.until(
            plant.get("promoted"),
            (cr) =>
              cr.status.lastSyncRef === "v2" &&
              RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest)
          )
          assert.strictEqual(again.status.lastSyncCommit, third)
          assert.strictEqual(yield* told("promoted"), third)

          yield* controller.signal("SIGTERM")
          assert.strictEqual(yield* controller.exit, 0)
        }).pipe(Effect.scoped),
      120_000
    )
  }
)
