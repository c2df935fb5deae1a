import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberMap from "effect/FiberMap"
import * as PubSub from "effect/PubSub"
import * as Schema from "effect/Schema"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as DataDirectory from "./DataDirectory.ts"
import { empty, filesOf, GatewayModel, ScanKind } from "./GatewayModel.ts"
import * as ScanLock from "./ScanLock.ts"
import { until } from "./Until.ts"

/** A scan's state as the API shows it (times in milliseconds). */
export interface ScanState {
  readonly scanActive: boolean
  readonly lastScanTimestamp: number
  readonly lastScanDuration: number
}

/** A scan that somebody asked for. `at`: epoch milliseconds, with a fraction. */
export const ScanRequest = Schema.Struct({
  kind: ScanKind,
  at: Schema.Finite,
  traceparent: Schema.optionalKey(Schema.String)
})
export type ScanRequest = typeof ScanRequest.Type

/** A model that the gateway had, and since when (epoch ms). `cause`: why it was read. */
export const Revision = Schema.Struct({
  at: Schema.Finite,
  cause: Schema.Literals(["boot", "scan", "timer"]),
  kind: ScanKind,
  model: GatewayModel
})
export type Revision = typeof Revision.Type

export const LogEntry = Schema.Struct({
  timestamp: Schema.Finite,
  loggerName: Schema.String,
  level: Schema.Literals(["INFO", "WARN", "ERROR"]),
  message: Schema.String
})
export type LogEntry = typeof LogEntry.Type

/** A file whose content changed under a running gateway while nobody held the lock of its kind. `at`: epoch ms. */
export const UnlockedWrite = Schema.Struct({ path: Schema.String, at: Schema.Finite })
export type UnlockedWrite = typeof UnlockedWrite.Type

/**
 * How scans go wrong.
 *
 * - `NeverEnds`: every scan stays active until the behaviour changes.
 * - `Fails`: an error in the log, nothing loaded, and the scan ends as if all were well.
 * - `ClockBack`: the clock that stamps scans is behind by so much.
 */
export const ScanBehaviour = Schema.TaggedUnion({
  Normal: {},
  NeverEnds: {},
  Fails: { message: Schema.String },
  ClockBack: { millis: Schema.Finite }
})
export type ScanBehaviour = typeof ScanBehaviour.Type

export interface Scanner {
  readonly locks: Readonly<Record<ScanKind, ScanLock.ScanLock>>
  /** The API's POST: frees the lock, then starts a scan or joins the running one. */
  readonly request: (kind: ScanKind, traceparent: string | undefined) => Effect.Effect<ScanState>
  readonly state: (kind: ScanKind) => Effect.Effect<ScanState>
  readonly idle: (kind: ScanKind) => Effect.Effect<void>
  /** What the timer does: waits for the lock, then scans. */
  readonly scanByTimer: (kind: ScanKind) => Effect.Effect<void>
  /** Forgets what was loaded, and reads everything. */
  readonly boot: Effect.Effect<void>
  readonly stop: Effect.Effect<void>
  readonly setBehaviour: (behaviour: ScanBehaviour) => Effect.Effect<void>
  /** Every model so far, the newest last; see `modelOf`. */
  readonly history: SubscriptionRef.SubscriptionRef<ReadonlyArray<Revision>>
  readonly requests: Effect.Effect<ReadonlyArray<ScanRequest>>
  /** The request with this index, as soon as it has come. */
  readonly awaitRequest: (index: number) => Effect.Effect<ScanRequest>
  readonly unlockedWrites: Effect.Effect<ReadonlyArray<UnlockedWrite>>
  readonly log: SubscriptionRef.SubscriptionRef<ReadonlyArray<LogEntry>>
}

/** What a gateway with this history works with. */
export const modelOf = (history: ReadonlyArray<Revision>): GatewayModel => history.at(-1)?.model ?? empty

const never: ScanState = { scanActive: false, lastScanTimestamp: 0, lastScanDuration: 0 }
const kinds = ["projects", "config"] as const
const remembered = 1000

export const make = Effect.fnUntraced(function* (options: {
  readonly dataDir: string
  readonly duration: Duration.Input
  readonly resigns: boolean
}) {
  const disk = DataDirectory.make(options.dataDir, options.resigns)
  const locks = { projects: yield* ScanLock.make, config: yield* ScanLock.make }
  const states = {
    projects: yield* SubscriptionRef.make(never),
    config: yield* SubscriptionRef.make(never)
  }
  const behaviour = yield* SubscriptionRef.make<ScanBehaviour>(ScanBehaviour.cases.Normal.make({}))
  const running = yield* FiberMap.make<ScanKind>()
  const hub = yield* PubSub.unbounded<ScanRequest>()
  const requests: Array<ScanRequest> = []
  const log = yield* SubscriptionRef.make<ReadonlyArray<LogEntry>>([])
  const history = yield* SubscriptionRef.make<ReadonlyArray<Revision>>([])
  const unlockedWrites: Array<UnlockedWrite> = []

  const append = Effect.fnUntraced(function* (level: LogEntry["level"], loggerName: string, message: string) {
    const entry = { timestamp: yield* Clock.currentTimeMillis, loggerName, level, message }
    yield* SubscriptionRef.update(log, (_) => [..._.slice(1 - remembered), entry])
  })

  const read = Effect.fnUntraced(function* (kind: ScanKind, cause: Revision["cause"]) {
    const before = cause === "boot" ? empty : modelOf(SubscriptionRef.getUnsafe(history))
    const reading = yield* disk.read(kind, before)
    if (cause !== "boot") yield* noteUnlocked(kind, before, reading.model)
    for (const fault of reading.faults) yield* append("ERROR", `gateway.${kind}`, `${fault.path}: ${fault.message}`)
    return reading.model
  })

  /** Works with what was read from now on. The other kind may have been read meanwhile. */
  const adopt = Effect.fnUntraced(function* (kind: ScanKind, cause: Revision["cause"], reading: GatewayModel) {
    const at = yield* Clock.currentTimeMillis
    const part = kind === "projects" ? { projects: reading.projects } : { collections: reading.collections }
    yield* SubscriptionRef.update(history, (revisions) => [
      ...revisions.slice(1 - remembered),
      { at, cause, kind, model: { ...modelOf(revisions), ...part } }
    ])
  })

  const noteUnlocked = Effect.fnUntraced(function* (kind: ScanKind, before: GatewayModel, after: GatewayModel) {
    const [old, now] = [filesOf(before), filesOf(after)]
    const paths = [...new Set([...old.keys(), ...now.keys()])].filter((_) => old.get(_)?.sha256 !== now.get(_)?.sha256)
    for (const change of yield* disk.changedAt(paths)) {
      if (!(yield* locks[kind].wasHeldAt(change.at))) unlockedWrites.push(change)
    }
  })

  // The disk is read at the beginning: what changes while a scan runs is not in it, as with a real one that has passed.
  const scan = Effect.fnUntraced(function* (kind: ScanKind, cause: Revision["cause"]) {
    const begun = yield* Clock.currentTimeMillis
    const reading = yield* read(kind, cause)
    yield* Effect.sleep(options.duration)
    const how = yield* until(behaviour, (_) => _._tag !== "NeverEnds")
    yield* how._tag === "Fails" ? append("ERROR", `gateway.${kind}`, how.message) : adopt(kind, cause, reading)
    const now = yield* Clock.currentTimeMillis
    yield* SubscriptionRef.update(states[kind], ({ lastScanTimestamp }) => ({
      scanActive: false,
      lastScanTimestamp: how._tag === "ClockBack" ? now - how.millis : Math.max(now, lastScanTimestamp + 1),
      lastScanDuration: now - begun
    }))
  })

  const start = Effect.fnUntraced(function* (kind: ScanKind, cause: Revision["cause"]) {
    const joins = yield* SubscriptionRef.modify(states[kind], (_) => [_.scanActive, { ..._, scanActive: true }])
    if (!joins) yield* FiberMap.run(running, kind, scan(kind, cause))
  })

  const idle = (kind: ScanKind) => Effect.asVoid(until(states[kind], (_) => !_.scanActive))

  const scanner: Scanner = {
    locks,
    idle,
    state: (kind) => SubscriptionRef.get(states[kind]),
    request: Effect.fnUntraced(function* (kind, traceparent) {
      const at = Number(yield* Clock.currentTimeNanos) / 1e6
      const request = { kind, at, ...(traceparent === undefined ? {} : { traceparent }) }
      yield* start(kind, "scan")
      yield* locks[kind].release
      requests.push(request)
      yield* PubSub.publish(hub, request)
      return yield* SubscriptionRef.get(states[kind])
    }),
    scanByTimer: Effect.fnUntraced(function* (kind) {
      yield* locks[kind].awaitFree
      yield* start(kind, "timer")
    }),
    boot: Effect.gen(function* () {
      for (const kind of kinds) {
        yield* SubscriptionRef.set(states[kind], never)
        yield* adopt(kind, "boot", yield* read(kind, "boot"))
      }
    }),
    stop: Effect.andThen(
      FiberMap.clear(running),
      Effect.forEach(kinds, (kind) => locks[kind].release, { discard: true })
    ),
    setBehaviour: (next) => SubscriptionRef.set(behaviour, next),
    history,
    requests: Effect.sync(() => [...requests]),
    awaitRequest: (index) =>
      Effect.gen(function* () {
        const coming = yield* PubSub.subscribe(hub)
        while (requests[index] === undefined) yield* PubSub.take(coming)
        return requests[index]
      }).pipe(Effect.scoped),
    unlockedWrites: Effect.sync(() => [...unlockedWrites]),
    log
  }
  return scanner
})
