/**
 * The three mirrored collections, on every replica, and which GatewaySync a change of theirs is about.
 */
import { Context, Effect, Equal, Layer, type Schema } from "effect"
import { setFlagsFromString } from "node:v8"
import { byOwnCredentials, GatewaySync, ownCredentialsIn } from "../api/GatewaySync.ts"
import * as Names from "../api/Names.ts"
import * as RepositoryIdentity from "../api/RepositoryIdentity.ts"
import * as Reflector from "../kubernetes/Reflector.ts"
import * as Resource from "../kubernetes/Resource.ts"
import * as Store from "../kubernetes/Store.ts"
import type * as Watcher from "../kubernetes/Watcher.ts"
import * as WorkQueue from "../kubernetes/WorkQueue.ts"
import { Supervisor } from "../telemetry/Supervisor.ts"
import { Memory } from "./Memory.ts"
import * as OwnedMap from "./OwnedMap.ts"
import * as Pod from "./Pod.ts"

/** Index names. */
export const byNamespace = "namespace"
export const byGatewaySync = "gatewaysync"

export class Stores extends Context.Service<
  Stores,
  {
    /** By `namespace`, `RepositoryIdentity.index` and `byOwnCredentials`. */
    readonly gatewaySyncs: Store.Writer<GatewaySync>
    /** By `gatewaysync` (`namespace/name`, as the pod names it) and, those that name none, by `namespace`. */
    readonly pods: Store.Writer<Pod.Pod>
    /** By `gatewaysync`. */
    readonly maps: Store.Writer<OwnedMap.OwnedMap>
    /** GatewaySyncs (`namespace/name`) to look at. Without a leader it fills up to one entry each. */
    readonly queue: WorkQueue.WorkQueue<string>
    /** All three are complete. */
    readonly ready: Effect.Effect<void>
  }
>()("stoker/controller/Stores") {
  /** Mirrors until the scope closes, as supervised fibers `reflector gatewaysyncs`, `reflector pods`, `reflector configmaps`. */
  static readonly layer = Layer.effect(
    Stores,
    Effect.suspend(() => make)
  )
}

/**
 * V8 lets a heap grow to four times what lives in it, so the garbage of the first lists stays with the process: a quarter
 * of its memory. Not set where the process begins, since Node loads its own modules without their code cache afterwards.
 */
const boundHeap = Effect.sync(() => setFlagsFromString("--heap-growing-percent=100"))

const make = Effect.gen(function* () {
  yield* boundHeap
  const memory = yield* Memory
  const { supervise } = yield* Supervisor
  const queue = yield* WorkQueue.make<string>("gatewaysync")
  const gatewaySyncs = yield* Store.make<GatewaySync>(Names.gatewaySyncs, {
    [byNamespace]: (cr) => [cr.metadata.namespace],
    [RepositoryIdentity.index]: (cr) => RepositoryIdentity.names(cr.spec.git.repo),
    [byOwnCredentials]: ownCredentialsIn
  })
  const pods = yield* Store.make<Pod.Pod>(Resource.pods, {
    [byGatewaySync]: podKeys,
    [byNamespace]: (pod) => (Pod.isUnnamed(pod) ? [pod.metadata.namespace] : [])
  })
  const maps = yield* Store.make<OwnedMap.OwnedMap>(Resource.configMaps, { [byGatewaySync]: mapKeys })

  const look = (keys: Iterable<string>, reason: string) =>
    Effect.forEach(new Set(keys), (key) => queue.add(key, { reason }), { discard: true })

  /** All GatewaySyncs of a namespace: whose a pod is that names none depends on how many there are. */
  const lookAtNamespace = Effect.fnUntraced(
    function* (namespace: string, reason: string) {
      const all = yield* gatewaySyncs.store.by(byNamespace, namespace)
      yield* look(
        all.map((cr) => Resource.key(cr.metadata)),
        reason
      )
    },
    // The initial list looks at everything.
    Effect.catchTag("StoreNotReady", () => Effect.void)
  )

  const hasUnnamedPods = (namespace: string) =>
    pods.store.by(byNamespace, namespace).pipe(
      Effect.map((unnamed) => unnamed.length > 0),
      Effect.catchTag("StoreNotReady", () => Effect.succeed(false))
    )

  const onGatewaySync = ({ after, before, ref }: Store.Change<GatewaySync>, isAnswer = false) =>
    Effect.gen(function* () {
      if (after === undefined && before !== undefined) yield* memory.forget(before)
      if (after !== undefined) yield* memory.saw(after)
      const isNeighbour = before === undefined || after === undefined
      if (isNeighbour && (yield* hasUnnamedPods(ref.namespace))) yield* lookAtNamespace(ref.namespace, "neighbour")
      // Our own status is known by the answer to its write: what the watch tells of it is somebody else's doing.
      const isUndone = !isAnswer && !Equal.equals(before?.status, after?.status)
      if (isUndone || concerns(before, after)) yield* look([Resource.key(ref)], "gatewaysync")
    })

  const onPod = ({ after, before }: Store.Change<Pod.Pod>) =>
    Effect.gen(function* () {
      if (Equal.equals(before, after)) return
      const both = [before, after].filter((pod) => pod !== undefined)
      yield* look(both.flatMap(podKeys), "pod")
      const unnamed = both.find(Pod.isUnnamed)
      if (unnamed !== undefined) yield* lookAtNamespace(unnamed.metadata.namespace, "pod")
    })

  const onMap = ({ after, before }: Store.Change<OwnedMap.OwnedMap>) =>
    look(
      [before, after].flatMap((map) => (map === undefined ? [] : mapKeys(map))),
      "configmap"
    )

  const mirror = <A>(
    writer: Store.Writer<A>,
    options: {
      readonly resource: Resource.Resource
      readonly schema: Schema.Codec<A, unknown>
      readonly labelSelector?: string
      readonly fieldSelector?: string
      readonly pageSize?: number
    },
    onChange: (change: Store.Change<A>) => Effect.Effect<void>
  ) => supervise(`reflector ${options.resource.plural}`, Reflector.run(writer, options, onChange))

  yield* mirror(gatewaySyncs, { resource: Names.gatewaySyncs, schema: GatewaySync }, onGatewaySync)
  yield* mirror(
    pods,
    // Pods are large: what a page takes in memory is not given back.
    { resource: Resource.pods, schema: Pod.Pod, fieldSelector: Pod.fieldSelector, pageSize: 100 },
    onPod
  )
  yield* mirror(
    maps,
    { resource: Resource.configMaps, schema: OwnedMap.OwnedMap, labelSelector: OwnedMap.labelSelector },
    onMap
  )
  return {
    gatewaySyncs: {
      ...gatewaySyncs,
      // The answer to our own write may hold what somebody else wrote just before it, which no event tells any more.
      acknowledge: (id: Watcher.Identity, object: GatewaySync) =>
        Effect.tap(gatewaySyncs.acknowledge(id, object), (changes) =>
          Effect.forEach(changes, (change) => onGatewaySync(change, true))
        )
    },
    pods,
    maps,
    queue,
    ready: Effect.all([gatewaySyncs.store.ready, pods.store.ready, maps.store.ready], { discard: true })
  }
})

const podKeys = (pod: Pod.Pod): ReadonlyArray<string> => {
  const name = Pod.crName(pod)
  return name === undefined ? [] : [`${pod.metadata.namespace}/${name}`]
}

const mapKeys = (map: OwnedMap.OwnedMap): ReadonlyArray<string> => {
  const name = OwnedMap.crName(map)
  return name === undefined ? [] : [`${map.metadata.namespace}/${name}`]
}

/** Whether a change of a GatewaySync is more than its status: an edit, a request, its end, its finalizer. */
export const concerns = (before: GatewaySync | undefined, after: GatewaySync | undefined): boolean => {
  if (before === undefined || after === undefined) return true
  const [a, b] = [before.metadata, after.metadata]
  if (a.generation !== b.generation || a.deletionTimestamp !== b.deletionTimestamp) return true
  const { deliveries: _deliveries, traceparent: _traceparent, ...requests } = Names.request
  return (
    [...Object.values(requests), Names.allowMassDeletion].some((key) => a.annotations[key] !== b.annotations[key]) ||
    !Equal.equals(a.finalizers, b.finalizers)
  )
}
