import { assert, describe, it } from "@effect/vitest"
import { Equal } from "effect"
import * as Conditions from "../../../src/api/Conditions.ts"
import type { DiscoveredGateway, SyncStatus } from "../../../src/api/GatewaySync.ts"
import * as Names from "../../../src/api/Names.ts"
import * as RequestedRef from "../../../src/api/RequestedRef.ts"
import * as Summary from "../../../src/controller/steps/Summary.ts"
import { commit, gatewaySync, otherCommit, resolved } from "../fixtures.ts"

const gateway = (syncStatus: SyncStatus, podName = "gateway-0"): DiscoveredGateway => ({
  name: "press",
  namespace: "plant",
  podName,
  syncStatus
})
const finding: Conditions.Finding = { type: "RefResolved", status: "True", reason: "RefResolved", message: commit }
const unresolved: Conditions.Finding = {
  type: "RefResolved",
  status: "False",
  reason: "RefResolutionFailed",
  message: "no"
}

const findings = (
  cr = gatewaySync(),
  rest: Partial<Omit<Summary.Findings, "resolution">> & { readonly resolution?: object } = {}
): Summary.Findings => ({
  cr,
  inForce: RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref),
  problems: [],
  gateways: [gateway("Synced")],
  failures: [],
  now: "2026-02-02T00:00:00Z",
  ...rest,
  resolution: {
    commit: { ref: "main", kind: "branch", commit },
    finding,
    handled: true,
    nextLook: Infinity,
    ...rest.resolution
  }
})
const condition = (type: Conditions.Type, given: Summary.Findings) => {
  const found = Conditions.get(Summary.conditions(given), type)
  return found === undefined ? undefined : [found.status, found.reason, found.message]
}

describe("Summary", () => {
  it("is ready when the ref resolved, the profiles are valid and all gateways have it", () => {
    assert.deepStrictEqual(condition("Ready", findings()), ["True", "SyncSucceeded", "All gateways synced"])
  })

  const notReady: ReadonlyArray<readonly [string, Summary.Findings, string, string]> = [
    ["no gateway is there", findings(undefined, { gateways: [] }), "Reconciling", "0/0 synced"],
    [
      "one is missing",
      findings(undefined, { gateways: [gateway("Synced"), gateway("Pending")] }),
      "Reconciling",
      "1/2 synced"
    ],
    [
      "one has no sidecar",
      findings(undefined, { gateways: [gateway("Synced"), gateway("MissingSidecar")] }),
      "Reconciling",
      "1/2 synced (1 missing sidecar)"
    ],
    ["the ref does not resolve", findings(undefined, { resolution: { finding: unresolved } }), "Reconciling", "no"],
    [
      "nothing resolved yet",
      findings(undefined, { resolution: { finding: undefined, commit: undefined } }),
      "Reconciling",
      "nothing resolved yet"
    ],
    ["a profile is wrong", findings(undefined, { problems: ["this", "that"] }), "Reconciling", "this; that"],
    ["something cannot be written", findings(undefined, { failures: ["forbidden"] }), "Reconciling", "forbidden"],
    ["it is paused", findings(gatewaySync({ spec: { paused: true } })), "Paused", "paused by spec.paused"],
    [
      "it is paused and something cannot be written",
      findings(gatewaySync({ spec: { paused: true } }), { failures: ["forbidden", "away"] }),
      "Paused",
      "paused by spec.paused; forbidden; away"
    ]
  ]
  for (const [when, given, reason, message] of notReady) {
    it(`is not ready when ${when}`, () => {
      assert.deepStrictEqual(condition("Ready", given), ["False", reason, message])
    })
  }

  it("tells how many gateways have it", () => {
    const of = (...gateways: ReadonlyArray<DiscoveredGateway>) =>
      condition("AllGatewaysSynced", findings(undefined, { gateways }))
    assert.deepStrictEqual(of(gateway("Synced"), gateway("Synced")), ["True", "SyncSucceeded", "2/2 synced"])
    assert.deepStrictEqual(of(gateway("Error")), ["False", "SyncInProgress", "0/1 synced"])
    assert.deepStrictEqual(of(), ["False", "NoGatewaysDiscovered", "0/0 synced"])
  })

  it("names the pods without a sidecar", () => {
    const of = (...gateways: ReadonlyArray<DiscoveredGateway>) =>
      condition("SidecarInjected", findings(undefined, { gateways }))
    assert.include(of(gateway("MissingSidecar", "press-0"))?.[2], "press-0")
    assert.strictEqual(of(gateway("Pending"))?.[1], "SidecarPresent")
    assert.isUndefined(of())
  })

  it("tells whether an ssh server's host key is checked, and nothing without ssh", () => {
    const secretRef = { name: "git", key: "key" }
    const of = (sshKey?: object) =>
      condition(
        "SSHHostKeyVerification",
        findings(gatewaySync({ git: sshKey === undefined ? {} : { auth: { sshKey } } }))
      )?.[1]
    assert.isUndefined(of())
    assert.strictEqual(of({ secretRef }), "HostKeyVerificationDisabled")
    assert.strictEqual(of({ secretRef, knownHosts: { secretRef } }), "HostKeyVerificationEnabled")
  })

  it("keeps what the status says of a ref that was not asked for", () => {
    const given = findings(gatewaySync({ status: resolved }), { resolution: { finding: undefined } })
    assert.deepStrictEqual(condition("RefResolved", given), ["True", "RefResolved", commit])
    const failed = {
      ...resolved,
      conditions: [{ ...unresolved, lastTransitionTime: "2026-01-01T00:00:00Z" }]
    }
    const kept = findings(gatewaySync({ status: failed }), { resolution: { finding: undefined } })
    assert.deepStrictEqual(condition("RefResolved", kept), ["False", "RefResolutionFailed", "no"])
  })

  it("tells a ref that is overridden, and a push that the remote does not serve yet", () => {
    const overridden = gatewaySync({
      metadata: {
        annotations: { [Names.request.ref]: "v2", [Names.request.over]: "main", [Names.request.id]: "one" }
      }
    })
    assert.strictEqual(condition("RefSkew", findings(overridden))?.[1], "OverriddenByRequest")
    const pushed = { ref: "main", kind: "branch", before: commit, after: otherCommit, at: "now", by: "github", id: "p" }
    const lagging = gatewaySync({ metadata: { annotations: { [Names.request.pushed]: JSON.stringify(pushed) } } })
    assert.strictEqual(condition("RefSkew", findings(lagging))?.[1], "WaitingForPush")
    assert.deepStrictEqual(condition("RefSkew", findings()), ["False", "RemoteAgrees", "spec and remote agree"])
  })

  it("changes nothing where nothing changed", () => {
    const first = Summary.status(findings())
    const again = Summary.status(
      findings(gatewaySync({ status: first }), { resolution: { finding: undefined }, now: "2026-03-03T00:00:00Z" })
    )
    assert.isTrue(Equal.equals(again, gatewaySync({ status: first }).status))
  })

  it("moves the commit's time with the commit, and the ref also without", () => {
    const cr = gatewaySync({ status: resolved })
    const same = Summary.status(findings(cr, { resolution: { commit: { ref: "v1", kind: "tag", commit } } }))
    assert.deepInclude(same, { lastSyncRef: "v1", lastSyncRefKind: "tag", lastSyncTime: resolved.lastSyncTime })
    const moved = Summary.status(findings(cr, { resolution: { commit: { ref: "main", commit: otherCommit } } }))
    assert.deepInclude(moved, {
      lastSyncCommit: otherCommit,
      lastSyncCommitShort: "bbbbbbb",
      lastSyncTime: "2026-02-02T00:00:00Z"
    })
  })

  it("keeps the last commit when nothing resolves", () => {
    const status = Summary.status(
      findings(gatewaySync({ status: resolved }), {
        resolution: { commit: undefined, finding: unresolved, handled: false }
      })
    )
    assert.deepInclude(status, { lastSyncCommit: commit, lastSyncRef: "main", refResolutionStatus: "Error" })
  })

  it("notes a request only when it is answered", () => {
    const annotations = { [Names.request.ref]: "v2", [Names.request.over]: "main", [Names.request.id]: "one" }
    const cr = gatewaySync({ metadata: { annotations } })
    assert.strictEqual(Summary.status(findings(cr)).lastHandledRequest, RequestedRef.fingerprint(annotations))
    assert.isUndefined(Summary.status(findings(cr, { resolution: { handled: false } })).lastHandledRequest)
  })

  it("keeps the time of a condition until its status changes", () => {
    const before = Summary.conditions(findings())
    const cr = gatewaySync({ status: { conditions: before } })
    const time = (given: Summary.Findings) =>
      Conditions.get(Summary.conditions({ ...given, now: "2026-03-03T00:00:00Z" }), "AllGatewaysSynced")
        ?.lastTransitionTime
    assert.strictEqual(time(findings(cr, { gateways: [gateway("Synced"), gateway("Synced")] })), "2026-02-02T00:00:00Z")
    assert.strictEqual(time(findings(cr, { gateways: [] })), "2026-03-03T00:00:00Z")
  })
})
