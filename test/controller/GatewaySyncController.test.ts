import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import * as Conditions from "../../src/api/Conditions.ts"
import * as Names from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Cluster from "./Cluster.ts"

layer(Cluster.layer, { excludeTestServices: true, timeout: "2 minutes" })("GatewaySyncController", (it) => {
  it.effect("resolves a new GatewaySync and makes what its agents need", () =>
    Effect.gen(function* () {
      const plant = yield* Cluster.plant("new")
      const commit = yield* plant.repository.commit({ files: { "projects/a": "1" } })
      yield* plant.create("site", {})
      const cr = yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === commit)
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
})
