/** Another pod's agent comes to the volume while ours works: what that does there is its own. */
import { assert, layer } from "@effect/vitest"
import { Clock, Effect, Layer, Ref, type Scope } from "effect"
import type { Volume, VolumeError } from "../../src/agent/Volume.ts"
import { Failure } from "../../src/sandbox/gateway/Faults.ts"
import { hooked, makePlant, services, silent, synced, until, view, viewFile } from "./Plant.ts"

const isTold = ({ errorMessage }: { readonly errorMessage?: string | undefined }) =>
  /in use by the agent of pod plant\/other-0/.test(errorMessage ?? "")
const mark = (at: number) => JSON.stringify({ pod: "plant/other-0", uid: "other", at })

/** A disk on which another pod takes the volume, and writes a file of `.stoker`, when ours looks at the view. */
const makeDisk = Effect.gen(function* () {
  const theirs = yield* Ref.make<Readonly<Record<string, string>>>({})
  const write = Effect.fnUntraced(function* (volume: (typeof Volume)["Service"]) {
    const files = yield* Ref.getAndSet(theirs, {})
    for (const [path, text] of Object.entries(files)) yield* volume.replace(path, text)
  })
  const disk = hooked((volume) => ({
    look: (paths) =>
      Effect.andThen(
        paths.includes(viewFile) ? write(volume) : (Effect.void as Effect.Effect<void, VolumeError>),
        volume.look(paths)
      )
  }))
  return { disk, onLook: (files: Readonly<Record<string, string>>) => Ref.set(theirs, files) }
})

layer(services, { excludeTestServices: true })("While another pod has the volume", (it) => {
  const test = (name: string, body: Effect.Effect<void, unknown, Layer.Success<typeof services> | Scope.Scope>) =>
    it.effect(name, () => Effect.provide(body, silent))

  test(
    "one that stood still while it compared does not replace the inventory",
    Effect.gen(function* () {
      const { disk, onLook } = yield* makeDisk
      const { agent, api, gateway, read, repository, want, write } = yield* makePlant({ disk })
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
      // The same content, of another time: the inventory is to learn that.
      yield* write(viewFile, '{"text":"one"}')
      const inventory = '{"version":1,"files":{}}'
      yield* onLook({ ".stoker/owner": mark(yield* Clock.currentTimeMillis), ".stoker/applied.json": inventory })
      yield* Layer.build(Layer.fresh(agent))
      yield* api.awaitReport(isTold)
      assert.strictEqual(yield* read(".stoker/applied.json"), inventory)
    })
  )

  for (const when of ["of its commit", "that was owed"] as const) {
    test(
      `one that stood still in the scan ${when} does not remove the journal`,
      Effect.gen(function* () {
        const { api, begin, gateway, read, repository, want, write } = yield* makePlant()
        yield* begin(view("one"))
        const scan = "POST /data/api/v1/scan/projects"
        const second = yield* repository.commit({ files: view("two") })
        if (when === "that was owed") {
          yield* gateway.faults.inject({ route: scan, failure: Failure.cases.Status.make({ status: 500 }) })
          yield* want(second)
          yield* api.awaitReport(({ errorMessage }) => /scan\/projects/.test(errorMessage ?? ""))
          yield* gateway.faults.clear
        }
        const before = (yield* gateway.counters).requests[scan] ?? 0
        yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
        const nowhere = { gitURL: "http://127.0.0.1:1/none.git" }
        yield* when === "that was owed" ? want("1".repeat(40), {}, nowhere) : want(second)
        yield* until(Effect.map(gateway.counters, ({ requests }) => (requests[scan] ?? 0) > before))
        yield* until(Effect.map(read(".stoker/journal.json"), (text) => text.includes('"Scan"')))
        const journal = JSON.stringify({ _tag: "Scan", scans: ["config"] })
        yield* write(".stoker/owner", mark(yield* Clock.currentTimeMillis))
        yield* write(".stoker/journal.json", journal)
        yield* gateway.setScanBehaviour({ _tag: "Normal" })
        yield* api.awaitReport(isTold)
        assert.strictEqual(yield* read(".stoker/journal.json"), journal)
      })
    )
  }

  test(
    "no commit is claimed, and once it is gone everything is compared with the disk",
    Effect.gen(function* () {
      const { api, begin, read, repository, want, write } = yield* makePlant()
      yield* begin({ ...view("one"), "site/projects/line/other.bin": "ours" })
      const at = yield* Clock.currentTimeMillis
      yield* write(".stoker/owner", mark(at))
      yield* write("projects/line/other.bin", "theirs")
      const second = yield* repository.commit({ files: view("two") })
      yield* want(second)
      const report = yield* api.awaitReport(isTold)
      assert.isUndefined(report.syncedCommit)
      assert.notInclude(report.errorMessage, "until then")
      assert.strictEqual(yield* read("projects/line/other.bin"), "theirs")
      yield* write(".stoker/owner", mark(at - 31_000))
      yield* api.awaitReport(synced(second))
      assert.strictEqual(yield* read("projects/line/other.bin"), "ours")
    })
  )
})
