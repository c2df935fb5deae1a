/**
 * The line: a webhook's POST to the gateway's scan POST, one file of a 2 000-file site changed each time.
 *
 * Beside it, in the same run and in turn with it, the floor: the same patch, ls-refs, apply, fetch, fsync and scan called
 * one after the other by hand, with the product's processes stopped meanwhile. What the line takes more is what watching,
 * deciding and reporting cost.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { Effect, FileSystem, Option, Path, Stream } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import * as Credentials from "../src/git/Credentials.ts"
import { GitCommand } from "../src/git/GitCommand.ts"
import * as Mirror from "../src/git/Mirror.ts"
import { RemoteRefs } from "../src/git/RemoteRefs.ts"
import * as RepositoryUrl from "../src/git/RepositoryUrl.ts"
import { ControlPlane } from "../src/sandbox/ControlPlane.ts"
import * as DemoRepository from "../src/sandbox/DemoRepository.ts"
import { Plant } from "../src/sandbox/Plant.ts"
import { Processes } from "../src/sandbox/Processes.ts"
import * as SimulatedGateway from "../src/sandbox/SimulatedGateway.ts"
import { newTrace } from "../src/sandbox/Scenario.ts"
import { push as pushEvent } from "../src/sandbox/Senders.ts"
import { TraceCollector } from "../src/sandbox/TraceCollector.ts"
import * as Waterfall from "../src/sandbox/Waterfall.ts"
import { quantile, spread, type Figure } from "./Sample.ts"

const rounds = 30
const epoch = Effect.sync(() => performance.timeOrigin + performance.now())

/** The line's work without the line. Answers the time from the patch to the scan POST, and each part's share. */
const makeFloor = Effect.gen(function* () {
  const plant = yield* Plant
  const { admin } = yield* ControlPlane
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* (yield* Processes).folder("stoker-floor-")
  const refs = yield* RemoteRefs
  const url = yield* Effect.fromResult(RepositoryUrl.parse(plant.repository.url))
  const mirror = yield* Mirror.make({
    folder: path.join(folder, "mirror"),
    url,
    credentials: Effect.succeed(Credentials.none)
  })
  const dataDir = path.join(folder, "data")
  const gateway = yield* SimulatedGateway.make({ name: "floor", dataDir, access: "open" })
  const http = yield* NodeHttpClient.makeNodeHttp.pipe(
    Effect.provideServiceEffect(NodeHttpClient.HttpAgent, NodeHttpClient.makeAgent({ keepAlive: true }))
  )
  const site = `sites/${plant.shape.sites[0]}/projects`
  const patch = (target: string, type: string, body: object) =>
    admin
      .execute(
        HttpClientRequest.patch(target).pipe(
          HttpClientRequest.setUrlParams({
            fieldManager: "floor",
            ...(type === "apply-patch+yaml" ? { force: "true" } : {})
          }),
          HttpClientRequest.bodyText(JSON.stringify(body), `application/${type}`)
        )
      )
      .pipe(Effect.flatMap((response) => response.text))
  yield* patch("/api/v1/namespaces/plant/configmaps/floor-request", "apply-patch+yaml", {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "floor-request" }
  })

  const written = new Map<string, string>()
  const write = Effect.fnUntraced(function* (entries: ReadonlyArray<Mirror.TreeEntry>) {
    const changed = entries.filter((entry) => written.get(entry.path) !== entry.id)
    const blobs = yield* Stream.runCollect(mirror.readBlobs(changed.map((entry) => entry.id)))
    for (const [index, entry] of changed.entries()) {
      const target = path.join(dataDir, "projects", entry.path.slice(site.length + 1))
      yield* fileSystem.makeDirectory(path.dirname(target), { recursive: true })
      const file = yield* fileSystem.open(`${target}.floor`, { flag: "w" })
      yield* file.writeAll(blobs[index]!.content)
      yield* file.sync
      yield* fileSystem.rename(`${target}.floor`, target)
      const directory = yield* fileSystem.open(path.dirname(target), { flag: "r" })
      yield* directory.sync
      written.set(entry.path, entry.id)
    }
  }, Effect.scoped)

  return Effect.fnUntraced(
    function* (round: number) {
      const scans = (yield* gateway.scans).length
      const parts: Record<string, number> = {}
      const part = <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) =>
        Effect.gen(function* () {
          const began = yield* epoch
          const value = yield* effect
          parts[name] = (yield* epoch) - began
          return value
        })
      const began = yield* epoch
      yield* part(
        "patch",
        patch("/api/v1/namespaces/plant/configmaps/floor-request", "merge-patch+json", {
          metadata: { annotations: { "stoker.io/pushed": `${round}`, padding: "x".repeat(300) } }
        })
      )
      const { commit } = yield* part("ls-refs", refs.resolve({ url, credentials: Credentials.none, ref: "main" }))
      yield* part(
        "apply",
        patch("/api/v1/namespaces/plant/configmaps/floor-metadata", "apply-patch+yaml", {
          apiVersion: "v1",
          kind: "ConfigMap",
          metadata: { name: "floor-metadata" },
          data: { commit, profiles: JSON.stringify(DemoRepository.profiles) }
        })
      )
      const entries = yield* part(
        "fetch",
        Effect.andThen(mirror.ensure({ commit, ref: "main" }), mirror.listTree(commit, [site]))
      )
      yield* part("write", write(entries))
      yield* part(
        "scan",
        Effect.gen(function* () {
          const lock = HttpClientRequest.post(`${gateway.url}/data/api/v1/scan-lock/projects`).pipe(
            HttpClientRequest.bodyJsonUnsafe({ acquireTimeout: 10, holdTimeout: 60 })
          )
          yield* Effect.flatMap(http.execute(lock), (response) => response.text)
          yield* Effect.flatMap(http.post(`${gateway.url}/data/api/v1/scan/projects`), (response) => response.text)
        })
      )
      const { at } = yield* gateway.awaitScan(scans)
      return { ms: at - began, parts }
    },
    Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
  )
})

/** Needs a plant of one site with 1 000 pages (two files each), one gateway, one GatewaySync. */
export const line = Effect.gen(function* () {
  const plant = yield* Plant
  const collector = yield* TraceCollector
  const floor = yield* makeFloor
  const [cr] = plant.gatewaySyncs
  const { agent, gateway } = plant.gateways[0]!
  const product = [plant.controller, agent]

  const push = Effect.fnUntraced(function* (round: number) {
    const before = Option.getOrThrow(yield* plant.repository.resolve("main"))
    const after = yield* plant.commit(round)
    const scans = (yield* gateway.scans).length
    const trace = yield* newTrace
    const began = yield* epoch
    const answer = yield* plant.post(cr!, pushEvent("main", before, after, plant.repository.url), {
      event: "push",
      sign: true,
      traceparent: trace.traceparent
    })
    const { at } = yield* gateway.awaitScan(scans)
    const spans = yield* collector.awaitTrace(trace.traceId, (found) => Waterfall.rows(found) !== undefined)
    yield* gateway.awaitIdle("projects")
    return { ms: at - began, status: answer.status, rows: Waterfall.rows(spans)! }
  })
  const alone = (round: number) =>
    Effect.gen(function* () {
      for (const one of product) yield* one.signal("SIGSTOP")
      return yield* floor(round)
    }).pipe(Effect.ensuring(Effect.forEach(product, (one) => one.signal("SIGCONT"), { discard: true })))

  const lines: Array<{ readonly ms: number; readonly rows: ReadonlyArray<Waterfall.Row> }> = []
  const floors: Array<{ readonly ms: number; readonly parts: Readonly<Record<string, number>> }> = []
  // The first rounds warm what a long-running process has warm.
  for (let round = 1; round <= rounds + 3; round++) {
    const pushed = yield* push(round)
    const byHand = yield* alone(round)
    if (round > 3) {
      lines.push(pushed)
      floors.push(byHand)
    }
  }
  const ms = spread(lines.map((one) => one.ms))
  const floorMs = spread(floors.map((one) => one.ms))
  const ratio = Math.round((ms.p50 / floorMs.p50) * 100) / 100
  const medians = (rows: ReadonlyArray<readonly [string, ReadonlyArray<number>]>) =>
    Object.fromEntries(rows.map(([name, values]) => [name, Math.round(quantile(values, 0.5) * 10) / 10]))
  const where = lines[0]!.rows.map(
    (row, index) => [`${index + 1} ${row.name}`, lines.map((one) => one.rows[index]!.duration)] as const
  )
  const floorWhere = Object.keys(floors[0]!.parts).map((name) => [name, floors.map((one) => one.parts[name]!)] as const)
  const figures: ReadonlyArray<Figure> = [
    {
      what: "webhook POST → scan POST, 30 pushes of one file, 2 000-file site",
      value: `p50 ${ms.p50} ms, p95 ${ms.p95} ms`,
      aim: "≤ 250 ms / ≤ 500 ms",
      met: ms.p50 <= 250 && ms.p95 <= 500,
      data: { ms, medianOfEachPart: medians(where) }
    },
    {
      what: "the same against its floor (each call by hand, in turn)",
      value: `${ratio} × (floor p50 ${floorMs.p50} ms)`,
      aim: "≤ 1.5 ×",
      met: ratio <= 1.5,
      data: { floorMs, ratio, medianOfEachPart: medians(floorWhere) }
    }
  ]
  return figures
}).pipe(Effect.provide(RemoteRefs.layer), Effect.provide(GitCommand.layer))
