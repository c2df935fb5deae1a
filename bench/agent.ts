/**
 * The agent against the former way (the Go agent's: `git clone --depth 1` or fetch and checkout, a copy of all mapped files
 * in a staging folder, SHA-256 of that and of what is live, then the copy into place), both on the same repository and
 * disk, in turn. Times are the processes' own: from start to `/startupz`, from the metadata's patch to the scan's POST.
 */
import { Effect, FileSystem, Path, Schedule, Schema, Scope, Stream } from "effect"
import { HttpClientRequest } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { randomBytes } from "node:crypto"
import { readdirSync } from "node:fs"
import * as GatewayStatus from "../src/api/GatewayStatus.ts"
import * as Metadata from "../src/api/Metadata.ts"
import * as Names from "../src/api/Names.ts"
import { ControlPlane } from "../src/sandbox/ControlPlane.ts"
import { GitServer, type HostedRepository } from "../src/sandbox/GitServer.ts"
import * as Kubelet from "../src/sandbox/Kubelet.ts"
import * as Manifests from "../src/sandbox/Manifests.ts"
import { freePort, Processes } from "../src/sandbox/Processes.ts"
import * as SimulatedGateway from "../src/sandbox/SimulatedGateway.ts"
import { metadataOf } from "../test/agent/Plant.ts"
import { cpuSeconds, ownMemory, rss, statOf } from "./Process.ts"
import { quantile, spread, type Figure } from "./Sample.ts"

const namespace = "bench"
/** At least: what is measured of other agents meanwhile is no business of the idle one. */
const idleSeconds = 600
const epoch = Effect.sync(() => performance.timeOrigin + performance.now())

type Files = Record<string, string | Uint8Array>

/** 100 sites of 200 files, 200 MB that no compression makes smaller. */
const manySites = (): Files => {
  const files: Files = {}
  for (let site = 0; site < 100; site++) {
    for (let file = 0; file < 200; file++) files[`sites/${site}/projects/p${file % 4}/f${file}`] = randomBytes(10_000)
  }
  return files
}

/** One project of 900 pages, two small files each. */
const oneProject = (): Files => {
  const files: Files = { "projects/line/project.json": '{"title":"line","enabled":true}' }
  for (let page = 0; page < 900; page++) {
    const folder = `projects/line/com.inductiveautomation.perspective/views/area ${page % 30}/page ${page}`
    files[`${folder}/resource.json`] = '{"scope":"G","version":1,"files":["view.json"],"attributes":{}}'
    files[`${folder}/view.json`] = JSON.stringify({ page, text: randomBytes(400).toString("hex") })
  }
  return files
}

/** Resident memory of a process and all below it, in MiB. Pages that they share count for each. */
const treeMemory = (root: number): number => {
  const children = new Map<number, Array<number>>()
  for (const pid of readdirSync("/proc").map(Number).filter(Number.isInteger)) {
    const parent = Number(statOf(pid)?.[1])
    children.set(parent, [...(children.get(parent) ?? []), pid])
  }
  const sum = (pid: number): number =>
    (children.get(pid) ?? []).reduce((total, child) => total + sum(child), Number(statOf(pid)?.[21] ?? 0) * 4096)
  return sum(root) / 2 ** 20
}

/** How long an effect takes (ms), and the most memory of the process tree meanwhile (MiB). */
const watched = <A, E, R>(pid: Effect.Effect<number | undefined>, effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    let peak = 0
    const sample = Effect.map(pid, (root) => {
      if (root !== undefined) peak = Math.max(peak, treeMemory(root))
    })
    const began = performance.now()
    yield* Effect.raceFirst(effect, Effect.andThen(Effect.repeat(sample, Schedule.spaced("30 millis")), Effect.never))
    return { ms: performance.now() - began, peak }
  })

const shell = Effect.fnUntraced(function* (script: string) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const handle = yield* spawner.spawn(
    ChildProcess.make("/bin/sh", ["-e", "-c", script], {
      stdout: "ignore",
      stderr: "ignore",
      env: { PATH: process.env["PATH"], GIT_CONFIG_NOSYSTEM: "1", GIT_CONFIG_GLOBAL: "/dev/null" }
    })
  )
  return yield* watched(Effect.succeed(handle.pid), handle.exitCode)
}, Effect.scoped)

/** The former way: first a clone, then fetches, of which `mapped` goes to `data`. */
const makeFormer = Effect.fnUntraced(function* (repository: HostedRepository, mapped: string) {
  const folder = yield* (yield* Processes).folder("stoker-former-")
  const copy = `
mkdir -p ${folder}/data/projects
cp -r ${folder}/work/${mapped} ${folder}/data/.sync-staging
find ${folder}/data/.sync-staging -type f -print0 | xargs -0 sha256sum
find ${folder}/data/projects -type f -print0 | xargs -0 -r sha256sum
cp -r ${folder}/data/.sync-staging/. ${folder}/data/projects/
rm -rf ${folder}/data/.sync-staging`
  return {
    first: shell(`git clone -q --depth=1 ${repository.url} ${folder}/work${copy}`),
    update: shell(`cd ${folder}/work
git remote set-url origin ${repository.url}
git fetch -q --depth=1 origin main
git checkout -q -f FETCH_HEAD
git rev-parse HEAD${copy}`)
  }
})

const decodeStatus = Schema.decodeUnknownEffect(
  Schema.fromJsonString(Schema.Struct({ data: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)) }))
)

/** An agent of one GatewaySync, with its gateway, and nothing else of the product. */
const makeAgent = Effect.fnUntraced(function* (cr: string, repository: HostedRepository, source: string) {
  const { admin } = yield* ControlPlane
  const processes = yield* Processes
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* processes.folder("stoker-bench-")
  const dataDir = path.join(folder, "data")
  yield* fs.makeDirectory(dataDir)
  yield* fs.writeFileString(path.join(folder, "api-key"), "stoker:secret")
  const gateway = yield* SimulatedGateway.make({ name: cr, dataDir, tokens: ["stoker:secret"], boots: false })
  const map = (name: string) => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, namespace } })
  yield* Manifests.apply([map(Names.statusMap(cr)), map(Names.metadataMap(cr))], namespace)
  const mapUrl = (name: string) => `/api/v1/namespaces/${namespace}/configmaps/${name}`

  const want = Effect.fnUntraced(function* (commit: string) {
    const profile = {
      mappings: [{ source, destination: "projects/" }],
      syncPeriod: 3600,
      dryRun: false,
      designerSessionPolicy: "proceed" as const,
      paused: false
    }
    const data = Metadata.encode(metadataOf(repository.url, commit, profile), () => commit.slice(0, 16))
    const request = HttpClientRequest.patch(mapUrl(Names.metadataMap(cr))).pipe(
      HttpClientRequest.bodyText(JSON.stringify({ data }), "application/merge-patch+json")
    )
    yield* Effect.flatMap(admin.execute(request), (response) => response.text)
  })
  const report = admin.get(mapUrl(Names.statusMap(cr))).pipe(
    Effect.flatMap((response) => response.text),
    Effect.flatMap(decodeStatus),
    Effect.map(({ data }) => GatewayStatus.decode(data?.["bench-0"])),
    Effect.flatMap(Effect.fromOption)
  )
  const synced = (commit: string) =>
    report.pipe(
      Effect.repeat({
        schedule: Schedule.spaced("20 millis"),
        until: (found) => found.syncStatus === "Synced" && found.syncedCommit === commit
      }),
      Effect.retry(Schedule.spaced("20 millis"))
    )
  const start = Effect.gen(function* () {
    const probePort = yield* freePort
    return yield* Kubelet.run({
      name: `agent-${cr}`,
      args: ["agent"],
      env: {
        POD_NAME: "bench-0",
        POD_NAMESPACE: namespace,
        CR_NAME: cr,
        DATA_PATH: dataDir,
        REPO_PATH: path.join(folder, "repo"),
        GATEWAY_URL: gateway.url,
        API_KEY_FILE: path.join(folder, "api-key"),
        PROBE_PORT: String(probePort),
        METRICS_PORT: "0",
        NODE_OPTIONS: "--max-semi-space-size=1",
        MALLOC_ARENA_MAX: "1"
      },
      serviceAccountFolder: yield* Kubelet.serviceAccount(namespace, "ignition"),
      logFolder: folder,
      probePort
    })
  })

  /** From the start of the process to files in place; the gateway starts afterwards, as in a pod. */
  const firstSync = Effect.fnUntraced(function* (commit: string) {
    yield* want(commit)
    let pid: number | undefined
    const server = yield* GitServer
    const before = (yield* server.exchanges).length
    const scope = yield* Effect.scope
    let running: Kubelet.Running | undefined
    const { ms, peak } = yield* watched(
      Effect.sync(() => pid),
      Effect.gen(function* () {
        running = yield* Scope.provide(start, scope)
        pid = running.pid
        yield* running.await("startupz", "5 minutes")
      })
    )
    const bytes = (yield* server.exchanges).slice(before).reduce((sum, exchange) => sum + exchange.bytes, 0)
    yield* gateway.setPhase("running")
    yield* synced(commit)
    return { ms, peak, bytes, agent: running! }
  })
  /** From the metadata's patch to the scan's POST. */
  const update = Effect.fnUntraced(function* (commit: string) {
    const scans = (yield* gateway.scans).length
    const began = yield* epoch
    yield* want(commit)
    const { at } = yield* gateway.awaitScan(scans)
    yield* synced(commit)
    return at - began
  })
  return { dataDir, firstSync, gateway, report, synced, update, want }
})

/** Bytes of a folder of a commit when git packs it alone. */
const packedBytes = Effect.fnUntraced(function* (repository: HostedRepository, tree: string) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const handle = yield* spawner.spawn(
    ChildProcess.make("/bin/sh", [
      "-c",
      `git --git-dir ${repository.folder} rev-list --objects --no-object-names ${tree} | git --git-dir ${repository.folder} pack-objects --stdout -q`
    ])
  )
  return yield* Stream.runFold(
    handle.stdout,
    () => 0,
    (sum, chunk) => sum + chunk.length
  )
}, Effect.scoped)

/** What the disk alone takes to make the same files: create, write, fsync, rename, one after the other in a plain loop. */
const diskFloor = Effect.fnUntraced(function* (files: Files) {
  const folder = yield* (yield* Processes).folder("stoker-floor-")
  const program = `
const fs = require("node:fs"), path = require("node:path")
for (const [name, text] of JSON.parse(fs.readFileSync(0, "utf8"))) {
  const target = path.join(${JSON.stringify(folder)}, name)
  fs.mkdirSync(path.dirname(target), { recursive: true })
  const file = fs.openSync(target + ".new", "wx")
  fs.writeSync(file, text); fs.fsyncSync(file); fs.closeSync(file)
  fs.renameSync(target + ".new", target)
}`
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const began = performance.now()
  const handle = yield* spawner.spawn(
    ChildProcess.make(process.execPath, ["-e", program], {
      stdin: Stream.encodeText(Stream.succeed(JSON.stringify(Object.entries(files)))),
      stdout: "ignore",
      stderr: "inherit"
    })
  )
  yield* handle.exitCode
  return performance.now() - began
}, Effect.scoped)

const ratio = (value: number, former: number) => Math.round((value / former) * 1000) / 1000
const mb = (bytes: number) => Math.round(bytes / 1e4) / 100

/** Needs a control plane and a git server; 200 MB of repository are made, which takes a while. */
export const agent = Effect.gen(function* () {
  yield* Manifests.apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }], namespace)
  yield* Manifests.apply(
    [
      { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "ignition", namespace } },
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
  const server = yield* GitServer
  const bytesSince = (before: number) =>
    Effect.map(server.exchanges, (all) => all.slice(before).reduce((sum, { bytes }) => sum + bytes, 0))

  const big = yield* server.create("many-sites")
  let commit = yield* big.commit({ files: manySites() })
  const site = yield* packedBytes(big, `${commit}:sites/7`)

  const one = yield* makeAgent("one-site", big, "sites/7/projects")
  const first = yield* one.firstSync(commit)
  const formerOne = yield* makeFormer(big, "sites/7/projects")
  const before = (yield* server.exchanges).length
  const formerFirst = yield* formerOne.first
  const formerBytes = yield* bytesSince(before)
  const firsts = [first]
  const formerFirsts = [formerFirst]
  for (const cr of ["one-site-again", "one-site-once-more"]) {
    const again = Effect.flatMap(makeAgent(cr, big, "sites/7/projects"), ({ firstSync }) => firstSync(commit))
    firsts.push(yield* Effect.scoped(again))
    formerFirsts.push(yield* Effect.flatMap(makeFormer(big, "sites/7/projects"), (former) => former.first))
  }
  const peak = Math.max(...firsts.map((one) => one.peak))

  const unchanged: Array<number> = []
  for (let round = 0; round < 10; round++) {
    commit = yield* big.commit({ files: { "sites/8/projects/p0/f0": `round ${round}` } })
    yield* one.want(commit)
    const { filesChanged, lastSyncDuration = "" } = yield* one.synced(commit)
    if (filesChanged !== 0) return yield* Effect.die("a file was written")
    unchanged.push(Number.parseInt(lastSyncDuration, 10))
  }
  const formerUnchanged = yield* formerOne.update

  // What happens when nothing happens: watching, renewing the volume's mark, the report's refresh. From here to the end.
  const idleFrom = { cpu: cpuSeconds(first.agent.pid), at: performance.now() }

  const every = yield* makeAgent("every-site", big, "sites")
  yield* every.firstSync(commit)
  const formerEvery = yield* makeFormer(big, "sites")
  yield* formerEvery.first
  const changed: Array<number> = []
  const formerChanged: Array<number> = []
  for (let round = 0; round < 8; round++) {
    commit = yield* big.commit({ files: { "sites/7/projects/p0/f0": `change ${round}` } })
    const ms = yield* every.update(commit)
    // The first has not been warm.
    if (round > 0) changed.push(ms)
    if (round < 3) formerChanged.push((yield* formerEvery.update).ms)
  }

  const files = oneProject()
  const project = yield* server.create("project")
  const projectCommit = yield* project.commit({ files })
  const projects: Array<number> = []
  const formerProjects: Array<number> = []
  const floors: Array<number> = []
  for (let round = 0; round < 3; round++) {
    const { ms } = yield* Effect.scoped(
      Effect.flatMap(makeAgent(`project-${round}`, project, "projects"), ({ firstSync }) => firstSync(projectCommit))
    )
    projects.push(ms)
    formerProjects.push((yield* Effect.flatMap(makeFormer(project, "projects"), (former) => former.first)).ms)
    floors.push(yield* diskFloor(files))
  }

  const idleFor = () => (performance.now() - idleFrom.at) / 1000
  yield* Effect.sleep(`${Math.max(0, Math.ceil(idleSeconds - idleFor()))} seconds`)
  const idleCpu = ((cpuSeconds(first.agent.pid) - idleFrom.cpu) / idleFor()) * 100
  const idleMemory = rss(first.agent.pid)
  const idleOwn = ownMemory(first.agent.pid)
  const idleTree = treeMemory(first.agent.pid)

  const p50 = (values: ReadonlyArray<number>) => quantile(values, 0.5)
  const compared = (
    what: string,
    values: ReadonlyArray<number>,
    former: ReadonlyArray<number>,
    aim: number
  ): Figure => ({
    what,
    value: `p50 ${Math.round(p50(values))} ms, ${ratio(p50(values), p50(former))} × the former way (${Math.round(p50(former))} ms)`,
    aim: `≤ ${aim} ms`,
    met: p50(values) <= aim,
    data: { ms: spread(values), formerMs: spread(former), ratio: ratio(p50(values), p50(former)) }
  })
  return [
    compared(
      "first sync, 1 site of 100 in 200 MB, from the process's start",
      firsts.map(({ ms }) => ms),
      formerFirsts.map(({ ms }) => ms),
      1500
    ),
    {
      what: "its peak memory, with git",
      value: `${Math.round(peak)} MiB (the former way's git alone: ${Math.round(formerFirst.peak)} MiB)`,
      aim: "≤ 110 MiB",
      met: peak <= 110,
      data: { mib: peak, formerMib: formerFirst.peak }
    },
    {
      what: "its bytes from the remote",
      value: `${mb(first.bytes)} MB, ${ratio(first.bytes, site)} × the site packed, ${ratio(first.bytes, formerBytes)} × the former way (${mb(formerBytes)} MB)`,
      aim: "≤ 2.2 × the site packed",
      met: first.bytes <= 2.2 * site,
      data: { bytes: first.bytes, siteBytes: site, formerBytes, ratio: ratio(first.bytes, formerBytes) }
    },
    compared("one file changed of 20 000, metadata to scan POST", changed, formerChanged, 250),
    compared("nothing of this site changed, 0 files written", unchanged, [formerUnchanged.ms], 120),
    compared("a project of 1 801 files to an empty volume, from the process's start", projects, formerProjects, 2000),
    {
      what: "the disk alone for those files (create, fsync, rename in a loop)",
      value: `p50 ${Math.round(p50(floors))} ms`,
      data: { ms: spread(floors) }
    },
    {
      what: `idle for ${idleSeconds} s: processor`,
      value: `${idleCpu.toFixed(2)} %`,
      aim: "≤ 0.2 %",
      met: idleCpu <= 0.2,
      data: { percent: idleCpu }
    },
    {
      what: "idle: memory (RSS)",
      value: `${Math.round(idleMemory)} MiB, of which its own ${Math.round(idleOwn)} MiB; with the git that reads objects ${Math.round(idleTree)} MiB`,
      aim: "≤ 75 MiB",
      met: idleMemory <= 75,
      data: { mib: idleMemory, own: idleOwn, withGit: idleTree }
    }
  ] satisfies ReadonlyArray<Figure>
})
