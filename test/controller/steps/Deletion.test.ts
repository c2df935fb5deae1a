import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Option, Redacted, Schema } from "effect"
import { GatewaySync } from "../../../src/api/GatewaySync.ts"
import * as Names from "../../../src/api/Names.ts"
import * as Deletion from "../../../src/controller/steps/Deletion.ts"
import { ApiClient } from "../../../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../../../src/kubernetes/KubeConfig.ts"
import * as Resource from "../../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../../src/sandbox/ControlPlane.ts"
import * as Connection from "../../kubernetes/Connection.ts"
import { definitions } from "../Cluster.ts"

const namespace = "plant"
const write = { fieldManager: "test" }

/** The controller's way to the API server with the chart's rights where `rbac.autoBindAgent.enabled` is false. */
const withoutRoles = Effect.gen(function* () {
  const client = yield* ApiClient
  const admin = yield* KubeConfig
  const { issueServiceAccountToken } = yield* ControlPlane
  const rbac = "/apis/rbac.authorization.k8s.io/v1"
  yield* client.create(Resource.serviceAccounts, namespace, { metadata: { name: "stoker" } }, write)
  yield* client.request("POST", `${rbac}/clusterroles`, {
    metadata: { name: "stoker" },
    rules: [
      { apiGroups: [Names.group], resources: [Names.gatewaySyncs.plural], verbs: ["get", "patch"] },
      { apiGroups: [""], resources: ["configmaps", "secrets"], verbs: ["get", "create", "patch", "delete"] }
    ]
  })
  yield* client.request("POST", `${rbac}/clusterrolebindings`, {
    metadata: { name: "stoker" },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "stoker" },
    subjects: [{ kind: "ServiceAccount", name: "stoker", namespace }]
  })
  const { token } = yield* issueServiceAccountToken(namespace, "stoker")
  return Layer.fresh(ApiClient.layer).pipe(
    Layer.provide(
      Layer.succeed(KubeConfig, {
        ...admin,
        authorization: Effect.succeed(Option.some(Redacted.make(`Bearer ${Redacted.value(token)}`)))
      })
    )
  )
})

layer(definitions.pipe(Layer.provideMerge(Connection.layer)), { excludeTestServices: true })("Deletion", (it) => {
  it.effect("frees a GatewaySync of its finalizer also where it has no right on roles", () =>
    Effect.gen(function* () {
      const client = yield* ApiClient
      yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: namespace } })
      const ref = { namespace, name: "site" }
      yield* client.create(
        Names.gatewaySyncs,
        namespace,
        {
          apiVersion: Names.apiVersion,
          kind: "GatewaySync",
          metadata: { name: "site", finalizers: [Names.finalizer] },
          spec: {
            git: { repo: "https://git.example.com/plant.git", ref: "main" },
            gateway: { api: { secretName: "api" } },
            sync: { profiles: { default: { mappings: [{ source: "a", destination: "a" }] } } }
          }
        },
        write
      )
      const map = { namespace, name: Names.metadataMap("site") }
      yield* client.create(Resource.configMaps, namespace, { metadata: { name: map.name } }, write)
      yield* client.delete(Names.gatewaySyncs, ref)
      const cr = yield* Effect.flatMap(client.get(Names.gatewaySyncs, ref), Schema.decodeUnknownEffect(GatewaySync))
      yield* Deletion.run(cr).pipe(Effect.provide(yield* withoutRoles))
      for (const gone of [client.get(Names.gatewaySyncs, ref), client.get(Resource.configMaps, map)]) {
        assert.strictEqual((yield* Effect.flip(gone)).reason._tag, "NotFound")
      }
    })
  )
})
