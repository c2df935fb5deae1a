/**
 * The two ConfigMaps between controller and agents: the metadata that we write as a whole, and the map of reports that
 * we only create and tidy.
 */
import { Effect, Equal, Option, Schema } from "effect"
import { createHash } from "node:crypto"
import * as GatewaySync from "../../api/GatewaySync.ts"
import * as Metadata from "../../api/Metadata.ts"
import * as Names from "../../api/Names.ts"
import * as Profile from "../../api/Profile.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import * as TakeOver from "../../kubernetes/TakeOver.ts"
import * as Traceparent from "../../telemetry/Traceparent.ts"
import * as OwnedMap from "../OwnedMap.ts"
import * as Pod from "../Pod.ts"
import { Stores } from "../Stores.ts"
import * as Discovery from "./Discovery.ts"
import * as Owned from "./Owned.ts"
import type { Commit, Told } from "./Resolve.ts"

export const hash = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 16)

/** What the metadata map shall say, but for the trace. */
export const desired = (cr: GatewaySync.GatewaySync, { commit, ref }: Commit) => {
  const { gateway, git, paused, sync } = cr.spec
  const allow = cr.metadata.annotations[Names.allowMassDeletion]
  return Metadata.encode(
    {
      commit,
      ref,
      gitURL: git.repo,
      paused: paused ? "true" : "false",
      authType: GatewaySync.authType(cr.spec),
      profiles: Object.fromEntries(
        Object.entries(sync.profiles).map(([name, profile]) => [name, Profile.effective(sync.defaults, profile)])
      ),
      gatewayPort: gateway.port,
      gatewayTLS: gateway.tls ? "true" : "false",
      ...(allow === undefined ? {} : { allowMassDeletion: allow })
    },
    hash
  )
}

/** Whether the map says all that already. The trace that led to it does not count, nor what others put beside it. */
export const says = (
  map: OwnedMap.OwnedMap,
  cr: GatewaySync.GatewaySync,
  data: Readonly<Record<string, string>>
): boolean =>
  OwnedMap.isOwnedBy(map, cr.metadata.uid) &&
  Object.entries(data).every(([key, value]) => map.data[key] === value) &&
  map.data["allowMassDeletion"] === data["allowMassDeletion"]

/** A map as we wrote it for this GatewaySync. */
const ours = (cr: GatewaySync.GatewaySync, map: OwnedMap.OwnedMap): Option.Option<Metadata.Data> =>
  OwnedMap.isOwnedBy(map, cr.metadata.uid) ? Metadata.whole(map.data, hash) : Option.none()

/** What the agents are told by a map; nothing by one that belongs to a former GatewaySync of that name. */
export const told = (cr: GatewaySync.GatewaySync, map: OwnedMap.OwnedMap | undefined): Told | undefined => {
  if (map === undefined) return undefined
  const commit = Option.map(ours(cr, map), ({ commit, ref }) => ({ commit, ref }))
  return { repository: map.data["gitURL"], commit: Option.getOrUndefined(commit) }
}

/** What a map says, and that the agents pause: that must reach them also where nothing else of the spec can. */
export const paused = (cr: GatewaySync.GatewaySync, map: OwnedMap.OwnedMap): ReturnType<typeof desired> | undefined =>
  Option.getOrUndefined(
    Option.map(ours(cr, map), ({ revision: _revision, ...data }) => Metadata.encode({ ...data, paused: "true" }, hash))
  )

const decodeWritten = Schema.decodeUnknownOption(OwnedMap.OwnedMap)

/** Writes the metadata map where it says something else; the span `apply` is what the agents' spans hang on. */
export const applyMetadata = Effect.fnUntraced(function* (
  cr: GatewaySync.GatewaySync,
  map: OwnedMap.OwnedMap | undefined,
  data: ReturnType<typeof desired>
) {
  if (map !== undefined && says(map, cr, data)) return
  const stores = yield* Stores
  const answer = yield* Effect.gen(function* () {
    const traceparent = yield* Traceparent.current
    const all = { ...data, ...(Option.isSome(traceparent) ? { traceparent: traceparent.value } : {}) }
    return yield* TakeOver.apply(
      Resource.configMaps,
      { namespace: cr.metadata.namespace, name: Names.metadataMap(cr.metadata.name) },
      { metadata: Owned.metadata(cr), data: all },
      {
        ...Owned.write,
        part: "data",
        // By a mirror that lags behind, an older commit would be written over what the former leader told.
        resourceVersion: map?.metadata.resourceVersion,
        isWhole: (answer) => Option.exists(decodeWritten(answer), (written) => Equal.equals(written.data, all))
      }
    )
  }).pipe(Effect.withSpan("apply", { attributes: { commit: data["commit"], revision: data.revision } }))
  const written = decodeWritten(answer)
  if (Option.isSome(written)) yield* stores.maps.acknowledge(written.value.metadata, written.value)
})

/** Makes the status map, without `data`: an apply of `data: {}` would own it, and every report be a conflict. */
export const ensureStatus = Effect.fnUntraced(function* (
  cr: GatewaySync.GatewaySync,
  map: OwnedMap.OwnedMap | undefined
) {
  if (map !== undefined && OwnedMap.isOwnedBy(map, cr.metadata.uid)) return
  const client = yield* ApiClient
  yield* client.apply(
    Resource.configMaps,
    { namespace: cr.metadata.namespace, name: Names.statusMap(cr.metadata.name) },
    { metadata: Owned.metadata(cr) },
    Owned.write
  )
})

/** Takes out the reports of pods that are gone. The pods are asked for once more: a store may lag, and a live pod's report
 * would come back only after minutes. */
export const tidyStatus = Effect.fnUntraced(function* (
  cr: GatewaySync.GatewaySync,
  map: OwnedMap.OwnedMap,
  pods: ReadonlyArray<Pod.Pod>
) {
  const client = yield* ApiClient
  const { name, namespace } = cr.metadata
  const gone = yield* Effect.filter(Discovery.strayKeys({ pods, reports: map.data }), (key) =>
    client.get(Resource.pods, { namespace, name: key }).pipe(
      Effect.as(false),
      Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(true))
    )
  )
  if (gone.length === 0) return
  yield* client
    .mergePatch(
      Resource.configMaps,
      { namespace, name: Names.statusMap(name) },
      { data: Object.fromEntries(gone.map((key) => [key, null])) },
      Owned.write
    )
    .pipe(Effect.catchReason("ApiError", "NotFound", () => Effect.void))
})
