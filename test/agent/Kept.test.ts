/** What a start without an API server goes by: the metadata and the commit of one pass, never of two. */
import { assert, layer } from "@effect/vitest"
import { Clock, Context, Effect, FileSystem, Layer, Option, Redacted, type Scope, SubscriptionRef } from "effect"
import { type Volume, VolumeError } from "../../src/agent/Volume.ts"
import type * as GatewayStatus from "../../src/api/GatewayStatus.ts"
import { Failure } from "../../src/sandbox/gateway/Faults.ts"
import { Health } from "../../src/telemetry/Health.ts"
import { hasty } from "./Clocks.ts"
import { config, hooked, makePlant, services, silent, synced, until, view, viewFile } from "./Plant.ts"

/** The same files from another folder of the repository, and the mappings that name it. */
const moved = (files: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(files).map(([path, content]) => [path.replace(/^site\//, "plant/"), content]))
const movedMappings = {
  mappings: [
    { source: "plant/projects", destination: "projects/" },
    { source: "plant/config", destination: "config" }
  ]
}

type Plant = Effect.Success<ReturnType<typeof makePlant>>

/** Starts an agent before its gateway, with neither API server nor git, and waits until the gateway may start. */
const startAlone = Effect.fnUntraced(function* ({ agent, api, gateway, probe, repository }: Plant) {
  yield* gateway.setPhase("down")
  yield* gateway.awaitPhase("down")
  yield* api.setAway(true)
  yield* repository.requireLogin(Option.some({ username: "u", password: Redacted.make("p") }))
  const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
  yield* probe(failing("startup"))
})

/** A disk on which a process is killed: after so many changes from now on, none happens any more. */
const makeMortal = Effect.gen(function* () {
  const left = yield* SubscriptionRef.make(Infinity)
  const killed = (path: string) => new VolumeError({ operation: "write", path, code: "EIO" })
  const change = <A>(path: string, effect: Effect.Effect<A, VolumeError>) =>
    path.startsWith(".stoker/owner")
      ? Effect.flatMap(SubscriptionRef.get(left), (left) => (left > 0 ? effect : killed(path)))
      : Effect.flatMap(
          SubscriptionRef.updateAndGet(left, (left) => left - 1),
          (left) => (left >= 0 ? effect : killed(path))
        )
  const disk = hooked((volume: (typeof Volume)["Service"]) => ({
    create: (path, content) => change(path, volume.create(path, content)),
    replace: (path, content) => change(path, volume.replace(path, content)),
    rename: (from, to) => change(to, volume.rename(from, to)),
    remove: (path) => change(path, volume.remove(path)),
    removeTree: (path) => change(path, volume.removeTree(path)),
    removeFolder: (path) => change(path, volume.removeFolder(path)),
    makeFolder: (path) => change(path, volume.makeFolder(path))
  }))
  return {
    disk,
    killAfter: (changes: number) => SubscriptionRef.set(left, changes),
    isKilled: Effect.map(SubscriptionRef.get(left), (left) => left < 0)
  }
})

layer(services, { excludeTestServices: true })("A start without an API server", (it) => {
  const test = (
    name: string,
    body: Effect.Effect<void, unknown, Layer.Success<typeof services> | Scope.Scope>,
    timeout?: number
  ) =>
    it.effect(
      name,
      () =>
        body.pipe(
          (effect) => Effect.flatMap(hasty, (clock) => Effect.provideService(effect, Clock.Clock, clock)),
          Effect.provide(silent)
        ),
      timeout
    )

  for (const how of ["changes nothing", "cannot be had"] as const) {
    test(
      `after mappings that moved with a commit that ${how}: nothing is deleted`,
      Effect.gen(function* () {
        const plant = yield* makePlant()
        const { agent, api, gateway, read, repository, want } = plant
        yield* gateway.awaitPhase("running")
        const files = { ...view("one"), ...config("one") }
        const first = yield* repository.commit({ files })
        yield* want(first)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(synced(first))
            const second =
              how === "changes nothing" ? yield* repository.commit({ files: moved(files) }) : "1".repeat(40)
            const revision = yield* want(second, movedMappings)
            const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
            assert.strictEqual(report.syncStatus, how === "changes nothing" ? "Synced" : "Error")
          })
        )
        yield* startAlone(plant)
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        assert.strictEqual(yield* read("config/resources/core/ignition/thing/config.json"), '{"value":"one"}')
      })
    )
  }

  test(
    "killed while the gateway scans: puts back the commit that came, not the one before",
    Effect.gen(function* () {
      const plant = yield* makePlant()
      const { agent, api, gateway, read, repository, want, write } = plant
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Layer.build(agent)
          yield* api.awaitReport(synced(first))
          yield* gateway.faults.inject({
            route: "GET /data/api/v1/scan/projects",
            failure: Failure.cases.Silence.make({})
          })
          yield* want(yield* repository.commit({ files: view("two") }))
          const journal = Effect.orElseSucceed(read(".stoker/journal.json"), () => "")
          yield* until(Effect.map(journal, (text) => text.includes('"Scan"')))
        })
      )
      yield* write(viewFile, "seeded")
      yield* startAlone(plant)
      assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
    })
  )

  test(
    "killed at whichever moment of an apply: the volume is as one commit has it, and the gateway may start",
    Effect.gen(function* () {
      const { disk, isKilled, killAfter } = yield* makeMortal
      const plant = yield* makePlant({ disk, boots: false })
      const { agent, api, dataDir, read, repository, want } = plant
      const fs = yield* FileSystem.FileSystem
      const one = { ...view("one"), "site/projects/line/old/data.bin": "old" }
      const two = moved({ ...view("two"), "site/projects/line/new/data.bin": "new" })
      const gone = Object.fromEntries(Object.keys(one).map((path) => [path, null]))
      const first = yield* repository.commit({ files: one })
      const second = yield* repository.commit({ files: { ...gone, ...two } })
      const files = Effect.gen(function* () {
        const names = yield* fs.readDirectory(`${dataDir}/projects`, { recursive: true })
        const found: Record<string, string> = {}
        for (const name of names) {
          if ((yield* fs.stat(`${dataDir}/projects/${name}`)).type === "File")
            found[name] = yield* read(`projects/${name}`)
        }
        return found
      })
      const planned = (files: Readonly<Record<string, string>>) =>
        Object.fromEntries(
          Object.entries(files).map(([path, content]) => [path.replace(/^\w+\/projects\//, ""), content])
        )
      const inPlace = (revision: string) =>
        api.awaitReport(({ observedRevision, syncStatus }) => observedRevision === revision && syncStatus === "Pending")
      const ends = new Set<string>()
      let changes = 0
      let wasKilled = true
      while (wasKilled) {
        wasKilled = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* repository.requireLogin(Option.none())
            yield* api.setAway(false)
            // So that no report of a round before is taken for one of this.
            const round = { syncPeriod: 10 + changes }
            const before = yield* want(first, round)
            yield* Layer.build(Layer.fresh(agent))
            yield* inPlace(before)
            yield* killAfter(changes)
            const after = yield* want(second, { ...movedMappings, ...round })
            yield* Effect.raceFirst(until(isKilled), inPlace(after))
            return yield* isKilled
          })
        )
        yield* killAfter(Infinity)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* startAlone(plant)
            const found = yield* files
            const commit = Object.keys(found).some((path) => path.includes("/new/")) ? two : one
            assert.deepStrictEqual(found, planned(commit), `after ${changes} changes`)
            ends.add(commit === two ? "two" : "one")
          })
        )
        changes++
      }
      assert.deepStrictEqual([...ends].sort(), ["one", "two"])
    }),
    120_000
  )

  test(
    "with what the version before kept, whose mappings need not be of its commit: files stay as they are",
    Effect.gen(function* () {
      const plant = yield* makePlant()
      const { agent, api, dataDir, exists, gateway, read, repository, want, write } = plant
      const fs = yield* FileSystem.FileSystem
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first, movedMappings)
      const metadata = yield* SubscriptionRef.get(api.metadata)
      yield* want(first)
      yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
      const { origin, ...inventory } = JSON.parse(yield* read(".stoker/applied.json"))
      const { metadata: _, ...former } = origin
      yield* write(".stoker/applied.json", JSON.stringify({ ...inventory, origin: former }))
      const about = { namespace: "plant", cr: "site", profile: "default" }
      yield* write(".stoker/metadata.json", JSON.stringify({ ...about, data: metadata }))
      const before = yield* fs.stat(`${dataDir}/${viewFile}`)
      yield* startAlone(plant)
      assert.deepStrictEqual((yield* fs.stat(`${dataDir}/${viewFile}`)).mtime, before.mtime)
      assert.isFalse(yield* exists(".stoker/metadata.json"))
      // From the next look at the API server on, it is as it is now.
      yield* api.setAway(false)
      yield* until(Effect.map(read(".stoker/applied.json"), (text) => text.includes('"metadata"')))
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
    })
  )

  for (const [name, profile, isSaid] of [
    ["a pause", { paused: true }, ({ paused }: GatewayStatus.Report) => paused === true],
    ["a dry run", { dryRun: true }, ({ dryRun }: GatewayStatus.Report) => dryRun === true]
  ] as const) {
    test(
      `after ${name}: what was edited meanwhile stays, and is put back once that is over`,
      Effect.gen(function* () {
        const plant = yield* makePlant()
        const { agent, api, gateway, read, repository, want, write } = plant
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(synced(first))
            yield* want(first, profile)
            yield* api.awaitReport(isSaid)
          })
        )
        yield* write(viewFile, "edited")
        yield* startAlone(plant)
        assert.strictEqual(yield* read(viewFile), "edited")
        yield* want(first)
        yield* api.setAway(false)
        yield* until(Effect.map(read(viewFile), (text) => text === '{"text":"one"}'))
        yield* until(Effect.map(read(".stoker/applied.json"), (text) => !text.includes('"paused":"true"')))
      })
    )
  }
})
