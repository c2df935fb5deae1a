/**
 * `kill -9` at random moments of real syncs: the built agent, a real git server, a real API server, a simulated gateway
 * that runs all the while and scans its projects every few milliseconds unless it is locked out.
 *
 * `STOKER_KILLS` says how many kills (25 by default).
 */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import {
  Config,
  Duration,
  Effect,
  Exit,
  Fiber,
  FileSystem,
  Layer,
  Option,
  Path,
  Random,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import * as GatewayStatus from "../../src/api/GatewayStatus.ts"
import * as Metadata from "../../src/api/Metadata.ts"
import * as Names from "../../src/api/Names.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { filesOf, type GatewayModel } from "../../src/sandbox/gateway/GatewayModel.ts"
import * as Kubelet from "../../src/sandbox/Kubelet.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import { freePort, Processes } from "../../src/sandbox/Processes.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"
import * as Connection from "../kubernetes/Connection.ts"
import { effective, metadataOf } from "./Plant.ts"

const services = GitServer.layerNoDeps().pipe(
  Layer.provideMerge(Connection.layer),
  Layer.provideMerge(NodeServices.layer)
)
const kills = Effect.runSync(Config.Int("STOKER_KILLS").pipe(Config.withDefault(25)))

const namespace = "kills"
const cr = "site"
const podName = "ignition-0"
const views = "projects/line/com.inductiveautomation.perspective/views"
const things = "config/resources/core/ignition/thing"

/** The site at a revision, which stands in every file that a revision changes: half of its files. */
const site = (revision: number): Readonly<Record<string, string>> => {
  const files: Record<string, string> = {
    "projects/line/project.json": JSON.stringify({ title: "line", enabled: true, inheritable: false }),
    "config/resources/core/config-mode.json": JSON.stringify({ title: "core", enabled: true, parent: "external" })
  }
  const resource = (file: string) => JSON.stringify({ scope: "G", version: 1, files: [file], attributes: {} })
  for (let n = 0; n < 20; n++) {
    files[`${views}/v${n}/resource.json`] = resource("view.json")
    files[`${views}/v${n}/view.json`] = JSON.stringify({ revision, n })
    files[`${things}/t${n}/resource.json`] = resource("config.json")
    files[`${things}/t${n}/config.json`] = JSON.stringify({ revision, n })
  }
  // One file of every revision is new, and one of the revision before is gone.
  files[`${views}/r${revision}/resource.json`] = resource("view.json")
  files[`${views}/r${revision}/view.json`] = JSON.stringify({ revision, n: -1 })
  return files
}
const changes = (revision: number): Readonly<Record<string, string | null>> =>
  Object.fromEntries([
    ...Object.entries(site(revision)),
    [`${views}/r${revision - 1}/resource.json`, null],
    [`${views}/r${revision - 1}/view.json`, null]
  ])

const decodeRevision = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ revision: Schema.Int })))

/** The revisions that a gateway has at once in this half of its files. */
const revisionsIn = (model: GatewayModel, half: "projects" | "config"): ReadonlySet<number> =>
  new Set(
    [...filesOf(model)].flatMap(([path, { text }]) =>
      path.startsWith(`${half}/`)
        ? Option.match(decodeRevision(text), { onNone: () => [], onSome: ({ revision }) => [revision] })
        : []
    )
  )
const isAt = (revision: number) => (model: GatewayModel) =>
  (["projects", "config"] as const).every((half) => {
    const found = revisionsIn(model, half)
    return found.size === 1 && found.has(revision)
  })

const decodeStatus = Schema.decodeUnknownEffect(
  Schema.Struct({ data: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)) })
)

layer(services, { excludeTestServices: true, timeout: "120 seconds" })("kill -9", (it) => {
  it.effect(
    `${kills} times: never a mix of two commits, and the newest one in the end`,
    () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const processes = yield* Processes
        const client = yield* ApiClient
        const folder = yield* processes.folder("stoker-kills-")
        const dataDir = path.join(folder, "data")
        yield* fs.makeDirectory(dataDir)
        yield* fs.writeFileString(path.join(folder, "api-key"), "stoker:secret")
        const gateway = yield* SimulatedGateway.make({
          dataDir,
          tokens: ["stoker:secret"],
          boots: false,
          scanFrequency: "5 millis"
        })
        const repository = yield* (yield* GitServer).create("kills")

        yield* Manifests.apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }], namespace)
        const map = (name: string) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, namespace } })
        yield* Manifests.apply(
          [
            { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "ignition", namespace } },
            map(Names.statusMap(cr)),
            map(Names.metadataMap(cr)),
            {
              apiVersion: "rbac.authorization.k8s.io/v1",
              kind: "ClusterRoleBinding",
              metadata: { name: namespace },
              roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "cluster-admin" },
              subjects: [{ kind: "ServiceAccount", name: "ignition", namespace }]
            }
          ],
          namespace
        )
        const profile = effective({
          mappings: [
            { source: "projects", destination: "projects/" },
            { source: "config", destination: "config" }
          ]
        })
        const want = Effect.fnUntraced(function* (commit: string) {
          const data = Metadata.encode(metadataOf(repository.url, commit, profile), () => commit.slice(0, 16))
          yield* client.mergePatch(
            Resource.configMaps,
            { namespace, name: Names.metadataMap(cr) },
            { data },
            { fieldManager: "kills" }
          )
        })

        const serviceAccountFolder = yield* Kubelet.serviceAccount(namespace, "ignition")
        const start = Effect.gen(function* () {
          const scope = yield* Scope.make()
          const probePort = yield* freePort
          const agent = yield* Kubelet.run({
            name: "agent",
            args: ["agent"],
            env: {
              POD_NAME: podName,
              POD_NAMESPACE: namespace,
              POD_UID: "1",
              CR_NAME: cr,
              DATA_PATH: dataDir,
              REPO_PATH: path.join(folder, "repo"),
              GATEWAY_URL: gateway.url,
              API_KEY_FILE: path.join(folder, "api-key"),
              PROBE_PORT: String(probePort),
              METRICS_PORT: "0"
            },
            serviceAccountFolder,
            logFolder: folder,
            probePort
          }).pipe(Scope.provide(scope))
          return { ...agent, kill: Effect.andThen(agent.signal("SIGKILL"), Scope.close(scope, Exit.void)) }
        })

        let revision = 1
        let commit = yield* repository.commit({ files: site(revision) })
        yield* want(commit)
        let agent = yield* start
        yield* agent.await("startupz")
        yield* gateway.setPhase("running")
        yield* gateway.awaitPhase("running")
        yield* gateway.awaitModel(isAt(revision))

        /** Kills come within this time after their occasion, in ms: as long as one took that was left alone. */
        const spans = { wanted: 0, staging: 0, start: 0 }
        const pauseBefore = (span: number) => Effect.flatMap(Random.next, (share) => Effect.sleep(share * span))
        const next = Effect.gen(function* () {
          commit = yield* repository.commit({ files: changes(++revision) })
          yield* want(commit)
        })
        const arrived = Effect.suspend(() =>
          gateway.awaitModel(isAt(revision)).pipe(
            Effect.timeoutOrElse({
              duration: "1 minute",
              orElse: () => Effect.die(`revision ${revision} did not come`)
            })
          )
        )
        /** The agent begins to write. */
        const staging = fs.watch(path.join(dataDir, ".stoker")).pipe(
          Stream.filter((event) => event.path.endsWith("staging")),
          Stream.take(1),
          Stream.runDrain
        )
        const measured = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
          Effect.map(Effect.timed(effect), ([took]) => Duration.toMillis(took))
        const calibrate = Effect.gen(function* () {
          const watching = yield* Effect.forkChild(staging)
          yield* next
          const before = yield* measured(Fiber.join(watching))
          spans.staging = yield* measured(arrived)
          spans.wanted = before + spans.staging
          yield* agent.kill
          yield* next
          agent = yield* start
          spans.start = yield* measured(arrived)
        })
        let looked = 0
        let interrupted = 0
        let told = 0
        for (let killed = 0; killed < kills;) {
          if (killed % 20 === 0) yield* calibrate
          const watching = yield* Effect.forkChild(staging)
          yield* next
          // The moment is what is tried here, so it is waited for by the clock.
          if (yield* Random.nextBoolean) yield* pauseBefore(spans.wanted)
          else yield* Effect.andThen(Fiber.join(watching), pauseBefore(spans.staging))
          yield* agent.kill
          killed++
          interrupted += (yield* fs.exists(path.join(dataDir, ".stoker/staging"))) ? 1 : 0
          yield* Fiber.interrupt(watching)
          agent = yield* start
          while (killed < kills && (yield* Random.next) < 0.3) {
            yield* pauseBefore(spans.start)
            yield* agent.kill
            killed++
            agent = yield* start
          }
          yield* arrived
          const history = yield* gateway.history
          for (const { at, cause, model } of history.filter(({ at }) => at > looked)) {
            for (const half of ["projects", "config"] as const) {
              const mix = [...revisionsIn(model, half)]
              assert.isAtMost(mix.length, 1, `${half} after ${killed} kills, at ${at}, by ${cause}: ${mix}`)
            }
          }
          looked = history.at(-1)?.at ?? looked
          assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [], `after ${killed} kills`)
          if (killed - told >= 100) {
            yield* Effect.logInfo(`${killed} kills, ${interrupted} of them in an apply`)
            told = killed
          }
        }

        assert.deepStrictEqual(
          (yield* gateway.log).filter(({ level }) => level === "ERROR").map(({ message }) => message),
          []
        )
        const report = client.get(Resource.configMaps, { namespace, name: Names.statusMap(cr) }).pipe(
          Effect.flatMap(decodeStatus),
          Effect.map(({ data }) => GatewayStatus.decode(data?.[podName]))
        )
        yield* report.pipe(
          Effect.repeat({
            schedule: Schedule.spaced("50 millis"),
            until: Option.exists(({ syncStatus, syncedCommit }) => syncStatus === "Synced" && syncedCommit === commit)
          })
        )
        yield* agent.kill
        for (const [file, content] of Object.entries(site(revision))) {
          assert.strictEqual(yield* fs.readFileString(path.join(dataDir, file)), content)
        }
        assert.isFalse(yield* fs.exists(path.join(dataDir, views, `r${revision - 1}`)))
        yield* Effect.logInfo(`${kills} kills, ${interrupted} of them in an apply`)
      }),
    30_000 + kills * 8000
  )
})
