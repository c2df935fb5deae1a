/** What a mirror survives, on a real API server behind a way that fails. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, Layer, Option, Redacted, Schedule, Schema } from "effect"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../../src/kubernetes/KubeConfig.ts"
import * as Reflector from "../../src/kubernetes/Reflector.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Store from "../../src/kubernetes/Store.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as Connection from "../kubernetes/Connection.ts"
import * as Proxy from "./Proxy.ts"
import * as Restore from "./Restore.ts"

const Colored = Schema.Struct({
  metadata: Schema.Struct({ name: Schema.String }),
  data: Schema.Struct({ color: Schema.String })
})
const manager = { fieldManager: "test" }

const eventually = <A, E, R>(look: Effect.Effect<A, E, R>, isSo: (value: A) => boolean) =>
  look.pipe(Effect.repeat({ until: isSo, schedule: Schedule.spaced("10 millis") }), Effect.timeout("60 seconds"))

/** A namespace with some maps, and their mirror over a way that can fail. The tests themselves go straight. */
const mirrored = Effect.fnUntraced(function* (
  namespace: string,
  names: ReadonlyArray<string>,
  options: {
    readonly silence?: Duration.Duration
    /** What goes wrong before the first list is complete. */
    readonly fault?: (asked: Proxy.Asked) => Proxy.Fault | undefined
  } = {}
) {
  const client = yield* ApiClient
  const { adminToken } = yield* ControlPlane
  yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: namespace } })
  const ref = (name: string) => ({ namespace, name })
  const create = (name: string, color: string) =>
    client.create(Resource.configMaps, namespace, { metadata: { name }, data: { color } }, manager)
  const paint = (name: string, color: string) =>
    client.mergePatch(Resource.configMaps, ref(name), { data: { color } }, manager)
  yield* Effect.forEach(names, (name) => create(name, "red"), { concurrency: 8 })

  const proxy = yield* Proxy.make
  proxy.fail(options.fault ?? (() => undefined))
  const config = Layer.succeed(KubeConfig, {
    server: proxy.url,
    namespace,
    tls: Effect.succeed({}),
    authorization: Effect.succeed(Option.some(Redacted.make(`Bearer ${Redacted.value(adminToken)}`))),
    renew: Effect.void
  })
  const writer = yield* Store.make<typeof Colored.Type>(Resource.configMaps)
  const told: Array<string> = []
  yield* Reflector.run(
    writer,
    { resource: Resource.configMaps, schema: Colored, namespace, ...options },
    ({ after, before, ref }) =>
      Effect.sync(() => void told.push(`${ref.name}: ${before?.data.color ?? "-"} → ${after?.data.color ?? "-"}`))
  ).pipe(Effect.provide(Layer.fresh(ApiClient.layer).pipe(Layer.provide(config))), Effect.forkScoped)
  const colors = Effect.map(writer.store.all, (all) =>
    Object.fromEntries(all.map(({ data, metadata }) => [metadata.name, data.color]))
  )
  const lists = () => proxy.asked.filter((asked) => !Proxy.isWatch(asked) && !asked.path.includes("limit=1&"))
  const watches = () => proxy.asked.filter(Proxy.isWatch)
  /** Told, in this order, and nothing else. */
  const tells = (...lines: ReadonlyArray<string>) =>
    eventually(
      Effect.sync(() => told),
      (all) => all.length >= lines.length
    ).pipe(Effect.andThen(Effect.sync(() => assert.deepStrictEqual(told, lines))))
  yield* writer.store.ready
  yield* eventually(
    Effect.sync(() => watches().length),
    (count) => count > 0
  )
  told.length = 0
  return { client, colors, create, lists, paint, proxy, ref, store: writer.store, tells, told, watches }
})

/** Milliseconds: back-offs add up where an API server is away for long. */
const patience = 90_000

const services = Layer.merge(Connection.layer, NodeServices.layer)

layer(services, { excludeTestServices: true, timeout: "2 minutes" })("A watch", (it) => {
  it.effect(
    "goes on where it was when its connection is cut in the middle of a line",
    () =>
      Effect.gen(function* () {
        const { lists, paint, proxy, tells, watches } = yield* mirrored("cut", ["a", "b"])
        proxy.fail((asked) => (Proxy.isWatch(asked) ? { _tag: "Cut" } : undefined))
        yield* paint("a", "blue")
        yield* eventually(
          Effect.sync(() => watches().length),
          (count) => count > 1
        )
        proxy.heal()
        yield* paint("b", "green")
        yield* tells("a: red → blue", "b: red → green")
        assert.lengthOf(lists(), 1)
      }),
    patience
  )

  it.effect(
    "finds out that its connection is half open, and misses nothing",
    () =>
      Effect.gen(function* () {
        const { client, colors, create, paint, proxy, ref, tells, watches } = yield* mirrored("half-open", ["a", "b"], {
          silence: Duration.seconds(1)
        })
        // Only the connections that are open now: a network that forgot them takes new ones.
        const before = watches().length
        const dead = new Set(proxy.asked)
        proxy.fail((asked) => (dead.has(asked) && Proxy.isWatch(asked) ? { _tag: "Stall" } : undefined))
        yield* paint("a", "blue")
        yield* client.delete(Resource.configMaps, ref("b"))
        yield* create("c", "green")
        yield* tells("a: red → blue", "b: red → -", "c: - → green")
        assert.isAbove(watches().length, before)
        assert.deepStrictEqual(yield* colors, { a: "blue", c: "green" })
      }),
    patience
  )

  it.effect(
    "comes up over an API server that is overloaded, fails and forgets, and then watches",
    () =>
      Effect.gen(function* () {
        const refusals: Array<Proxy.Fault> = [
          { _tag: "Answer", status: 429, headers: { "retry-after": "1" }, body: { message: "too many requests" } },
          { _tag: "Answer", status: 500, body: { message: "etcd has a bad day" } },
          { _tag: "Answer", status: 410, body: { reason: "Expired", message: "gone" } }
        ]
        const { create, lists, tells } = yield* mirrored("overloaded", ["a"], { fault: () => refusals.shift() })
        assert.lengthOf(lists(), 4)
        yield* create("b", "blue")
        yield* tells("b: - → blue")
      }),
    patience
  )

  it.effect(
    "lists 1 200 objects in pages, from the start again when a page is too old",
    () =>
      Effect.gen(function* () {
        const names = Array.from({ length: 1200 }, (_, index) => `map-${index}`)
        let refused = false
        const { lists, store } = yield* mirrored("pages", names, {
          fault: ({ path }) => {
            if (refused || !path.includes("continue=")) return undefined
            refused = true
            return { _tag: "Answer", status: 410, body: { reason: "Expired", message: "the token is too old" } }
          }
        })
        assert.lengthOf(yield* store.all, 1200)
        assert.lengthOf(lists(), 2 + 3)
      }),
    patience
  )

  it.effect(
    "announces what vanished when history was compacted while it was away",
    () =>
      Effect.gen(function* () {
        const { apiServer, compact } = yield* ControlPlane
        const { client, colors, create, lists, paint, proxy, ref, tells } = yield* mirrored("compacted", [
          "a",
          "b",
          "c"
        ])
        const open = new Set(proxy.asked)
        proxy.fail((asked) => (open.has(asked) ? { _tag: "Cut" } : { _tag: "Stall" }))
        yield* paint("a", "blue")
        yield* client.delete(Resource.configMaps, ref("b"))
        yield* create("d", "green")
        yield* client.delete(Resource.configMaps, ref("c"))
        yield* create("c", "white")
        yield* compact
        // Without its cache the API server knows nothing from before the compaction.
        yield* apiServer.kill
        yield* apiServer.start
        proxy.heal()
        yield* eventually(colors, (all) => all["d"] === "green")
        assert.deepStrictEqual(yield* colors, { a: "blue", c: "white", d: "green" })
        assert.lengthOf(lists(), 2)
        yield* tells("b: red → -", "a: red → blue", "c: red → -", "c: - → white", "d: - → green")
      }),
    patience
  )

  it.effect(
    "finds out that etcd was restored from an older copy, and goes back with it (half a minute)",
    () =>
      Effect.gen(function* () {
        const { client, colors, create, paint, ref } = yield* mirrored("restored", ["a", "b"])
        const restore = yield* Restore.snapshot
        // All this will never have happened.
        yield* paint("a", "blue")
        yield* client.delete(Resource.configMaps, ref("b"))
        yield* create("c", "green")
        yield* eventually(colors, (all) => all["c"] === "green")
        assert.deepStrictEqual(yield* colors, { a: "blue", c: "green" })
        yield* restore
        yield* eventually(colors, (all) => all["a"] === "red" && all["b"] === "red" && all["c"] === undefined)
        // And it is not deaf.
        yield* create("d", "green")
        yield* eventually(colors, (all) => all["d"] === "green")
      }),
    patience
  )
})
