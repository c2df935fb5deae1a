import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberHandle from "effect/FiberHandle"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { until } from "./Until.ts"

/** The lock as the API shows it: `timestamp` in epoch milliseconds, `remaining` in seconds. */
export interface Held {
  readonly actor: string
  readonly timestamp: number
  readonly remaining: number
}

/** 409 */
export class AlreadyHeld extends Schema.TaggedError<AlreadyHeld>()("AlreadyHeld", {}) {}

/** 408: a scan was running for longer than the caller would wait. */
export class NotAcquired extends Schema.TaggedError<NotAcquired>()("NotAcquired", {}) {}

/**
 * The lock that keeps scans of one kind away while files are changed. It ends by `release` (the next scan's POST) or
 * when its hold time is over.
 */
export interface ScanLock {
  readonly acquire: (options: {
    readonly actor: string
    readonly acquireTimeout: Duration.Duration
    readonly holdTimeout: Duration.Duration
    /** Ends when no scan runs. */
    readonly idle: Effect.Effect<void>
  }) => Effect.Effect<Held, AlreadyHeld | NotAcquired>
  readonly release: Effect.Effect<void>
  readonly current: Effect.Effect<Held | undefined>
  readonly awaitFree: Effect.Effect<void>
  /** Whether it was held at that moment (epoch ms). */
  readonly wasHeldAt: (millis: number) => Effect.Effect<boolean>
  /** How often a hold time ran out. */
  readonly expiries: Effect.Effect<number>
}

interface Hold {
  readonly actor: string
  readonly from: number
  readonly until: number
}

interface State {
  readonly held: Hold | undefined
  /** Holds that are over, the newest last. */
  readonly past: ReadonlyArray<Hold>
  readonly expiries: number
}

const remembered = 1000
// The kernel stamps files with a coarse clock that lags by up to a tick; ours has whole milliseconds only.
const kernelTick = 10

const over = (state: State, until: number, expired: boolean): State =>
  state.held === undefined
    ? state
    : {
        held: undefined,
        past: [...state.past.slice(1 - remembered), { ...state.held, until }],
        expiries: state.expiries + (expired ? 1 : 0)
      }

export const make: Effect.Effect<ScanLock, never, Scope.Scope> = Effect.gen(function* () {
  const state = yield* SubscriptionRef.make<State>({ held: undefined, past: [], expiries: 0 })
  const expiry = yield* FiberHandle.make()

  const end = (expired: boolean) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => SubscriptionRef.update(state, (_) => over(_, now, expired)))

  const show = (hold: Hold, now: number): Held => ({
    actor: hold.actor,
    timestamp: hold.from,
    remaining: Math.max(0, Math.ceil((hold.until - now) / 1000))
  })

  return {
    acquire: Effect.fnUntraced(function* ({ acquireTimeout, actor, holdTimeout, idle }) {
      if (SubscriptionRef.getUnsafe(state).held !== undefined) return yield* new AlreadyHeld()
      yield* Effect.timeoutOrElse(idle, { duration: acquireTimeout, orElse: () => new NotAcquired() })
      const now = yield* Clock.currentTimeMillis
      const hold: Hold = { actor, from: now, until: now + Duration.toMillis(holdTimeout) }
      const taken = yield* SubscriptionRef.modify(state, (_) =>
        _.held === undefined ? [true, { ..._, held: hold }] : [false, _]
      )
      if (!taken) return yield* new AlreadyHeld()
      yield* FiberHandle.run(expiry, Effect.delay(end(true), holdTimeout))
      return show(hold, now)
    }),
    release: end(false),
    current: Effect.gen(function* () {
      const { held } = yield* SubscriptionRef.get(state)
      return held === undefined ? undefined : show(held, yield* Clock.currentTimeMillis)
    }),
    awaitFree: Effect.asVoid(until(state, (_) => _.held === undefined)),
    wasHeldAt: (millis) =>
      Effect.map(SubscriptionRef.get(state), ({ held, past }) =>
        [...past, ...(held === undefined ? [] : [held])].some(
          (hold) => hold.from - kernelTick <= millis && millis < hold.until + 1
        )
      ),
    expiries: Effect.map(SubscriptionRef.get(state), (_) => _.expiries)
  }
})
