/**
 * Applies manifests as an administrator: the chart's rendered objects, the CRD, the demo's own.
 */
import { Effect, Schedule, Schema } from "effect"
import { Yaml } from "effect/encoding"
import { HttpClientRequest } from "effect/http"
import { ControlPlane } from "./ControlPlane.ts"

/** The API server refused an object. Not retried. */
export class ManifestRefused extends Schema.TaggedError<ManifestRefused>()("ManifestRefused", {
  object: Schema.String,
  answer: Schema.String
}) {
  override get message(): string {
    return `the API server refused ${this.object}: ${this.answer}`
  }
}

export const Manifest = Schema.StructWithRest(
  Schema.Struct({
    apiVersion: Schema.String,
    kind: Schema.String,
    metadata: Schema.StructWithRest(
      Schema.Struct({ name: Schema.String, namespace: Schema.optionalKey(Schema.String) }),
      [Schema.Record(Schema.String, Schema.Unknown)]
    )
  }),
  [Schema.Record(Schema.String, Schema.Unknown)]
)
export type Manifest = typeof Manifest.Type

const decode = Schema.decodeUnknownEffect(Schema.Array(Manifest))

/** The documents of a YAML text, empty ones left out. */
export const parse = (text: string) =>
  Effect.try({
    try: () =>
      text
        .split(/^---$/m)
        .map((document) => Yaml.parse(document))
        .filter((document) => document !== null && document !== undefined),
    catch: (cause) => new ManifestRefused({ object: "a YAML text", answer: String(cause) })
  }).pipe(
    Effect.flatMap(decode),
    Effect.catchTag("SchemaError", (error) =>
      Effect.fail(new ManifestRefused({ object: "a YAML text", answer: error.message }))
    )
  )

const irregular: Readonly<Record<string, string>> = { NetworkPolicy: "networkpolicies", Ingress: "ingresses" }
const clusterScoped = new Set([
  "Namespace",
  "ClusterRole",
  "ClusterRoleBinding",
  "CustomResourceDefinition",
  "MutatingWebhookConfiguration",
  "PriorityClass"
])

const pathOf = (manifest: Manifest, namespace: string): string => {
  const root = manifest.apiVersion.includes("/") ? `/apis/${manifest.apiVersion}` : `/api/${manifest.apiVersion}`
  const plural = irregular[manifest.kind] ?? `${manifest.kind.toLowerCase()}s`
  const scope = clusterScoped.has(manifest.kind) ? "" : `/namespaces/${manifest.metadata.namespace ?? namespace}`
  return `${root}${scope}/${plural}/${manifest.metadata.name}`
}

/** Server-side apply of each, in order; `subresource` e.g. `/status`. Kinds that the API server does not know yet are waited for. */
export const apply = Effect.fnUntraced(function* (
  manifests: ReadonlyArray<Manifest>,
  namespace: string,
  subresource = ""
) {
  const { admin } = yield* ControlPlane
  for (const manifest of manifests) {
    const request = HttpClientRequest.patch(pathOf(manifest, namespace) + subresource).pipe(
      HttpClientRequest.setUrlParams({ fieldManager: "sandbox", force: "true" }),
      HttpClientRequest.bodyText(JSON.stringify(manifest), "application/apply-patch+yaml")
    )
    yield* admin.execute(request).pipe(
      Effect.flatMap((response) =>
        response.status < 300
          ? Effect.asVoid(response.text)
          : Effect.flatMap(response.text, (answer) =>
              Effect.fail(
                new ManifestRefused({
                  object: `${manifest.kind} ${manifest.metadata.name}`,
                  answer: `${response.status} ${answer.slice(0, 500)}`
                })
              )
            )
      ),
      // A CRD is served a moment after it was accepted.
      Effect.retry({
        while: (error) => error._tag === "ManifestRefused" && /^(404|429) /.test(error.answer),
        schedule: Schedule.spaced("50 millis"),
        times: 100
      })
    )
  }
})
