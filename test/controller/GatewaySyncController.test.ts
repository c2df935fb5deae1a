import { assert, layer } from "@effect/vitest"
import { Duration, Effect, Fiber, Option, Redacted } from "effect"
import { readFileSync } from "node:fs"
import * as Conditions from "../../src/api/Conditions.ts"
import type { GatewaySync } from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { GatewaySyncController } from "../../src/controller/GatewaySyncController.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { Supervisor } from "../../src/telemetry/Supervisor.ts"
import * as FakeGitHub from "../git/FakeGitHub.ts"
import * as Cluster from "./Cluster.ts"

const localhost = (name: string) =>
  readFileSync(new URL(`../ignition/localhost-tls/${name}.pem`, import.meta.url), "utf8")

const condition = (cr: GatewaySync, type: Conditions.Type) => Conditions.get(cr.status.conditions ?? [], type)
const isHandled = (cr: GatewaySync) => RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest)
const hasCommit = (commit: string) => (cr: GatewaySync) => cr.status.lastSyncCommit === commit

/** The annotations of a promotion, as the receiver writes them. */
const promotion = (ref: string, over: string, id: string) => ({
  [Names.request.ref]: ref,
  [Names.request.at]: "2026-01-01T00:00:00Z",
  [Names.request.by]: "generic",
  [Names.request.id]: id,
  [Names.request.over]: over
})
const push = (pushed: Partial<RequestedRef.Pushed>) => ({
  [Names.request.pushed]: JSON.stringify({
    ref: "main",
    kind: "branch",
    at: "2026-01-01T00:00:00Z",
    by: "github",
    id: "push-1",
    ...pushed
  })
})

layer(Cluster.layer, { excludeTestServices: true, timeout: "2 minutes" })("GatewaySyncController", (it) => {
  it.effect("resolves a new GatewaySync and makes what its agents need", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("new")
      const commit = yield* plant.repository.commit({ files: { "projects/a": "1" } })
      yield* plant.create("site", {})
      const cr = yield* Cluster.until(plant.get("site"), hasCommit(commit))
      assert.strictEqual(cr.status.lastSyncRef, "main")
      assert.strictEqual(cr.status.lastSyncRefKind, "branch")
      assert.strictEqual(cr.status.lastSyncCommitShort, commit.slice(0, 7))
      assert.strictEqual(cr.status.refResolutionStatus, "Resolved")
      assert.strictEqual(cr.status.observedGeneration, 1)
      assert.deepStrictEqual(cr.metadata.finalizers, [Names.finalizer])
      const conditions = (cr.status.conditions ?? []).map(({ message, reason, status, type }) => [
        type,
        status,
        reason,
        message
      ])
      assert.deepStrictEqual(conditions, [
        ["RefResolved", "True", "RefResolved", commit],
        ["ProfilesValid", "True", "ProfilesValid", "1 valid profile"],
        ["AllGatewaysSynced", "False", "NoGatewaysDiscovered", "0/0 synced"],
        ["RefSkew", "False", "RemoteAgrees", "spec and remote agree"],
        ["Ready", "False", "Reconciling", "0/0 synced"]
      ])
      const metadata = yield* plant.data("stoker-metadata-site")
      assert.strictEqual(metadata["commit"], commit)
      assert.strictEqual(metadata["gitURL"], plant.repository.url)
      assert.match(metadata["traceparent"] ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
      assert.deepStrictEqual(yield* plant.data("stoker-status-site"), {})
      const binding = yield* plant.client.get(Resource.roleBindings, plant.ref("stoker-agent-site"))
      assert.deepInclude(binding as object, {
        subjects: [{ kind: "ServiceAccount", name: "default", namespace: "new" }],
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "stoker-agent-site" }
      })
    })
  )

  it.effect("follows a promotion in the trace of its delivery, and lets an edit of the spec end it", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("promotion")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      yield* plant.repository.annotatedTag("v2", second)
      yield* plant.repository.setRef("refs/heads/main", first)
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))

      const trace = "0af7651916cd43dd8448eb211c80319c"
      yield* plant.annotate("site", {
        ...promotion("v2", "main", "one"),
        [Names.request.traceparent]: `00-${trace}-b7ad6b7169203331-01`
      })
      const moved = yield* Cluster.until(plant.get("site"), hasCommit(second))
      assert.isTrue(isHandled(moved))
      assert.strictEqual(moved.status.lastSyncRef, "v2")
      assert.strictEqual(moved.status.lastSyncRefKind, "tag")
      assert.strictEqual(condition(moved, "RefSkew")?.reason, "OverriddenByRequest")
      const metadata = yield* plant.data("stoker-metadata-site")
      assert.strictEqual(metadata["commit"], second)
      assert.include(metadata["traceparent"], trace)

      yield* plant.repository.setRef("refs/heads/other", first)
      yield* plant.patch("site", { spec: { git: { ref: "other" } } })
      const edited = yield* Cluster.until(plant.get("site"), hasCommit(first))
      assert.strictEqual(edited.status.lastSyncRef, "other")
      const ended = yield* Cluster.until(
        plant.get("site"),
        ({ metadata }) => RequestedRef.override(metadata.annotations) === undefined
      )
      assert.strictEqual(condition(ended, "RefSkew")?.status, "False")
    })
  )

  it.effect("removes a promotion when the spec catches up, also under the name without v", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("caught-up")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      yield* plant.repository.setRef("refs/heads/main", first)
      yield* plant.repository.setRef("refs/tags/v2.0.0", second)
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* plant.annotate("site", promotion("v2.0.0", "main", "one"))
      yield* Cluster.until(plant.get("site"), hasCommit(second))

      // "2.0.0" is no tag: the override stays in force.
      yield* plant.patch("site", { spec: { git: { ref: "2.0.0" } } })
      const waiting = yield* Cluster.until(plant.get("site"), ({ status }) => status.observedGeneration === 2)
      assert.strictEqual(waiting.status.lastSyncRef, "v2.0.0")
      assert.strictEqual(RequestedRef.override(waiting.metadata.annotations)?.ref, "v2.0.0")
      assert.strictEqual(condition(waiting, "RefResolved")?.status, "True")

      yield* plant.patch("site", { spec: { git: { ref: "v2.0.0" } } })
      const done = yield* Cluster.until(
        plant.get("site"),
        ({ metadata }) => RequestedRef.override(metadata.annotations) === undefined
      )
      assert.strictEqual(done.status.lastSyncCommit, second)
      const settled = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefSkew")?.status === "False")
      assert.strictEqual(settled.status.lastSyncRef, "v2.0.0")
    })
  )

  it.effect("completes an override that was set by hand", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("by-hand")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      const second = yield* plant.repository.commit({ files: { a: "2" }, branch: "other" })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* plant.annotate("site", { [Names.request.ref]: "other" })
      const moved = yield* Cluster.until(plant.get("site"), hasCommit(second))
      const override = RequestedRef.override(moved.metadata.annotations)
      assert.strictEqual(override?.over, "main")
      assert.match(override?.id ?? "", /^[0-9a-f-]{36}$/)
    })
  )

  it.effect("lets a request that cannot be resolved take nothing hostage", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("hostage")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", { polling: { enabled: true, interval: "1s" } })
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* plant.annotate("site", promotion("nowhere", "main", "one"))
      const failed = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefResolved")?.status === "False")
      assert.strictEqual(condition(failed, "RefResolved")?.reason, "RefResolutionFailed")
      assert.match(
        condition(failed, "RefResolved")?.message ?? "",
        /no branch or tag "nowhere".*Next try at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/
      )
      assert.strictEqual(failed.status.refResolutionStatus, "Error")
      assert.strictEqual(failed.status.lastSyncCommit, first)
      assert.isFalse(isHandled(failed))

      // The ref in force is still polled.
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      const polled = yield* Cluster.until(plant.get("site"), hasCommit(second))
      assert.strictEqual(polled.status.lastSyncRef, "main")
      assert.strictEqual(condition(polled, "RefResolved")?.status, "False")
      assert.strictEqual((yield* plant.data("stoker-metadata-site"))["commit"], second)

      // People are told once, however often it is tried.
      const events = yield* Cluster.until(plant.events, (all) => all.length === 2)
      assert.match(events[0]!, /^RefResolutionFailed: .*no branch or tag "nowhere"/)
      assert.notMatch(events[0]!, /Next try|×/)
      assert.strictEqual(events[1], 'WebhookReceived: generic requests "nowhere"')

      // And once it is there, it is followed: fast, since the request is fresh.
      const third = yield* plant.repository.commit({ files: { a: "3" }, branch: "nowhere" })
      const resolved = yield* Cluster.until(plant.get("site"), hasCommit(third))
      assert.isTrue(isHandled(resolved))
      assert.strictEqual(condition(resolved, "RefResolved")?.status, "True")
    })
  )

  it.effect(
    "tells of a request that its sender repeats once, whether it can be resolved or not, and of each push",
    () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("repeated")
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.repository.setRef("refs/tags/v2", first)
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), hasCommit(first))
        yield* plant.annotate("site", promotion("nowhere", "main", "one"))
        yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefResolved")?.status === "False")
        yield* plant.annotate("site", promotion("nowhere", "main", "two"))
        yield* plant.annotate("site", promotion("v2", "main", "three"))
        yield* Cluster.until(plant.get("site"), isHandled)
        for (const id of ["four", "five"]) {
          yield* plant.annotate("site", promotion("v2", "main", id))
          yield* Cluster.until(plant.get("site"), isHandled)
        }
        for (const id of ["six", "seven"]) {
          yield* plant.annotate("site", push({ ref: "v2", kind: "tag", id }))
          yield* Cluster.until(plant.get("site"), isHandled)
        }
        // Events are written in order: after this one all others are there.
        yield* plant.patch("site", { spec: { paused: true } })
        const told = yield* Cluster.until(plant.events, (all) => all.some((line) => line.startsWith("Paused")))
        // Two requests and two pushes; the event keeps the text of the first.
        assert.deepStrictEqual(
          told.filter((line) => line.startsWith("WebhookReceived")),
          ['WebhookReceived: generic requests "nowhere" ×4']
        )
      })
  )

  it.effect("keeps the commit of a ref that vanishes, and follows it again when it is back", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("vanished")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.repository.setRef("refs/heads/other", first)
      yield* plant.create("site", { git: { repo: plant.repository.url, ref: "other" } })
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* plant.repository.deleteRef("refs/heads/other")
      yield* plant.annotate("site", push({ ref: "other", id: "one" }))
      const gone = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefResolved")?.status === "False")
      assert.strictEqual(gone.status.lastSyncCommit, first)
      assert.strictEqual((yield* plant.data("stoker-metadata-site"))["commit"], first)
      const second = yield* plant.repository.commit({ files: { a: "2" }, branch: "other", parent: first })
      yield* plant.annotate("site", push({ ref: "other", id: "two" }))
      const back = yield* Cluster.until(plant.get("site"), hasCommit(second))
      assert.strictEqual(condition(back, "RefResolved")?.status, "True")
    })
  )

  it.effect("follows a tag that moves, a branch that is pushed by force, and a history that is rewritten", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("rewritten")
      const { repository } = plant
      const told = (commit: string) =>
        Cluster.until(plant.data("stoker-metadata-site"), (map) => map["commit"] === commit)
      const first = yield* repository.commit({ files: { a: "1" } })
      const second = yield* repository.commit({ files: { a: "2" } })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(second))

      // Back to an older commit, to one beside it, and to one that has nothing in common with any.
      yield* repository.setRef("refs/heads/main", first)
      const beside = yield* repository.commit({ files: { a: "3" }, branch: "beside", parent: first })
      const apart = yield* repository.commit({ files: { a: "4" }, branch: "apart", parent: "none" })
      let before = second
      for (const commit of [first, beside, apart]) {
        yield* repository.setRef("refs/heads/main", commit)
        yield* plant.annotate("site", push({ before, after: commit, id: commit }))
        const moved = yield* Cluster.until(plant.get("site"), hasCommit(commit))
        assert.isTrue(isHandled(moved))
        yield* told(commit)
        before = commit
      }

      yield* repository.setRef("refs/tags/v1", first)
      yield* plant.annotate("site", promotion("v1", "main", "one"))
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      // Nobody says so: the tag stays where it was until somebody asks again, or a poll does.
      yield* repository.annotatedTag("v1", second)
      yield* plant.annotate("site", promotion("v1", "main", "two"))
      yield* Cluster.until(plant.get("site"), hasCommit(second))
      yield* repository.setRef("refs/tags/v1", apart)
      yield* plant.patch("site", { spec: { polling: { enabled: true, interval: "1s" } } })
      const polled = yield* Cluster.until(plant.get("site"), hasCommit(apart))
      assert.deepStrictEqual([polled.status.lastSyncRef, polled.status.lastSyncRefKind], ["v1", "tag"])
      yield* told(apart)
    })
  )

  it.effect("asks again while the remote serves what was there before a push", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("lag")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      const after = "b".repeat(40)
      yield* plant.annotate("site", push({ before: first, after }))
      const lagging = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefSkew")?.status === "True")
      assert.strictEqual(condition(lagging, "RefSkew")?.reason, "WaitingForPush")
      assert.isFalse(isHandled(lagging))
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      const done = yield* Cluster.until(plant.get("site"), hasCommit(second))
      assert.isTrue(isHandled(done))
      assert.strictEqual(condition(done, "RefSkew")?.status, "False")
    })
  )

  it.effect(
    "asks the remote for nothing but a request, a poll, an unknown ref; and writes nothing in a quiet plant",
    () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("quiet")
        const server = yield* GitServer
        const writes = yield* Cluster.Writes
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), hasCommit(first))
        const asked = Effect.map(
          server.exchanges,
          (all) => all.filter(({ repository }) => repository === "quiet").length
        )
        const written = Effect.map(writes.all, (all) => all.filter((line) => line.includes(" quiet/")))
        const pod = (name: string, annotations: object) =>
          plant.client.create(
            Resource.pods,
            "quiet",
            {
              metadata: { name, annotations },
              spec: { containers: [{ name: "gateway", image: "gateway" }], serviceAccountName: "gateways" }
            },
            { fieldManager: "test" }
          )

        // A pod names the GatewaySync: its account may read, nothing is asked, the branch does not move.
        const second = yield* plant.repository.commit({ files: { a: "2" } })
        const before = yield* asked
        yield* pod("gateway-0", { [Names.pod.crName]: "site" })
        yield* Cluster.until(plant.client.get(Resource.roleBindings, plant.ref("stoker-agent-site")), (binding) =>
          JSON.stringify(binding).includes('"gateways"')
        )
        assert.strictEqual(yield* asked, before)

        // Another pod with the same account changes nothing. A look at it comes before the look at the push after it.
        const quiet = yield* written
        yield* pod("gateway-1", { [Names.pod.crName]: "site" })
        yield* plant.annotate("site", push({ id: "one" }))
        const done = yield* Cluster.until(plant.get("site"), hasCommit(second))
        assert.isTrue(isHandled(done))
        assert.deepStrictEqual((yield* written).slice(quiet.length), [
          "apply configmaps quiet/stoker-metadata-site",
          "apply gatewaysyncs quiet/site"
        ])

        // The same push again, with nothing new at the remote: only what was handled is noted.
        yield* plant.annotate("site", push({ id: "two" }))
        yield* Cluster.until(plant.get("site"), isHandled)
        assert.deepStrictEqual((yield* written).slice(quiet.length + 2), ["apply gatewaysyncs quiet/site"])
      })
  )

  it.effect("writes nothing while it polls and nothing is new", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("still")
      const server = yield* GitServer
      const writes = yield* Cluster.Writes
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", { polling: { enabled: true, interval: "1s" } })
      yield* plant.create("other", { polling: { enabled: true, interval: "1s" } })
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* Cluster.until(plant.get("other"), hasCommit(first))
      const asked = Effect.map(server.exchanges, (all) => all.filter(({ repository }) => repository === "still").length)
      const written = Effect.map(writes.all, (all) => all.filter((line) => line.includes(" still/")).length)
      const [before, polls] = [yield* written, yield* asked]
      yield* Cluster.until(asked, (count) => count >= polls + 8)
      assert.strictEqual(yield* written, before)
    })
  )

  it.effect("puts back what somebody edits in what it owns", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("edited")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      const metadata = yield* plant.data("stoker-metadata-site")
      yield* plant.client.mergePatch(
        Resource.configMaps,
        plant.ref("stoker-metadata-site"),
        { data: { commit: "f".repeat(40), gitURL: null } },
        { fieldManager: "kubectl-edit" }
      )
      yield* Cluster.until(plant.data("stoker-metadata-site"), (data) => data["commit"] === first)
      assert.strictEqual((yield* plant.data("stoker-metadata-site"))["gitURL"], metadata["gitURL"])
      yield* plant.client.delete(Resource.configMaps, plant.ref("stoker-metadata-site"))
      yield* plant.client.delete(Resource.configMaps, plant.ref("stoker-status-site"))
      yield* Cluster.until(plant.data("stoker-metadata-site"), (data) => data["commit"] === first)
      yield* Cluster.until(plant.data("stoker-status-site"), () => true)

      // Without its label it is no longer seen: as good as deleted.
      const label = { metadata: { labels: { [Names.owned.crName]: null, [Names.owned.managedBy]: null } } }
      yield* plant.client.mergePatch(Resource.configMaps, plant.ref("stoker-metadata-site"), label, {
        fieldManager: "kubectl-edit"
      })
      yield* Cluster.until(plant.client.get(Resource.configMaps, plant.ref("stoker-metadata-site")), (map) =>
        JSON.stringify(map).includes(`"${Names.owned.crName}":"site"`)
      )

      // Roles are not watched: they are looked at again also where nothing happens.
      const { reconcile } = yield* GatewaySyncController
      const next = yield* reconcile({ key: "edited/site", reason: "test" })
      assert.isDefined(next)
      assert.isAtMost(Duration.toMinutes(next), 10)
    })
  )

  it.effect("gives a pod that moves to another GatewaySync to that one, and takes it from the former", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("moving")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("one", {})
      yield* plant.create("two", {})
      yield* plant.client.create(
        Resource.pods,
        "moving",
        {
          metadata: { name: "gateway-0", annotations: { [Names.pod.crName]: "one", [Names.pod.inject]: "true" } },
          spec: { containers: [{ name: "gateway", image: "gateway" }], serviceAccountName: "gateways" }
        },
        { fieldManager: "test" }
      )
      yield* plant.client.mergePatch(
        Resource.pods,
        plant.ref("gateway-0"),
        { status: { phase: "Running" } },
        { fieldManager: "test", subresource: "status" }
      )
      const gateways = (cr: GatewaySync) => cr.status.discoveredGateways?.length
      yield* Cluster.until(plant.get("one"), (cr) => hasCommit(first)(cr) && gateways(cr) === 1)
      assert.strictEqual(gateways(yield* Cluster.until(plant.get("two"), hasCommit(first))), 0)
      yield* plant.client.mergePatch(
        Resource.pods,
        plant.ref("gateway-0"),
        { metadata: { annotations: { [Names.pod.crName]: "two" } } },
        { fieldManager: "test" }
      )
      yield* Cluster.until(plant.get("two"), (cr) => gateways(cr) === 1)
      yield* Cluster.until(plant.get("one"), (cr) => gateways(cr) === 0)
      const subjects = (name: string) =>
        Effect.map(plant.client.get(Resource.roleBindings, plant.ref(`stoker-agent-${name}`)), (binding) =>
          JSON.stringify((binding as { readonly subjects?: unknown }).subjects)
        )
      yield* Cluster.until(subjects("two"), (text) => text.includes("gateways"))
      yield* Cluster.until(subjects("one"), (text) => !text.includes("gateways"))
    })
  )

  it.effect("tells which gateways have it, and forgets the reports of pods that are gone", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("gateways")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      const { revision } = yield* plant.data("stoker-metadata-site")
      const podUID = yield* plant.gateway("gateway-0")
      const gateway = (cr: GatewaySync) => cr.status.discoveredGateways?.[0]
      const pending = yield* Cluster.until(plant.get("site"), (cr) => gateway(cr)?.syncStatus === "Pending")
      assert.strictEqual(gateway(pending)?.message, "no report yet")

      const synced = {
        syncStatus: "Synced",
        syncedCommit: first,
        observedRevision: revision,
        podUID
      }
      yield* plant.report("gone-0", synced)
      yield* plant.report("gateway-0", { ...synced, observedRevision: "older" })
      yield* Cluster.until(plant.get("site"), (cr) => gateway(cr)?.syncedCommit === first)
      assert.strictEqual(gateway(yield* plant.get("site"))?.syncStatus, "Pending")
      yield* plant.report("gateway-0", synced)
      const ready = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "Ready")?.status === "True")
      assert.strictEqual(condition(ready, "AllGatewaysSynced")?.message, "1/1 synced")
      assert.strictEqual(condition(ready, "SidecarInjected")?.status, "True")
      const reports = yield* Cluster.until(plant.data("stoker-status-site"), (data) => data["gone-0"] === undefined)
      assert.isDefined(reports["gateway-0"])

      assert.deepStrictEqual(yield* Cluster.until(plant.events, (all) => all.length === 2), [
        "GatewaysDiscovered: 1 gateway; new: gateway-0",
        `SyncCompleted: 1/1 synced: main at ${first.slice(0, 7)}`
      ])

      yield* plant.report("gateway-0", { ...synced, syncStatus: "Error", errorMessage: "the scan failed" })
      const failed = yield* Cluster.until(plant.events, (all) => all.length === 3)
      assert.strictEqual(failed[2], "SyncFailed: gateway gateway-0 (pod gateway-0): the scan failed")
      yield* plant.report("gateway-0", synced)
      yield* Cluster.until(plant.events, (all) => all.some((line) => line.endsWith(" ×2")))

      yield* plant.report("gateway-0", {
        ...synced,
        syncStatus: "Error",
        errorMessage: "no such repository",
        errorReason: "CloneFailed"
      })
      yield* Cluster.until(plant.events, (all) =>
        all.includes("CloneFailed: gateway gateway-0 (pod gateway-0): no such repository")
      )
      yield* plant.report("gateway-0", { ...synced, dryRun: true, dryRunDiffAdded: 2 })
      yield* Cluster.until(plant.events, (all) =>
        all.includes("SyncSkipped: gateway gateway-0 (pod gateway-0): dry run: 2 to add, 0 to change, 0 to delete")
      )
      yield* plant.report("gateway-0", synced)
      yield* Cluster.until(plant.get("site"), (cr) => gateway(cr)?.syncStatus === "Synced")

      yield* plant.sidecar("gateway-0", false)
      const notReady = yield* Cluster.until(plant.get("site"), (cr) => gateway(cr)?.syncStatus === "Pending")
      assert.strictEqual(gateway(notReady)?.message, "the sidecar is not ready")
    })
  )

  it.effect("gives a pod that names no GatewaySync to the only one of its namespace", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("unnamed")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      const inject = { [Names.pod.inject]: "true" }
      yield* plant.client.create(
        Resource.pods,
        "unnamed",
        {
          metadata: { name: "gateway-0", annotations: inject },
          spec: { containers: [{ name: "gateway", image: "gateway" }] }
        },
        { fieldManager: "test" }
      )
      yield* plant.client.mergePatch(
        Resource.pods,
        plant.ref("gateway-0"),
        { status: { phase: "Running" } },
        { fieldManager: "test", subresource: "status" }
      )
      yield* plant.create("site", {})
      const gateways = (cr: GatewaySync) => cr.status.discoveredGateways ?? []
      const alone = yield* Cluster.until(plant.get("site"), (cr) => hasCommit(first)(cr) && gateways(cr).length === 1)
      assert.strictEqual(gateways(alone)[0]?.syncStatus, "MissingSidecar")
      assert.strictEqual(condition(alone, "AllGatewaysSynced")?.message, "0/1 synced (1 missing sidecar)")

      yield* plant.create("other", {})
      yield* Cluster.until(plant.get("site"), (cr) => gateways(cr).length === 0)
      yield* plant.client.delete(Names.gatewaySyncs, plant.ref("other"))
      yield* Cluster.until(plant.get("site"), (cr) => gateways(cr).length === 1)
      yield* plant.client.delete(Resource.pods, plant.ref("gateway-0"))
      yield* Cluster.until(plant.get("site"), (cr) => gateways(cr).length === 0)
    })
  )

  it.effect("puts back a status that somebody takes away, without a poll", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("status-gone")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", { polling: { enabled: false } })
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* plant.client.mergePatch(
        Names.gatewaySyncs,
        plant.ref("site"),
        { status: null },
        { fieldManager: "somebody", subresource: "status" }
      )
      yield* Cluster.until(plant.get("site"), hasCommit(first))
    })
  )

  it.effect("resolves nothing while paused, and tells the agents", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("paused")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      yield* plant.patch("site", { spec: { paused: true } })
      yield* Cluster.until(plant.data("stoker-metadata-site"), ({ paused }) => paused === "true")
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      yield* plant.annotate("site", push({ id: "one" }))
      const paused = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "Ready")?.reason === "Paused")
      assert.strictEqual(paused.status.lastSyncCommit, first)
      yield* plant.patch("site", { spec: { paused: false } })
      const resumed = yield* Cluster.until(plant.get("site"), hasCommit(second))
      assert.isTrue(isHandled(resumed))
      assert.strictEqual((yield* plant.data("stoker-metadata-site"))["paused"], "false")
    })
  )

  it.effect(
    "tells the agents that they pause also where the edited repository cannot be resolved, or profiles are wrong",
    () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("paused-elsewhere")
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), hasCommit(first))
        const told = plant.data("stoker-metadata-site")
        yield* plant.patch("site", { spec: { paused: true, git: { repo: "http://127.0.0.1:9/none.git" } } })
        const paused = yield* Cluster.until(told, (data) => data["paused"] === "true")
        assert.deepInclude(paused, { commit: first, gitURL: plant.repository.url })
        yield* plant.patch("site", { spec: { paused: false, git: { repo: plant.repository.url } } })
        yield* Cluster.until(told, (data) => data["paused"] === "false")
        yield* plant.patch("site", { spec: { paused: true, sync: { defaults: { excludePatterns: ["[a"] } } } })
        yield* Cluster.until(told, (data) => data["paused"] === "true")
      })
  )

  it.effect("says which Secret is missing, and resolves once it is there", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("private")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.repository.requireLogin(
        Option.some({ username: "x-access-token", password: Redacted.make("the-token") })
      )
      const auth = { token: { secretRef: { name: "git", key: "token" } } }
      yield* plant.create("site", { git: { repo: plant.repository.url, ref: "main", auth } })
      const missing = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefResolved") !== undefined)
      assert.include(condition(missing, "RefResolved")?.message, 'there is no Secret "git"')
      yield* plant.client.create(
        Resource.secrets,
        "private",
        { metadata: { name: "git" }, stringData: { token: "the-token\n" } },
        { fieldManager: "test" }
      )
      yield* plant.annotate("site", push({ id: "one" }))
      const cr = yield* Cluster.until(plant.get("site"), hasCommit(first))
      assert.notInclude(JSON.stringify(cr), "the-token")
    })
  )

  it.effect("reads with the token of a GitHub App, gives it to the agents, and says what GitHub refuses", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("app")
      const ca = localhost("cert")
      const github = yield* FakeGitHub.makeTls({ key: localhost("key"), cert: ca })
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.repository.requireLogin(
        Option.some({ username: "x-access-token", password: Redacted.make("app-token") })
      )
      yield* plant.client.create(
        Resource.secrets,
        "app",
        { metadata: { name: "app" }, stringData: { key: github.privateKey, "ca.crt": ca } },
        { fieldManager: "test" }
      )
      const githubApp = {
        appId: 7,
        installationId: 42,
        privateKeySecretRef: { name: "app", key: "key" },
        apiBaseURL: github.url
      }
      yield* plant.create("site", { git: { repo: plant.repository.url, ref: "main", auth: { githubApp } } })
      const refused = yield* Cluster.until(plant.get("site"), (cr) => condition(cr, "RefResolved") !== undefined)
      assert.strictEqual(condition(refused, "RefResolved")?.reason, "GitHubAppExchangeFailed")
      assert.include(condition(refused, "RefResolved")?.message, "no installation 42 of App 7")

      github.answer(201, { token: "app-token", expires_at: "2099-01-01T00:00:00Z" })
      // A refusal is remembered for a moment; a fresh request is tried again soon.
      yield* plant.annotate("site", push({ id: "one" }))
      const cr = yield* Cluster.until(plant.get("site"), hasCommit(first))
      assert.notInclude(JSON.stringify(cr), "app-token")
      const secret = (yield* plant.client.get(Resource.secrets, plant.ref("stoker-github-token-site"))) as {
        readonly data: { readonly token: string; readonly "ca.crt": string }
        readonly metadata: { readonly annotations: object; readonly ownerReferences: ReadonlyArray<object> }
      }
      assert.strictEqual(Buffer.from(secret.data.token, "base64").toString(), "app-token")
      assert.strictEqual(Buffer.from(secret.data["ca.crt"], "base64").toString(), ca.trim())
      assert.propertyVal(secret.metadata.annotations, Names.owned.secretType, Names.owned.githubAppToken)
      assert.lengthOf(secret.metadata.ownerReferences, 1)
      assert.strictEqual((yield* plant.data("stoker-metadata-site"))["authType"], "githubApp")
    })
  )

  it.effect("goes on when one of its fibers is killed, with what came meanwhile", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("killed")
      const { fibers } = yield* Supervisor
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      for (const name of ["reflector gatewaysyncs", "controller"]) {
        const fiber = (yield* fibers).get(name)
        assert.isDefined(fiber)
        const commit = yield* plant.repository.commit({ files: { a: name } })
        yield* Fiber.interrupt(fiber)
        yield* plant.annotate("site", push({ id: name }))
        yield* Cluster.until(plant.get("site"), hasCommit(commit))
        assert.notStrictEqual((yield* fibers).get(name), fiber)
      }
    })
  )

  it.effect("removes what the Go operator left in the metadata and in the status, and nothing of others", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("moved")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      const former = { fieldManager: "manager" }
      yield* plant.client.create(
        Resource.configMaps,
        "moved",
        {
          metadata: { name: "stoker-metadata-site", labels: { theirs: "yes" } },
          data: { commit: "old", oldKey: "old" }
        },
        former
      )
      yield* plant.create("site", {})
      const condition = { status: "True", reason: "Old", message: "", lastTransitionTime: "2026-01-01T00:00:00Z" }
      const types = (cr: GatewaySync) => (cr.status.conditions ?? []).map(({ type }) => type)
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      const status = (...old: ReadonlyArray<string>) =>
        plant.client.mergePatch(
          Names.gatewaySyncs,
          plant.ref("site"),
          { status: { conditions: old.map((type) => ({ ...condition, type })) } },
          { ...former, subresource: "status" }
        )
      yield* status("OldType", "Ready", "RefResolved")
      assert.include(types(yield* plant.get("site")), "OldType")

      const second = yield* plant.repository.commit({ files: { a: "2" } })
      yield* plant.annotate("site", push({ id: "one" }))
      const cr = yield* Cluster.until(
        plant.get("site"),
        (cr) => hasCommit(second)(cr) && !types(cr).includes("OldType")
      )
      assert.include(types(cr), "Ready")
      const map = (yield* plant.client.get(Resource.configMaps, plant.ref("stoker-metadata-site"))) as {
        readonly data: object
        readonly metadata: { readonly labels: object }
      }
      assert.notProperty(map.data, "oldKey")
      assert.propertyVal(map.metadata.labels, "theirs", "yes")
    })
  )

  it.effect("replaces the binding of the Go operator, and removes everything when it is deleted", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("deleted")
      const first = yield* plant.repository.commit({ files: { a: "1" } })
      const group = "rbac.authorization.k8s.io"
      yield* plant.client.request("POST", `/apis/${group}/v1/clusterroles`, { metadata: { name: "stoker-agent" } })
      yield* plant.client.create(
        Resource.roleBindings,
        "deleted",
        {
          metadata: { name: "stoker-agent-site" },
          roleRef: { apiGroup: group, kind: "ClusterRole", name: "stoker-agent" },
          subjects: []
        },
        { fieldManager: "manager" }
      )
      yield* plant.create("site", {})
      yield* Cluster.until(plant.get("site"), hasCommit(first))
      const binding = yield* plant.client.get(Resource.roleBindings, plant.ref("stoker-agent-site"))
      assert.include(JSON.stringify(binding), '"kind":"Role"')

      yield* plant.client.delete(Names.gatewaySyncs, plant.ref("site"))
      yield* Cluster.until(Effect.flip(plant.get("site")), (error) => JSON.stringify(error).includes("NotFound"))
      for (const [resource, name] of [
        [Resource.configMaps, "stoker-metadata-site"],
        [Resource.configMaps, "stoker-status-site"],
        [Resource.roles, "stoker-agent-site"],
        [Resource.roleBindings, "stoker-agent-site"]
      ] as const) {
        const error = yield* Effect.flip(plant.client.get(resource, plant.ref(name)))
        assert.strictEqual(error.reason._tag, "NotFound")
      }

      // Another one of the same name owes nothing to the first.
      const second = yield* plant.repository.commit({ files: { a: "2" } })
      yield* plant.create("site", {})
      const again = yield* Cluster.until(plant.get("site"), hasCommit(second))
      const map = yield* plant.client.get(Resource.configMaps, plant.ref("stoker-metadata-site"))
      assert.include(JSON.stringify(map), again.metadata.uid)
    })
  )
})
