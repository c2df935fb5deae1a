/**
 * Two processes that receive, on a real API server: what was answered with 2xx is in etcd afterwards, or superseded by
 * what was taken later, whoever is killed meanwhile; and nothing acts twice.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, Option, Schedule, Schema } from "effect"
import * as Http from "node:http"
import { parseAllDocuments } from "yaml"
import * as GatewaySync from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Watcher from "../../src/kubernetes/Watcher.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as ControllerProcess from "../commands/ControllerProcess.ts"
import * as Cluster from "../controller/Cluster.ts"
import * as Connection from "../kubernetes/Connection.ts"
import * as Balancer from "./Balancer.ts"
import * as Deliveries from "./Deliveries.ts"

const { ref: requestedRef } = Names.request

/** Starts a replica, and waits until it takes webhooks. */
const starter = Effect.fnUntraced(function* (namespace: string) {
  const { adminToken, kubeconfigFor } = yield* ControlPlane
  const config = yield* kubeconfigFor(`receiver-${namespace}`, { token: adminToken }, namespace)
  return Effect.tap(ControllerProcess.start(config, ["--leader-elect"]), (process) =>
    process.until("probes", "/readyz", 200)
  )
})
const replica = (namespace: string) => Effect.flatten(starter(namespace))
type Replica = Effect.Success<ReturnType<typeof replica>>

const replicas = (namespace: string) =>
  Effect.flatMap(starter(namespace), (start) => Effect.all([start, start], { concurrency: 2 }))

const stop = (processes: ReadonlyArray<Replica>) =>
  Effect.forEach(
    processes,
    Effect.fnUntraced(function* (process) {
      yield* process.signal("SIGTERM")
      assert.strictEqual(yield* process.exit, 0)
      for (const word of ["unforeseen", "defect"]) assert.isFalse(process.said(word), word)
    }),
    { concurrency: "unbounded", discard: true }
  )

/** All versions of the requests on a GatewaySync, from now on; ends with the scope. */
const versions = Effect.fnUntraced(function* (ref: Resource.ObjectRef) {
  const seen: Array<Readonly<Record<string, string>>> = []
  yield* Watcher.run(
    {
      resource: Names.gatewaySyncs,
      schema: GatewaySync.GatewaySync,
      namespace: ref.namespace,
      fieldSelector: `metadata.name=${ref.name}`
    },
    (events) =>
      Effect.sync(() => {
        for (const event of events) {
          if (event._tag === "Apply" || event._tag === "InitApply") seen.push(event.object.metadata.annotations)
        }
      })
  ).pipe(Effect.forkScoped)
  yield* Deliveries.until(
    () => seen.length,
    (count) => count > 0
  )
  return seen
})

const senders = Array.from({ length: 64 }, (_, index) => index)

/**
 * 64 senders in a loop: each posts `v1`, `v2`, … to a GatewaySync of its own, whatever is answered, and looks at what is
 * there; every second time it posts a release to one that all share, again and again until it is taken.
 */
const load = Effect.fnUntraced(function* (namespace: string) {
  const plant = yield* Cluster.plant(namespace)
  // What the receiver does is looked at, not what the controller makes of it.
  const create = (name: string) => plant.create(name, { paused: true })
  yield* Effect.forEach(["shared", ...senders.map((sender) => `site-${sender}`)], create, { concurrency: 8 })
  let targets = yield* replicas(namespace)
  const book = Deliveries.ledger()
  const own = (sender: number) => `/webhook/${namespace}/site-${sender}`
  const shared = `/webhook/${namespace}/shared`
  const lost: Array<string> = []
  let isOver = false

  const run = (sender: number) => {
    let turn = sender
    let round = 0
    const port = () => targets[turn++ % targets.length]!.receiverPort
    const post = (message: Deliveries.Message) => Effect.suspend(() => book.post(port(), message))
    // Those that are refused leave the cores to what comes back.
    const pause = (attempt: Deliveries.Attempt) =>
      Effect.sleep(Deliveries.isTaken(attempt) ? "100 millis" : "500 millis")
    return Effect.gen(function* () {
      const ref = `v${++round}`
      const attempt = yield* post(Deliveries.promotion(own(sender), ref))
      if (Deliveries.isTaken(attempt)) {
        // Nobody else posts there, so that it is what a look at the API server shows.
        const { metadata } = yield* Effect.retry(plant.get(`site-${sender}`), Schedule.spaced("500 millis"))
        const found = metadata.annotations[requestedRef]
        if (found !== ref) lost.push(`site-${sender}: ${ref} was taken, and ${found} is there`)
      }
      yield* pause(attempt)
      if (round % 2 === 1) return
      const message = Deliveries.release(shared, `s${sender}-${round}`)
      yield* post(message).pipe(Effect.tap(pause), Effect.repeat({ until: Deliveries.isTaken }))
    }).pipe(Effect.repeat({ until: () => isOver }))
  }
  const running = yield* Effect.forEach(senders, run, { concurrency: "unbounded", discard: true }).pipe(
    Effect.forkScoped
  )
  /** Until all that was begun from now on is as it should be. */
  const sees = (what: string, isSo: (attempts: ReadonlyArray<Deliveries.Attempt>) => boolean) => {
    const moment = book.now()
    const since = () => book.attempts.filter(({ begun }) => begun > moment)
    return Deliveries.until(since, isSo).pipe(
      Effect.mapError(() => {
        const counts = Array.from(Map.groupBy(since(), Deliveries.statusOf), ([is, all]) => `${is} ×${all.length}`)
        return new Error(`${what} never came; what came: ${counts.join(", ")}`)
      })
    )
  }
  /** Until every sender had so much taken of what it began from now on, and by this replica if one is named. */
  const eachTaken = (count: number, by?: Replica) =>
    sees(`${count} taken of each sender`, (attempts) => {
      const taken = attempts.filter(Deliveries.isTaken).filter(({ port }) => port === (by?.receiverPort ?? port))
      const byPath = Map.groupBy(taken, ({ message }) => message.path)
      return [...senders.map(own), shared].every((path) => (byPath.get(path)?.length ?? 0) >= count)
    })
  return {
    attempts: book.attempts,
    now: book.now,
    sees,
    eachTaken,
    targets: () => targets,
    aim: (at: ReadonlyArray<Replica>) =>
      Effect.sync(() => {
        targets = [...at] as typeof targets
      }),
    /** Ends the load, and looks at what is in etcd. */
    settle: Effect.gen(function* () {
      isOver = true
      yield* Fiber.join(running)
      assert.deepStrictEqual(lost, [])
      const to = (path: string) => book.attempts.filter(({ message }) => message.path === path)
      for (const sender of senders) {
        const { annotations } = (yield* plant.get(`site-${sender}`)).metadata
        const taken = to(own(sender)).filter(Deliveries.isTaken)
        const last = taken.at(-1)!.message.ref
        const index = (ref: string | undefined) => Number(/^v(\d+)$/.exec(ref ?? "")?.[1])
        assert.isAtLeast(index(annotations[requestedRef]), index(last), `site-${sender}`)
        assert.deepStrictEqual(Deliveries.losses(annotations, to(own(sender))), [])
      }
      const { annotations } = (yield* plant.get("shared")).metadata
      assert.lengthOf(Deliveries.rememberedIn(annotations), 32)
      assert.deepStrictEqual(Deliveries.losses(annotations, to(shared)), [])
    })
  }
})

/** For this test: it is started again, however that ends. */
const killApiServer = Effect.flatMap(ControlPlane, ({ apiServer }) =>
  Effect.andThen(
    Effect.addFinalizer(() => Effect.orDie(apiServer.start)),
    apiServer.kill
  )
)

/** An answer of a receiver that lives: taken, or a refusal that says when to send again. */
const isProper = (attempt: Deliveries.Attempt): boolean => {
  const { outcome } = attempt
  if (Deliveries.isTaken(attempt)) return true
  return (
    outcome._tag === "Answered" &&
    (outcome.status === 503 || outcome.status === 429) &&
    Number(outcome.retryAfter) >= 1 &&
    Option.exists(outcome.body, ({ error, synced }) => typeof error === "string" && synced === false)
  )
}
const isStatus = (status: number) => (attempt: Deliveries.Attempt) => Deliveries.statusOf(attempt) === status

/** What the chart gives a pod of the manager, in seconds. */
const Deployment = Schema.Struct({
  kind: Schema.Literal("Deployment"),
  spec: Schema.Struct({
    template: Schema.Struct({
      spec: Schema.Struct({
        terminationGracePeriodSeconds: Schema.Int,
        containers: Schema.Tuple([
          Schema.Struct({
            lifecycle: Schema.Struct({
              preStop: Schema.Struct({ sleep: Schema.Struct({ seconds: Schema.Int }) })
            })
          })
        ])
      })
    })
  })
})
const goodbye = Effect.gen(function* () {
  const fileSystem = yield* FileSystem.FileSystem
  const rendered = new URL("../charts/golden/receiver-token.yaml", import.meta.url)
  const text = yield* fileSystem.readFileString(rendered.pathname)
  const [deployment] = parseAllDocuments(text).flatMap((document) =>
    Option.toArray(Schema.decodeUnknownOption(Deployment)(document.toJSON()))
  )
  const { containers, terminationGracePeriodSeconds } = deployment!.spec.template.spec
  return { pause: containers[0].lifecycle.preStop.sleep.seconds, grace: terminationGracePeriodSeconds }
})

/** Milliseconds. */
const patience = 150_000

const services = Layer.mergeAll(Connection.layer, GitServer.layer, NodeServices.layer, NodeHttpClient.layerNodeHttp)

layer(Cluster.definitions.pipe(Layer.provideMerge(services)), { excludeTestServices: true, timeout: "3 minutes" })(
  "Two receivers",
  (it) => {
    it.effect(
      "at once on one GatewaySync lose none of 200 deliveries, and act once on one that both get",
      () =>
        Effect.gen(function* () {
          const plant = yield* Cluster.plant("both")
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          yield* plant.create("site", {})
          const processes = yield* replicas("both")
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)
          const seen = yield* versions(plant.ref("site"))
          const book = Deliveries.ledger()

          const ids = Array.from({ length: 200 }, (_, index) => `r${index}`)
          yield* Effect.forEach(
            ids,
            (id, index) => {
              const message = Deliveries.release("/webhook/both/site", id)
              const [one, other] = index % 2 === 0 ? processes : processes.toReversed()
              const to = index % 4 === 0 ? [one!, other!] : [one!]
              return Effect.forEach(to, ({ receiverPort }) => book.post(receiverPort, message), { concurrency: 2 })
            },
            // Fewer than are remembered, so that no patch holds more than its version can tell of.
            { concurrency: 24 }
          )
          // Of two with one id, the second may come when another ref was asked for since.
          const byId = Map.groupBy(book.attempts, ({ message }) => message.ref)
          for (const [id, attempts] of byId) {
            const statuses = attempts.map(Deliveries.statusOf)
            assert.include(statuses, 202, id)
            assert.isTrue(statuses.every((status) => status === 202 || (status === 200 && attempts.length === 2)))
          }

          const { annotations } = (yield* plant.get("site")).metadata
          assert.deepStrictEqual(Deliveries.losses(annotations, book.attempts), [])
          yield* Deliveries.until(
            () => seen.at(-1)?.[Names.request.deliveries],
            (deliveries) => deliveries === annotations[Names.request.deliveries]
          )
          const everRemembered = new Set(seen.flatMap(Deliveries.rememberedIn))
          assert.deepStrictEqual(
            ids.filter((id) => !everRemembered.has(id)),
            []
          )
          // Each ref came into force once at most, whoever else was told of it.
          const refs = seen.flatMap((version) => version[requestedRef] ?? [])
          const moves = refs.filter((ref, index) => ref !== refs[index - 1])
          assert.strictEqual(moves.length, new Set(moves).size)
          assert.isAbove(moves.length, 8)
          yield* stop(processes)
        }),
      patience
    )

    it.effect(
      "under 64-way load answer 2xx, 429 or 503 while the API server is killed and comes back, and keep each 2xx",
      () =>
        Effect.gen(function* () {
          const { apiServer } = yield* ControlPlane
          const { attempts, eachTaken, sees, settle, targets } = yield* load("away")
          yield* eachTaken(2)
          yield* killApiServer
          yield* sees("503", (all) => all.filter(isStatus(503)).length >= senders.length)
          yield* apiServer.start
          yield* eachTaken(3)
          yield* settle
          assert.deepStrictEqual(
            attempts.filter((attempt) => !isProper(attempt)),
            []
          )
          yield* stop(targets())
        }),
      patience
    )

    it.effect(
      "under 64-way load keep each 2xx when one of them is killed, and the other, then a new one, take over",
      () =>
        Effect.gen(function* () {
          const { aim, attempts, eachTaken, now, settle, targets } = yield* load("killed")
          const [killed, other] = targets()
          yield* eachTaken(2)
          const moment = now()
          yield* killed.signal("SIGKILL")
          yield* killed.ended
          const ended = now()
          yield* eachTaken(2, other)
          const next = yield* replica("killed")
          yield* aim([other, next])
          yield* eachTaken(2, next)
          yield* settle
          // Only the one that was killed failed anybody, and only then.
          const improper = attempts.filter((attempt) => !isProper(attempt))
          assert.isTrue(improper.every(({ ended, port }) => port === killed.receiverPort && ended > moment))
          assert.isTrue(improper.some(({ begun }) => begun < ended))
          yield* stop([other, next])
        }),
      patience
    )

    it.effect(
      "behind a balancer lose no delivery while each is replaced (20 s)",
      () =>
        Effect.gen(function* () {
          const plant = yield* Cluster.plant("rolling")
          const { grace, pause } = yield* goodbye
          const balancer = yield* Balancer.make
          const backend = (process: Replica) => ({
            process,
            port: process.receiverPort,
            isReady: process.get("probes", "/readyz").pipe(
              Effect.map(({ status }) => status === 200),
              Effect.orElseSucceed(() => false)
            )
          })
          const old = (yield* replicas("rolling")).map(backend)
          yield* Effect.forEach(old, balancer.add)

          const book = Deliveries.ledger()
          let isOver = false
          const names = Array.from({ length: 10 }, (_, index) => `site-${index}`)
          yield* Effect.forEach(names, (name) => plant.create(name, { paused: true }), { concurrency: 8 })
          const run = Effect.fnUntraced(function* (name: string, index: number) {
            // Most keep one connection for all that they send; those may be quiet for a while.
            const agent = index < 3 ? undefined : new Http.Agent({ keepAlive: true, maxSockets: 1 })
            if (agent !== undefined) yield* Effect.addFinalizer(() => Effect.sync(() => agent.destroy()))
            const pace = [20, 50, 100, 20, 30, 50, 100, 200, 500, 1000][index]!
            let round = 0
            yield* Effect.suspend(() => {
              const message = Deliveries.release(`/webhook/rolling/${name}`, `${name}-${++round}`)
              return Effect.andThen(book.post(balancer.port, message, agent), Effect.sleep(pace))
            }).pipe(Effect.repeat({ until: () => isOver }))
          })
          const running = yield* Effect.forEach(names, run, { concurrency: "unbounded", discard: true }).pipe(
            Effect.forkScoped
          )
          yield* Deliveries.until(
            () => new Set(book.attempts.map(({ message }) => message.path)).size,
            (count) => count === names.length
          )

          for (const one of old) {
            // Being deleted: the pause of its preStop begins, and meanwhile the endpoints forget it.
            assert.isAbove(balancer.open(one), 0)
            yield* Effect.sleep("500 millis")
            yield* balancer.withdraw(one)
            yield* Effect.sleep(pause * 1000 - 500)
            yield* one.process.signal("SIGTERM")
            assert.strictEqual(yield* one.process.exit.pipe(Effect.timeout((grace - pause) * 1000)), 0)
            const next = backend(yield* replica("rolling"))
            yield* balancer.add(next)
          }
          isOver = true
          yield* Fiber.join(running)

          assert.deepStrictEqual(
            book.attempts.filter((attempt) => !isStatus(202)(attempt)).map(Deliveries.statusOf),
            []
          )
          assert.isAbove(book.attempts.length, 500)
          for (const name of names) {
            const { annotations } = (yield* plant.get(name)).metadata
            const sent = book.attempts.filter(({ message }) => message.path.endsWith(`/${name}`))
            assert.strictEqual(annotations[requestedRef], sent.at(-1)?.message.ref)
          }
        }),
      patience
    )

    it.effect(
      "know each other's deliveries: after success a no-op, also after a restart of both; after a failure it works",
      () =>
        Effect.gen(function* () {
          const { apiServer } = yield* ControlPlane
          const client = yield* ApiClient
          const plant = yield* Cluster.plant("again")
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          yield* Effect.forEach(["r1", "r2"], (tag) => plant.repository.setRef(`refs/tags/${tag}`, first))
          yield* plant.create("site", {})
          yield* plant.create("other", {})
          const book = Deliveries.ledger()
          const post = Effect.fnUntraced(function* (process: Replica, name: string, id: string, status: number) {
            const { outcome } = yield* book.post(process.receiverPort, Deliveries.release(`/webhook/again/${name}`, id))
            if (outcome._tag === "Broken") return assert.fail(outcome.why)
            const body = Option.getOrThrow(outcome.body)
            assert.strictEqual(outcome.status, status, JSON.stringify(body))
            return body
          })
          const version = (name: string) => Effect.map(plant.get(name), ({ metadata }) => metadata.resourceVersion)
          /** Answered as handled before, and nothing written. */
          const isNoOp = Effect.fnUntraced(function* (process: Replica, name: string, id: string) {
            const before = yield* version(name)
            const body = yield* post(process, name, id, 200)
            assert.include(body["reason"], "handled before")
            assert.strictEqual(yield* version(name), before)
          })

          const [a, b] = yield* replicas("again")
          yield* gateway(plant)
          yield* post(a, "site", "r1", 202)
          // The same id for another one acts there, too.
          yield* post(b, "other", "r1", 202)
          assert.strictEqual((yield* plant.get("other")).metadata.annotations[requestedRef], "r1")
          yield* synced(plant, "r1")
          yield* isNoOp(b, "site", "r1")
          yield* isNoOp(a, "site", "r1")

          yield* stop([a, b])
          const [c, d] = yield* replicas("again")
          yield* isNoOp(c, "site", "r1")
          yield* isNoOp(d, "site", "r1")

          yield* killApiServer
          yield* post(c, "site", "r2", 503)
          yield* apiServer.start
          yield* client.get(Names.gatewaySyncs, plant.ref("site"))
          yield* post(d, "site", "r2", 202)
          yield* synced(plant, "r2")
          yield* isNoOp(c, "site", "r2")
          // What was asked for before is not brought back.
          yield* isNoOp(d, "site", "r1")
          yield* stop([c, d])
        }),
      patience
    )
  }
)

type Plant = Effect.Success<ReturnType<typeof Cluster.plant>>

/** A pod of a gateway of `site`, with its sidecar. */
const gateway = Effect.fnUntraced(function* (plant: Plant) {
  yield* plant.client.create(
    Resource.pods,
    plant.namespace,
    {
      metadata: { name: "gateway-0", annotations: { [Names.pod.crName]: "site", [Names.pod.inject]: "true" } },
      spec: {
        initContainers: [{ name: Names.agentContainer, image: "agent", restartPolicy: "Always" }],
        containers: [{ name: "gateway", image: "gateway" }]
      }
    },
    { fieldManager: "test" }
  )
  yield* plant.client.mergePatch(
    Resource.pods,
    plant.ref("gateway-0"),
    {
      status: {
        phase: "Running",
        initContainerStatuses: [
          { name: Names.agentContainer, ready: true, started: true, restartCount: 0, image: "agent", imageID: "" }
        ]
      }
    },
    { fieldManager: "test", subresource: "status" }
  )
})

/** The agent reports that it has what the controller tells it of this ref; waits until the GatewaySync says so. */
const synced = Effect.fnUntraced(function* (plant: Plant, ref: string) {
  const { commit, revision } = yield* Cluster.until(plant.data("stoker-metadata-site"), (data) => data["ref"] === ref)
  const pod = (yield* plant.client.get(Resource.pods, plant.ref("gateway-0"))) as {
    readonly metadata: { readonly uid: string }
  }
  const report = {
    syncStatus: "Synced",
    syncedCommit: commit,
    observedRevision: revision,
    podUID: pod.metadata.uid
  }
  yield* plant.client.mergePatch(
    Resource.configMaps,
    plant.ref("stoker-status-site"),
    { data: { "gateway-0": JSON.stringify(report) } },
    { fieldManager: Names.managers.agent }
  )
  yield* Cluster.until(
    plant.get("site"),
    (cr) =>
      cr.status.lastSyncRef === ref &&
      GatewaySync.progress(cr).synced &&
      RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest)
  )
})
