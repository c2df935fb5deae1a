/** What goes wrong around an agent, what it says then, and that it gets there all the same. */
import { assert, describe, layer } from "@effect/vitest"
import {
  Clock,
  Context,
  Deferred,
  Effect,
  Exit,
  Fiber,
  FileSystem,
  Layer,
  Logger,
  Option,
  Redacted,
  Ref,
  Scope,
  Stream,
  SubscriptionRef
} from "effect"
import { blobId, Volume, VolumeError } from "../../src/agent/Volume.ts"
import { Failure } from "../../src/sandbox/gateway/Faults.ts"
import { filesOf, type GatewayModel } from "../../src/sandbox/gateway/GatewayModel.ts"
import { Health } from "../../src/telemetry/Health.ts"
import { fast, hasty, makeClock } from "./Clocks.ts"
import { config, kinds, makePlant, services, silent, synced, token, until, view, viewFile } from "./Plant.ts"

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
  /** Runs, once, before new contents are written beside. */
  const onStage = yield* Ref.make<Effect.Effect<void>>(Effect.void)
  /** Runs before it is read whose the volume is. */
  const onOwner = yield* Ref.make<Effect.Effect<void, VolumeError>>(Effect.void)
  /** Whether the journal can be removed. */
  const keepsJournal = yield* Ref.make(false)
  const refuse = (operation: "create" | "rename", code: string) => Ref.set(refuses, { operation, code })
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
          create: (path, content) =>
            Effect.andThen(
              path.startsWith(".stoker/staging") ? Effect.flatten(Ref.getAndSet(onStage, Effect.void)) : Effect.void,
              guarded("create", path, volume.create(path, content))
            ),
          read: (path) =>
            Effect.andThen(
              path === ".stoker/owner" ? Effect.flatten(Ref.get(onOwner)) : Effect.void,
              volume.read(path)
            ),
          replace: (path, content) =>
            Effect.tap(volume.replace(path, content), () =>
              path === ".stoker/journal.json" ? Effect.flatten(Ref.getAndSet(onJournal, Effect.void)) : Effect.void
            ),
          remove: (path) =>
            Effect.flatMap(Ref.get(keepsJournal), (keeps) =>
              keeps && path === ".stoker/journal.json"
                ? Effect.fail(new VolumeError({ operation: "delete", path, code: "EIO" }))
                : volume.remove(path)
            ),
          rename: (from, to) =>
            Effect.andThen(Effect.flatten(Ref.get(beforeRename)), guarded("rename", to, volume.rename(from, to)))
        })
      })
    ).pipe(Layer.provide(real))
  return {
    disk,
    beforeRename,
    keepsJournal,
    onJournal,
    onOwner,
    onStage,
    refuse,
    /** What has been renamed by then stays. */
    refuseSecondRename: Ref.set(
      beforeRename,
      Ref.set(beforeRename, Effect.andThen(Ref.set(beforeRename, Effect.void), refuse("rename", "EIO")))
    ),
    heal: Ref.set(refuses, undefined),
    refusals: SubscriptionRef.get(refusals),
    awaitRefusal: SubscriptionRef.changes(refusals).pipe(
      Stream.filter((count) => count > 0),
      Stream.take(1),
      Stream.runDrain
    )
  }
})

const fails = (route: string) => ({
  route: `POST /data/api/v1/${route}`,
  failure: Failure.cases.Status.make({ status: 500 })
})

/** The text of every view that the gateway works with. */
const viewsIn = (model: GatewayModel) =>
  [...filesOf(model)].flatMap(([path, { text }]) => (path.endsWith("/view.json") ? [text] : []))

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
          const { api, begin, exists, read, repository, want } = yield* makePlant({ disk })
          const first = yield* begin({ ...view("one"), ...config("one") })
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
        const { awaitRefusal, disk, heal, refuseSecondRename } = yield* makeDisk
        const { api, begin, gateway, repository, want } = yield* makePlant({ disk, scanFrequency: "10 millis" })
        yield* begin({ ...view("one"), ...config("one") })
        yield* refuseSecondRename
        const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
        yield* want(second)
        yield* awaitRefusal
        const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        assert.match(report.errorMessage ?? "", /\(EIO\)/)
        assert.isUndefined(report.syncedCommit)
        yield* heal
        yield* api.awaitReport(synced(second))
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    test(
      "in the middle of an apply, then a lock is refused: the agent itself does not ask for a scan of the middle",
      Effect.gen(function* () {
        const { beforeRename, disk, heal, refuse } = yield* makeDisk
        const { agent, api, gateway, repository, want } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const site = (text: string) => {
          const one = view(text)
          const another = Object.entries(one).map(([path, content]) => [path.replace("/main/", "/aaa/"), content])
          return { ...one, ...config(text), ...Object.fromEntries(another) }
        }
        const first = yield* repository.commit({ files: site("one") })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        const third = Effect.andThen(gateway.faults.inject(fails("scan-lock/config")), refuse("rename", "EIO"))
        yield* Ref.set(beforeRename, Ref.set(beforeRename, Ref.set(beforeRename, third)))
        const second = yield* repository.commit({ files: site("two") })
        yield* want(second)
        yield* api.awaitReport(({ errorMessage }) => /scan-lock\/config/.test(errorMessage ?? ""))
        yield* Ref.set(beforeRename, Effect.void)
        yield* heal
        yield* gateway.faults.clear
        yield* api.awaitReport(synced(second))
        for (const { model } of yield* gateway.history) {
          assert.isAtMost(new Set(viewsIn(model)).size, 1, viewsIn(model).join())
        }
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config", "projects", "config"])
      })
    )

    test(
      "that is slow: for more files the gateway is locked for longer",
      Effect.gen(function* () {
        const { beforeRename, disk } = yield* makeDisk
        const { agent, api, gateway, repository, want } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const left = yield* Ref.make(0)
        const ask = Effect.promise(async () => {
          const headers = { "x-ignition-api-token": token }
          const response = await fetch(`${gateway.url}/data/api/v1/scan-lock/config`, { headers })
          return ((await response.json()) as { readonly remaining: number }).remaining
        })
        yield* Ref.set(
          beforeRename,
          Effect.andThen(
            Ref.set(beforeRename, Effect.void),
            Effect.flatMap(ask, (remaining) => Ref.set(left, remaining))
          )
        )
        const many = Array.from({ length: 3000 }, (_, n) => [`site/config/many/${n}`, "1"])
        const first = yield* repository.commit({ files: Object.fromEntries(many) })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        assert.isAbove(yield* Ref.get(left), 75)
      })
    )

    test(
      "in the middle of an apply, and then the profile is paused: what was begun is completed",
      Effect.gen(function* () {
        const { beforeRename, disk, heal, refuse } = yield* makeDisk
        const { api, begin, gateway, read, repository, want } = yield* makePlant({ disk })
        yield* begin({ ...view("one"), ...config("one") })
        yield* Ref.set(beforeRename, Ref.set(beforeRename, refuse("rename", "EIO")))
        const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
        yield* want(second)
        yield* api.awaitReport(({ errorMessage }) => /EIO/.test(errorMessage ?? ""))
        yield* want(second, { paused: true })
        yield* Ref.set(beforeRename, Effect.void)
        yield* heal
        yield* api.awaitReport(({ paused }) => paused === true)
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    for (const restarted of [false, true]) {
      test(
        `in the middle of an apply, and it is longer refused than the lock lasts${restarted ? ", also after a restart" : ""}: locked again as that runs out`,
        Effect.gen(function* () {
          const { beforeRename, disk, heal, refusals, refuse } = yield* makeDisk
          const { agent, api, gateway, repository, want } = yield* makePlant({ disk })
          yield* gateway.awaitPhase("running")
          const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
          yield* want(first)
          const running = yield* Scope.fork(yield* Effect.scope)
          yield* Scope.provide(Layer.build(agent), running)
          yield* api.awaitReport(synced(first))
          yield* Ref.set(beforeRename, Ref.set(beforeRename, refuse("rename", "EIO")))
          const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
          yield* want(second)
          yield* until(Effect.map(refusals, (count) => count > 0))
          if (restarted) {
            yield* Scope.close(running, Exit.void)
            yield* Layer.build(Layer.fresh(agent))
          }
          // By then, what fails is tried again once a minute at most.
          const soFar = yield* refusals
          yield* until(Effect.map(refusals, (count) => count > soFar + 7))
          const expiries = Effect.map(gateway.counters, ({ lockExpiries }) => lockExpiries.projects)
          const former = yield* expiries
          const triesUntil = (next: number) =>
            Effect.andThen(until(Effect.map(expiries, (count) => count >= former + next)), refusals)
          const tries = -(yield* triesUntil(1)) + (yield* triesUntil(2))
          assert.isAtLeast(tries, 4, "while the lock lasts")
          yield* Ref.set(beforeRename, Effect.void)
          yield* heal
          yield* api.awaitReport(synced(second))
          assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
        }).pipe((effect) => Effect.flatMap(hasty, (clock) => Effect.provideService(effect, Clock.Clock, clock)))
      )
    }

    test(
      "while the lock is refused too, so that the journal cannot be taken back: it is once the disk is well, whatever is wanted then",
      Effect.gen(function* () {
        const { disk, keepsJournal, onJournal } = yield* makeDisk
        const { api, begin, exists, gateway, read, repository, want } = yield* makePlant({ disk })
        const first = yield* begin({ ...view("one"), ...config("one") })
        yield* Ref.set(onJournal, Ref.set(keepsJournal, true))
        yield* gateway.faults.inject(fails("scan-lock/*"))
        yield* want(yield* repository.commit({ files: { ...view("two"), ...config("two") } }))
        yield* api.awaitReport(({ errorMessage }) => /scan-lock/.test(errorMessage ?? ""))
        assert.include(yield* read(".stoker/journal.json"), '"Apply"')
        yield* gateway.faults.clear
        yield* Ref.set(keepsJournal, false)
        const revision = yield* want(first, { syncPeriod: 6 })
        yield* api.awaitReport(
          ({ observedRevision, syncStatus }) => observedRevision === revision && syncStatus === "Synced"
        )
        assert.isFalse(yield* exists(".stoker/journal.json"))
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )

    test(
      "in the middle of an apply, and the next commit has not got what was new: it goes",
      Effect.gen(function* () {
        const { awaitRefusal, disk, heal, refuseSecondRename } = yield* makeDisk
        const { api, begin, exists, repository, want } = yield* makePlant({ disk })
        yield* begin({ ...view("one"), ...config("one") })
        yield* refuseSecondRename
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
        // At once, while the agent may be writing into them.
        yield* fs.rename(`${dataDir}/.stoker`, `${dataDir}/../stoker.gone`)
        yield* fs.rename(`${dataDir}/projects`, `${dataDir}/../projects.gone`)
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

  describe("of the disk, between the lock and the first rename", () => {
    const owner = new VolumeError({ operation: "read", path: ".stoker/owner", code: "EIO" })
    const hindrances: ReadonlyArray<
      readonly [string, (healed: Effect.Effect<void>) => Effect.Effect<void, VolumeError>]
    > = [
      ["it cannot be read whose the volume is", () => Effect.fail(owner)],
      // The newer metadata comes right then, and cuts it.
      ["that takes long, and newer metadata comes", (healed) => healed]
    ]
    for (const [name, hindrance] of hindrances) {
      test(
        `${name}: the commit that is not wanted any more does not come, after a restart neither`,
        Effect.gen(function* () {
          const { disk, onJournal, onOwner } = yield* makeDisk
          const { agent, api, exists, gateway, probe, read, repository, want } = yield* makePlant({ disk })
          yield* gateway.awaitPhase("running")
          const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
          yield* want(first)
          yield* Effect.scoped(
            Effect.gen(function* () {
              yield* Layer.build(agent)
              yield* api.awaitReport(synced(first))
              const hindered = yield* Deferred.make<void>()
              const healed = yield* Deferred.make<void>()
              yield* Ref.set(
                onJournal,
                Ref.set(
                  onOwner,
                  Effect.andThen(Deferred.succeed(hindered, undefined), hindrance(Deferred.await(healed)))
                )
              )
              yield* want(yield* repository.commit({ files: { ...view("two"), ...config("two") } }))
              yield* Deferred.await(hindered)
              const revision = yield* want(first, { syncPeriod: 6 })
              // Others read that too: whoever came first, the one that is to write has met it now.
              yield* until(Effect.map(exists(".stoker/journal.json"), (exists) => !exists))
              yield* Ref.set(onOwner, Effect.void)
              yield* Deferred.succeed(healed, undefined)
              yield* api.awaitReport(
                ({ observedRevision, syncStatus }) => observedRevision === revision && syncStatus === "Synced"
              )
              assert.isFalse(yield* exists(".stoker/journal.json"))
              assert.isFalse(yield* exists(".stoker/staging"))
              assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config"])
            })
          )
          yield* gateway.setPhase("down")
          yield* gateway.awaitPhase("down")
          const revision = yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
          const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
          yield* probe(failing("startup"))
          const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
          assert.strictEqual(report.syncedCommit, first)
          assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        }).pipe((effect) => Effect.flatMap(hasty, (clock) => Effect.provideService(effect, Clock.Clock, clock)))
      )
    }
  })

  describe("of git", () => {
    for (const [name, next] of [
      ["the commit is the same", {}],
      ["a commit changes another file", config("two")]
    ] as const) {
      test(
        `away from a pod that is new on a volume in order, where ${name}: what is changed is put back all the same`,
        Effect.gen(function* () {
          const { agent, api, dataDir, gateway, probe, read, repository, want, write } = yield* makePlant()
          const fs = yield* FileSystem.FileSystem
          yield* gateway.awaitPhase("running")
          const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
          yield* want(first)
          yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
          yield* gateway.setPhase("down")
          yield* gateway.awaitPhase("down")
          yield* fs.remove(`${dataDir}/../repo`, { recursive: true })
          const second = Object.keys(next).length === 0 ? first : yield* repository.commit({ files: next })
          yield* want(second)
          yield* Effect.scoped(
            Effect.gen(function* () {
              const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
              yield* probe(failing("startup"))
              yield* until(fs.exists(`${dataDir}/../repo/mirror.git/stoker-needed`))
            })
          )
          yield* repository.requireLogin(Option.some({ username: "u", password: Redacted.make("p") }))
          yield* write(viewFile, "seeded")
          const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
          yield* probe(failing("startup"))
          assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        })
      )
    }
  })

  describe("of the process", () => {
    test(
      "it stands still while it stages, and another agent begins an apply: the other's journal stays",
      Effect.gen(function* () {
        const { disk, onStage } = yield* makeDisk
        const { api, begin, read, repository, want, write } = yield* makePlant({ disk })
        yield* begin(view("one"))
        const theirs = JSON.stringify({ _tag: "Scan", scans: ["config"] })
        const at = yield* Clock.currentTimeMillis
        yield* Ref.set(
          onStage,
          Effect.orDie(
            Effect.andThen(
              write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at })),
              write(".stoker/journal.json", theirs)
            )
          )
        )
        yield* want(yield* repository.commit({ files: view("two") }))
        yield* api.awaitReport(({ errorMessage }) => /agent of pod plant\/other-0/.test(errorMessage ?? ""))
        assert.strictEqual(yield* read(".stoker/journal.json"), theirs)
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      })
    )

    test(
      "killed in the middle of an apply, and another agent takes the volume while it waits to complete that: it leaves it",
      Effect.gen(function* () {
        const { awaitRefusal, disk, heal, onOwner, refuse } = yield* makeDisk
        const { agent, api, gateway, read, repository, want, write } = yield* makePlant({ disk })
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(synced(first))
            yield* refuse("rename", "EIO")
            yield* want(yield* repository.commit({ files: view("two") }))
            yield* awaitRefusal
          })
        )
        yield* heal
        const at = yield* Clock.currentTimeMillis
        const other = write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at }))
        // When it is read for the second time, for the lock was there.
        yield* write(".stoker/owner", JSON.stringify({ pod: "plant/ignition-0", uid: "pod-uid", at }))
        yield* Ref.set(onOwner, Ref.set(onOwner, Effect.orDie(other)))
        yield* Layer.build(Layer.fresh(agent))
        yield* api.awaitReport(({ errorMessage }) => /agent of pod plant\/other-0/.test(errorMessage ?? ""))
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        assert.match(yield* read(".stoker/journal.json"), /"Apply"/)
      })
    )

    test(
      "killed in the middle of an apply by the version before: the next start completes it, and owes its scans",
      Effect.gen(function* () {
        const { agent, api, gateway, read, repository, want, write } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        const thing = "config/resources/core/ignition/thing/config.json"
        const texts = { [viewFile]: '{"text":"two"}', [thing]: '{"value":"two"}' }
        const writes = Object.entries(texts).map(([path, text], index) => ({
          path,
          staged: `.stoker/staging/x/${index}`,
          file: { id: blobId(Buffer.from(text), ""), size: text.length, modified: 1 }
        }))
        // The view was renamed, the thing was not.
        yield* write(viewFile, texts[viewFile]!)
        yield* write(".stoker/staging/x/1", texts[thing]!)
        const journal = { _tag: "Apply", commit: "2", clear: [], deletes: [], scans: ["projects", "config"], writes }
        yield* write(".stoker/journal.json", JSON.stringify(journal))
        const { origin: _, ...former } = JSON.parse(yield* read(".stoker/applied.json"))
        yield* write(".stoker/applied.json", JSON.stringify({ ...former, commit: first }))
        const revision = yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(Layer.fresh(agent))
            const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
            assert.isUndefined(report.syncedCommit)
            assert.strictEqual(yield* read(thing), '{"value":"two"}')
          })
        )
        const second = yield* repository.commit({ files: { ...view("two"), ...config("two") } })
        yield* want(second)
        yield* Layer.build(Layer.fresh(agent))
        yield* api.awaitReport(synced(second))
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config", "projects", "config"])
        assert.deepStrictEqual(viewsIn(yield* gateway.model), [texts[viewFile]])
      })
    )

    test(
      "its journal cannot be read: no commit is claimed, and everything scanned once it was compared",
      Effect.gen(function* () {
        const { agent, api, gateway, read, repository, want, write } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        yield* write(".stoker/journal.json", '{"_tag":"Apply","of":"a later version"}')
        yield* write(viewFile, '{"text":"half"}')
        const revision = yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(Layer.fresh(agent))
            const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
            assert.isUndefined(report.syncedCommit)
          })
        )
        yield* want(first)
        yield* Layer.build(Layer.fresh(agent))
        yield* api.awaitReport(synced(first))
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config", "projects", "config"])
      })
    )

    test(
      "the version before left a volume in order: the gateway may start with it while git is away, and no commit is claimed",
      Effect.gen(function* () {
        const { agent, api, gateway, probe, read, repository, want, write } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        const { origin: _, ...former } = JSON.parse(yield* read(".stoker/applied.json"))
        yield* write(".stoker/applied.json", JSON.stringify({ ...former, commit: first }))
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        const revision = yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
        const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
        yield* probe(failing("startup"))
        const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
        assert.isUndefined(report.syncedCommit)
        // Compared, it is this GatewaySync's.
        yield* want(first)
        yield* until(Effect.map(read(".stoker/applied.json"), (text) => text.includes('"cr":"site"')))
      })
    )

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
        const { api, begin, read, repository, want, write } = yield* makePlant({ disk })
        yield* begin(view("one"))
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
      "another agent has the volume for a while and changes a file: compared with the disk when it is ours again",
      Effect.gen(function* () {
        const { api, begin, read, repository, want, write } = yield* makePlant()
        yield* begin({ ...view("one"), ...config("one") })
        const at = yield* Clock.currentTimeMillis
        const other = (at: number) => write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at }))
        yield* other(at)
        yield* write(viewFile, '{"text":"theirs"}')
        const second = yield* repository.commit({ files: config("two") })
        yield* want(second)
        yield* api.awaitReport(({ errorMessage }) =>
          /in use by the agent of pod plant\/other-0/.test(errorMessage ?? "")
        )
        yield* other(at - 31_000)
        yield* api.awaitReport(synced(second))
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      })
    )

    test(
      "it starts while the API server is away for a moment: the gateway is not let start with what the volume keeps",
      Effect.gen(function* () {
        const { agent, api, gateway, probe, read, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        assert.include(yield* read(".stoker/applied.json"), first)
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        yield* want(yield* repository.commit({ files: view("two") }))
        yield* api.setAway(true)
        const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
        yield* api.awaitRefusal
        yield* api.setAway(false)
        yield* probe(failing("startup"))
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      })
    )

    test(
      "the same trouble comes again: logged once each time, not with each try",
      Effect.gen(function* () {
        const logged: Array<unknown> = []
        const { api, begin, gateway, repository, want } = yield* makePlant()
        yield* Effect.gen(function* () {
          yield* begin(view("0"))
          for (const time of [1, 2]) {
            yield* gateway.faults.inject(fails("scan-lock/*"))
            const commit = yield* repository.commit({ files: view(String(time)) })
            const tries = Effect.map(
              gateway.counters,
              ({ requests }) => requests["POST /data/api/v1/scan-lock/projects"] ?? 0
            )
            const former = yield* tries
            yield* want(commit)
            yield* until(Effect.map(tries, (count) => count > former + 3))
            yield* gateway.faults.clear
            yield* api.awaitReport(synced(commit))
            assert.lengthOf(
              logged.filter((message) => String(message).includes("scan-lock")),
              time
            )
          }
        }).pipe(Effect.provide(Logger.layer([Logger.make(({ message }) => void logged.push(message))])))
      }).pipe((effect) => Effect.flatMap(hasty, (clock) => Effect.provideService(effect, Clock.Clock, clock)))
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
        yield* gateway.faults.inject(fails("scan/projects"))
        const first = yield* repository.commit({ files: { ...view("one") } })
        yield* want(first)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(agent)
            yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
            yield* gateway.faults.inject(fails("scan-lock/*"))
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

    for (const [name, data, profile] of [
      ["is refused", {}, { mappings: [{ source: "site/config", destination: "config", template: true }] }],
      ["cannot be had", { gitURL: "http://127.0.0.1:1/none.git" }, {}]
    ] as const) {
      test(
        `its scan fails, and the next commit ${name}: scanned all the same, and reported`,
        Effect.gen(function* () {
          const { agent, api, gateway, repository, want } = yield* makePlant()
          yield* gateway.awaitPhase("running")
          yield* gateway.faults.inject(fails("scan/config"))
          const first = yield* repository.commit({ files: config("one") })
          yield* want(first)
          yield* Layer.build(agent)
          const failed = yield* api.awaitReport(({ errorMessage }) => /scan\/config/.test(errorMessage ?? ""))
          assert.isUndefined(failed.syncedCommit)
          const revision = yield* want("1".repeat(40), profile, data)
          const next = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
          assert.isUndefined(next.syncedCommit)
          assert.notInclude(next.errorMessage, "has the files of")
          yield* gateway.faults.clear
          const report = yield* api.awaitReport(({ syncedCommit }) => syncedCommit === first)
          assert.strictEqual(report.syncStatus, "Error")
          assert.include(report.errorMessage, `until then the gateway has the files of ${first.slice(0, 7)}`)
          assert.deepStrictEqual(kinds(yield* gateway.scans), ["config"])
        })
      )
    }

    test(
      "it has the one lock for a while only when the other comes: that is taken anew before files change",
      Effect.gen(function* () {
        const { beforeRename, disk, onJournal } = yield* makeDisk
        const { agent, api, gateway, repository, want } = yield* makePlant({
          disk,
          deadlines: { request: "5 minutes" }
        })
        yield* gateway.awaitPhase("running")
        const remaining: Array<number> = []
        const lock = (kind: string, init: RequestInit = {}) =>
          Effect.promise(async () => {
            const headers = { "x-ignition-api-token": token, "content-type": "application/json" }
            const response = await fetch(`${gateway.url}/data/api/v1/scan-lock/${kind}`, { headers, ...init })
            return ((await response.json()) as { readonly remaining: number }).remaining
          })
        const take = (kind: string, holdTimeout: number) =>
          lock(kind, { method: "POST", body: JSON.stringify({ acquireTimeout: 1, holdTimeout }) })
        // As a process that was killed has left them: enough of the first, but not when the second one ends.
        yield* Ref.set(onJournal, Effect.andThen(take("projects", 28), take("config", 14)))
        const look = Effect.map(lock("projects"), (seconds) => void remaining.push(seconds))
        yield* Ref.set(beforeRename, Effect.andThen(Ref.set(beforeRename, Effect.void), look))
        const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
        yield* want(first)
        yield* Layer.build(agent)
        yield* api.awaitReport(synced(first))
        assert.isAbove(remaining[0]!, 30)
      }).pipe((effect) => Effect.flatMap(fast, (clock) => Effect.provideService(effect, Clock.Clock, clock)))
    )

    test(
      "it locks one kind of scan and not the other: the first lock is given back, and nothing written",
      Effect.gen(function* () {
        const { agent, api, exists, gateway, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        yield* gateway.faults.inject(fails("scan-lock/config"))
        yield* want(yield* repository.commit({ files: { ...view("one"), ...config("one") } }))
        yield* Layer.build(agent)
        yield* api.awaitReport(({ errorMessage }) => /scan-lock\/config/.test(errorMessage ?? ""))
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects"])
        assert.isFalse(yield* exists(viewFile))
      })
    )

    test(
      "its scan takes long, and newer metadata comes: that does not wait for it",
      Effect.gen(function* () {
        const { agent, api, gateway, read, repository, want } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        // Longer than a test, by the clock of the gateway too.
        yield* gateway.faults.inject({
          route: "GET /data/api/v1/scan/projects",
          failure: Failure.cases.Silence.make({}),
          times: 1
        })
        yield* want(yield* repository.commit({ files: view("one") }))
        yield* Layer.build(agent)
        yield* until(
          Effect.map(gateway.counters, ({ requests }) => (requests["GET /data/api/v1/scan/projects"] ?? 0) > 0)
        )
        const second = yield* repository.commit({ files: view("two") })
        yield* want(second)
        yield* api.awaitReport(synced(second))
        assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
        assert.isFalse((yield* api.reports).some(({ syncStatus }) => syncStatus === "Error"))
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

    for (const [how, failures] of [
      ["sends everyone to its set-up pages", []],
      ["answers 400", [Failure.cases.Status.make({ status: 400 })]]
    ] as const)
      test(
        `it is being commissioned beside a restarted sidecar, and ${how}: waits, puts back what that changes, and scans`,
        Effect.gen(function* () {
          const { agent, api, gateway, read, repository, want } = yield* makePlant({ commissioning: "manual" })
          yield* gateway.awaitPhase("commissioning")
          for (const failure of failures) yield* gateway.faults.inject({ route: "POST /data/api/v1/*", failure })
          const properties = "config/resources/core/ignition/security-properties/config.json"
          const first = yield* repository.commit({
            files: { ...view("one"), ...config("one"), [`site/${properties}`]: "{}" }
          })
          yield* want(first)
          yield* Layer.build(agent)
          const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
          assert.match(report.errorMessage ?? "", /waits to be commissioned/)
          assert.isEmpty(yield* gateway.scans)
          yield* gateway.faults.clear
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
