/** The life of a release: installed, upgraded, used and uninstalled by the real helm, and run as its objects say. */
import { NodeHttpClient, NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Schedule, Schema } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import * as CustomResource from "../../src/controller/CustomResource.ts"
import * as Names from "../../src/api/Names.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { version } from "../../src/Version.ts"
import * as OneGateway from "./OneGateway.ts"
import { fullname, namespace, Release } from "./Release.ts"

const Services = Layer.mergeAll(Release.layer, GitServer.layerNoDeps()).pipe(
  Layer.provideMerge(ControlPlane.layer),
  Layer.provideMerge(Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp))
)

const post = (url: string, body: object, token?: string) =>
  HttpClientRequest.post(url).pipe(
    HttpClientRequest.bodyJsonUnsafe(body),
    token === undefined ? (request) => request : HttpClientRequest.bearerToken(token),
    HttpClient.execute,
    Effect.map((response) => response.status)
  )

const List = Schema.Struct({
  items: Schema.Array(Schema.Struct({ metadata: Schema.Struct({ name: Schema.String }) }))
})

const receiver = `${fullname}-webhook-receiver`
const crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gatewaysyncs.stoker.io"

layer(Services, { excludeTestServices: true, timeout: "60 seconds" })("a release", (it) => {
  it.effect(
    "is installed, gets the receiver by an upgrade, brings a release to a gateway, and leaves nothing but the CRD",
    () =>
      Effect.gen(function* () {
        const { admin } = yield* ControlPlane
        const { chart, get, helm, rollOut, through, uninstall } = yield* Release
        const names = (path: string) =>
          get(path).pipe(
            Effect.flatMap(Schema.decodeUnknownEffect(List)),
            Effect.map(({ items }) => items.map(({ metadata }) => metadata.name))
          )

        // Without the receiver, as it is by default.
        yield* helm(["install", "stoker", chart, "-n", namespace, "--create-namespace", "--set=metrics.secure=false"])
        const plant = yield* OneGateway.make({ namespace: "my-namespace", cr: "my-sync" })
        const first = yield* rollOut
        assert.isUndefined(yield* get(`/api/v1/namespaces/${namespace}/services/${receiver}`))
        yield* plant.startGateway
        yield* plant.arrives("v1.0.0")
        assert.containsSubset(yield* get(crd), { metadata: { annotations: { [CustomResource.writtenBy]: version } } })

        // An upgrade from there.
        yield* helm(
          ["upgrade", "stoker", chart, "-n", namespace, "--set", "webhookReceiver.enabled=true"],
          JSON.stringify({ metrics: { secure: false }, webhookReceiver: { token: { secret: "my-token" } } })
        )
        const second = yield* rollOut
        assert.notStrictEqual(second.pid, first.pid)
        const url = `${yield* through(receiver)}/webhook/my-namespace/my-sync`
        yield* plant.publish("v2.0.0", "refs/tags/v2.0.0")
        assert.strictEqual(yield* post(url, { ref: "v2.0.0" }), 401)
        assert.strictEqual(yield* post(url, { ref: "v2.0.0" }, "wrong"), 401)
        assert.strictEqual(yield* post(url, { ref: "v2.0.0" }, "my-token"), 202)
        yield* plant.arrives("v2.0.0")

        // What the alerts and the dashboard ask for is served.
        const metrics = yield* Effect.flatMap(HttpClient.get(second.metricsUrl), (response) => response.text)
        const monitoring = yield* helm(
          ["template", "stoker", chart, "-s", "templates/monitoring.yaml"],
          JSON.stringify({
            metrics: { secure: false },
            prometheusRule: { enabled: true },
            grafanaDashboard: { enabled: true }
          })
        )
        const asked = new Set(monitoring.match(/\bstoker_\w+/g)?.map((name) => name.replace(/_bucket$/, "")))
        assert.isAtLeast(asked.size, 8)
        assert.deepStrictEqual(
          [...asked].filter((name) => !metrics.includes(`# HELP ${name} `)),
          []
        )

        // And away with it.
        yield* uninstall
        for (const path of [
          `/apis/apps/v1/namespaces/${namespace}/deployments`,
          `/apis/batch/v1/namespaces/${namespace}/jobs`,
          ...["configmaps", "pods", "secrets", "serviceaccounts", "services"].map(
            (plural) => `/api/v1/namespaces/${namespace}/${plural}`
          ),
          `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`,
          ...["roles", "rolebindings"].map(
            (plural) => `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}/${plural}`
          ),
          ...["clusterroles", "clusterrolebindings"].map(
            (plural) => `/apis/rbac.authorization.k8s.io/v1/${plural}?labelSelector=app.kubernetes.io/instance=stoker`
          )
        ]) {
          assert.deepStrictEqual(yield* names(path), [], path)
        }
        assert.isDefined(yield* get(crd))

        // Nothing holds a GatewaySync back, and its objects would go with it.
        assert.containsSubset(
          yield* get(`/api/v1/namespaces/my-namespace/configmaps/${Names.metadataMap("my-sync")}`),
          { metadata: { ownerReferences: [{ kind: "GatewaySync", name: "my-sync" }] } }
        )
        yield* HttpClient.filterStatusOk(admin).del(plant.gatewaySync)
        yield* get(plant.gatewaySync).pipe(
          Effect.repeat({ until: (found) => found === undefined, schedule: Schedule.spaced("20 millis") }),
          Effect.timeout("5 seconds")
        )
      }),
    60_000
  )
})
