import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberMap from "effect/FiberMap"
import * as PubSub from "effect/PubSub"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as DataDirectory from "./DataDirectory.ts"
import { empty, filesOf, GatewayModel, ScanKind } from "./GatewayModel.ts"
import * as ScanLock from "./ScanLock.ts"

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
  readonly model: SubscriptionRef.SubscriptionRef<GatewayModel>
  readonly history: SubscriptionRef.SubscriptionRef<ReadonlyArray<Revision>>
  readonly requests: Effect.Effect<ReadonlyArray<ScanRequest>>
  /** The request with this index, as soon as it has come. */
  readonly awaitRequest: (index: number) => Effect.Effect<ScanRequest>
  readonly unlockedWrites: Effect.Effect<ReadonlyArray<UnlockedWrite>>
  readonly log: Effect.Effect<ReadonlyArray<LogEntry>>
}

const never: ScanState = { scanActive: false, lastScanTimestamp: 0, lastScanDuration: 0 }
const kinds = ["projects", "config"] as const
const remembered = 1000

export const make = Effect.fnUntraced(function* (dataDir: string, scanDuration: Duration.Input) {
  const disk = DataDirectory.make(dataDir)
  const locks = { projects: yield* ScanLock.make, config: yield* ScanLock.make }
  const states = {
    projects: yield* SubscriptionRef.make(never),
    config: yield* SubscriptionRef.make(never)
  }
  const model = yield* SubscriptionRef.make<GatewayModel>(empty)
  const behaviour = yield* SubscriptionRef.make<ScanBehaviour>(ScanBehaviour.cases.Normal.make({}))
  const running = yield* FiberMap.make<ScanKind>()
  const hub = yield* PubSub.unbounded<ScanRequest>()
  const requests: Array<ScanRequest> = []
  const log: Array<LogEntry> = []
  const history = yield* SubscriptionRef.make<ReadonlyArray<Revision>>([])
  const unlockedWrites: Array<UnlockedWrite> = []

  const append = Effect.fnUntraced(function* (level: LogEntry["level"], loggerName: string, message: string) {
    log.push({ timestamp: yield* Clock.currentTimeMillis, loggerName, level, message })
  })

  /** Reads what lies on disk into the model. */
  const load = Effect.fnUntraced(function* (kind: ScanKind, cause: Revision["cause"]) {
    const before = SubscriptionRef.getUnsafe(model)
    const reading = yield* disk.read(kind, before)
    for (const fault of reading.faults) yield* append("ERROR", `gateway.${kind}`, `${fault.path}: ${fault.message}`)
    if (cause !== "boot") yield* noteUnlocked(kind, before, reading.model)
    yield* SubscriptionRef.set(model, reading.model)
    const revision: Revision = { at: yield* Clock.currentTimeMillis, cause, kind, model: reading.model }
    yield* SubscriptionRef.update(history, (_) => [..._.slice(1 - remembered), revision])
  })

  const noteUnlocked = Effect.fnUntraced(function* (kind: ScanKind, before: GatewayModel, after: GatewayModel) {
    const [old, now] = [filesOf(before), filesOf(after)]
    const paths = [...new Set([...old.keys(), ...now.keys()])].filter((_) => old.get(_)?.sha256 !== now.get(_)?.sha256)
    for (const change of yield* disk.changedAt(paths)) {
      if (!(yield* locks[kind].wasHeldAt(change.at))) unlockedWrites.push(change)
    }
  })

  const scan = Effect.fnUntraced(function* (kind: ScanKind, cause: Revision["cause"]) {
    const begun = yield* Clock.currentTimeMillis
    yield* Effect.sleep(scanDuration)
    yield* SubscriptionRef.changes(behaviour).pipe(
      Stream.filter((_) => _._tag !== "NeverEnds"),
      Stream.take(1),
      Stream.runDrain
    )
    const how = SubscriptionRef.getUnsafe(behaviour)
    yield* how._tag === "Fails" ? append("ERROR", `gateway.${kind}`, how.message) : load(kind, cause)
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

  const idle = (kind: ScanKind) =>
    SubscriptionRef.changes(states[kind]).pipe(
      Stream.filter((_) => !_.scanActive),
      Stream.take(1),
      Stream.runDrain
    )

  const scanner: Scanner = {
    locks,
    model,
    idle,
    state: (kind) => SubscriptionRef.get(states[kind]),
    request: Effect.fnUntraced(function* (kind, traceparent) {
      const at = Number(yield* Clock.currentTimeNanos) / 1e6
      const request = { kind, at, ...(traceparent === undefined ? {} : { traceparent }) }
      requests.push(request)
      yield* PubSub.publish(hub, request)
      yield* start(kind, "scan")
      yield* locks[kind].release
      return yield* SubscriptionRef.get(states[kind])
    }),
    scanByTimer: Effect.fnUntraced(function* (kind) {
      yield* locks[kind].awaitFree
      yield* start(kind, "timer")
    }),
    boot: Effect.gen(function* () {
      yield* SubscriptionRef.set(model, empty)
      for (const kind of kinds) {
        yield* SubscriptionRef.set(states[kind], never)
        yield* load(kind, "boot")
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
    log: Effect.sync(() => [...log])
  }
  return scanner
})
