/** Beside a gateway that starts: it reads its files then, and no lock keeps it from that. */
import { assert, layer } from "@effect/vitest"
import { Clock, Effect, Layer, Ref, type Scope } from "effect"
import { VolumeError } from "../../src/agent/Volume.ts"
import { makeClock } from "./Clocks.ts"
import { hooked, makePlant, services, silent, synced, until, view, viewFile, views, viewTexts } from "./Plant.ts"

layer(services, { excludeTestServices: true })("Beside a gateway that starts", (it) => {
  const test = (name: string, body: Effect.Effect<void, unknown, Layer.Success<typeof services> | Scope.Scope>) =>
    it.effect(name, () => Effect.provide(body, silent))

  test(
    "a new commit waits until it runs: it reads no mix of two",
    Effect.gen(function* () {
      const runs = yield* Ref.make<Effect.Effect<void>>(Effect.void)
      // Its files are read between the first rename and the second, if it starts by then.
      const disk = hooked((volume) => ({
        rename: (from, to) =>
          Effect.andThen(
            to.includes("/main/") ? Effect.flatten(Ref.getAndSet(runs, Effect.void)) : Effect.void,
            volume.rename(from, to)
          )
      }))
      const { api, begin, gateway, repository, want } = yield* makePlant({ disk, startupTime: "3 seconds" })
      const first = yield* begin(views("one"))
      const second = yield* repository.commit({ files: views("two") })
      yield* Ref.set(runs, gateway.awaitPhase("running"))
      yield* gateway.setPhase("down")
      yield* gateway.awaitPhase("down")
      yield* gateway.setPhase("starting")
      yield* gateway.awaitPhase("starting")
      yield* want(second)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus !== "Synced")
      assert.strictEqual(report.syncStatus, "Pending")
      assert.strictEqual(report.syncedCommit, first)
      assert.include(report.errorMessage, `files of two commits: ${second.slice(0, 7)} waits until it runs`)
      yield* api.awaitReport(synced(second))
      for (const { model } of yield* gateway.history) {
        assert.isAtMost(viewTexts(model).size, 1, [...viewTexts(model)].join())
      }
      assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
    })
  )

  test(
    "a new commit waits for 5 minutes, also where there is a newer one by then",
    Effect.gen(function* () {
      const { clock, set } = yield* makeClock
      yield* Effect.gen(function* () {
        const { api, begin, gateway, read, repository, want } = yield* makePlant()
        yield* begin(view("one"))
        yield* gateway.setPhase("starting")
        for (const [text, minutes] of [
          ["two", 3],
          ["three", 6]
        ] as const) {
          const commit = yield* repository.commit({ files: view(text) })
          yield* want(commit)
          yield* api.awaitReport(({ errorMessage }) => errorMessage?.includes(`${commit.slice(0, 7)} waits`) === true)
          assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
          yield* set({ wall: 0, monotonic: minutes * 60_000 })
        }
        yield* until(Effect.map(read(viewFile), (text) => text === '{"text":"three"}'))
      }).pipe(Effect.provideService(Clock.Clock, clock))
    })
  )

  for (const [how, allowMassDeletion, keeps] of [
    ["", undefined, true],
    [", though something else is asked besides", "2".repeat(40), true],
    [", also where the version before had brought it", undefined, false]
  ] as const) {
    test(
      `the commit that the volume holds is put back at once${how}`,
      Effect.gen(function* () {
        const { agent, api, gateway, read, repository, want, write } = yield* makePlant()
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        if (!keeps) {
          const { origin, ...inventory } = JSON.parse(yield* read(".stoker/applied.json"))
          yield* write(
            ".stoker/applied.json",
            JSON.stringify({ ...inventory, origin: { ...origin, metadata: undefined } })
          )
        }
        if (allowMassDeletion !== undefined) yield* want(first, {}, { allowMassDeletion })
        yield* gateway.setPhase("starting")
        yield* write(viewFile, "seeded")
        yield* Layer.build(Layer.fresh(agent))
        yield* until(Effect.map(read(viewFile), (text) => text === '{"text":"one"}'))
        assert.strictEqual(yield* gateway.phase, "starting")
      })
    )
  }

  test(
    "the 5 minutes go on while a commit cannot be had, and while the disk refuses",
    Effect.gen(function* () {
      const { clock, set } = yield* makeClock
      const refuses = yield* Ref.make(false)
      const disk = hooked((volume) => ({
        create: (path, content) =>
          Effect.flatMap(Ref.getAndSet(refuses, false), (refuses) =>
            refuses
              ? Effect.fail(new VolumeError({ operation: "write", path, code: "ENOSPC" }))
              : volume.create(path, content)
          )
      }))
      yield* Effect.gen(function* () {
        const { api, begin, gateway, read, repository, want } = yield* makePlant({ disk })
        yield* begin(view("one"))
        yield* gateway.setPhase("starting")
        const held = (commit: string) =>
          api.awaitReport(({ errorMessage }) => errorMessage?.includes(`${commit.slice(0, 7)} waits`) === true)
        const second = yield* repository.commit({ files: view("two") })
        yield* want(second)
        yield* held(second)
        yield* set({ wall: 0, monotonic: 3 * 60_000 })
        const revision = yield* want("1".repeat(40))
        yield* api.awaitReport(
          ({ observedRevision, syncStatus }) => observedRevision === revision && syncStatus === "Error"
        )
        const third = yield* repository.commit({ files: view("three") })
        yield* want(third)
        yield* held(third)
        yield* Ref.set(refuses, true)
        yield* set({ wall: 0, monotonic: 6 * 60_000 })
        yield* api.awaitReport(({ errorMessage }) => /ENOSPC/.test(errorMessage ?? ""))
        yield* until(Effect.map(read(viewFile), (text) => text === '{"text":"three"}'))
      }).pipe(Effect.provideService(Clock.Clock, clock))
    })
  )
})
