/** The agent as a whole, from the metadata to the gateway's scan. */
import { assert, it, layer } from "@effect/vitest"
import {
  Clock,
  Context,
  Duration,
  Effect,
  FileSystem,
  Layer,
  Option,
  Redacted,
  type Scope,
  SubscriptionRef
} from "effect"
import { backoff, superseding } from "../../src/agent/Agent.ts"
import * as GatewayStatus from "../../src/api/GatewayStatus.ts"
import { Failure } from "../../src/sandbox/gateway/Faults.ts"
import * as Seed from "../../src/sandbox/gateway/Seed.ts"
import { Health } from "../../src/telemetry/Health.ts"
import { config, effective, kinds, makePlant, services, silent, synced, until, view, viewFile } from "./Plant.ts"

it("tries again after a second, doubling to a minute, however often it failed", () => {
  const pauses = [0, 1, 2, 5, 6, 30, 1000].map((failures) => Duration.toMillis(backoff(failures, 0)))
  assert.deepStrictEqual(pauses, [1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000])
  assert.strictEqual(Duration.toMillis(backoff(0, 1)), 1250)
})

it("lets newer metadata cut it short, later each time that it did so in a row", () => {
  const times = [0, 1, 2, 6, 7, 1000].map((inARow) => Duration.toSeconds(superseding(inARow)))
  assert.deepStrictEqual(times, [5, 10, 20, 320, 600, 600])
})

layer(services, { excludeTestServices: true })("Agent", (it) => {
  const test = (name: string, body: Effect.Effect<void, unknown, Layer.Success<typeof services> | Scope.Scope>) =>
    it.effect(name, () => Effect.provide(body, silent))

  test(
    "brings a commit to a running gateway, then the next, and scans only what changed",
    Effect.gen(function* () {
      const { agent, api, gateway, read, repository, want } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
      const revision = yield* want(first)
      yield* Layer.build(agent)

      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Synced")
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      assert.deepInclude(report, {
        syncedCommit: first,
        syncedRef: "main",
        filesChanged: 6,
        projectsSynced: ["line"],
        observedRevision: revision,
        podUID: "pod-uid",
        lastScanResult: "ok",
        profileName: "default"
      })
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config"])

      const second = yield* repository.commit({ files: view("two") })
      yield* want(second)
      yield* api.awaitReport(synced(second))
      assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config", "projects"])
      assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
    })
  )

  test(
    "moves to a commit that changes nothing of this gateway without a write, a lock or a scan",
    Effect.gen(function* () {
      const { agent, api, dataDir, gateway, read, repository, want } = yield* makePlant()
      const fs = yield* FileSystem.FileSystem
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: { ...view("one"), "elsewhere/a": "1" } })
      const trace = (id: string) => ({ traceparent: `00-${id.repeat(32)}-b7ad6b7169203331-01` })
      yield* want(first, {}, trace("1"))
      yield* Layer.build(agent)
      yield* api.awaitReport(synced(first))
      /** Everything in the data directory, folders too, but the mark that is renewed every few seconds. */
      const written = Effect.gen(function* () {
        const names = yield* fs.readDirectory(dataDir, { recursive: true })
        const stats = yield* Effect.forEach(
          names.filter((name) => !/^\.stoker(\/owner.*)?$/.test(name)).sort(),
          (name) => Effect.map(fs.stat(`${dataDir}/${name}`), ({ ino, mtime }) => ({ name, ino, mtime }))
        )
        return stats
      })
      const before = yield* gateway.counters
      const disk = yield* written
      let last = first
      // When the third has been answered, all that follows from the second is over.
      for (const text of ["2", "3"]) {
        last = yield* repository.commit({ files: { "elsewhere/a": text } })
        yield* want(last, {}, trace(text))
        assert.strictEqual((yield* api.awaitReport(synced(last))).filesChanged, 0)
      }
      assert.deepStrictEqual((yield* gateway.counters).requests, before.requests)
      assert.deepStrictEqual(yield* written, disk)
      // What else is in the metadata is kept all the same, with the commit that came with it.
      const inventory = read(".stoker/applied.json")
      assert.include(yield* inventory, first)
      yield* want(last, { syncPeriod: 7 })
      yield* until(Effect.map(inventory, (text) => text.includes('\\"syncPeriod\\":7')))
      assert.include(yield* inventory, last)
      assert.notInclude(yield* inventory, first)
    })
  )

  test(
    "continues the trace of the metadata up to the gateway",
    Effect.gen(function* () {
      const { agent, gateway, repository, want } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      const trace = "0af7651916cd43dd8448eb211c80319c"
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first, {}, { traceparent: `00-${trace}-b7ad6b7169203331-01` })
      yield* Layer.build(agent)
      assert.strictEqual((yield* gateway.awaitScan(0)).traceparent?.split("-")[1], trace)
    })
  )

  test(
    "overwrites what somebody changed on the gateway only where the commit changes it too",
    Effect.gen(function* () {
      const { api, begin, read, repository, want, write } = yield* makePlant()
      yield* begin({ ...view("one"), ...config("one") })
      const thing = "config/resources/core/ignition/thing/config.json"
      yield* write(viewFile, '{"text":"edited"}')
      yield* write(thing, '{"value":"edited"}')
      const second = yield* repository.commit({ files: view("two") })
      yield* want(second)
      yield* api.awaitReport(synced(second))
      assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      assert.strictEqual(yield* read(thing), '{"value":"edited"}')
    })
  )

  test(
    "writes nothing while another pod's agent has the volume, and names it",
    Effect.gen(function* () {
      const { agent, api, exists, gateway, repository, want, write } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      const now = yield* Clock.currentTimeMillis
      yield* write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at: now }))
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Layer.build(agent)
          const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
          assert.match(report.errorMessage ?? "", /in use by the agent of pod plant\/other-0/)
          assert.isFalse(yield* exists(viewFile))
          // Silent for longer than it may be.
          yield* write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at: now - 31_000 }))
          yield* api.awaitReport(synced(first))
        })
      )
      assert.isFalse(yield* exists(".stoker/owner"))
    })
  )

  test(
    "leaves another pod's agent what that keeps on the volume, once it has taken it over",
    Effect.gen(function* () {
      const { api, begin, read, repository, want, write } = yield* makePlant()
      yield* begin(view("one"))
      const at = yield* Clock.currentTimeMillis
      yield* write(".stoker/owner", JSON.stringify({ pod: "plant/other-0", uid: "other", at }))
      yield* write(".stoker/applied.json", "theirs")
      // When the second has been answered, all that follows from the first is over.
      for (const text of ["two", "three"]) {
        const revision = yield* want(yield* repository.commit({ files: view(text) }))
        const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
        assert.match(report.errorMessage ?? "", /in use by the agent of pod plant\/other-0/)
      }
      assert.strictEqual(yield* read(".stoker/applied.json"), "theirs")
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
    })
  )

  test(
    "deletes what left the repository and leaves what it did not write",
    Effect.gen(function* () {
      const { agent, api, exists, read, repository, want, write } = yield* makePlant()
      yield* write("projects/theirs/project.json", "theirs")
      yield* write("config/local/uuid", "theirs")
      const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
      yield* want(first)
      yield* Layer.build(agent)
      yield* api.awaitReport(synced(first))
      const gone = Object.fromEntries(Object.keys(view("one")).map((path) => [path, null]))
      const second = yield* repository.commit({ files: gone })
      yield* want(second)
      yield* api.awaitReport(synced(second))
      assert.isFalse(yield* exists("projects/line"))
      assert.strictEqual(yield* read("projects/theirs/project.json"), "theirs")
      assert.strictEqual(yield* read("config/local/uuid"), "theirs")
    })
  )

  test(
    "puts the files there before the gateway starts, puts back what seeding and commissioning change, then scans",
    Effect.gen(function* () {
      const { agent, api, gateway, probe, read, repository, want } = yield* makePlant({
        boots: false,
        seed: "chart",
        seedFiles: { ...Seed.minimal, "config/resources/core/ignition/thing/config.json": "seed" },
        commissioning: "automatic",
        startupTime: "50 millis"
      })
      const properties = "config/resources/core/ignition/security-properties/config.json"
      const first = yield* repository.commit({
        files: { ...view("one"), ...config("one"), [`site/${properties}`]: "{}" }
      })
      const context = yield* Layer.build(agent)
      const { failing } = Context.get(context, Health)
      assert.isNotEmpty(yield* failing("startup"))
      yield* want(first)
      yield* probe(failing("startup"))
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      assert.isEmpty(yield* gateway.scans)
      const pending = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
      assert.match(pending.errorMessage ?? "", /waits until the gateway runs/)

      yield* gateway.setPhase("running")
      yield* api.awaitReport(synced(first))
      assert.strictEqual(yield* read("config/resources/core/ignition/thing/config.json"), '{"value":"one"}')
      assert.strictEqual(yield* read(properties), "{}")
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config"])
    })
  )

  test(
    "retries a scan that fails, and says so meanwhile",
    Effect.gen(function* () {
      const { agent, api, gateway, repository, want } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      yield* gateway.faults.inject({
        route: "POST /data/api/v1/scan/projects",
        failure: Failure.cases.Status.make({ status: 500 })
      })
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Layer.build(agent)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
      assert.match(report.errorMessage ?? "", /scan\/projects/)
      assert.strictEqual(report.lastScanResult, "UnexpectedAnswer")
      assert.isUndefined(report.errorReason)
      yield* gateway.faults.clear
      yield* api.awaitReport(synced(first))
    })
  )

  test(
    "does not forget a scan over a restart",
    Effect.gen(function* () {
      const { agent, api, gateway, repository, want } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      yield* gateway.faults.inject({
        route: "POST /data/api/v1/scan/projects",
        failure: Failure.cases.Status.make({ status: 500 })
      })
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(
        Effect.andThen(
          Layer.build(agent),
          api.awaitReport(({ syncStatus }) => syncStatus === "Error")
        )
      )
      yield* gateway.faults.clear
      assert.isEmpty(yield* gateway.scans)
      yield* Layer.build(Layer.fresh(agent))
      const report = yield* api.awaitReport(synced(first))
      assert.strictEqual(report.filesChanged, 0)
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects"])
    })
  )

  test(
    "restarted beside a running gateway that is in order, writes and scans nothing",
    Effect.gen(function* () {
      const { agent, api, gateway, repository, want } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
      yield* want(first)
      yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
      const before = (yield* gateway.counters).requests
      yield* Layer.build(Layer.fresh(agent))
      yield* api.awaitReport(({ filesChanged }) => filesChanged === 0)
      const { "GET /StatusPing": pings, ...after } = (yield* gateway.counters).requests
      const { "GET /StatusPing": pingsBefore, ...rest } = before
      assert.deepStrictEqual(after, rest)
      assert.isAbove(pings ?? 0, pingsBefore ?? 0)
    })
  )

  test(
    "scans once the gateway runs, though the volume held everything before it started",
    Effect.gen(function* () {
      const { agent, api, gateway, repository, want } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: { ...view("one"), ...config("one") } })
      yield* want(first)
      yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
      yield* gateway.setPhase("down")
      yield* gateway.awaitPhase("down")
      yield* Layer.build(Layer.fresh(agent))
      yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
      yield* gateway.setPhase("running")
      yield* api.awaitReport(synced(first))
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config", "projects", "config"])
    })
  )

  test(
    "writes nothing while the gateway does not know its token, and says what to do",
    Effect.gen(function* () {
      const { agent, api, exists, gateway, repository, want } = yield* makePlant({ tokens: [] })
      yield* gateway.awaitPhase("running")
      yield* want(yield* repository.commit({ files: view("one") }))
      yield* Layer.build(agent)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
      assert.match(report.errorMessage ?? "", /does not know the API token "stoker" \(401\).*restart the gateway/)
      assert.isFalse(yield* exists(viewFile))
      assert.isFalse(yield* exists(".stoker/journal.json"))
    })
  )

  test(
    "writes while the gateway is down, and scans when it is back",
    Effect.gen(function* () {
      const { api, begin, gateway, read, repository, want } = yield* makePlant()
      const first = yield* begin(view("one"))
      yield* gateway.setPhase("down")
      yield* gateway.awaitPhase("down")
      const second = yield* repository.commit({ files: view("two") })
      yield* want(second)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
      assert.match(report.errorMessage ?? "", /connection refused/)
      assert.strictEqual(report.syncedCommit, first)
      assert.strictEqual(yield* read(viewFile), '{"text":"two"}')
      yield* gateway.setPhase("running")
      yield* api.awaitReport(synced(second))
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "projects"])
    })
  )

  test(
    "leaves files alone when the map, the profile or the mappings are gone",
    Effect.gen(function* () {
      const { agent, api, read, repository, want } = yield* makePlant()
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Layer.build(agent)
      yield* api.awaitReport(synced(first))
      const error = (expected: RegExp) =>
        api.awaitReport(({ errorMessage, syncStatus }) => syncStatus === "Error" && expected.test(errorMessage ?? ""))
      yield* want(first, {}, { profiles: { other: effective({}) } })
      yield* error(/no profile "default"/)
      yield* want(first, { mappings: [] })
      yield* error(/no mappings; files stay/)
      yield* SubscriptionRef.set(api.metadata, { commit: "main" })
      yield* error(/cannot be read/)
      yield* SubscriptionRef.set(api.metadata, undefined)
      const report = yield* error(/no metadata for GatewaySync plant\/site/)
      assert.strictEqual(report.syncedCommit, first)
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
    })
  )

  test(
    "paused, leaves everything as it is and does not claim the commit",
    Effect.gen(function* () {
      const { agent, api, read, repository, want } = yield* makePlant()
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Layer.build(agent)
      yield* api.awaitReport(synced(first))
      const second = yield* repository.commit({ files: view("two") })
      for (const [profile, data] of [
        [{ paused: true }, {}],
        [{}, { paused: "true" as const }]
      ] as const) {
        const revision = yield* want(second, profile, data)
        const report = yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
        assert.deepInclude(report, { paused: true, syncedCommit: first })
        assert.isFalse(GatewayStatus.countsAsSynced(report, { revision, commit: second, podUID: "pod-uid" }))
      }
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      const revision = yield* want(second)
      const report = yield* api.awaitReport(synced(second))
      assert.isTrue(GatewayStatus.countsAsSynced(report, { revision, commit: second, podUID: "pod-uid" }))
    })
  )

  test(
    "compares with the disk when it goes on after a pause in which it was started",
    Effect.gen(function* () {
      const { agent, api, gateway, read, repository, want, write } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
      yield* write(viewFile, "changed while no agent ran")
      yield* want(first, { paused: true })
      yield* Layer.build(Layer.fresh(agent))
      yield* api.awaitReport(({ paused }) => paused === true)
      yield* want(first)
      yield* api.awaitReport(({ filesChanged, paused }) => paused !== true && filesChanged === 1)
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
    })
  )

  test(
    "says so where the profile asks for a policy that is not built yet",
    Effect.gen(function* () {
      const { agent, api, repository, want } = yield* makePlant()
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first, { designerSessionPolicy: "fail" })
      yield* Layer.build(agent)
      const report = yield* api.awaitReport(synced(first))
      assert.match(report.errorMessage ?? "", /designerSessionPolicy "fail" is not supported yet/)
      yield* want(first)
      yield* api.awaitReport(({ errorMessage, syncStatus }) => syncStatus === "Synced" && errorMessage === undefined)
    })
  )

  test(
    "in a dry run only counts",
    Effect.gen(function* () {
      const { agent, api, exists, read, repository, want, write } = yield* makePlant()
      yield* write(viewFile, "other")
      yield* want(yield* repository.commit({ files: view("one") }), { dryRun: true })
      yield* Layer.build(agent)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Synced")
      assert.deepInclude(report, { dryRun: true, dryRunDiffAdded: 2, dryRunDiffModified: 1, dryRunDiffDeleted: 0 })
      assert.strictEqual(yield* read(viewFile), "other")
      assert.isFalse(yield* exists("projects/line/project.json"))
    })
  )

  test(
    "in a dry run says what would be refused",
    Effect.gen(function* () {
      const { agent, api, repository, want } = yield* makePlant()
      const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
      const files = { ...view("one"), "site/config/icon.png": pointer }
      yield* want(yield* repository.commit({ files }), { dryRun: true })
      yield* Layer.build(agent)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
      assert.match(report.errorMessage ?? "", /config\/icon\.png is a Git LFS pointer/)
    })
  )

  test(
    "lets the gateway start with what the volume holds while git is away",
    Effect.gen(function* () {
      const { agent, api, gateway, probe, repository, want } = yield* makePlant()
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
      yield* gateway.setPhase("down")
      yield* gateway.awaitPhase("down")
      yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
      const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
      const report = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
      assert.match(report.errorMessage ?? "", /refuses the connection/)
      assert.include(report.errorMessage, `until then the gateway has the files of ${first.slice(0, 7)}`)
      assert.strictEqual(report.syncedCommit, first)
      yield* probe(failing("startup"))
    })
  )

  test(
    "waits, with nothing on the volume, while git is away",
    Effect.gen(function* () {
      const { agent, api, repository, want } = yield* makePlant({ boots: false })
      yield* want("1".repeat(40), {}, { gitURL: "http://127.0.0.1:1/none.git" })
      const { failing } = Context.get(yield* Layer.build(agent), Health)
      const error = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Error")
      assert.strictEqual(error.errorReason, GatewayStatus.cloneFailed)
      assert.match((yield* failing("startup")).join(), /refuses the connection/)
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      const pending = yield* api.awaitReport(({ syncStatus }) => syncStatus === "Pending")
      assert.isUndefined(pending.errorReason)
      assert.isEmpty(yield* failing("startup"))
    })
  )

  const notRunning = [
    ["commissioning", { commissioning: "manual" }, {}, /in place.*waits to be commissioned: open its web page/],
    ["faulted", { startupTime: "1 hour" }, {}, /in place.*it is faulted, its own log says why/],
    ["down", {}, { gatewayPort: 1 }, /in place.*nobody listens on its port; if it is up, spec\.gateway\.port/]
  ] as const
  for (const [phase, options, data, expected] of notRunning) {
    test(
      `after a cold start, says why a gateway that is ${phase} does not run, and what to do`,
      Effect.gen(function* () {
        const { agent, api, gateway, repository, want } = yield* makePlant({ boots: false, ...options })
        yield* want(yield* repository.commit({ files: view("one") }), {}, data)
        yield* Layer.build(agent)
        yield* api.awaitReport(({ errorMessage }) => /nobody listens/.test(errorMessage ?? ""))
        if (phase !== "down") {
          yield* gateway.setPhase("starting")
          yield* gateway.awaitPhase("starting")
          yield* gateway.setPhase(phase)
        }
        yield* api.awaitReport(
          ({ errorMessage, syncStatus }) => syncStatus === "Pending" && expected.test(errorMessage ?? "")
        )
      })
    )
  }

  test(
    "after a cold start, says where a gateway redirects to that forces HTTPS for everything",
    Effect.gen(function* () {
      const { agent, api, gateway, repository, want } = yield* makePlant({ boots: false })
      yield* gateway.faults.inject({
        route: "GET /StatusPing",
        failure: Failure.cases.Redirect.make({ location: "https://localhost:8043/StatusPing" })
      })
      yield* want(yield* repository.commit({ files: view("one") }))
      yield* Layer.build(agent)
      yield* api.awaitReport(({ errorMessage }) => /nobody listens/.test(errorMessage ?? ""))
      yield* gateway.setPhase("running")
      yield* api.awaitReport(({ errorMessage }) =>
        /redirects to localhost:8043 \(302\).*set spec\.gateway\.tls/.test(errorMessage ?? "")
      )
    })
  )

  test(
    "beside a gateway whose port was edited since the pod was made, takes the normal way with locks",
    Effect.gen(function* () {
      const { agent, api, gateway, repository, want } = yield* makePlant({ environment: { GATEWAY_PORT: "1" } })
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      // As in a pod, the API server does not answer at once.
      yield* api.setAway(true)
      yield* Layer.build(agent)
      yield* api.awaitRefusal
      yield* api.setAway(false)
      yield* api.awaitReport(synced(first))
      assert.strictEqual((yield* gateway.counters).requests["POST /data/api/v1/scan-lock/projects"], 1)
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects"])
    })
  )

  test(
    "without an API server, goes by what the volume keeps, gateway's port included, and then by what is new",
    Effect.gen(function* () {
      const { agent, api, gateway, probe, read, repository, want, write } = yield* makePlant({
        environment: { GATEWAY_PORT: "1" }
      })
      yield* gateway.awaitPhase("running")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Layer.build(agent)
          yield* api.awaitReport(synced(first))
        })
      )
      yield* api.setAway(true)
      yield* write(viewFile, "changed while no agent ran")
      const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
      yield* gateway.awaitScan(1)
      yield* probe(failing("startup"))
      assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      assert.strictEqual((yield* gateway.counters).requests["POST /data/api/v1/scan-lock/projects"], 2)
      yield* api.setAway(false)
      const second = yield* repository.commit({ files: view("two") })
      yield* want(second)
      yield* api.awaitReport(synced(second))
    })
  )

  for (const sync of ["a", "a killed"])
    test(
      `after ${sync} sync and commits that change nothing here, without API server and git, puts back what was changed`,
      Effect.gen(function* () {
        const { agent, api, dataDir, gateway, probe, read, repository, want, write } = yield* makePlant()
        const fs = yield* FileSystem.FileSystem
        yield* gateway.awaitPhase("running")
        const first = yield* repository.commit({ files: view("one") })
        yield* want(first)
        yield* Effect.scoped(Effect.andThen(Layer.build(agent), api.awaitReport(synced(first))))
        // Before the clone was told of it.
        if (sync === "a killed") yield* fs.remove(`${dataDir}/../repo/mirror.git/refs/stoker/applied`)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* Layer.build(Layer.fresh(agent))
            for (const text of ["1", "2"]) {
              const next = yield* repository.commit({ files: { "elsewhere/a": text } })
              yield* want(next)
              yield* api.awaitReport(synced(next))
            }
            // A newer one that cannot be had is not what is on the volume.
            const revision = yield* want("1".repeat(40))
            yield* api.awaitReport(({ observedRevision }) => observedRevision === revision)
          })
        )
        yield* gateway.setPhase("down")
        yield* gateway.awaitPhase("down")
        yield* api.setAway(true)
        yield* repository.requireLogin(Option.some({ username: "u", password: Redacted.make("p") }))
        yield* write(viewFile, "seeded")
        const { failing } = Context.get(yield* Layer.build(Layer.fresh(agent)), Health)
        yield* probe(failing("startup"))
        assert.strictEqual(yield* read(viewFile), '{"text":"one"}')
      })
    )

  test(
    "removes what the Go agent leaves behind when it is killed",
    Effect.gen(function* () {
      const { agent, api, exists, gateway, repository, want, write } = yield* makePlant()
      yield* gateway.awaitPhase("running")
      yield* write(".sync-staging/projects/line/project.json", "half")
      const first = yield* repository.commit({ files: view("one") })
      yield* want(first)
      yield* Layer.build(agent)
      yield* api.awaitReport(synced(first))
      assert.isFalse(yield* exists(".sync-staging"))
    })
  )

  test(
    "starting with metadata that knows neither commit nor profile, waits on an empty volume and goes on with a used one",
    Effect.gen(function* () {
      const { agent, api, gateway, probe, repository, want } = yield* makePlant({ boots: false })
      const first = yield* repository.commit({ files: view("one") })
      const other = { profiles: { other: effective({}) } }
      yield* want(first, {}, other)
      const started = Effect.map(Layer.build(Layer.fresh(agent)), Context.get(Health))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { failing } = yield* started
          yield* api.awaitReport(({ errorMessage }) => /no profile "default"/.test(errorMessage ?? ""))
          assert.match((yield* failing("startup")).join(), /no profile "default"/)
          yield* want(first)
          yield* probe(failing("startup"))
        })
      )
      for (const gone of [want(first, {}, other), SubscriptionRef.set(api.metadata, undefined)]) {
        yield* gone
        yield* Effect.scoped(Effect.flatMap(started, ({ failing }) => probe(failing("startup"))))
      }
      assert.isEmpty(yield* gateway.scans)
    })
  )

  test(
    "works with a gateway that has no scan locks",
    Effect.gen(function* () {
      const { begin, gateway } = yield* makePlant({ locks: false })
      yield* begin({ ...view("one"), ...config("one") })
      assert.deepStrictEqual(kinds(yield* gateway.scans), ["projects", "config"])
    })
  )
})
