import { assert, layer } from "@effect/vitest"
import { Effect, Option, Schedule, Schema } from "effect"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Reflector from "../../src/kubernetes/Reflector.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Store from "../../src/kubernetes/Store.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as Connection from "./Connection.ts"

/** A map that a person broke is left out; the others are not harmed. */
const Colored = Schema.Struct({
  metadata: Schema.Struct({ name: Schema.String }),
  data: Schema.Struct({ color: Schema.String })
})

const manager = { fieldManager: "test" }

/** A namespace, a mirror of its ConfigMaps, and what the mirror told. */
const mirror = Effect.fnUntraced(function* (namespace: string, count: number, pageSize: number) {
  const client = yield* ApiClient
  yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: namespace } })
  const create = (name: string, color: string) =>
    client.create(Resource.configMaps, namespace, { metadata: { name }, data: { color } }, manager)
  yield* Effect.forEach(
    Array.from({ length: count }, (_, index) => `map-${index}`),
    (name) => create(name, "red"),
    { concurrency: 8 }
  )
  const writer = yield* Store.make<typeof Colored.Type>(Resource.configMaps, { color: ({ data }) => [data.color] })
  const told: Array<string> = []
  yield* Reflector.run(
    writer,
    { resource: Resource.configMaps, schema: Colored, namespace, pageSize },
    ({ after, before, ref }) =>
      Effect.sync(() => void told.push(`${ref.name}: ${before?.data.color ?? "-"} → ${after?.data.color ?? "-"}`))
  ).pipe(Effect.forkScoped)
  yield* writer.store.ready
  // The store is complete before its changes are told.
  yield* eventually(
    Effect.sync(() => told.length),
    (length) => length === count
  )
  return { client, create, store: writer.store, told, ref: (name: string) => ({ namespace, name }) }
})

const eventually = <A, E, R>(look: Effect.Effect<A, E, R>, isSo: (value: A) => boolean) =>
  look.pipe(Effect.repeat({ until: isSo, schedule: Schedule.spaced("10 millis") }), Effect.timeout("60 seconds"))

layer(Connection.layer, { excludeTestServices: true, timeout: "2 minutes" })("Reflector", (it) => {
  it.effect("mirrors a collection of many pages, and every change after it", () =>
    Effect.gen(function* () {
      const { client, create, ref, store, told } = yield* mirror("pages", 120, 50)
      assert.lengthOf(yield* store.all, 120)
      assert.lengthOf(told, 120)
      told.length = 0
      yield* create("new", "blue")
      yield* client.mergePatch(Resource.configMaps, ref("map-7"), { data: { color: "blue" } }, manager)
      yield* client.delete(Resource.configMaps, ref("map-8"))
      // No color: not readable, so the last good version stays.
      yield* client.mergePatch(Resource.configMaps, ref("map-9"), { data: { color: null } }, manager)
      yield* create("last", "red")
      yield* eventually(store.get(ref("last")), Option.isSome)
      assert.deepStrictEqual(told, ["new: - → blue", "map-7: red → blue", "map-8: red → -", "last: - → red"])
      assert.lengthOf(yield* store.by("color", "blue"), 2)
      assert.isTrue(Option.isSome(yield* store.get(ref("map-9"))))
    })
  )

  it.effect("finds again what happened while the API server was away, and announces what vanished", () =>
    Effect.gen(function* () {
      const { apiServer } = yield* ControlPlane
      const { client, create, ref, store, told } = yield* mirror("away", 3, 500)
      told.length = 0
      yield* apiServer.kill
      yield* apiServer.start
      yield* client.delete(Resource.configMaps, ref("map-0"))
      yield* client.mergePatch(Resource.configMaps, ref("map-1"), { data: { color: "blue" } }, manager)
      yield* create("new", "green")
      yield* eventually(store.get(ref("new")), Option.isSome)
      const names = (yield* store.all).map(({ metadata }) => metadata.name)
      assert.sameMembers(names, ["map-1", "map-2", "new"])
      assert.sameMembers(told, ["map-0: red → -", "map-1: red → blue", "new: - → green"])
    })
  )
})
