/** What was begun is completed, and what is owed is made, whatever is wanted by then and whatever can be had. */
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Layer, Redacted, Ref, type Scope, SubscriptionRef } from "effect"
import { VolumeError } from "../../src/agent/Volume.ts"
import * as ApiToken from "../../src/ignition/ApiToken.ts"
import { GatewayClient } from "../../src/ignition/GatewayClient.ts"
import { Failure } from "../../src/sandbox/gateway/Faults.ts"
import {
  config,
  hooked,
  kinds,
  makePlant,
  services,
  silent,
  synced,
  token,
  until,
  view,
  viewFile,
  views,
  viewTexts
} from "./Plant.ts"

const other = "other:secret"
const status = (code: number) => Failure.cases.Status.make({ status: code })

/** An agent whose first commit, which touches the configuration alone, is on the disk, and whose scan the gateway refuses. */
const makeOwing = Effect.fnUntraced(function* (options: Parameters<typeof makePlant>[0] = {}) {
  const plant = yield* makePlant(options)
  yield* plant.gateway.awaitPhase("running")
  yield* plant.gateway.faults.inject({ route: "POST /data/api/v1/scan/config", failure: status(500) })
  const first = yield* plant.repository.commit({ files: config("one") })
  yield* plant.want(first)
  yield* Layer.build(plant.agent)
  yield* plant.api.awaitReport(({ errorMessage }) => /scan\/config/.test(errorMessage ?? ""))
  return { ...plant, first }
})

layer(services, { excludeTestServices: true })("An agent", (it) => {
  const test = (name: string, body: Effect.Effect<void, unknown, Layer.Success<typeof services> | Scope.Scope>) =>
    it.effect(name, () => Effect.provide(body, silent))

  for (const [name, next] of [
    ["is deleted", undefined],
    ["cannot be read", {}]
  ] as const) {
    test(
      `halfway through a commit when the metadata ${name}: completes it, and no scan reads the middle`,
      Effect.gen(function* () {
        const refuses = yield* Ref.make(false)
        const disk = hooked((volume) => ({
          rename: (from, to) =>
            Effect.flatMap(Ref.get(refuses), (refuses) =>
              refuses && to.includes("/main/")
                ? Effect.fail(new VolumeError({ operation: "rename to", path: to, code: "EIO" }))
                : volume.rename(from, to)
            )
        }))
        const { api, begin, gateway, read, repository, want } = yield* makePlant({ disk, scanFrequency: "50 millis" })
        yield* begin(views("one"))
        yield* Ref.set(refuses, true)
        yield* want(yield* repository.commit({ files: views("two") }))
        yield* api.awaitReport(({ errorMessage }) => /EIO/.test(errorMessage ?? ""))
        yield* SubscriptionRef.set(api.metadata, next)
        const report = yield* api.awaitReport(({ errorMessage }) =>
          /no metadata|cannot be read/.test(errorMessage ?? "")
        )
        assert.match(report.errorMessage ?? "", /Besides, .*EIO/)
        assert.isUndefined(report.syncedCommit)
        yield* Ref.set(refuses, false)
        yield* until(Effect.map(read(viewFile), (text) => text === '{"text":"two"}'))
        // The scan that is owed frees the lock.
        yield* gateway.awaitScan(1)
        yield* gateway.awaitHistory((history) => history.some(({ model }) => viewTexts(model).has('{"text":"two"}')))
        for (const { model } of yield* gateway.history) {
          assert.isAtMost(viewTexts(model).size, 1, [...viewTexts(model)].join())
        }
        assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
      })
    )
  }

  for (const code of [409, 500]) {
    test(
      `that owes a scan makes it while the next commit's lock is refused (${code})`,
      Effect.gen(function* () {
        const { api, first, gateway, repository, want } = yield* makeOwing()
        yield* gateway.faults.clear
        yield* gateway.faults.inject({ route: "POST /data/api/v1/scan-lock/projects", failure: status(code) })
        yield* want(yield* repository.commit({ files: view("two") }))
        const report = yield* api.awaitReport(({ syncedCommit }) => syncedCommit === first)
        assert.match(report.errorMessage ?? "", /scan-lock\/projects/)
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["config"])
      })
    )
  }

  for (const [name, expected] of [
    ["metadata is gone", /no metadata/],
    ["profile is gone", /no profile/]
  ] as const) {
    test(
      `that owes a scan makes it though the ${name}, and says what keeps it from that`,
      Effect.gen(function* () {
        const { api, first, gateway, want } = yield* makeOwing()
        yield* name === "metadata is gone"
          ? SubscriptionRef.set(api.metadata, undefined)
          : want(first, {}, { profiles: {} })
        const report = yield* api.awaitReport(({ errorMessage }) => expected.test(errorMessage ?? ""))
        assert.match(report.errorMessage ?? "", /Besides, .*scan\/config/)
        assert.isUndefined(report.syncedCommit)
        // Not by the half minute after which it looks for the metadata again: that is longer than a test.
        const tries = Effect.map(gateway.counters, ({ requests }) => requests["POST /data/api/v1/scan/config"] ?? 0)
        const before = yield* tries
        yield* until(Effect.map(tries, (tries) => tries >= before + (name === "metadata is gone" ? 2 : 0)))
        yield* gateway.faults.clear
        const made = yield* api.awaitReport(({ syncedCommit }) => syncedCommit === first)
        assert.match(made.errorMessage ?? "", expected)
        assert.notInclude(made.errorMessage, "Besides")
        assert.deepStrictEqual(kinds(yield* gateway.scans), ["config"])
      })
    )
  }

  for (const next of ["one", "two"]) {
    test(
      `that owes a scan leaves alone what somebody else has locked, until he is done; then "${next}" is wanted`,
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant({ tokens: [token, other] })
        yield* gateway.awaitPhase("running")
        // Without a lock of ours in the way of his.
        yield* gateway.faults.inject({ route: "POST /data/api/v1/scan-lock/config", failure: status(404) })
        yield* gateway.faults.inject({ route: "POST /data/api/v1/scan/config", failure: status(500) })
        yield* want(yield* repository.commit({ files: config("one") }))
        yield* Layer.build(agent)
        yield* api.awaitReport(({ errorMessage }) => /scan\/config/.test(errorMessage ?? ""))
        const his = Context.get(
          yield* Layer.build(
            GatewayClient.layer({ url: Effect.succeed(gateway.url), token: ApiToken.parse(Redacted.make(other)) })
          ),
          GatewayClient
        )
        yield* gateway.faults.clear
        yield* gateway.faults.inject({ route: "POST /data/api/v1/scan/config", failure: status(500) })
        yield* his.acquireScanLock("config", { acquireTimeout: "10 seconds", holdTimeout: "60 seconds" })
        yield* gateway.faults.clear
        const commit = yield* repository.commit({ files: config(next) })
        yield* want(commit)
        // Each time it is refused it comes again, and each time it could free his lock.
        yield* api.awaitReport(({ errorMessage }) => /other/.test(errorMessage ?? ""))
        const asked = Effect.map(gateway.counters, ({ requests }) => requests["GET /data/api/v1/scan-lock/config"] ?? 0)
        const before = yield* asked
        yield* until(Effect.map(asked, (count) => count >= before + (next === "two" ? 2 : 1)))
        assert.deepStrictEqual(kinds(yield* gateway.scans), [])
        yield* his.requestScan("config")
        yield* api.awaitReport(synced(commit))
      })
    )
  }

  test(
    "that owes a scan counts in a dry run all the same",
    Effect.gen(function* () {
      const { api, gateway, repository, want } = yield* makeOwing()
      yield* want(yield* repository.commit({ files: config("two") }), { dryRun: true })
      const report = yield* api.awaitReport(({ dryRun }) => dryRun === true)
      assert.strictEqual(report.dryRunDiffModified, 1)
      assert.deepStrictEqual(kinds(yield* gateway.scans), [])
      yield* gateway.faults.clear
      yield* want(yield* repository.commit({ files: config("three") }), { dryRun: true })
      yield* gateway.awaitScan(0)
    })
  )

  test(
    "that owes a scan makes none while it is paused",
    Effect.gen(function* () {
      const { api, first, gateway, want } = yield* makeOwing()
      yield* gateway.faults.clear
      // When the second has been answered, all that follows from the first is over.
      for (const syncPeriod of [5, 6]) {
        const revision = yield* want(first, { paused: true, syncPeriod })
        const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
        assert.isUndefined(report.syncedCommit)
      }
      assert.deepStrictEqual(kinds(yield* gateway.scans), [])
      yield* want(first)
      yield* api.awaitReport(synced(first))
    })
  )
})
