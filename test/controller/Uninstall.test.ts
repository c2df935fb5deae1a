import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Schedule, Schema } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import * as Names from "../../src/api/Names.ts"
import * as Uninstall from "../../src/controller/Uninstall.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import * as Connection from "../kubernetes/Connection.ts"
import { definitions } from "./Cluster.ts"

const namespace = "stoker-system"
const labels = { app: "stoker" }
const container = { name: "manager", image: "stoker" }
const ref = (name: string) => ({ namespace: "plant", name })

const gatewaySync = (name: string, finalizers: ReadonlyArray<string>): Manifests.Manifest => ({
  apiVersion: Names.apiVersion,
  kind: "GatewaySync",
  metadata: { name, finalizers },
  spec: {
    git: { repo: "https://example.com/plant.git", ref: "main" },
    gateway: { api: { secretName: "api" } },
    sync: { profiles: { default: { mappings: [{ source: "projects", destination: "projects" }] } } }
  }
})

const Metadata = Schema.Struct({
  metadata: Schema.Struct({ finalizers: Schema.optionalKey(Schema.Array(Schema.String)) })
})
const finalizersOf = (name: string) =>
  ApiClient.use((client) => client.get(Names.gatewaySyncs, ref(name))).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Metadata)),
    Effect.map(({ metadata }) => metadata.finalizers ?? [])
  )

const isGone = (resource: Resource.Resource, object: Resource.ObjectRef) =>
  ApiClient.use((client) => client.get(resource, object)).pipe(
    Effect.as(false),
    Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(true))
  )

const Services = definitions.pipe(Layer.provideMerge(Connection.layer), Layer.provideMerge(NodeServices.layer))

layer(Services, { excludeTestServices: true })("Uninstall", (it) => {
  it.effect("stops the controllers first, then frees every GatewaySync of our finalizer, and of no other", () =>
    Effect.gen(function* () {
      const client = yield* ApiClient
      const { admin } = yield* ControlPlane
      const namespaces = [namespace, "plant"].map((name) => ({
        apiVersion: "v1",
        kind: "Namespace",
        metadata: { name }
      }))
      yield* Manifests.apply(
        [
          ...namespaces,
          {
            apiVersion: "apps/v1",
            kind: "Deployment",
            metadata: { name: "manager" },
            spec: {
              replicas: 2,
              selector: { matchLabels: labels },
              template: { metadata: { labels }, spec: { containers: [container] } }
            }
          },
          { apiVersion: "v1", kind: "Pod", metadata: { name: "manager-0", labels }, spec: { containers: [container] } },
          {
            apiVersion: "coordination.k8s.io/v1",
            kind: "Lease",
            metadata: { name: Names.lease },
            spec: { holderIdentity: "manager-0" }
          }
        ],
        namespace
      )
      yield* Manifests.apply(
        [
          gatewaySync("kept", [Names.finalizer, "example.com/another"]),
          gatewaySync("deleted", [Names.finalizer]),
          gatewaySync("free", []),
          { apiVersion: "v1", kind: "ConfigMap", metadata: { name: Names.metadataMap("deleted") } },
          { apiVersion: "v1", kind: "ConfigMap", metadata: { name: Names.metadataMap("kept") } }
        ],
        "plant"
      )
      yield* client.delete(Names.gatewaySyncs, ref("deleted"))

      const running = yield* Effect.forkScoped(Uninstall.run({ namespace, name: "manager" }))
      const replicas = admin.get(`/apis/apps/v1/namespaces/${namespace}/deployments/manager/scale`).pipe(
        Effect.flatMap(HttpClientResponse.filterStatusOk),
        Effect.flatMap(
          HttpClientResponse.schemaBodyJson(
            Schema.Struct({ spec: Schema.Struct({ replicas: Schema.optionalKey(Schema.Int) }) })
          )
        ),
        Effect.map(({ spec }) => spec.replicas ?? 0)
      )
      yield* replicas.pipe(
        Effect.repeat({ until: (count) => count === 0, schedule: Schedule.spaced("20 millis") }),
        Effect.timeout("10 seconds")
      )
      assert.include(yield* finalizersOf("kept"), Names.finalizer, "a controller still runs")
      yield* HttpClient.filterStatusOk(admin).del(`/api/v1/namespaces/${namespace}/pods/manager-0?gracePeriodSeconds=0`)
      yield* Fiber.join(running)

      assert.deepStrictEqual(yield* finalizersOf("kept"), ["example.com/another"])
      assert.isTrue(yield* isGone(Names.gatewaySyncs, ref("deleted")))
      assert.isTrue(yield* isGone(Resource.configMaps, ref(Names.metadataMap("deleted"))))
      assert.isFalse(yield* isGone(Resource.configMaps, ref(Names.metadataMap("kept"))), "agents still read it")
      assert.isTrue(yield* isGone(Resource.leases, { namespace, name: Names.lease }))

      yield* Uninstall.run({ namespace, name: "manager" })
      yield* Uninstall.run({ namespace, name: "never-there" })
    })
  )
})
