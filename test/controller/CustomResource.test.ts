import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Redacted, Schema } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import * as CustomResourceDefinition from "../../src/api/CustomResourceDefinition.ts"
import * as CustomResource from "../../src/controller/CustomResource.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../../src/kubernetes/KubeConfig.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import * as Connection from "../kubernetes/Connection.ts"

const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
const { metadata, spec } = CustomResourceDefinition.gatewaySyncs

const View = Schema.Struct({
  metadata: Schema.Struct({
    resourceVersion: Schema.String,
    annotations: Schema.Record(Schema.String, Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
  }),
  spec: Schema.Struct({
    versions: Schema.Array(
      Schema.Struct({
        schema: Schema.Struct({
          openAPIV3Schema: Schema.Struct({
            properties: Schema.Struct({
              status: Schema.Struct({ properties: Schema.Record(Schema.String, Schema.Unknown) })
            })
          })
        })
      })
    )
  })
})

const installed = Effect.gen(function* () {
  const { admin } = yield* ControlPlane
  const response = yield* HttpClient.filterStatusOk(admin).get(`${definitions}/${metadata.name}`)
  const view = yield* HttpClientResponse.schemaBodyJson(View)(response)
  const [version] = view.spec.versions
  return { ...view.metadata, statusFields: Object.keys(version!.schema.openAPIV3Schema.properties.status.properties) }
})

/** As the chart of an older version left it: its status knows less. */
const old = Effect.gen(function* () {
  const { admin } = yield* ControlPlane
  const [version] = spec.versions
  const { properties, ...schema } = version!.schema.openAPIV3Schema
  const status = { type: "object", properties: { lastSyncRef: { type: "string" } } }
  const older = { ...version, schema: { openAPIV3Schema: { ...schema, properties: { ...properties, status } } } }
  yield* HttpClient.filterStatusOk(admin).execute(
    HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(definitions), {
      ...CustomResourceDefinition.gatewaySyncs,
      spec: { ...spec, versions: [older] }
    })
  )
})

/** The same with the rights of a ServiceAccount that has none. */
const asNobody = Layer.unwrap(
  Effect.gen(function* () {
    const { issueServiceAccountToken } = yield* ControlPlane
    const account = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "nobody" } }
    yield* Manifests.apply([account], "default")
    const { token } = yield* issueServiceAccountToken("default", "nobody")
    const authorization = Effect.succeedSome(Redacted.make(`Bearer ${Redacted.value(token)}`))
    return Layer.fresh(ApiClient.layer).pipe(
      Layer.provide(
        Layer.effect(
          KubeConfig,
          Effect.map(KubeConfig, (config) => ({ ...config, authorization }))
        )
      )
    )
  })
)

layer(Connection.layer.pipe(Layer.provideMerge(NodeServices.layer)), { excludeTestServices: true })(
  "CustomResource",
  (it) => {
    it.effect("brings an older definition up to date, once, and leaves a newer one", () =>
      Effect.gen(function* () {
        yield* old
        assert.notInclude((yield* installed).statusFields, "lastHandledRequest")

        yield* Effect.provide(CustomResource.update("0.9.0"), asNobody)
        assert.notInclude((yield* installed).statusFields, "lastHandledRequest", "a refusal ends nothing")

        yield* CustomResource.update("0.9.0")
        const updated = yield* installed
        assert.include(updated.statusFields, "lastHandledRequest")
        assert.strictEqual(updated.annotations[CustomResource.writtenBy], "0.9.0")

        yield* CustomResource.update("0.9.0")
        assert.strictEqual((yield* installed).resourceVersion, updated.resourceVersion, "nothing to write")

        yield* CustomResource.update("0.10.0")
        yield* CustomResource.update("0.9.0")
        assert.strictEqual((yield* installed).annotations[CustomResource.writtenBy], "0.10.0")
      })
    )
  }
)
