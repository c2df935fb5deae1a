import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Equal, Schema } from "effect"
import { randomUUID } from "node:crypto"
import * as Conditions from "../../src/api/Conditions.ts"
import { gatewaySyncs } from "../../src/api/CustomResourceDefinition.ts"
import type { GatewaySync } from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import * as Definition from "../../src/controller/Definition.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Cluster from "./Cluster.ts"

const later = ["lastHandledRequest", "message"]

/** The definition as it was before those fields came. */
const older = (() => {
  const drop = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(drop)
    if (typeof value !== "object" || value === null) return value
    const isGateway = "podName" in value
    return Object.fromEntries(
      Object.entries(value)
        .filter(([key]) => key !== later[0] && !(isGateway && key === later[1]))
        .map(([key, inner]) => [key, drop(inner)])
    )
  }
  return drop(gatewaySyncs) as typeof gatewaySyncs
})()

/** The definition as a later Stoker may have it. */
const newer = (() => {
  const [version] = gatewaySyncs.spec.versions
  const schema = version!.schema.openAPIV3Schema
  const { spec, status } = schema.properties
  const field = { type: "object", "x-kubernetes-preserve-unknown-fields": true }
  const withField = <S extends object>(schema: S) => ({
    ...schema,
    properties: { ...(schema as { readonly properties?: object }).properties, newer: field }
  })
  const properties = { ...schema.properties, spec: withField(spec), status: withField(status) }
  return {
    ...gatewaySyncs,
    spec: { ...gatewaySyncs.spec, versions: [{ ...version, schema: { openAPIV3Schema: { ...schema, properties } } }] }
  }
})()

/** The definition as it was before it looked at names. */
const lenient = (() => {
  const [version] = gatewaySyncs.spec.versions
  const { "x-kubernetes-validations": _rules, ...schema } = version!.schema.openAPIV3Schema
  return {
    ...gatewaySyncs,
    spec: { ...gatewaySyncs.spec, versions: [{ ...version, schema: { openAPIV3Schema: schema } }] }
  }
})()

const Installed = Schema.Struct({
  spec: Schema.Struct({ versions: Schema.Array(Schema.Struct({ name: Schema.String, schema: Schema.Any })) })
})

describe("Definition", () => {
  const read = (definition: object) => Definition.lacking(Schema.decodeUnknownSync(Installed)(definition))

  it("finds nothing lacking in ours, and the later fields in an older one", () => {
    assert.deepStrictEqual(read(gatewaySyncs), [])
    assert.deepStrictEqual(read(older), ["status.lastHandledRequest", "status.discoveredGateways[].message"])
  })
})

layer(Cluster.layerWith(Cluster.definition(older)), { excludeTestServices: true, timeout: "2 minutes" })(
  "An older definition of GatewaySync",
  (it) => {
    it.effect("gets the status all the same, but for the fields that it lacks, and is noticed when it is renewed", () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("older")
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.client.create(
          Resource.pods,
          "older",
          {
            metadata: { name: "gateway-0", annotations: { [Names.pod.crName]: "site", [Names.pod.inject]: "true" } },
            spec: { containers: [{ name: "gateway", image: "gateway" }] }
          },
          { fieldManager: "test" }
        )
        const phase = { status: { phase: "Running" } }
        yield* plant.client.mergePatch(Resource.pods, plant.ref("gateway-0"), phase, {
          fieldManager: "test",
          subresource: "status"
        })
        yield* plant.create("site", {})
        const cr = yield* Cluster.until(
          plant.get("site"),
          ({ status }) => status.lastSyncCommit === first && status.discoveredGateways?.length === 1
        )
        assert.strictEqual(cr.status.discoveredGateways?.[0]?.syncStatus, "MissingSidecar")
        assert.isUndefined(cr.status.discoveredGateways?.[0]?.message)
        assert.strictEqual(Conditions.get(cr.status.conditions ?? [], "SidecarInjected")?.status, "False")
        assert.isUndefined(cr.status.lastHandledRequest)

        // What is no longer so goes, as with an apply.
        yield* plant.client.delete(Resource.pods, plant.ref("gateway-0"))
        const alone = yield* Cluster.until(
          plant.get("site"),
          ({ status }) => status.discoveredGateways !== undefined && status.discoveredGateways.length === 0
        )
        assert.isUndefined(Conditions.get(alone.status.conditions ?? [], "SidecarInjected"))

        const path = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${gatewaySyncs.metadata.name}`
        yield* plant.client.request("PATCH", path, { spec: gatewaySyncs.spec }, "application/merge-patch+json")
        const { lookAgain, takesStatus } = yield* Definition.Definition
        yield* lookAgain
        assert.isTrue(yield* takesStatus)
        yield* plant.annotate("site", { [Names.request.ref]: "main" })
        const renewed = yield* Cluster.until(plant.get("site"), ({ status }) => status.lastHandledRequest !== undefined)
        assert.isFalse(Equal.equals(renewed.status, alone.status))
      })
    )
  }
)

layer(Cluster.layerWith(Cluster.definition(newer)), { excludeTestServices: true, timeout: "2 minutes" })(
  "A GatewaySync with fields that this Stoker does not know",
  (it) => {
    it.effect("keeps them through all that is written: finalizer, request, status", () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("newer")
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        const second = yield* plant.repository.commit({ files: { a: "2" }, branch: "other" })
        const content = { anything: ["at", "all"], deep: { x: 1 } }
        yield* plant.create("site", { newer: content })
        yield* plant.client.mergePatch(
          Names.gatewaySyncs,
          plant.ref("site"),
          { status: { newer: content } },
          { fieldManager: "newer", subresource: "status" }
        )
        yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)
        yield* plant.annotate("site", { [Names.request.ref]: "other" })
        yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === second)
        yield* plant.patch("site", { spec: { git: { ref: "other" } } })
        yield* Cluster.until(plant.get("site"), ({ metadata }) => metadata.annotations[Names.request.ref] === undefined)
        const raw = yield* plant.client.get(Names.gatewaySyncs, plant.ref("site"))
        const { metadata, spec, status } = raw as {
          readonly spec: { readonly newer: object }
          readonly status: { readonly newer: object }
          readonly metadata: { readonly finalizers: ReadonlyArray<string> }
        }
        assert.deepStrictEqual(spec.newer, content)
        assert.deepStrictEqual(status.newer, content)
        assert.deepStrictEqual(metadata.finalizers, [Names.finalizer])
      })
    )
  }
)

layer(Cluster.layerWith(Cluster.definition(lenient)), { excludeTestServices: true, timeout: "2 minutes" })(
  "A GatewaySync whose name is too long for a label",
  (it) => {
    it.effect("says so in its status, and can be edited and deleted when no other one can be made any more", () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("long")
        const { all } = yield* Cluster.Writes
        const name = "s".repeat(64)
        const status = `gatewaysyncs long/${name}`
        yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create(name, {})
        const ready = (cr: GatewaySync) => Conditions.get(cr.status.conditions ?? [], "Ready")?.message ?? ""
        const made = yield* Cluster.until(plant.get(name), (cr) => ready(cr) !== "")
        assert.match(ready(made), /metadata\.name has 64 characters.*holds 63.*under a shorter name/)
        assert.strictEqual(made.status.refResolutionStatus, "NotResolved")

        const path = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${gatewaySyncs.metadata.name}`
        yield* plant.client.request("PATCH", path, { spec: gatewaySyncs.spec }, "application/merge-patch+json")
        const attempt = Effect.sync(() => `a${randomUUID()}`).pipe(
          Effect.flatMap((start) => plant.create(start.padEnd(64, "s"), {})),
          Effect.flip
        )
        const refused = yield* Cluster.until(attempt, ({ reason }) => reason._tag === "Invalid")
        assert.include(refused.message, "metadata.name may have at most 63 characters")
        yield* plant.create("s".repeat(63), {})

        // As an earlier Stoker left it.
        yield* plant.patch(name, { metadata: { finalizers: [Names.finalizer] }, spec: { git: { ref: "other" } } })
        yield* Cluster.until(plant.get(name), (cr) => cr.status.observedGeneration === 2)
        assert.deepStrictEqual(
          (yield* all).filter((line) => line.includes(name)),
          [`apply ${status}`, `apply ${status}`]
        )
        yield* plant.client.delete(Names.gatewaySyncs, plant.ref(name))
        yield* Cluster.until(Effect.flip(plant.get(name)), (error) => JSON.stringify(error).includes("NotFound"))
        yield* Cluster.until(plant.get("s".repeat(63)), (cr) => cr.status.lastSyncCommit !== undefined)
      })
    )
  }
)
