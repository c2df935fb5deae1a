/** What goes wrong around an agent, what it says then, and that it gets there all the same. */
import { assert, describe, layer } from "@effect/vitest"
import {
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  FileSystem,
  Layer,
  Ref,
  Scope,
  Stream,
  SubscriptionRef
} from "effect"
import { Volume, VolumeError } from "../../src/agent/Volume.ts"
import { Failure } from "../../src/sandbox/gateway/Faults.ts"
import { Health } from "../../src/telemetry/Health.ts"
import { config, kinds, makePlant, services, silent, synced, until, view, viewFile } from "./Plant.ts"

/** A disk that can be told to refuse an operation. */
const makeDisk = Effect.gen(function* () {
  const refuses = yield* Ref.make<{ readonly operation: "create" | "rename"; readonly code: string } | undefined>(
    undefined
  )
  const refusals = yield* SubscriptionRef.make(0)
  /** Runs before each rename. */
  const beforeRename = yield* Ref.make<Effect.Effect<void>>(Effect.void)
  /** Runs, once, when the journal of an apply is there; then the lock is asked for. */
  const onJournal = yield* Ref.make<Effect.Effect<void>>(Effect.void)
  const disk = (real: Layer.Layer<Volume>) =>
    Layer.effect(
      Volume,
      Effect.map(Volume, (volume) => {
        const guarded = <A>(operation: "create" | "rename", path: string, effect: Effect.Effect<A, VolumeError>) =>
          Effect.gen(function* () {
            const fault = yield* Ref.get(refuses)
            if (fault?.operation !== operation || path.startsWith(".stoker/owner")) return yield* effect
            yield* SubscriptionRef.update(refusals, (count) => count + 1)
            return yield* new VolumeError({ operation: "write", path, code: fault.code })
          })
        return Volume.of({
          ...volume,
          create: (path, content) => guarded("create", path, volume.create(path, content)),
          replace: (path, content) =>
            Effect.tap(volume.replace(path, content), () =>
              path === ".stoker/journal.json" ? Effect.flatten(Ref.getAndSet(onJournal, Effect.void)) : Effect.void
            ),
          rename: (from, to) =>
            Effect.andThen(Effect.flatten(Ref.get(beforeRename)), guarded("rename", to, volume.rename(from, to)))
        })
      })
    ).pipe(Layer.provide(real))
  return {
    disk,
    beforeRename,
    onJournal,
    refuse: (operation: "create" | "rename", code: string) => Ref.set(refuses, { operation, code }),
    heal: Ref.set(refuses, undefined),
    awaitRefusal: SubscriptionRef.changes(refusals).pipe(
      Stream.filter((count) => count > 0),
      Stream.take(1),
      Stream.runDrain
    )
  }
})

/** A clock by which everything that waits is done 50 times as soon. */
const hasty = Effect.map(Clock.Clock, (real): Clock.Clock => ({
  sleep: (duration) => real.sleep(Duration.times(duration, 0.02)),
  currentTimeMillisUnsafe: () => real.currentTimeMillisUnsafe(),
  currentTimeNanosUnsafe: () => real.currentTimeNanosUnsafe(),
  monotonicTimeNanosUnsafe: () => real.monotonicTimeNanosUnsafe(),
  currentTimeMillis: real.currentTimeMillis,
  currentTimeNanos: real.currentTimeNanos,
  monotonicTimeNanos: real.monotonicTimeNanos
}))

/** A clock that can be set, in milliseconds beside the real one; sleeping is real. */
const makeClock = Effect.gen(function* () {
  const real = yield* Clock.Clock
  const offset = yield* Ref.make({ wall: 0, monotonic: 0 })
  const nanos = (millis: number) => BigInt(millis) * 1_000_000n
  const clock: Clock.Clock = {
    sleep: (duration) => real.sleep(duration),
    currentTimeMillisUnsafe: () => real.currentTimeMillisUnsafe() + Ref.getUnsafe(offset).wall,
    currentTimeNanosUnsafe: () => real.currentTimeNanosUnsafe() + nanos(Ref.getUnsafe(offset).wall),
    monotonicTimeNanosUnsafe: () => real.monotonicTimeNanosUnsafe() + nanos(Ref.getUnsafe(offset).monotonic),
    currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe()),
    currentTimeNanos: Effect.sync(() => clock.currentTimeNanosUnsafe()),
    monotonicTimeNanos: Effect.sync(() => clock.monotonicTimeNanosUnsafe())
  }
  return { clock, set: (next: { readonly wall: number; readonly monotonic: number }) => Ref.set(offset, next) }
})

layer(services, { excludeTestServices: true })("A fault", (it) => {
  const test = (name: string, body: Effect.Effect<void, unknown, Layer.Success<typeof services> | Scope.Scope>) =>
    it.effect(name, () => Effect.provide(body, silent))

  describe("of the disk", () => {
    const codes = [
      ["ENOSPC", /the volume is full/],
      ["EACCES", /the agent may not write there/],
      ["EROFS", /mounted read-only/],
      ["ENOENT", /it vanished/]
    ] as const
    for (const [code, wayOut] of codes) {
      test(
        `${code}: names the path and the way out, applies nothing, and tries again`,
        Effect.gen(function* () {
          const { disk, heal, refuse } = yield* makeDisk
          const { agent, api, exists, gateway, read, repository, want } = yield* makePlant({ disk })
          yield* gateway.awaitPhase("running")
          const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
          yield* want(first)
          yield* Layer.build(agent)
          yield* api.awaitReport(synced(first))
          yield* refuse("create", code)
          const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
          yield* want(second)
          const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
          assert.match(report.errorMessage ?? "", /cannot write \.stoker\/staging\/.* in the data directory/)
          assert.match(report.errorMessage ?? "", wayOut)
          assert.strictEqual(report.syncedCommit, first)
          assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
          assert.isFalse(yield* exists(".stoker/staging"))
          yield* heal
          yield* api.awaitReport(synced(second))
          assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
        })
      )
    }

    test(
      "in the middle of an apply: the next pass completes it, and no scan sees the middle",
      Effect.gen(function* () {
        const { awaitRefusal, beforeRename, disk, heal, refuse } = yield* makeDisk
        const { agent, api, gateway, repository, want } = yield* makePlant({ disk, scanFrequency: "10 millis" })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        const renames = yield* Ref.make(0)
        yield* Ref.set(
          beforeRename,
          Effect.flatMap(
            Ref.updateAndGet(renames, (count) => count + 1),
            (count) => (count === 2 ? refuse("rename", "EIO") : Effect.void)
          )
        )
        const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
        yield* want(second)
        yield* awaitRefusal
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        assert.match(report.errorMessage ?? "", /\(EIO\)/)
        yield* heal
        yield* api.awaitReport(synced(second))
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    test(
      "in the middle of an apply, and the next commit has not got what was new: it goes",
      Effect.gen(function* () {
        const { awaitRefusal, beforeRename, disk, heal, refuse } = yield* makeDisk
        const { agent, api, exists, gateway, repository, want } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        const renames = yield* Ref.make(0)
        yield* Ref.set(
          beforeRename,
          Effect.flatMap(
            Ref.updateAndGet(renames, (count) => count + 1),
            (count) => (count === 2 ? refuse("rename", "EIO") : Effect.void)
          )
        )
        yield* want(yield* repository.commit({ files: { ...view("two"), "site/config/a/new.json": "new" } }))
        yield* awaitRefusal
        assert.isTrue(yield* exists("config/a/new.json"))
        const third = yield* repository.commit({ files: { ...view("three"), "site/config/a/new.json": null } })
        yield* heal
        yield* want(third)
        yield* api.awaitReport(synced(third))
        assert.isFalse(yield* exists("config/a/new.json"))
      })
    )

    test(
      "the agent's own folder and a project are removed: both come back with the next commit",
      Effect.gen(function* () {
        const { agent, api, dataDir, gateway, read, repository, want } = yield* makePlant()
        const fs = yield* FileSystem.FileSystem
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        yield* fs.remove(`${dataDir}/.stoker`, { recursive: true })
        yield* fs.remove(`${dataDir}/projects`, { recursive: true })
        const second = yield* repository.commit({ files: view("two") })
        yield* want(second)
        yield* api.awaitReport(synced(second))
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      })
    )

    test(
      "in the middle of an apply, for good: no gateway is started with the mix, and no commit claimed",
      Effect.gen(function* () {
        const { beforeRename, disk, heal, refuse } = yield* makeDisk
        const { agent, api, gateway, probe, read, repository, want } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        yield* Ref.set(beforeRename, Ref.set(beforeRename, refuse("rename", "EIO")))
        yield* want(yield* repository.commit({ files: { ...view("two"), ...config("two") } }))
        const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
        const report = yield* api.awaitReport(({ errorMessage }) => /\(EIO\)/.test(errorMessage ?? ""))
        assert.isUndefined(report.syncedCommit)
        assert.isNotEmpty(yield* failing("startup"))
        yield* Ref.set(beforeRename, Effect.void)
        yield* heal
        yield* probe(failing("startup"))
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      })
    )

    test(
      "part of an apply is lost in its middle, git is away, and then the former commit is wanted again: all of it comes back",
      Effect.gen(function* () {
        const { beforeRename, disk } = yield* makeDisk
        const { agent, api, dataDir, gateway, read, repository, want } = yield* makePlant({ disk })
        const fs = yield* FileSystem.FileSystem
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        const lose = Effect.gen(function* () {
          yield* fs.remove(`${dataDir}/.stoker/staging`, { recursive: true })
          yield* fs.remove(`${dataDir}/${viewFile}`)
          yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
        }).pipe(Effect.orDie)
        // Before the second of its renames.
        yield* Ref.set(beforeRename, Ref.set(beforeRename, Effect.andThen(Ref.set(beforeRename, Effect.void), lose)))
        yield* want(yield* repository.commit({ files: { ...view("two"), ...config("two") } }))
        yield* api.awaitReport(({ errorMessage }) => /refuses the connection/.test(errorMessage ?? ""))
        assert.strictEqual(yield* read("config/resources/core/ignition/thing/config.json"), '{"value":"two"}')
        const revision = yield* want(first)
        yield* api.awaitReport(
          ({ observedRevision, syncStatus }) => observedRevision === revision && syncStatus === "Synced"
        )
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        assert.strictEqual(yield* read("config/resources/core/ignition/thing/config.json"), '{"value":"one"}')
      })
    )
  })

  describe("of the process", () => {
    test(
      "killed in an apply of which part is lost then: claims no commit, and lets no gateway start, while git is away",
      Effect.gen(function* () {
        const { awaitRefusal, beforeRename, disk, heal, refuse } = yield* makeDisk
        const { agent, api, dataDir, gateway, probe, repository, want } = yield* makePlant({ disk })
        const fs = yield* FileSystem.FileSystem
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        const second = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(synced(first))
            const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
            yield* Ref.set(beforeRename, Ref.set(beforeRename, refuse("rename", "EIO")))
            yield* want(second)
            yield* awaitRefusal
            return second
          })
        )
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        yield* fs.remove(`${dataDir}/.stoker/staging`, { recursive: true })
        yield* fs.remove(`${dataDir}/${viewFile}`)
        for (const syncPeriod of [6, 7]) {
          const revision = yield* want("1".repeat(40), { syncPeriod }, { gitURL: "http://127.0.0.1:1/none.git" })
          yield* Effect.scoped(
            Effect.gen(function* () {
              const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
              const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
              assert.match(report.errorMessage ?? "", /refuses the connection/)
              assert.isUndefined(report.syncedCommit)
              assert.isNotEmpty(yield* failing("startup"))
            })
          )
        }
        yield* Ref.set(beforeRename, Effect.void)
        yield* heal
        yield* want(second)
        const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
        yield* probe(failing("startup"))
      })
    )

    test(
      "another GatewaySync had its volume: what that left lets no gateway start while git is away, and goes with the first sync",
      Effect.gen(function* () {
        const { agent, api, exists, gateway, probe, read, repository, want, write } = yield* makePlant()
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        const inventory = yield* read(".stoker/applied.json")
        assert.include(inventory, '"cr":"site"')
        yield* write(".stoker/applied.json", inventory.replace('"cr":"site"', '"cr":"other"'))
        const revision = yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
        const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
        const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
        assert.match(report.errorMessage ?? "", /refuses the connection/)
        assert.isUndefined(report.syncedCommit)
        assert.isNotEmpty(yield* failing("startup"))
        const gone = Object.fromEntries(Object.keys(config("one")).map((path) => [path, null]))
        yield* want(yield* repository.commit({ files: gone }))
        yield* probe(failing("startup"))
        assert.isTrue(yield* exists(viewFile))
        assert.isFalse(yield* exists("config/resources/core/config-mode.json"))
      })
    )

    test(
      "it stands still while it waits for the lock, and another agent takes the volume: it writes nothing",
      Effect.gen(function* () {
        const { disk, onJournal } = yield* makeDisk
        const { agent, api, gateway, read, repository, want, write } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        const at = yield* Clock.currentTimeMillis
        const other = (at: number) => write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at }))
        yield* Ref.set(onJournal, Effect.orDie(other(at)))
        const second = yield* repository.commit({ files: view("two") })
        yield* want(second)
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        assert.match(report.errorMessage ?? "", /in use by the agent of pod plant\/other-0/)
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        yield* other(at - 31_000)
        yield* api.awaitReport(synced(second))
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      })
    )

    test(
      "SIGTERM in the middle of an apply: not ready at once, the apply ends first, and the scan is made by the next process",
      Effect.gen(function* () {
        const { beforeRename, disk } = yield* makeDisk
        const { agent, api, gateway, read, repository, want } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        const scope = yield* Scope.make()
        const context = yield* Effect.provideService(Layer.build(agent), Scope.Scope, scope)
        const { failing } = Context.get(context, Health)
        yield* api.awaitReport(synced(first))
        assert.deepStrictEqual(yield* failing("ready"), [])
        const entered = yield* Deferred.make<void>()
        const leave = yield* Deferred.make<void>()
        yield* Ref.set(beforeRename, Effect.andThen(Deferred.succeed(entered, undefined), Deferred.await(leave)))
        const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
        yield* want(second)
        yield* Deferred.await(entered)
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
        yield* until(Effect.map(failing("ready"), (checks) => checks.includes("process: stopping")))
        yield* Deferred.succeed(leave, undefined)
        yield* Fiber.join(closing)
        // Not again, with the checks gone: others may still be asked until the process ends.
        assert.deepStrictEqual(yield* failing("ready"), ["process: stopping"])
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
        assert.strictEqual(yield* read("config/resources/core/ignition/thing/config.json"), '{"value":"two"}')
        yield* Layer.build(Layer.fresh(agent))
        yield* api.awaitReport(synced(second))
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    test(
      "killed in the middle of an apply, beside a running gateway: completed only while scans are locked out",
      Effect.gen(function* () {
        const { awaitRefusal, beforeRename, disk, heal, refuse } = yield* makeDisk
        const { agent, api, gateway, read, repository, want } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        const second = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(synced(first))
            const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
            yield* Ref.set(beforeRename, refuse("rename", "EIO"))
            yield* want(second)
            yield* awaitRefusal
            return second
          })
        )
        // The lock of the process that is gone went with the gateway's former life.
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        yield* gateway.setPhase("running")
        yield* gateway.awaitPhase("running")
        yield* Ref.set(beforeRename, Effect.void)
        yield* heal
        yield* Layer.build(Layer.fresh(agent))
        yield* api.awaitReport(synced(second))
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    for (const [direction, jump] of [
      ["forward", 3_600_000],
      ["back", -3_600_000]
    ] as const) {
      test(
        `the clock jumps an hour ${direction}: it stays alive and syncs`,
        Effect.gen(function* () {
          const { clock, set } = yield* makeClock
          yield* Effect.gen(function* () {
            const { agent, api, gateway, repository, want } = yield* makePlant()
            yield* gateway.awaitPhase("running")
            const first = yield* repository.commit({ files: view("one") })
            yield* want(first)
            const { failing } = Context.get(yield* Layer.build(agent), Health)
            yield* api.awaitReport(synced(first))
            yield* set({ wall: jump, monotonic: 0 })
            assert.deepStrictEqual(yield* failing("live"), [])
            const second = yield* repository.commit({ files: view("two") })
            yield* want(second)
            const report = yield* api.awaitReport(synced(second))
            assert.match(report.lastSyncDuration ?? "", /^\d{1,5}ms$/)
          }).pipe(Effect.provideService(Clock.Clock, clock))
        })
      )
    }

    test(
      "the metadata changes faster than a pass ends: one gets the time it takes all the same",
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        // Longer than newer metadata waits at first.
        yield* gateway.faults.inject({
          route: "POST /data/api/v1/scan-lock/projects",
          failure: Failure.cases.Delay.make({ millis: 7500 })
        })
        yield* Layer.build(agent)
        yield* Effect.forkScoped(
          Stream.runForEach(Stream.range(6, 3600), (syncPeriod) =>
            Effect.delay(want(first, { syncPeriod }), "2 seconds")
          )
        )
        yield* api.awaitReport(synced(first))
      }).pipe((effect) => Effect.flatMap(hasty, (clock) => Effect.provideService(effect, Clock.Clock, clock)))
    )

    test(
      "each step takes long, and the whole longer than one may: it stays alive",
      Effect.gen(function* () {
        const { clock, set } = yield* makeClock
        const { beforeRename, disk } = yield* makeDisk
        yield* Effect.gen(function* () {
          const { agent, api, gateway, repository, want } = yield* makePlant({ disk })
          yield* gateway.awaitPhase("running")
          const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
          yield* want(first)
          const { failing } = Context.get(yield* Layer.build(agent), Health)
          yield* api.awaitReport(synced(first))
          yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
          yield* Ref.set(beforeRename, set({ wall: 0, monotonic: 11 * 60_000 }))
          const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
          yield* want(second)
          yield* gateway.awaitScan(2)
          yield* set({ wall: 0, monotonic: 22 * 60_000 })
          assert.deepStrictEqual(yield* failing("live"), [])
          yield* gateway.setScanBehaviour({ _tag: "Normal" })
        }).pipe(Effect.provideService(Clock.Clock, clock))
      })
    )

    test(
      "it hangs: liveness fails, so that it is started again",
      Effect.gen(function* () {
        const { clock, set } = yield* makeClock
        const { beforeRename, disk } = yield* makeDisk
        yield* Effect.gen(function* () {
          const { agent, api, gateway, repository, want } = yield* makePlant({ disk })
          yield* gateway.awaitPhase("running")
          const first = yield* repository.commit({ files: view("one") })
          yield* want(first)
          const { failing } = Context.get(yield* Layer.build(agent), Health)
          yield* api.awaitReport(synced(first))
          const entered = yield* Deferred.make<void>()
          const leave = yield* Deferred.make<void>()
          yield* Effect.addFinalizer(() => Deferred.succeed(leave, undefined))
          yield* Ref.set(beforeRename, Effect.andThen(Deferred.succeed(entered, undefined), Deferred.await(leave)))
          yield* want(yield* repository.commit({ files: view("two") }))
          yield* Deferred.await(entered)
          assert.deepStrictEqual(yield* failing("live"), [])
          yield* set({ wall: 0, monotonic: 13 * 60_000 })
          assert.match((yield* failing("live")).join(), /sync: nothing heard/)
        }).pipe(Effect.provideService(Clock.Clock, clock))
      })
    )
  })

  describe("of the gateway", () => {
    test(
      "it starts while its files are written: not without the scan lock, though it was down before",
      Effect.gen(function* () {
        const { disk, onJournal } = yield* makeDisk
        const { agent, api, gateway, repository, want } = yield* makePlant({ disk, boots: false })
        yield* Ref.set(
          onJournal,
          Effect.orDie(Effect.andThen(gateway.setPhase("running"), gateway.awaitPhase("running")))
        )
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    test(
      "it does not scan, nor lock for the next commit: after a restart the scan is still owed",
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const fails = (route: string) =>
          gateway.faults.inject({
            route: `POST /data/api/v1/${route}`,
            failure: Failure.cases.Status.make({ status: 500 })
          })
        yield* fails("scan/projects")
        const first = yield* repository.commit({ files: { ...view("one") } })
        yield* want(first)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
            yield* fails("scan-lock/*")
            yield* want(yield* repository.commit({ files: config("two") }))
            yield* api.awaitReport(({ errorMessage }) => /scan-lock/.test(errorMessage ?? ""))
          })
        )
        yield* gateway.faults.clear
        assert.isEmpty(yield* gateway.scans)
        yield* want(first)
        yield* Layer.build(Layer.fresh(agent))
        yield* api.awaitReport(synced(first))
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects"])
      })
    )

    test(
      "its scan fails, also after a restart: the commit that it never read is not reported as synced",
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        const second = yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(synced(first))
            yield* gateway.faults.inject({
              route: "POST /data/api/v1/scan/projects",
              failure: Failure.cases.Status.make({ status: 500 })
            })
            const second = yield* repository.commit({ files: view("two") })
            yield* want(second)
            assert.strictEqual((yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")).syncedCommit, first)
            return second
          })
        )
        const revision = yield* want(second, { syncPeriod: 6 })
        yield* Layer.build(Layer.fresh(agent))
        const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
        assert.strictEqual(report.syncStatus, "Error")
        assert.isUndefined(report.syncedCommit)
        yield* gateway.faults.clear
        yield* api.awaitReport(synced(second))
      })
    )

    test(
      "it forces HTTPS: the redirect is not followed, and the report says what to set",
      Effect.gen(function* () {
        const { agent, api, exists, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        yield* gateway.forceSecure("https://localhost:8043")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Layer.build(agent)
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        assert.match(report.errorMessage ?? "", /redirects to localhost:8043 \(302\).*set spec\.gateway\.tls/)
        assert.isFalse(yield* exists(viewFile))
        yield* gateway.forceSecure(undefined)
        yield* api.awaitReport(synced(first))
      })
    )

    test(
      "it does not let the token write: 403 is told from 401",
      Effect.gen(function* () {
        const { agent, api, exists, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        yield* gateway.faults.inject({
          route: "POST /data/api/v1/scan-lock/projects",
          failure: Failure.cases.Status.make({ status: 403 })
        })
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Layer.build(agent)
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        assert.match(report.errorMessage ?? "", /does not allow this \(403\).*ignition\/security-properties/)
        assert.isFalse(yield* exists(viewFile))
        yield* gateway.faults.clear
        yield* api.awaitReport(synced(first))
      })
    )

    test(
      "it is being commissioned beside a restarted sidecar: waits, puts back what that changes, and scans",
      Effect.gen(function* () {
        const { agent, api, gateway, read, repository, want } = yield* makePlant({ commissioning: "manual" })
        yield* gateway.awaitPhase("commissioning")
        const properties = "config/resources/core/ignition/security-properties/config.json"
        const first = yield* repository.commit({
          files: { ...view("one"), ...config("one"), [`site/${properties}`]: "{}" }
        })
        yield* want(first)
        yield* Layer.build(agent)
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
        assert.match(report.errorMessage ?? "", /waits to be commissioned/)
        assert.isEmpty(yield* gateway.scans)
        yield* gateway.commission
        yield* api.awaitReport(synced(first))
        assert.strictEqual(yield* read(properties), "{}")
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config"])
      })
    )

    test(
      "it is starting: written as to one that runs, and scanned once it does",
      Effect.gen(function* () {
        const { agent, api, gateway, read, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        yield* gateway.setPhase("starting")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Layer.build(agent)
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
        assert.match(report.errorMessage ?? "", /starting, stopping or faulted \(503\)/)
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        const { requests } = yield* gateway.counters
        assert.isAbove(requests["POST /data/api/v1/scan-lock/projects"] ?? 0, 0)
        yield* gateway.setPhase("running")
        yield* api.awaitReport(synced(first))
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects"])
      })
    )

    test(
      "its scan never ends: the report says so, and the next one counts",
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant({ deadlines: { scan: "100 millis" } })
        yield* gateway.awaitPhase("running")
        yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Layer.build(agent)
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        assert.strictEqual(report.lastScanResult, "ScanUnfinished")
        assert.match(report.errorMessage ?? "", /did not end within 100ms/)
        yield* gateway.setScanBehaviour({ _tag: "Normal" })
        yield* api.awaitReport(synced(first))
      })
    )

    test(
      "it restarts during a scan: scanned again when it is back",
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Layer.build(agent)
        yield* gateway.awaitScan(0)
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        yield* api.awaitReport(({ syncStatus }) => syncStatus !== "Synced")
        yield* gateway.setScanBehaviour({ _tag: "Normal" })
        yield* gateway.setPhase("running")
        yield* api.awaitReport(synced(first))
        assert.isAtLeast((yield* gateway.scans).length, 2)
      })
    )

    test(
      "its port is edited in the GatewaySync: followed without a restart",
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        yield* want(yield* repository.commit({ files: view("one") }))
        yield* Layer.build(agent)
        yield* api.awaitReport(({ syncStatus }) => syncStatus === "Synced")
        const second = yield* repository.commit({ files: view("two") })
        yield* want(second, {}, { gatewayPort: 1 })
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
        assert.match(report.errorMessage ?? "", /http:\/\/localhost:1: connection refused/)
        yield* want(second)
        yield* api.awaitReport(synced(second))
      })
    )
  })

  test(
    "no inventory: counts what lies below the mapped folders and is nobody's, and leaves it",
    Effect.gen(function* () {
      const { agent, api, exists, repository, want, write } = yield* makePlant({ boots: false })
      for (const file of ["projects/old/project.json", "config/old/a", "config/local/uuid", "projects/x/.gitkeep"]) {
        yield* write(file, "theirs")
      }
      yield* want(yield* repository.commit({ files: { ...view("one"), ...config("one") } }))
      yield* Layer.build(agent)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
      assert.strictEqual(report.unmanagedFiles, 2)
      assert.isTrue(yield* exists("projects/old/project.json"))
    })
  )
})
