/** Processes of the controller that lose the lead, each in its own way. Leases last 15 s, so these take their time. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, Option, Ref, Schema, Stream } from "effect"
import * as Names from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as ControllerProcess from "../commands/ControllerProcess.ts"
import * as Cluster from "../controller/Cluster.ts"
import * as Connection from "../kubernetes/Connection.ts"
import * as Proxy from "./Proxy.ts"

const Lease = Schema.Struct({
  spec: Schema.Struct({
    holderIdentity: Schema.String,
    acquireTime: Schema.DateTimeUtcFromString,
    renewTime: Schema.DateTimeUtcFromString,
    leaseTransitions: Schema.optionalKey(Schema.Int)
  })
})
const decodeLease = Schema.decodeUnknownEffect(Lease)
/** Of a watch; none where it is a bookmark. */
const decodeChange = Schema.decodeOption(Schema.fromJsonString(Schema.Struct({ object: Lease })))

/** The Lease in a namespace; each test has its own, and its own electors. */
const lease = (namespace: string) =>
  Effect.gen(function* () {
    const client = yield* ApiClient
    const { spec } = yield* decodeLease(yield* client.get(Resource.leases, { namespace, name: Names.lease }))
    return spec
  })

/** What the Lease says, from now until another one holds it. */
const untilTaken = Effect.fnUntraced(function* (namespace: string, former: string) {
  const client = yield* ApiClient
  return yield* client.watch(Resource.leases, { namespace, resourceVersion: "0", timeoutSeconds: 120 }).pipe(
    Stream.flatMap((line) => Stream.fromIterable(Option.toArray(decodeChange(line)))),
    Stream.map(({ object }) => object.spec),
    Stream.takeUntil(has(former)),
    Stream.runCollect
  )
})

/** Milliseconds since the epoch of a line that a process logged. */
const saidAt = (process: Effect.Success<ReturnType<typeof elector>>, text: string) =>
  Effect.map(process.lines, (lines) => {
    const line = lines.find(({ message }) => String(message).includes(text))
    assert.isDefined(line, `it says "${text}"`)
    return line!.time.epochMilliseconds
  })

/** A kubeconfig by way of the proxy. */
const proxied = Effect.fnUntraced(function* (proxy: Proxy.Proxy, namespace: string) {
  const { adminToken } = yield* ControlPlane
  const fileSystem = yield* FileSystem.FileSystem
  const config = `${yield* fileSystem.makeTempDirectoryScoped()}/kubeconfig`
  yield* fileSystem.writeFileString(config, Proxy.kubeconfig(proxy, adminToken, namespace), { mode: 0o600 })
  return config
})

const kubeconfig = Effect.fnUntraced(function* (namespace: string) {
  const { adminToken, kubeconfigFor } = yield* ControlPlane
  return yield* kubeconfigFor(`elector-${namespace}`, { token: adminToken }, namespace)
})

const elector = (config: string) => ControllerProcess.start(config, ["--leader-elect"])

const has = (holder: string) => (spec: typeof Lease.Type.spec) =>
  spec.holderIdentity !== "" && spec.holderIdentity !== holder

/** Milliseconds. */
const patience = 90_000

const services = Layer.mergeAll(Connection.layer, GitServer.layer, NodeServices.layer, NodeHttpClient.layerNodeHttp)

layer(Cluster.definitions.pipe(Layer.provideMerge(services)), { excludeTestServices: true, timeout: "3 minutes" })(
  "A leader",
  (it) => {
    it.effect(
      "keeps its Lease under 400 webhooks at once on one GatewaySync; killed, the next one goes on (20 s)",
      () =>
        Effect.gen(function* () {
          const plant = yield* Cluster.plant("killed")
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          for (const tag of ["v1", "v2", "v3"]) yield* plant.repository.setRef(`refs/tags/${tag}`, first)
          yield* plant.create("site", {})
          const config = yield* kubeconfig("killed")
          const leader = yield* elector(config)
          yield* leader.until("probes", "/readyz", 200)
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)
          const before = yield* lease("killed")

          const answers = yield* Effect.forEach(
            Array.from({ length: 400 }, (_, index) => index),
            (index) => leader.post("/webhook/killed/site", { ref: index % 2 === 0 ? "v1" : "v2" }),
            { concurrency: "unbounded" }
          )
          assert.isTrue(answers.every((status) => status === 202 || status === 429))
          assert.include(answers, 202)
          assert.strictEqual(yield* leader.post("/webhook/killed/site", { ref: "v1" }), 202)
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncRef === "v1")
          const { holderIdentity, leaseTransitions } = before
          const after = yield* lease("killed")
          assert.deepStrictEqual([after.holderIdentity, after.leaseTransitions], [holderIdentity, leaseTransitions])

          const next = yield* elector(config)
          yield* next.until("probes", "/readyz", 200)
          const posted = yield* Ref.make<ReadonlyArray<number>>([])
          const load = yield* next.post("/webhook/killed/site", { ref: "v2" }).pipe(
            Effect.flatMap((status) => Ref.update(posted, (all) => [...all, status])),
            Effect.andThen(Effect.sleep("50 millis")),
            Effect.forever,
            Effect.forkScoped
          )
          const taken = yield* Effect.forkScoped(untilTaken("killed", before.holderIdentity))
          yield* leader.signal("SIGKILL")
          yield* leader.ended
          const records = yield* Fiber.join(taken)
          const renewed = records.findLast((record) => record.holderIdentity === holderIdentity)!.renewTime
          const took = records.at(-1)!.acquireTime.epochMilliseconds - renewed.epochMilliseconds
          // The next one looks every 2 to 2.4 s: it may see the last renewal that late, and its end that late.
          assert.isAbove(took, 15_000)
          assert.isAtMost(took, 22_000)
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncRef === "v2")
          yield* Fiber.interrupt(load)
          // The receiver of the other one answered all the while.
          const all = yield* Ref.get(posted)
          assert.isAbove(all.length, 10)
          assert.isTrue(all.every((status) => status === 202))

          assert.strictEqual(yield* next.post("/webhook/killed/site", { ref: "v3" }), 202)
          const done = yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncRef === "v3")
          assert.isTrue(RequestedRef.isHandled(done.metadata.annotations, done.status.lastHandledRequest))
          yield* next.signal("SIGTERM")
          assert.strictEqual(yield* next.exit, 0)
          assert.strictEqual((yield* lease("killed")).holderIdentity, "")
        }),
      patience
    )

    it.effect(
      "that stood still for longer than its Lease ends as soon as it goes on (20 s)",
      () =>
        Effect.gen(function* () {
          const client = yield* ApiClient
          yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: "stalled" } })
          const config = yield* kubeconfig("stalled")
          const first = yield* elector(config)
          const { holderIdentity } = yield* Cluster.until(lease("stalled"), has(""))
          const second = yield* elector(config)
          yield* second.until("probes", "/readyz", 200)
          yield* first.signal("SIGSTOP")
          yield* Cluster.until(lease("stalled"), has(holderIdentity)).pipe(Effect.retry({ times: 1 }))
          yield* first.signal("SIGCONT")
          assert.strictEqual(yield* first.exit, 1)
          assert.isTrue((yield* first.lines).some(({ message }) => String(message).includes("the lease was lost")))
          yield* second.signal("SIGTERM")
          assert.strictEqual(yield* second.exit, 0)
        }),
      patience
    )

    it.effect(
      "that cannot reach the API server for ten seconds ends, before another one leads (20 s)",
      () =>
        Effect.gen(function* () {
          const client = yield* ApiClient
          yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: "cut-off" } })
          const proxy = yield* Proxy.make
          const leader = yield* elector(yield* proxied(proxy, "cut-off"))
          const { holderIdentity } = yield* Cluster.until(lease("cut-off"), has(""))
          const next = yield* elector(yield* kubeconfig("cut-off"))
          yield* next.until("probes", "/readyz", 200)
          const taken = yield* Effect.forkScoped(untilTaken("cut-off", holderIdentity))
          proxy.fail(() => ({ _tag: "Stall" }))
          assert.strictEqual(yield* leader.exit, 1)
          const records = yield* Fiber.join(taken)
          // By the clocks of the two: the one had ended when the other began.
          assert.isBelow(yield* saidAt(leader, "the lease was lost"), records.at(-1)!.acquireTime.epochMilliseconds)
          yield* next.signal("SIGTERM")
          assert.strictEqual(yield* next.exit, 0)
        }),
      patience
    )

    it.effect(
      "that stops hands over within three seconds, and keeps nobody waiting for events that it cannot write (10 s)",
      () =>
        Effect.gen(function* () {
          const plant = yield* Cluster.plant("handover")
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          yield* plant.repository.setRef("refs/tags/v2", first)
          const proxy = yield* Proxy.make
          const isEvent = ({ method, path }: Proxy.Asked) => method === "POST" && path.includes("/events?")
          proxy.fail((asked) => (isEvent(asked) ? { _tag: "Stall" } : undefined))
          const leader = yield* elector(yield* proxied(proxy, "handover"))
          const { holderIdentity } = yield* Cluster.until(lease("handover"), has(""))
          yield* plant.create("site", {})
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)
          assert.strictEqual(yield* leader.post("/webhook/handover/site", { ref: "v2" }), 202)
          yield* Cluster.until(Effect.sync(proxy.stalled), (count) => count > 0)
          const next = yield* elector(yield* kubeconfig("handover"))
          yield* next.until("probes", "/readyz", 200)
          const taken = yield* Effect.forkScoped(untilTaken("handover", holderIdentity))

          yield* leader.signal("SIGTERM")
          const records = yield* Fiber.join(taken)
          const released = records.find((record) => record.holderIdentity === "")
          const acquired = records.at(-1)!.acquireTime.epochMilliseconds
          assert.isDefined(released)
          assert.isAtMost(acquired - released!.renewTime.epochMilliseconds, 3000)
          assert.strictEqual(yield* leader.exit, 0)
          assert.isBelow(acquired, yield* saidAt(leader, "some events were not written"))
          yield* next.signal("SIGTERM")
          assert.strictEqual(yield* next.exit, 0)
        }),
      patience
    )
  }
)
