/**
 * A big cluster: 1 000 GatewaySyncs, 5 000 pods of the usual size, 2 000 ConfigMaps and Secrets that are not ours. What the
 * controller holds in memory, how fast a new replica is ready, how fast a webhook reaches the agents' metadata, how often
 * the remote is asked; and how fast a mirror takes events.
 */
import { Deferred, Effect, Layer, Option, Schedule, Schema, Stream } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { createServer } from "node:http"
import * as Names from "../src/api/Names.ts"
import * as Pod from "../src/controller/Pod.ts"
import { ApiClient } from "../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../src/kubernetes/KubeConfig.ts"
import * as Reflector from "../src/kubernetes/Reflector.ts"
import * as Resource from "../src/kubernetes/Resource.ts"
import * as Store from "../src/kubernetes/Store.ts"
import { ControlPlane } from "../src/sandbox/ControlPlane.ts"
import { GitServer } from "../src/sandbox/GitServer.ts"
import { namespace, Plant } from "../src/sandbox/Plant.ts"
import { quiet, rss } from "./Process.ts"
import { spread, type Figure } from "./Sample.ts"
import { listen } from "../test/Loopback.ts"

/** GatewaySyncs of the plant that {@link cluster} needs. */
export const gatewaySyncs = 1000
const pods = 5000
const foreign = 1000
const webhooks = 100

const range = (count: number) => Array.from({ length: count }, (_, index) => index)

/** About what a gateway's pod is in a cluster, `managedFields` included. */
const pod = (index: number) => ({
  metadata: {
    name: `gateway-${index}`,
    labels: { "app.kubernetes.io/name": `gateway-${index}` },
    annotations: {
      [Names.pod.crName]: `plant-${(index % gatewaySyncs) + 1}`,
      [Names.pod.inject]: "true",
      padding: "x".repeat(4000)
    }
  },
  spec: {
    serviceAccountName: "ignition",
    initContainers: [{ name: Names.agentContainer, image: "agent", restartPolicy: "Always" }],
    containers: [
      {
        name: "gateway",
        image: "gateway",
        env: range(40).map((n) => ({ name: `VARIABLE_${n}`, value: "v".repeat(60) }))
      }
    ]
  }
})

const admin = Effect.gen(function* () {
  const { admin } = yield* ControlPlane
  const post = (resource: Resource.Resource, body: object) =>
    HttpClient.filterStatusOk(admin)
      .execute(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(Resource.path(resource, { namespace })), body))
      .pipe(Effect.flatMap((response) => response.text))
  const merge = (resource: Resource.Resource, name: string, body: object) =>
    HttpClient.filterStatusOk(admin)
      .execute(
        HttpClientRequest.patch(Resource.path(resource, { namespace, name })).pipe(
          HttpClientRequest.bodyText(JSON.stringify(body), "application/merge-patch+json")
        )
      )
      .pipe(Effect.flatMap((response) => response.text))
  return { admin, post, merge }
})

const Seen = Schema.fromJsonString(
  Schema.Struct({
    object: Schema.Struct({
      metadata: Schema.Struct({ name: Schema.String }),
      data: Schema.optionalKey(Schema.Struct({ ref: Schema.optionalKey(Schema.String) }))
    })
  })
)
const decodeSeen = Schema.decodeUnknownOption(Seen)

/** Needs a plant of {@link gatewaySyncs} GatewaySyncs and no gateways. */
export const cluster = Effect.gen(function* () {
  const plant = yield* Plant
  const git = yield* GitServer
  const { admin: http, merge, post } = yield* admin
  const fill = <A, E, R>(count: number, one: (index: number) => Effect.Effect<A, E, R>) =>
    Effect.forEach(range(count), one, { concurrency: 8, discard: true })
  yield* fill(pods, (index) => post(Resource.pods, pod(index)))
  yield* fill(foreign, (index) =>
    post(Resource.configMaps, { metadata: { name: `foreign-${index}` }, data: { text: "x".repeat(2000) } })
  )
  yield* fill(foreign, (index) =>
    post(Resource.secrets, { metadata: { name: `foreign-${index}` }, stringData: { text: "x".repeat(2000) } })
  )
  yield* quiet(plant.controller.pid)
  const leader = rss(plant.controller.pid)

  const starts = yield* Effect.forEach(range(3), () =>
    Effect.scoped(
      Effect.gen(function* () {
        const began = performance.now()
        const replica = yield* plant.startController("bench")
        yield* replica.await("readyz")
        return { ms: performance.now() - began, mib: rss(replica.pid) }
      })
    )
  )

  // Webhook to metadata: seen by a watch of our own.
  const commit = yield* plant.commit(1)
  yield* Effect.forEach(range(webhooks), (index) => plant.repository.setRef(`refs/tags/bench-${index}`, commit), {
    discard: true
  })
  yield* quiet(plant.controller.pid)
  const arrived = new Map<string, number>()
  const response = yield* http.get(
    `${Resource.path(Resource.configMaps, { namespace })}?watch=true&labelSelector=${encodeURIComponent(Names.owned.crName)}`
  )
  yield* response.stream.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((line) =>
      Effect.sync(() => {
        const seen = Option.getOrUndefined(decodeSeen(line))?.object
        if (seen?.data?.ref !== undefined) arrived.set(`${seen.metadata.name} ${seen.data.ref}`, performance.now())
      })
    ),
    Effect.forkScoped
  )
  const latencies = yield* Effect.forEach(range(webhooks), (index) =>
    Effect.gen(function* () {
      const name = plant.gatewaySyncs[(index * 7) % gatewaySyncs]!
      const key = `${Names.metadataMap(name)} bench-${index}`
      const began = performance.now()
      yield* plant.post(name, { ref: `bench-${index}` })
      const at = yield* Effect.sync(() => arrived.get(key)).pipe(
        Effect.repeat({ until: (time) => time !== undefined, schedule: Schedule.spaced("2 millis") }),
        Effect.timeout("30 seconds")
      )
      return (at ?? Number.NaN) - began
    })
  )

  // Polls: all of them every minute, after a minute in which they come together.
  yield* fill(gatewaySyncs, (index) =>
    merge(Names.gatewaySyncs, plant.gatewaySyncs[index]!, { spec: { polling: { interval: "60s" } } })
  )
  yield* Effect.sleep("90 seconds")
  const before = (yield* git.exchanges).length
  yield* Effect.sleep("2 minutes")
  const requests = ((yield* git.exchanges).length - before) / 2

  const ready = spread(starts.map(({ ms }) => ms))
  const replica = spread(starts.map(({ mib }) => mib))
  const line = spread(latencies)
  const rate = yield* throughput
  const figures: ReadonlyArray<Figure> = [
    {
      what: "big cluster: memory of the leader (RSS)",
      value: `${leader.toFixed(0)} MiB (fresh replicas: ${replica.max.toFixed(0)} MiB at most)`,
      aim: "≤ 180 MiB",
      met: Math.max(leader, replica.max) <= 180,
      data: { leader, replica }
    },
    {
      what: "big cluster: from start to all stores ready",
      value: `p50 ${ready.p50} ms (${ready.min}–${ready.max})`,
      aim: "≤ 5 s",
      met: ready.p50 <= 5000,
      data: { ms: ready }
    },
    {
      what: "big cluster: webhook to metadata ConfigMap",
      value: `p50 ${line.p50} ms, p95 ${line.p95} ms`,
      aim: "p50 ≤ 60 ms, p95 ≤ 150 ms",
      met: line.p50 <= 60 && line.p95 <= 150,
      data: { ms: line }
    },
    {
      what: "events applied to a store",
      value: `${Math.round(rate)} a second`,
      aim: "≥ 20 000 a second",
      met: rate >= 20_000,
      data: { perSecond: rate }
    },
    {
      what: `requests to the remote a minute, ${gatewaySyncs} GatewaySyncs, interval 60 s`,
      value: `${requests}`,
      aim: "≤ 4",
      met: requests <= 4,
      data: { requests }
    }
  ]
  return figures
})

/** Events a second: 20 000 pods of 2 KB over HTTP, decoded, stored and told. */
const throughput = Effect.gen(function* () {
  const count = 20_000
  const lines = range(count).map((index) => {
    const { metadata, spec } = pod(index % 2000)
    const { padding: _padding, ...annotations } = metadata.annotations
    const object = {
      metadata: {
        ...metadata,
        annotations,
        namespace,
        uid: `uid-${index % 2000}`,
        resourceVersion: String(index + 10)
      },
      spec: { ...spec, containers: [{ name: "gateway", image: "x".repeat(1000) }] },
      status: { phase: "Running" }
    }
    return `${JSON.stringify({ type: "MODIFIED", object })}\n`
  })
  const server = createServer((request, response) => {
    response.writeHead(200, { "content-type": "application/json" })
    if (request.url?.includes("watch=true") !== true) {
      response.end(JSON.stringify({ metadata: { resourceVersion: "1" }, items: [] }))
      return
    }
    for (let at = 0; at < lines.length; at += 500) response.write(lines.slice(at, at + 500).join(""))
  })
  const port = yield* listen(server)
  const config = Layer.succeed(KubeConfig, {
    server: `http://127.0.0.1:${port}`,
    namespace,
    tls: Effect.succeed({}),
    authorization: Effect.succeed(Option.none()),
    renew: Effect.void
  })
  const writer = yield* Store.make<Pod.Pod>(Resource.pods)
  const done = yield* Deferred.make<number>()
  let seen = 0
  let began = Number.NaN
  yield* Reflector.run(writer, { resource: Resource.pods, schema: Pod.Pod }, () =>
    Effect.suspend(() => {
      if (seen++ === 0) began = performance.now()
      return seen === count ? Deferred.succeed(done, performance.now() - began) : Effect.void
    })
  ).pipe(Effect.provide(Layer.fresh(ApiClient.layer).pipe(Layer.provide(config))), Effect.forkScoped)
  const took = yield* Deferred.await(done)
  return count / (took / 1000)
}).pipe(Effect.scoped)
