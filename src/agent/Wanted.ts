/**
 * What the controller wants of this gateway: the metadata ConfigMap, watched, and the last one kept on the volume for a
 * start without an API server.
 */
import { Context, Effect, Equal, Layer, Option, Record, Schema, Stream, SubscriptionRef } from "effect"
import * as Metadata from "../api/Metadata.ts"
import * as Names from "../api/Names.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import * as Resource from "../kubernetes/Resource.ts"
import * as Watcher from "../kubernetes/Watcher.ts"
import { Settings } from "./Settings.ts"
import { Volume } from "./Volume.ts"

export type State =
  /** The API server has not been heard yet. */
  | { readonly _tag: "Unheard" }
  /** There is no such map: the GatewaySync is new, or gone. Files stay as they are. */
  | { readonly _tag: "Missing" }
  /** It cannot be read. Files stay as they are. */
  | { readonly _tag: "Invalid"; readonly message: string }
  | { readonly _tag: "Known"; readonly data: Metadata.Data }
  /** From the volume: it may be out of date. */
  | { readonly _tag: "Kept"; readonly data: Metadata.Data }

export class Wanted extends Context.Service<
  Wanted,
  {
    readonly current: Effect.Effect<State>
    /** Waits until it is another than this one. */
    readonly changedFrom: (state: State) => Effect.Effect<void>
    /** Keeps the watch; runs for ever. */
    readonly watch: Effect.Effect<never>
    /** Looks itself while the watch is not in order, as long as 2 s; else there is nothing to do. */
    readonly refresh: Effect.Effect<void>
    /** Takes what the volume keeps, if nothing was heard so far and it is about this gateway. */
    readonly useKept: Effect.Effect<void>
    /**
     * Keeps what was heard last on the volume.
     * @param commit the one that the volume holds, which is kept instead of what was heard: a start without API and git
     * has it, and nothing is written for a commit that changes no file
     */
    readonly keep: (commit: Option.Option<string>) => Effect.Effect<void>
  }
>()("stoker/agent/Wanted") {
  static readonly layer = Layer.effect(
    Wanted,
    Effect.suspend(() => make)
  )
}

const ConfigMap = Schema.Struct({
  metadata: Schema.Struct({ name: Schema.String }),
  data: Schema.optionalKey(Schema.Record(Schema.String, Schema.String))
})
type ConfigMap = typeof ConfigMap.Type
const decodeConfigMap = Schema.decodeUnknownEffect(ConfigMap)

const Kept = Schema.fromJsonString(
  Schema.Struct({
    namespace: Schema.String,
    cr: Schema.String,
    profile: Schema.String,
    data: Schema.Record(Schema.String, Schema.String)
  })
)
const decodeKept = Schema.decodeUnknownEffect(Kept)
const encodeKept = Schema.encodeSync(Kept)
const file = ".stoker/metadata.json"

/** But for what comes anew with each commit. */
const lasting = (data: Readonly<Record<string, string>>) =>
  Record.filter(data, (_, key) => !["ref", "revision", "traceparent"].includes(key))

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const volume = yield* Volume
  const client = yield* ApiClient
  const state = yield* SubscriptionRef.make<State>({ _tag: "Unheard" })
  const name = Names.metadataMap(settings.crName)
  const identity = { namespace: settings.crNamespace, cr: settings.crName, profile: settings.profile }
  /** The map's data as it was heard. */
  let raw: Readonly<Record<string, string>> | undefined

  const heard = Effect.fnUntraced(function* (map: ConfigMap | undefined) {
    if (map === undefined) {
      raw = undefined
      return yield* SubscriptionRef.set(state, { _tag: "Missing" })
    }
    // Found again, or changed in something else than its data.
    if (raw !== undefined && Equal.equals(raw, map.data)) return
    raw = undefined
    yield* Metadata.decode(map.data ?? {}).pipe(
      Effect.matchEffect({
        onFailure: (error) =>
          SubscriptionRef.set(state, {
            _tag: "Invalid",
            message: `the ConfigMap ${name} cannot be read (is the controller of another version?): ${error.message}`
          }),
        onSuccess: (data) => {
          raw = map.data
          return SubscriptionRef.set(state, { _tag: "Known", data })
        }
      })
    )
  })

  let listed: ConfigMap | undefined
  let watching = false
  const on = Effect.fnUntraced(function* (event: Watcher.Event<ConfigMap>) {
    if (event._tag === "Failed") watching = false
    else if (event._tag !== "Init" && event._tag !== "InitApply") watching = true
    switch (event._tag) {
      case "Init":
        listed = undefined
        return
      case "InitApply":
        listed = event.object
        return
      case "InitDone":
        return yield* heard(listed)
      case "Apply":
        return yield* heard(event.object)
      case "Delete":
        return yield* heard(undefined)
      case "Invalid":
        return yield* Effect.logError(`the ConfigMap ${name} cannot be read: ${event.message}`)
      case "Failed": {
        const waits = event.error.isTransient || event.error.reason._tag === "Forbidden"
        return yield* (waits ? Effect.logInfo : Effect.logWarning)(event.error.message).pipe(
          Effect.annotateLogs({ retryIn: String(event.retryIn) })
        )
      }
    }
  })

  const watch = Watcher.run(
    {
      resource: Resource.configMaps,
      namespace: settings.crNamespace,
      // RBAC allows this map alone, and only to who asks for it by name.
      fieldSelector: `metadata.name=${name}`,
      schema: ConfigMap
    },
    (events) => Effect.forEach(events, on, { discard: true })
  ).pipe(Effect.provideService(ApiClient, client))

  const refresh = Effect.gen(function* () {
    if (watching) return
    const found = yield* client.get(Resource.configMaps, { namespace: settings.crNamespace, name }).pipe(
      Effect.flatMap(decodeConfigMap),
      Effect.map((map): Option.Option<ConfigMap | undefined> => Option.some(map)),
      Effect.catch((error) =>
        Effect.succeed(
          error._tag === "ApiError" && error.reason._tag === "NotFound" ? Option.some(undefined) : Option.none()
        )
      ),
      Effect.timeoutOption("2 seconds"),
      Effect.map(Option.flatten)
    )
    // What the watch said meanwhile is newer.
    if (Option.isSome(found) && !watching) yield* heard(found.value)
  })

  /** What the volume keeps, if it is about this gateway. */
  const kept = Effect.gen(function* () {
    const [sight] = yield* volume.look([file])
    if (sight?._tag !== "File") return undefined
    const { data, ...about } = yield* decodeKept(Buffer.from(yield* volume.read(file)).toString())
    return Equal.equals(about, identity) ? data : undefined
  })

  const useKept = Effect.gen(function* () {
    const found = yield* kept
    if (found === undefined) return
    const data = yield* Metadata.decode(found)
    yield* SubscriptionRef.update(state, (now): State => (now._tag === "Unheard" ? { _tag: "Kept", data } : now))
  }).pipe(
    Effect.catch((error) => Effect.logWarning(`the metadata kept on the volume cannot be used: ${error.message}`))
  )

  const keep = Effect.fnUntraced(
    function* (commit: Option.Option<string>) {
      if (raw === undefined) return
      const data = Option.isSome(commit) ? { ...raw, commit: commit.value } : raw
      const former = yield* Effect.orElseSucceed(kept, () => undefined)
      if (former !== undefined && Equal.equals(lasting(former), lasting(data))) return
      yield* volume.replace(file, encodeKept({ ...identity, data }))
    },
    Effect.catch((error) => Effect.logWarning(`the metadata cannot be kept on the volume: ${error.message}`))
  )

  return Wanted.of({
    current: SubscriptionRef.get(state),
    changedFrom: (from) =>
      SubscriptionRef.changes(state).pipe(
        Stream.filter((now) => now !== from),
        Stream.take(1),
        Stream.runDrain
      ),
    watch,
    refresh,
    useKept,
    keep
  })
})

/** The metadata, where it is known. */
export const dataOf = (state: State): Option.Option<Metadata.Data> =>
  state._tag === "Known" || state._tag === "Kept" ? Option.some(state.data) : Option.none()
