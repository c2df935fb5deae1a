import { assert, describe, it } from "@effect/vitest"
import * as Conditions from "../../../src/api/Conditions.ts"
import type { DiscoveredGateway, Status, SyncStatus } from "../../../src/api/GatewaySync.ts"
import * as Names from "../../../src/api/Names.ts"
import * as RequestedRef from "../../../src/api/RequestedRef.ts"
import * as Events from "../../../src/controller/steps/Events.ts"
import { gatewaySync, pod, resolved } from "../fixtures.ts"

const condition = (
  type: Conditions.Type,
  status: "True" | "False",
  reason: Conditions.Reason,
  message: string
): Conditions.Condition => ({ type, status, reason, message, lastTransitionTime: "2026-01-01T00:00:00Z" })

const gateway = (syncStatus: SyncStatus, podName = "gateway-0", message?: string): DiscoveredGateway => ({
  name: podName,
  namespace: "plant",
  podName,
  syncStatus,
  ...(message === undefined ? {} : { message })
})

const between = (before: Partial<Status>, after: Partial<Status>, refusedRights?: string) =>
  Events.between({
    cr: gatewaySync({ status: { ...resolved, ...before } }),
    pods: [pod()],
    reports: {},
    status: { ...gatewaySync({ status: resolved }).status, ...after },
    refusedRights
  }).map(({ note, reason }) => `${reason}: ${note}`)

const failing = (message: string, reason: Conditions.Reason = "RefResolutionFailed") => ({
  conditions: [condition("RefResolved", "False", reason, message)]
})

describe("Events", () => {
  it("says nothing where nothing changed", () => {
    const bad = {
      conditions: [
        condition("RefResolved", "False", "RefResolutionFailed", "no such ref. Next try at 2026-01-01T00:00:00Z"),
        condition("ProfilesValid", "False", "ProfilesInvalid", "a is wrong"),
        condition("AllGatewaysSynced", "True", "SyncSucceeded", "1/1 synced"),
        condition("Ready", "False", "Paused", "paused")
      ],
      discoveredGateways: [
        gateway("MissingSidecar"),
        gateway("Error", "gateway-1", "broken"),
        gateway("Error", "gateway-2")
      ]
    }
    assert.deepStrictEqual(between(bad, bad), [])
  })

  it("tells a failure once, whenever it is tried again, and another cause anew", () => {
    const first = failing("no such ref. Next try at 2026-01-01T00:00:00Z")
    assert.deepStrictEqual(between({}, first), ["RefResolutionFailed: no such ref."])
    assert.deepStrictEqual(between(first, failing("no such ref. Next try at 2026-01-01T00:01:00Z")), [])
    assert.deepStrictEqual(between(first, failing("refused.")), ["RefResolutionFailed: refused."])
    assert.deepStrictEqual(between(first, failing("no such ref.", "GitHubAppExchangeFailed")), [
      "GitHubAppExchangeFailed: no such ref."
    ])
    assert.deepStrictEqual(between(first, {}), [])
  })

  it("tells of profiles, pause and refused rights when they come to be so", () => {
    const invalid = { conditions: [condition("ProfilesValid", "False", "ProfilesInvalid", "a is wrong")] }
    assert.deepStrictEqual(between({}, invalid), ["ProfilesInvalid: a is wrong"])
    const paused = { conditions: [condition("Ready", "False", "Paused", "paused")] }
    assert.deepStrictEqual(between({}, paused), ["Paused: nothing is resolved or synced while spec.paused is true"])
    const refused = { conditions: [condition("Ready", "False", "Reconciling", "roles: forbidden")] }
    assert.deepStrictEqual(between({}, refused, "roles: forbidden"), [
      "RBACError: the agents could not be given their rights: roles: forbidden"
    ])
    assert.deepStrictEqual(between(refused, refused, "roles: forbidden"), [])
    const among = (reason: Conditions.Reason, message: string) => ({
      conditions: [condition("Ready", "False", reason, message)]
    })
    const still = among("Paused", "paused by spec.paused; roles: forbidden")
    assert.deepStrictEqual(between(still, still, "roles: forbidden"), [])
    const both = among("Reconciling", "configmaps: away; roles: forbidden")
    assert.deepStrictEqual(between(both, both, "roles: forbidden"), [])
  })

  it("tells of gateways that are found, lack their sidecar, fail and are all synced", () => {
    assert.deepStrictEqual(
      between(
        { discoveredGateways: [gateway("Synced")] },
        { discoveredGateways: [gateway("Synced"), gateway("MissingSidecar", "gateway-1")] }
      ),
      [
        "GatewaysDiscovered: 2 gateways; new: gateway-1",
        "MissingSidecar: without sidecar: gateway-1; delete these pods, so that they are made anew with one"
      ]
    )
    const synced = { conditions: [condition("AllGatewaysSynced", "True", "SyncSucceeded", "1/1 synced")] }
    assert.deepStrictEqual(between({}, synced), ["SyncCompleted: 1/1 synced: main at aaaaaaa"])
    const [failed] = Events.between({
      cr: gatewaySync({ status: { ...resolved, discoveredGateways: [gateway("Pending")] } }),
      pods: [pod()],
      reports: {},
      status: { discoveredGateways: [gateway("Error", "gateway-0", "the scan failed")] },
      refusedRights: undefined
    })
    assert.strictEqual(failed?.note, "gateway gateway-0 (pod gateway-0): the scan failed")
    assert.strictEqual(failed?.related?.uid, "gateway-0-uid")
  })

  it("tells a clone that failed from a sync that failed, as the agent does", () => {
    const told = (report: object, before: DiscoveredGateway, message: string) =>
      Events.between({
        cr: gatewaySync({ status: { ...resolved, discoveredGateways: [before] } }),
        pods: [pod()],
        reports: { "gateway-0": JSON.stringify({ syncStatus: "Error", ...report }) },
        status: { discoveredGateways: [gateway("Error", "gateway-0", message)] },
        refusedRights: undefined
      }).map(({ note, reason, type }) => `${type} ${reason}: ${note}`)
    const pending = gateway("Pending")
    assert.deepStrictEqual(told({ errorReason: "CloneFailed" }, pending, "no such host"), [
      "Warning CloneFailed: gateway gateway-0 (pod gateway-0): no such host"
    ])
    assert.deepStrictEqual(told({}, pending, "no scan"), [
      "Warning SyncFailed: gateway gateway-0 (pod gateway-0): no scan"
    ])
    // Of a newer agent.
    assert.deepStrictEqual(told({ errorReason: "Unheard" }, pending, "no scan"), [
      "Warning SyncFailed: gateway gateway-0 (pod gateway-0): no scan"
    ])
    assert.deepStrictEqual(told({ errorReason: "CloneFailed" }, gateway("Error", "gateway-0", "same"), "same"), [])
  })

  it("tells of gateways whose profile is paused or a dry run, and of no more when the GatewaySync is paused itself", () => {
    const skipped = (report: object, before: DiscoveredGateway, message: string, spec = {}) =>
      Events.between({
        cr: gatewaySync({ spec, status: { ...resolved, discoveredGateways: [before] } }),
        pods: [pod()],
        reports: { "gateway-0": JSON.stringify({ syncStatus: "Synced", ...report }) },
        status: { discoveredGateways: [gateway("Pending", "gateway-0", message)] },
        refusedRights: undefined
      }).map(({ note, reason, type }) => `${type} ${reason}: ${note}`)
    const synced = gateway("Synced")
    assert.deepStrictEqual(skipped({ dryRun: true }, synced, "dry run: 1 to add"), [
      "Normal SyncSkipped: gateway gateway-0 (pod gateway-0): dry run: 1 to add"
    ])
    assert.deepStrictEqual(
      skipped({ dryRun: true }, gateway("Pending", "gateway-0", "dry run: 1 to add"), "dry run: 1 to add"),
      []
    )
    assert.deepStrictEqual(skipped({ paused: true }, synced, "paused"), [
      "Normal SyncSkipped: gateway gateway-0 (pod gateway-0): paused"
    ])
    assert.deepStrictEqual(skipped({ paused: true }, synced, "paused", { paused: true }), [])
    assert.deepStrictEqual(skipped({}, synced, "the sidecar is not ready"), [])
  })

  it("tells of deliveries that were not handled, and not of what was set by hand", () => {
    const promotion = { [Names.request.ref]: "v2", [Names.request.id]: "1", [Names.request.by]: "argocd" }
    const push = {
      [Names.request.pushed]: JSON.stringify({
        ref: "main",
        kind: "branch",
        at: "2026-01-01T00:00:00Z",
        by: "gitlab",
        id: "2"
      })
    }
    const notes = (annotations: object, status: object = {}, told: { ref?: string; push?: string } = {}) =>
      Events.received(gatewaySync({ metadata: { annotations }, status }), told).happenings.map(({ note }) => note)
    const requests = ['argocd requests "v2"']
    const announces = ['gitlab announces a push to branch "main"']
    const both = { ...promotion, ...push }
    assert.deepStrictEqual(notes(both), [...requests, ...announces])
    assert.deepStrictEqual(notes(both, { lastHandledRequest: RequestedRef.fingerprint(promotion) }), announces)
    assert.deepStrictEqual(notes({ [Names.request.ref]: "v2" }), [])

    // A request that is repeated under another id moves nothing: not when it is in force, and not while it is open.
    assert.deepStrictEqual(notes(promotion, { lastSyncRef: "main" }), requests)
    assert.deepStrictEqual(notes(promotion, { lastSyncRef: "v2" }), [])
    assert.deepStrictEqual(notes(promotion, { lastSyncRef: "main" }, { ref: "v2" }), [])
    assert.deepStrictEqual(notes(promotion, { lastSyncRef: "v2" }, { ref: "v3" }), requests)
    assert.deepStrictEqual(notes(push, {}, { push: "1" }), announces)
    assert.deepStrictEqual(notes(push, {}, { push: "2" }), [])
    // What is gone from the annotations is new when it comes again.
    assert.deepStrictEqual(Events.received(gatewaySync({ metadata: { annotations: both } }), {}).now, {
      ref: "v2",
      push: "2"
    })
    assert.deepStrictEqual(Events.received(gatewaySync(), { ref: "v2", push: "2" }).now, {})
  })
})
