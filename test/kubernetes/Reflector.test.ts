import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Layer, Logger, Option, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
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

describe("Reflector", () => {
  it.effect("says once that it is refused, and again when it was refused anew", () =>
    Effect.gen(function* () {
      const forbidden = new ApiErrors.Forbidden({ message: "cannot list" })
      const unauthorized = new ApiErrors.Unauthorized({ message: "who is it?" })
      const unreachable = new ApiErrors.Unreachable({ message: "refused" })
      const answers = [forbidden, forbidden, unauthorized, unauthorized, unreachable, unreachable, "list", forbidden]
      let asked = 0
      const client = Layer.mock(ApiClient, {
        list: () =>
          Effect.suspend(() => {
            const answer = answers[Math.min(asked++, answers.length - 1)]!
            return answer === "list"
              ? Effect.succeed({ resourceVersion: "1", continue: Option.none(), items: [] })
              : Effect.fail(new ApiErrors.ApiError({ operation: "LIST", reason: answer as ApiErrors.Reason }))
          }),
        watch: () =>
          Stream.fail(
            new ApiErrors.ApiError({ operation: "WATCH", reason: new ApiErrors.Expired({ message: "too old" }) })
          )
      })
      const lines: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => lines.push(`${logLevel} ${String(message)}`))
      yield* Reflector.run(
        yield* Store.make<typeof Colored.Type>(Resource.configMaps),
        { resource: Resource.configMaps, schema: Colored },
        () => Effect.void
      ).pipe(Effect.provide([client, Logger.layer([logger])]), Effect.forkScoped)
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(lines.slice(0, 6), [
        "Warn LIST: cannot list",
        "Warn LIST: who is it?",
        "Info LIST: refused",
        "Info LIST: refused",
        "Warn WATCH: too old",
        "Warn LIST: cannot list"
      ])
      assert.isAbove(asked, answers.length)
      assert.lengthOf(lines, 6)
    })
  )
})

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
