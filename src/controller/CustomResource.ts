/**
 * Brings the installed definition of GatewaySync up to this version: Helm installs `crds/` once and never touches it
 * again, and an older definition refuses the status that this version writes.
 */
import { Effect, Option, Schedule, Schema } from "effect"
import * as CustomResourceDefinition from "../api/CustomResourceDefinition.ts"
import * as Names from "../api/Names.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import { isBefore } from "../Version.ts"

const { apiVersion, kind, metadata, spec } = CustomResourceDefinition.gatewaySyncs

const path = `/apis/${apiVersion}/customresourcedefinitions/${metadata.name}`

/** Which Stoker wrote the definition. */
export const writtenBy = "stoker.io/version"

const Installed = Schema.Struct({
  metadata: Schema.Struct({
    resourceVersion: Schema.String,
    annotations: Schema.optionalKey(Schema.Record(Schema.String, Schema.String))
  })
})
const decode = Schema.decodeUnknownOption(Installed)

/** Waits for an API server that is away; anything else needs a person, and the work goes on meanwhile. */
const patience = Schedule.min([Schedule.exponential("500 millis"), Schedule.spaced("10 seconds")])

/**
 * One server-side apply, which changes nothing where nothing differs. A definition of a newer Stoker stays: in a roll-out
 * an old replica may be the one that starts last, and an older definition would prune what the newer one knows.
 */
export const update = Effect.fnUntraced(
  function* (version: string) {
    const client = yield* ApiClient
    const before = decode(yield* client.request("GET", path))
    const installed = Option.getOrUndefined(before)?.metadata.annotations?.[writtenBy]
    if (installed !== undefined && isBefore(version, installed)) {
      yield* Effect.logInfo(`the definition ${metadata.name} is of Stoker ${installed}, which is newer: it stays`)
      return
    }
    const after = decode(
      yield* client.request(
        "PATCH",
        `${path}?fieldManager=${Names.managers.controller}&force=true`,
        { apiVersion, kind, metadata: { ...metadata, annotations: { [writtenBy]: version } }, spec },
        "application/apply-patch+yaml"
      )
    )
    const revision = Option.map(({ metadata }: typeof Installed.Type) => metadata.resourceVersion)
    if (Option.getOrUndefined(revision(before)) !== Option.getOrUndefined(revision(after))) {
      yield* Effect.logInfo(`the definition ${metadata.name} was brought to Stoker ${version}`)
    }
  },
  Effect.tapError((error) =>
    Effect.logWarning(`the definition ${metadata.name} could not be brought up to date: ${error.message}`)
  ),
  Effect.retry({ while: (error) => error.isTransient, schedule: patience }),
  Effect.catch(() =>
    Effect.logWarning(
      `going on with the definition that is installed. If statuses are refused: kubectl apply --server-side -f crds/, from this version's chart`
    )
  )
)
