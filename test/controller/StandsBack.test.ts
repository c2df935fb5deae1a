/** Senders of webhooks are answered first, see `Precedence`. */
import { assert, layer } from "@effect/vitest"
import { Effect, Latch, Layer, Option } from "effect"
import { Stores } from "../../src/controller/Stores.ts"
import * as Precedence from "../../src/kubernetes/Precedence.ts"
import * as Cluster from "./Cluster.ts"

const room = Latch.makeUnsafe(false)
const busy = Layer.succeed(Precedence.Current, { first: (work) => work, after: room.await })

layer(Cluster.layer.pipe(Layer.provide(busy)), { excludeTestServices: true, timeout: "2 minutes" })(
  "A leader",
  (it) => {
    it.effect("writes nothing while many senders wait", () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("busy")
        const writes = yield* Cluster.Writes
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create("site", {})
        const { gatewaySyncs } = yield* Stores
        yield* Cluster.until(gatewaySyncs.store.get(plant.ref("site")), Option.isSome)
        assert.deepStrictEqual(yield* writes.all, [])
        yield* room.open
        yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)
      })
    )
  }
)
