/**
 * Metrics of GatewaySyncs and their gateways, under `stoker_controller_`. Every series has `namespace` and `name`; with a
 * GatewaySync or a gateway its series go.
 */
import { Context, DateTime, Duration, Effect, Layer, Metric, Option, Result } from "effect"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as RepositoryUrl from "../git/RepositoryUrl.ts"
import * as Resource from "../kubernetes/Resource.ts"

const gauge = (name: string, description: string) => Metric.gauge(`stoker_controller_${name}`, { description })
const seconds = (name: string, description: string) =>
  Metric.histogram(`stoker_controller_${name}`, {
    description,
    boundaries: Metric.exponentialBoundaries({ start: 0.005, factor: 2, count: 14 })
  })

const reconcileTotal = Metric.counter("stoker_controller_reconcile_total", {
  description: "Reconciles, by result.",
  incremental: true
})
const reconcileDuration = seconds("reconcile_duration_seconds", "How long reconciles took.")
const resolveDuration = seconds("ref_resolve_duration_seconds", "How long the remote took to say what a ref means.")
const gatewaysDiscovered = gauge("gateways_discovered", "Gateways that name the GatewaySync.")
const gatewaysSynced = gauge("gateways_synced", "Gateways that have what they should.")
const gatewaysMissingSidecar = gauge("gateways_missing_sidecar", "Gateways whose pod has no sidecar.")
const crReady = gauge("cr_ready", "Whether the GatewaySync is ready.")
const crPaused = gauge("cr_paused", "Whether the GatewaySync is paused.")
const crInfo = gauge("cr_info", "What the GatewaySync follows.")
const conditionStatus = gauge("condition_status", "1 for True, 0 for False.")
const gatewaySyncStatus = gauge("gateway_sync_status", "0 Pending, 1 Synced, 2 Error, 3 MissingSidecar.")
const gatewayLastSync = gauge("gateway_last_sync_timestamp_seconds", "When the gateway last synced.")

const syncStatuses: Readonly<Record<GatewaySync.SyncStatus, number>> = {
  Pending: 0,
  Synced: 1,
  Error: 2,
  MissingSidecar: 3
}

type Labels = Readonly<Record<string, string>>
interface Reading {
  readonly metric: Metric.Gauge<number>
  readonly labels: Labels
  readonly value: number
}

/** All that the gauges say of a GatewaySync. */
export const readings = (cr: GatewaySync.GatewaySync, status: GatewaySync.Status): ReadonlyArray<Reading> => {
  const gateways = status.discoveredGateways ?? []
  const conditions = status.conditions ?? []
  const count = (syncStatus: GatewaySync.SyncStatus) =>
    gateways.filter((gateway) => gateway.syncStatus === syncStatus).length
  const isTrue = (type: string) =>
    conditions.some((condition) => condition.type === type && condition.status === "True") ? 1 : 0
  const url = RepositoryUrl.parse(cr.spec.git.repo)
  const one = (metric: Metric.Gauge<number>, value: number, labels: Labels = {}): Reading => ({ metric, labels, value })
  return [
    one(gatewaysDiscovered, gateways.length),
    one(gatewaysSynced, count("Synced")),
    one(gatewaysMissingSidecar, count("MissingSidecar")),
    one(crReady, isTrue("Ready")),
    one(crPaused, cr.spec.paused ? 1 : 0),
    one(crInfo, 1, {
      // What cannot be read as a URL may hold a password.
      git_repo: Result.isSuccess(url) ? url.success.display : "",
      git_ref: cr.spec.git.ref,
      auth_type: GatewaySync.authType(cr.spec),
      polling_interval: cr.spec.polling.enabled ? cr.spec.polling.interval : "off"
    }),
    ...conditions.map(({ type }) => one(conditionStatus, isTrue(type), { type })),
    ...gateways.flatMap(({ lastSyncTime, name, syncStatus }) => [
      one(gatewaySyncStatus, syncStatuses[syncStatus], { gateway: name }),
      ...Option.match(lastSyncTime === undefined ? Option.none() : DateTime.make(lastSyncTime), {
        onNone: () => [],
        onSome: (time) => [one(gatewayLastSync, DateTime.toEpochSeconds(time), { gateway: name })]
      })
    ])
  ]
}

export class Metrics extends Context.Service<
  Metrics,
  {
    /** Shows the state of a GatewaySync, and no longer what it has no more. */
    readonly show: (cr: GatewaySync.GatewaySync, status: GatewaySync.Status) => Effect.Effect<void>
    readonly reconciled: (
      ref: Resource.ObjectRef,
      result: "success" | "failure",
      took: Duration.Duration
    ) => Effect.Effect<void>
    readonly resolved: (ref: Resource.ObjectRef, took: Duration.Duration) => Effect.Effect<void>
    /** Removes every series of a GatewaySync that is gone. */
    readonly forget: (ref: Resource.ObjectRef) => Effect.Effect<void>
  }
>()("stoker/controller/Metrics") {
  static readonly layer = Layer.sync(Metrics, () => {
    /** The series of each GatewaySync: gauges, which come and go, and the others, which stay until it goes. */
    const series = new Map<string, { gauges: Map<string, Series>; readonly others: Map<string, Series> }>()
    const of = (ref: Resource.ObjectRef) => {
      const key = Resource.key(ref)
      const known = series.get(key) ?? { gauges: new Map(), others: new Map() }
      series.set(key, known)
      return known
    }

    const show = Effect.fnUntraced(function* (cr: GatewaySync.GatewaySync, status: GatewaySync.Status) {
      const { name, namespace } = cr.metadata
      const known = of(cr.metadata)
      const now = new Map<string, Series>()
      for (const { labels, metric, value } of readings(cr, status)) {
        const id = `${metric.id} ${JSON.stringify(labels)}`
        const one = known.gauges.get(id) ?? Metric.withAttributes(metric, { namespace, name, ...labels })
        now.set(id, one)
        yield* Metric.update(one as Metric.Gauge<number>, value)
      }
      for (const [id, one] of known.gauges) if (!now.has(id)) yield* Metric.remove(one)
      known.gauges = now
    })

    /** A series that is counted on. */
    const counted = <M extends Series>(metric: M, ref: Resource.ObjectRef, labels: Labels = {}): M => {
      const { others } = of(ref)
      const id = `${metric.id} ${JSON.stringify(labels)}`
      const one =
        others.get(id) ?? Metric.withAttributes(metric, { namespace: ref.namespace, name: ref.name, ...labels })
      others.set(id, one)
      return one as M
    }

    return {
      show,
      reconciled: (ref, result, took) =>
        Effect.andThen(
          Metric.update(counted(reconcileTotal, ref, { result }), 1),
          Metric.update(counted(reconcileDuration, ref), Duration.toSeconds(took))
        ),
      resolved: (ref, took) => Metric.update(counted(resolveDuration, ref), Duration.toSeconds(took)),
      forget: (ref) =>
        Effect.suspend(() => {
          const known = series.get(Resource.key(ref))
          series.delete(Resource.key(ref))
          return Effect.forEach([...(known?.gauges.values() ?? []), ...(known?.others.values() ?? [])], Metric.remove, {
            discard: true
          })
        })
    }
  })
}

type Series = Metric.Metric<number, unknown>
