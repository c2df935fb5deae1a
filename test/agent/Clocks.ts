/** Clocks for tests in which an agent waits long. */
import { Clock, Duration, Effect, Ref } from "effect"

/** A clock by which everything that waits is done 20 times as soon, which leaves a slow machine its time. */
export const hasty = Effect.map(Clock.Clock, (real): Clock.Clock => ({
  sleep: (duration) => real.sleep(Duration.times(duration, 0.05)),
  currentTimeMillisUnsafe: () => real.currentTimeMillisUnsafe(),
  currentTimeNanosUnsafe: () => real.currentTimeNanosUnsafe(),
  monotonicTimeNanosUnsafe: () => real.monotonicTimeNanosUnsafe(),
  currentTimeMillis: real.currentTimeMillis,
  currentTimeNanos: real.currentTimeNanos,
  monotonicTimeNanos: real.monotonicTimeNanos
}))

/** A clock that goes 10 times as fast as the real one. */
export const fast = Effect.map(Clock.Clock, (real): Clock.Clock => {
  const begun = { millis: real.currentTimeMillisUnsafe(), monotonic: real.monotonicTimeNanosUnsafe() }
  const millis = () => begun.millis + 10 * (real.currentTimeMillisUnsafe() - begun.millis)
  const monotonic = () => begun.monotonic + 10n * (real.monotonicTimeNanosUnsafe() - begun.monotonic)
  return {
    sleep: (duration) => real.sleep(Duration.times(duration, 0.1)),
    currentTimeMillisUnsafe: millis,
    currentTimeNanosUnsafe: () => BigInt(millis()) * 1_000_000n,
    monotonicTimeNanosUnsafe: monotonic,
    currentTimeMillis: Effect.sync(millis),
    currentTimeNanos: Effect.sync(() => BigInt(millis()) * 1_000_000n),
    monotonicTimeNanos: Effect.sync(monotonic)
  }
})

/** A clock that can be set, in milliseconds beside the real one; sleeping is real. */
export const makeClock = Effect.gen(function* () {
  const real = yield* Clock.Clock
  const offset = yield* Ref.make({ wall: 0, monotonic: 0 })
  const nanos = (millis: number) => BigInt(millis) * 1_000_000n
  const clock: Clock.Clock = {
    sleep: (duration) => real.sleep(duration),
    currentTimeMillisUnsafe: () => real.currentTimeMillisUnsafe() + Ref.getUnsafe(offset).wall,
    currentTimeNanosUnsafe: () => real.currentTimeNanosUnsafe() + nanos(Ref.getUnsafe(offset).wall),
    monotonicTimeNanosUnsafe: () => real.monotonicTimeNanosUnsafe() + nanos(Ref.getUnsafe(offset).monotonic),
    currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe()),
    currentTimeNanos: Effect.sync(() => clock.currentTimeNanosUnsafe()),
    monotonicTimeNanos: Effect.sync(() => clock.monotonicTimeNanosUnsafe())
  }
  return { clock, set: (next: { readonly wall: number; readonly monotonic: number }) => Ref.set(offset, next) }
})
