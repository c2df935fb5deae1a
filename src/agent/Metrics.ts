/**
 * What the agent measures, under `stoker_agent_`. (Designer sessions follow with their policies.)
 */
import { Clock, Duration, Effect, Exit, Metric } from "effect"

const gauge = (name: string, description: string) => Metric.gauge(`stoker_agent_${name}`, { description })
const counter = (name: string, description: string) =>
  Metric.counter(`stoker_agent_${name}`, { description, incremental: true })
/** 5 ms to 80 s. */
const seconds = (name: string, description: string) =>
  Metric.histogram(`stoker_agent_${name}`, {
    description,
    boundaries: Metric.exponentialBoundaries({ start: 0.005, factor: 2, count: 15 })
  })

const syncDuration = seconds("sync_duration_seconds", "How long syncs took.")
const syncTotal = counter("sync_total", "Syncs, by result.")
const syncSkipped = counter("sync_skipped_total", "Syncs that had nothing to do, by reason.")
const lastSync = gauge("last_sync_timestamp_seconds", "When the last sync ended well.")
const lastSuccess = gauge("last_sync_success", "Whether the last sync ended well.")
const filesChanged = gauge("files_changed", "Files that the last sync changed.")
const filesAdded = gauge("files_added", "Files that the last sync added.")
const filesModified = gauge("files_modified", "Files that the last sync modified.")
const filesDeleted = gauge("files_deleted", "Files that the last sync deleted.")
const fetchDuration = seconds("git_fetch_duration_seconds", "How long it took until a commit was here.")
const fetchTotal = counter("git_fetch_total", "Fetches, by result.")
const scanDuration = seconds("scan_duration_seconds", "How long gateways took to scan.")
const scanTotal = counter("scan_total", "Scans, by result.")
const startup = gauge("gateway_startup_duration_seconds", "From files in place to a gateway that runs.")

type Labels = Readonly<Record<string, string>>

const add = <State>(metric: Metric.Metric<number, State>, value: number, labels: Labels = {}) =>
  Metric.update(Metric.withAttributes(metric, labels), value)

/** Counts an effect and how long it took, as `success`, `error`, or not at all where it was interrupted. */
const measured =
  (total: Metric.Counter<number>, duration: Metric.Histogram<number>, labels: Labels) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.flatMap(Clock.monotonicTimeNanos, (began) =>
      Effect.onExit(effect, (exit) =>
        Exit.hasInterrupts(exit)
          ? Effect.void
          : Effect.flatMap(Clock.monotonicTimeNanos, (ended) =>
              Effect.andThen(
                add(total, 1, { ...labels, result: Exit.isSuccess(exit) ? "success" : "error" }),
                add(duration, Duration.toSeconds(Duration.nanos(ended - began)), labels)
              )
            )
      )
    )

export const fetch = measured(fetchTotal, fetchDuration, { operation: "fetch" })
export const scan = measured(scanTotal, scanDuration, {})
export const sync = (profile: string) => measured(syncTotal, syncDuration, { profile })

export interface Counts {
  readonly added: number
  readonly modified: number
  readonly deleted: number
}

/** A sync ended well. */
export const synced = Effect.fnUntraced(function* (profile: string, { added, deleted, modified }: Counts) {
  const changed = added + modified + deleted
  yield* add(lastSuccess, 1)
  yield* add(lastSync, (yield* Clock.currentTimeMillis) / 1000)
  yield* add(filesChanged, changed, { profile })
  yield* add(filesAdded, added, { profile })
  yield* add(filesModified, modified, { profile })
  yield* add(filesDeleted, deleted, { profile })
  if (changed === 0) yield* add(syncSkipped, 1, { reason: "unchanged" })
})

export const failed: Effect.Effect<void> = add(lastSuccess, 0)
export const paused: Effect.Effect<void> = add(syncSkipped, 1, { reason: "paused" })

/** The gateway runs, so long after its files were there. */
export const started = (after: Duration.Duration): Effect.Effect<void> => add(startup, Duration.toSeconds(after))
