/**
 * What the controller wants of this gateway: the metadata ConfigMap, watched; for a start without an API server the one by
 * which the files of the volume came.
 */
import { Context, Effect, Equal, Layer, Option, Schema, Stream, SubscriptionRef } from "effect"
import * as Metadata from "../api/Metadata.ts"
import * as Names from "../api/Names.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import * as Resource from "../kubernetes/Resource.ts"
import * as Watcher from "../kubernetes/Watcher.ts"
import * as Inventory from "./Inventory.ts"
import * as Journal from "./Journal.ts"
import { Settings } from "./Settings.ts"
import { Volume } from "./Volume.ts"

/** Metadata, and the map's `data` that it was read from. */
export interface Heard {
  readonly data: Metadata.Data
  readonly raw: Readonly<Record<string, string>>
}

export type State =
  /** The API server has not been heard yet. */
  | { readonly _tag: "Unheard" }
  /** There is no such map: the GatewaySync is new, or gone. Files stay as they are. */
  | { readonly _tag: "Missing" }
  /** It cannot be read. Files stay as they are. */
  | { readonly _tag: "Invalid"; readonly message: string }
  | (Heard & { readonly _tag: "Known" })
  /** From the volume: it may be out of date. */
  | (Heard & { readonly _tag: "Kept" })

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
    /** Takes the one by which the volume's files came, if nothing was heard so far and it is about this gateway. */
    readonly useKept: Effect.Effect<void>
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

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const volume = yield* Volume
  const client = yield* ApiClient
  const state = yield* SubscriptionRef.make<State>({ _tag: "Unheard" })
  const name = Names.metadataMap(settings.crName)

  const heard = Effect.fnUntraced(function* (map: ConfigMap | undefined) {
    if (map === undefined) return yield* SubscriptionRef.set(state, { _tag: "Missing" })
    const raw = map.data ?? {}
    const former = yield* SubscriptionRef.get(state)
    // Found again, or changed in something else than its data.
    if (former._tag === "Known" && Equal.equals(former.raw, raw)) return
    yield* Metadata.decode(raw).pipe(
      Effect.matchEffect({
        onFailure: (error) =>
          SubscriptionRef.set(state, {
            _tag: "Invalid",
            message: `the ConfigMap ${name} cannot be read (is the controller of another version?): ${error.message}`
          }),
        onSuccess: (data) => SubscriptionRef.set(state, { _tag: "Known", data, raw })
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

  const useKept = Effect.gen(function* () {
    const origin = Option.getOrUndefined(yield* Journal.origin)
    if (origin?.metadata === undefined || !Inventory.isOf(origin, settings)) return
    const raw = origin.metadata
    const data = yield* Metadata.decode(raw)
    yield* SubscriptionRef.update(state, (now): State => (now._tag === "Unheard" ? { _tag: "Kept", data, raw } : now))
  }).pipe(
    Effect.provideService(Volume, volume),
    Effect.catch((error) => Effect.logWarning(`the metadata kept on the volume cannot be used: ${error.message}`))
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
    useKept
  })
})

/** The metadata, where it is known. */
export const dataOf = (state: State): Option.Option<Metadata.Data> =>
  state._tag === "Known" || state._tag === "Kept" ? Option.some(state.data) : Option.none()
