/**
 * The answer to a status apply holds what somebody else wrote just before it. The watch, which brings both versions a
 * little later, announces neither, so the controller must take the answer for news.
 */
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Latch, Layer, Ref, Stream } from "effect"
import * as Names from "../../src/api/Names.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Cluster from "./Cluster.ts"

/** Runs before the next status apply, while the watch of GatewaySyncs is held up. */
class BeforeStatus extends Context.Service<BeforeStatus, Ref.Ref<Effect.Effect<void> | undefined>>()(
  "test/BeforeStatus"
) {}

const lateWatch = Layer.effectContext(
  Effect.gen(function* () {
    const client = yield* ApiClient
    const gate = yield* Latch.make(true)
    const before = yield* Ref.make<Effect.Effect<void> | undefined>(undefined)
    const late: ApiClient["Service"] = {
      ...client,
      watch: (resource, options) =>
        resource.plural === Names.gatewaySyncs.plural
          ? Stream.mapEffect(client.watch(resource, options), (line) => Effect.as(gate.await, line))
          : client.watch(resource, options),
      apply: (resource, ref, body, options) =>
        Effect.gen(function* () {
          const write = options.subresource === "status" ? yield* Ref.getAndSet(before, undefined) : undefined
          if (write === undefined) return yield* client.apply(resource, ref, body, options)
          yield* gate.close
          yield* write
          const answer = yield* client.apply(resource, ref, body, options)
          // The controller has the answer before the watch has said anything.
          yield* Effect.forkDetach(Effect.andThen(Effect.sleep("100 millis"), gate.open))
          return answer
        })
    }
    return Context.make(ApiClient, late).pipe(Context.add(BeforeStatus, before))
  })
)

layer(Cluster.over(Cluster.controller, lateWatch), { excludeTestServices: true, timeout: "2 minutes" })(
  "a watch that is late",
  (it) => {
    it.effect("loses no request that was persisted just before a status apply", () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("late-watch")
        const before = yield* BeforeStatus
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create("site", { polling: { enabled: false } })
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)

        const second = yield* plant.repository.commit({ files: { a: "2" } })
        yield* Ref.set(
          before,
          Effect.orDie(
            plant.annotate("site", {
              [Names.request.pushed]: JSON.stringify({
                ref: "main",
                kind: "branch",
                at: "now",
                by: "github",
                id: "push-1"
              })
            })
          )
        )
        // Any cause of a status apply.
        yield* plant.patch("site", { spec: { polling: { interval: "90s" } } })
        const { status } = yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit !== first)
        assert.strictEqual(status.lastSyncCommit, second)
        assert.include(status.lastHandledRequest ?? "", "push-1")
      })
    )
  }
)
