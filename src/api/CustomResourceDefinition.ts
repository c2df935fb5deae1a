/**
 * The CustomResourceDefinition of GatewaySync, made from its Schemas. `npm run generate` writes it to `crds/` and into
 * the chart. Rules that OpenAPI cannot say (at most one kind of credentials, no `..` in paths) are checked by the
 * controller, which answers in conditions.
 */
import { Equal, type JsonSchema, Predicate, Record, Schema } from "effect"
import { mostNameLength, Spec, Status } from "./GatewaySync.ts"
import * as Names from "./Names.ts"

/**
 * JSON Schema as Kubernetes takes it ("structural"): fields that no Schema knows are pruned, so nothing says that they
 * are allowed; a union is an int-or-string or nothing; and what Effect says of an integer in `allOf` stands beside it.
 */
const structural = ({ allOf, anyOf: _union, ...own }: JsonSchema.JsonSchema): JsonSchema.JsonSchema => {
  const schema: JsonSchema.JsonSchema = Array.isArray(allOf) ? Object.assign({}, own, ...allOf) : own
  const { description, type, minimum, maximum, properties, items, additionalProperties, ...rest } = schema
  const structured = {
    description,
    type,
    ...rest,
    default: withoutInherited(schema["default"], properties),
    // The bounds of a safe integer are JavaScript's, not ours.
    minimum: minimum === Number.MIN_SAFE_INTEGER ? undefined : minimum,
    maximum: maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum,
    properties: isSchema(properties) ? Record.map(properties, structuralOf) : undefined,
    items: structuralOf(items),
    additionalProperties: isSchema(additionalProperties) ? structural(additionalProperties) : undefined
  }
  return Record.filter(structured, Predicate.isNotUndefined)
}

const isSchema = (value: unknown): value is JsonSchema.JsonSchema => Predicate.isObject(value)
const structuralOf = (value: unknown) => (isSchema(value) ? structural(value) : value)

/** A parent needs a default for its children to be filled in, but it need not repeat theirs: mostly `{}` is left. */
const withoutInherited = (preset: unknown, properties: unknown): unknown =>
  isSchema(preset) && isSchema(properties)
    ? Record.filter(preset, (value, name) => {
        const child = properties[name]
        return !(isSchema(child) && Equal.equals(child["default"], value))
      })
    : preset

const describedBy = (schema: Schema.Constraint) =>
  structural(
    Schema.toJsonSchemaDocument(schema, { includeAnnotationKey: (key) => key.startsWith("x-kubernetes-") }).schema
  )

const condition = (type: string, field: string) => `.status.conditions[?(@.type=="${type}")].${field}`

const { group, kind, plural, version } = Names.gatewaySyncs

/** A plain object, ready to print or to apply. */
export const gatewaySyncs = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: `${plural}.${group}` },
  spec: {
    group,
    scope: "Namespaced",
    names: {
      kind,
      listKind: `${kind}List`,
      plural,
      singular: kind.toLowerCase(),
      shortNames: ["gs"]
    },
    versions: [
      {
        name: version,
        served: true,
        storage: true,
        subresources: { status: {} },
        additionalPrinterColumns: [
          { name: "Ref", type: "string", jsonPath: ".status.lastSyncRef" },
          { name: "Gateways", type: "string", jsonPath: condition("AllGatewaysSynced", "message") },
          { name: "Ready", type: "string", jsonPath: condition("Ready", "status") },
          { name: "Status", type: "string", jsonPath: condition("Ready", "message") },
          { name: "Age", type: "date", jsonPath: ".metadata.creationTimestamp" },
          { name: "Commit", type: "string", priority: 1, jsonPath: ".status.lastSyncCommitShort" },
          { name: "Profiles", type: "integer", priority: 1, jsonPath: ".status.profileCount" },
          { name: "Last Sync", type: "date", priority: 1, jsonPath: ".status.lastSyncTime" }
        ],
        schema: {
          openAPIV3Schema: {
            description: "Keeps the Ignition gateways of a namespace at what a Git repository says.",
            type: "object",
            required: ["spec"],
            "x-kubernetes-validations": [
              {
                // Status comes after creation: those that are there already can still be edited, and be deleted.
                rule: `self.metadata.name.size() <= ${mostNameLength} || has(self.status)`,
                message: `metadata.name may have at most ${mostNameLength} characters, since all that belongs to a GatewaySync carries it as a label: choose a shorter one`
              }
            ],
            properties: {
              apiVersion: { type: "string" },
              kind: { type: "string" },
              metadata: { type: "object" },
              spec: { description: "What the gateways shall have. Written by people.", ...describedBy(Spec) },
              status: { description: "What they have. Written by the controller.", ...describedBy(Status) }
            }
          }
        }
      }
    ]
  }
}
