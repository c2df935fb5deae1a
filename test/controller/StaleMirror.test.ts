/** A new leader whose watch was deaf while the former one worked: it must not undo what that one did. */
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Latch, Layer, Option, Redacted, Schedule, Stream } from "effect"
import * as Names from "../../src/api/Names.ts"
import * as Maps from "../../src/controller/steps/Maps.ts"
import * as Owned from "../../src/controller/steps/Owned.ts"
import { GatewaySyncController } from "../../src/controller/GatewaySyncController.ts"
import { Stores } from "../../src/controller/Stores.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Cluster from "./Cluster.ts"

/** What the API server tells of one collection is not heard while it is closed. */
class Ears extends Context.Service<
  Ears,
  {
    readonly close: (resource: Resource.Resource) => Effect.Effect<void>
    readonly open: Effect.Effect<void>
    /** Waits for so many further requests, e.g. `apply configmaps`. */
    readonly asked: (what: string, count: number) => Effect.Effect<void>
  }
>()("test/controller/Ears") {}

const deaf = Layer.effectContext(
  Effect.gen(function* () {
    const client = yield* ApiClient
    const latch = yield* Latch.make(true)
    const requests: Array<string> = []
    let closed = ""
    const noted = <A, E>(verb: string, resource: Resource.Resource, request: Effect.Effect<A, E>) =>
      Effect.andThen(
        Effect.sync(() => requests.push(`${verb} ${resource.plural}`)),
        request
      )
    const ears = Ears.of({
      close: (resource) =>
        Effect.andThen(
          Effect.sync(() => {
            closed = resource.plural
          }),
          latch.close
        ),
      open: Effect.asVoid(latch.open),
      asked: (what, count) =>
        Effect.suspend(() => {
          requests.splice(0)
          return Effect.sync(() => requests.filter((request) => request === what).length).pipe(
            Effect.repeat({ until: (found) => found >= count, schedule: Schedule.spaced("20 millis") }),
            Effect.asVoid
          )
        })
    })
    const hearing = ApiClient.of({
      ...client,
      get: (resource, ref) => noted("get", resource, client.get(resource, ref)),
      apply: (resource, ...rest) => noted("apply", resource, client.apply(resource, ...rest)),
      watch: (resource, options) =>
        Stream.mapEffect(client.watch(resource, options), (line) =>
          resource.plural === closed ? Effect.as(latch.await, line) : Effect.succeed(line)
        )
    })
    return Context.make(ApiClient, hearing).pipe(Context.add(Ears, ears))
  })
)

layer(Cluster.over(Cluster.mirrors, deaf), { excludeTestServices: true, timeout: "2 minutes" })(
  "A leader with a mirror of before",
  (it) => {
    /** A GatewaySync that follows the tag `v1`, and what the former leader did of its edit to `v2`. */
    const edited = Effect.fnUntraced(function* (namespace: string) {
      const { run } = yield* GatewaySyncController
      const ears = yield* Ears
      const plant = yield* Cluster.plant(namespace)
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.repository.setRef("refs/tags/v1", first)
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      yield* plant.repository.setRef("refs/tags/v2", second)
      yield* plant.create("site", { git: { repo: plant.repository.url, ref: "v1" } })
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Effect.forkScoped(run)
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)
          const { gatewaySyncs, maps } = yield* Stores
          yield* Cluster.until(gatewaySyncs.store.get(plant.ref("site")), (cr) =>
            Option.exists(cr, ({ status }) => status.lastSyncCommit === first)
          )
          yield* Cluster.until(maps.store.get(plant.ref(Names.metadataMap("site"))), Option.isSome)
        })
      )
      const tellOf = Effect.fnUntraced(function* (ref: string, commit: string) {
        const cr = yield* plant.get("site")
        const status = { ...cr.status, observedGeneration: cr.metadata.generation, lastSyncRef: ref }
        yield* plant.client.apply(
          Resource.configMaps,
          plant.ref(Names.metadataMap("site")),
          { metadata: Owned.metadata(cr), data: Maps.desired(cr, { commit, ref }) },
          Owned.write
        )
        yield* plant.client.apply(
          Names.gatewaySyncs,
          plant.ref("site"),
          { status: { ...status, lastSyncCommit: commit, lastSyncCommitShort: commit.slice(0, 7) } },
          { ...Owned.write, subresource: "status" }
        )
      })
      return { ears, plant, run, second, tellOf, told: plant.data(Names.metadataMap("site")) }
    })

    it.effect("writes nothing by the spec of before", () =>
      Effect.gen(function* () {
        const { ears, plant, run, second, tellOf, told } = yield* edited("stale-spec")
        yield* ears.close(Names.gatewaySyncs)
        yield* plant.patch("site", { spec: { git: { ref: "v2" } } })
        yield* tellOf("v2", second)
        const before = yield* told
        yield* (yield* Stores).queue.add("stale-spec/site", { reason: "test" })
        yield* Effect.forkScoped(run)
        yield* ears.asked("get gatewaysyncs", 2)
        assert.deepStrictEqual(yield* told, before)
        yield* ears.open
        yield* plant.patch("site", { spec: { gateway: { port: 8043 } } })
        const after = yield* Cluster.until(told, ({ gatewayPort }) => gatewayPort === "8043")
        assert.deepInclude(after, { ref: "v2", commit: second })
      })
    )

    it.effect("writes nothing by the map of before, also while the remote is away", () =>
      Effect.gen(function* () {
        const { ears, plant, run, second, tellOf, told } = yield* edited("stale-map")
        yield* ears.close(Resource.configMaps)
        yield* tellOf("v1", second)
        yield* plant.repository.requireLogin(Option.some({ username: "nobody", password: Redacted.make("nothing") }))
        yield* Effect.forkScoped(run)
        yield* plant.patch("site", { spec: { gateway: { port: 8043 } } })
        yield* ears.asked("apply configmaps", 2)
        assert.strictEqual((yield* told)["commit"], second)
        yield* ears.open
        const after = yield* Cluster.until(told, ({ gatewayPort }) => gatewayPort === "8043")
        assert.deepInclude(after, { ref: "v1", commit: second })
      })
    )
  }
)
