import { assert, describe, it } from "@effect/vitest"
import * as Names from "../../../src/api/Names.ts"
import type { Pod } from "../../../src/controller/Pod.ts"
import * as Discovery from "../../../src/controller/steps/Discovery.ts"
import { commit, otherCommit, pod } from "../fixtures.ts"

const wanted = { revision: "r1", commit }
const ready = { started: true, ready: true }
const synced = { syncStatus: "Synced", syncedCommit: commit, observedRevision: "r1", podUID: "gateway-0-uid" }

const discover = (one: Pod, report?: object, key = "gateway-0") =>
  Discovery.discover({
    pods: [one],
    reports: report === undefined ? {} : { [key]: JSON.stringify(report) },
    wanted
  })[0]

describe("Discovery", () => {
  const states: ReadonlyArray<readonly [string, Pod, object | undefined, string | undefined]> = [
    ["a ready sidecar and the right report", pod({ sidecar: ready }), synced, "Synced"],
    ["no report", pod({ sidecar: ready }), undefined, "Pending"],
    ["another revision at the same commit", pod({ sidecar: ready }), { ...synced, observedRevision: "r0" }, "Pending"],
    ["the report of the pod before", pod({ sidecar: ready }), { ...synced, podUID: "other" }, "Pending"],
    ["a dry run", pod({ sidecar: ready }), { ...synced, dryRun: true }, "Pending"],
    ["a pause", pod({ sidecar: ready }), { ...synced, paused: true }, "Pending"],
    ["an error", pod({ sidecar: ready }), { ...synced, syncStatus: "Error", errorMessage: "no" }, "Error"],
    ["a sidecar that is not ready", pod({ sidecar: { started: true } }), synced, "Pending"],
    [
      "a sidecar that is pending and started",
      pod({ phase: "Pending", sidecar: { started: true } }),
      undefined,
      "Pending"
    ],
    ["a report of a Go agent", pod({ sidecar: ready }), { syncStatus: "Synced", syncedCommit: commit }, "Synced"],
    [
      "an old one of a Go agent",
      pod({ sidecar: ready }),
      { syncStatus: "Synced", syncedCommit: otherCommit },
      "Pending"
    ],
    ["no sidecar", pod(), undefined, "MissingSidecar"],
    ["no sidecar, and none wanted", pod({ annotations: { [Names.pod.inject]: "false" } }), undefined, undefined],
    ["a sidecar that has not started", pod({ phase: "Pending", sidecar: {} }), undefined, undefined],
    ["a pod that ends", pod({ deletionTimestamp: "2026-01-01T00:00:00Z", sidecar: ready }), synced, undefined]
  ]
  for (const [what, one, report, expected] of states) {
    it(`is ${expected ?? "not discovered"} with ${what}`, () => {
      assert.strictEqual(discover(one, report)?.syncStatus, expected)
    })
  }

  it("finds the report of a Go agent under the gateway's name", () => {
    const one = pod({ sidecar: ready, annotations: { [Names.pod.gatewayName]: "press" } })
    const found = discover(one, { syncStatus: "Synced", syncedCommit: commit, agentVersion: "0.7" }, "press")
    assert.deepInclude(found, { name: "press", podName: "gateway-0", syncStatus: "Synced", agentVersion: "0.7" })
  })

  it("names a gateway by annotation, else by label, else by pod", () => {
    const name = (annotations: object, labels: object) => discover(pod({ annotations, labels, sidecar: ready }))?.name
    assert.strictEqual(name({ [Names.pod.gatewayName]: "a" }, { [Names.pod.appName]: "b" }), "a")
    assert.strictEqual(name({}, { [Names.pod.appName]: "b" }), "b")
    assert.strictEqual(name({}, {}), "gateway-0")
  })

  it("says in words why a report that says Synced does not count", () => {
    const message = (report: object, one = pod({ sidecar: ready })) => discover(one, { ...synced, ...report })?.message
    assert.strictEqual(
      message({ dryRun: true, dryRunDiffAdded: 1, dryRunDiffModified: 2 }),
      "dry run: 1 to add, 2 to change, 0 to delete"
    )
    assert.match(message({ paused: true }) ?? "", /^paused/)
    assert.strictEqual(message({}, pod({ sidecar: { started: true } })), "the sidecar is not ready")
    assert.isUndefined(message({}))
    assert.strictEqual(message({ syncStatus: "Error", errorMessage: "no such file" }), "no such file")
  })

  it("bears a report that is no report", () => {
    assert.strictEqual(discover(pod({ sidecar: ready }), { syncStatus: "Fine" })?.syncStatus, "Pending")
  })

  it("gives the same list whatever the order of the pods", () => {
    const pods = ["b-1", "a-0", "b-0"].map((name) =>
      pod({ name, labels: { [Names.pod.appName]: name[0]! }, sidecar: ready })
    )
    const names = (some: ReadonlyArray<Pod>) =>
      Discovery.discover({ pods: some, reports: {}, wanted }).map(({ podName }) => podName)
    assert.deepStrictEqual(names(pods), ["a-0", "b-0", "b-1"])
    assert.deepStrictEqual(names(pods.toReversed()), ["a-0", "b-0", "b-1"])
  })

  it("knows the keys of no pod and no gateway as strays", () => {
    const pods = [pod({ annotations: { [Names.pod.gatewayName]: "press" } })]
    const reports = { "gateway-0": "{}", press: "{}", "gateway-1": "{}" }
    assert.deepStrictEqual(Discovery.strayKeys({ pods, reports }), ["gateway-1"])
  })
})
