/**
 * Whether the installed CustomResourceDefinition has the fields that this Stoker reads and writes. Helm installs what
 * lies in `crds/` once and never upgrades it, so a newer Stoker often meets an older definition.
 */
import { Context, Duration, Effect, Layer, Schema } from "effect"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as Names from "../api/Names.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"

/** How long an answer counts: a definition that somebody renews is noticed after this. */
export const lifetime = Duration.minutes(5)

const name = `${Names.gatewaySyncs.plural}.${Names.group}`

/** Just as deep as the fields that came later than the first definition. */
const Properties = Schema.Record(
  Schema.String,
  Schema.Struct({
    "x-kubernetes-preserve-unknown-fields": Schema.optionalKey(Schema.Boolean),
    properties: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown)),
    items: Schema.optionalKey(
      Schema.Struct({ properties: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown)) })
    )
  })
)
const decodeProperties = Schema.decodeUnknownOption(Properties)

const Installed = Schema.Struct({
  spec: Schema.Struct({
    versions: Schema.Array(
      Schema.Struct({
        name: Schema.String,
        schema: Schema.Struct({ openAPIV3Schema: Schema.Struct({ properties: Properties }) })
      })
    )
  })
})
const decodeInstalled = Schema.decodeUnknownEffect(Installed)

const absent = (fields: object, known: Readonly<Record<string, unknown>> | undefined, path: string) =>
  Object.keys(fields)
    .filter((field) => known !== undefined && known[field] === undefined)
    .map((field) => path + field)

/** Paths of the fields that the definition lacks, e.g. `status.lastHandledRequest`; those of `status` keep us from applying it. */
export const lacking = ({ spec }: typeof Installed.Type): ReadonlyArray<string> => {
  const version = spec.versions.find(({ name }) => name === Names.version)
  if (version === undefined) return []
  const properties = version.schema.openAPIV3Schema.properties
  const status = properties["status"]
  const takesAll = status?.["x-kubernetes-preserve-unknown-fields"] === true
  const inStatus = decodeProperties(status?.properties)
  const gateways = inStatus._tag === "Some" ? inStatus.value["discoveredGateways"]?.items?.properties : undefined
  return [
    ...absent(GatewaySync.Spec.fields, properties["spec"]?.properties, "spec."),
    ...(takesAll
      ? []
      : [
          ...absent(GatewaySync.Status.fields, status?.properties, "status."),
          ...absent(GatewaySync.DiscoveredGateway.fields, gateways, "status.discoveredGateways[].")
        ])
  ]
}

export class Definition extends Context.Service<
  Definition,
  {
    /**
     * Whether the definition takes our whole status. True also where it may not be read: then the API server's answer to
     * an apply tells. Says in the log, once, what is lacking and what to do.
     */
    readonly takesStatus: Effect.Effect<boolean>
    /** The next look reads it afresh. */
    readonly lookAgain: Effect.Effect<void>
  }
>()("stoker/controller/Definition") {
  static readonly layer = Layer.effect(
    Definition,
    Effect.gen(function* () {
      const client = yield* ApiClient
      let said = ""
      const say = (message: string) => {
        const isNew = said !== message
        said = message
        return isNew && message !== "" ? Effect.logWarning(message) : Effect.void
      }
      const look = Effect.gen(function* () {
        const raw = yield* client.request("GET", `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${name}`)
        const fields = lacking(yield* decodeInstalled(raw))
        yield* say(
          fields.length === 0
            ? ""
            : `the installed CustomResourceDefinition ${name} is older than this Stoker and lacks ${fields.join(", ")}. Helm does not upgrade it: kubectl apply --server-side --force-conflicts -f crds/ of this version's chart. Until then requests are not remembered as handled`
        )
        return !fields.some((field) => field.startsWith("status."))
      }).pipe(
        Effect.catch((error) =>
          Effect.as(say(`whether the CustomResourceDefinition is recent cannot be seen: ${error.message}`), true)
        )
      )
      const [takesStatus, lookAgain] = yield* Effect.cachedInvalidateWithTTL(look, lifetime)
      return { takesStatus, lookAgain }
    })
  )
}
