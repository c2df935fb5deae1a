import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Precedence from "../../src/kubernetes/Precedence.ts"

/** So many are waited for until the answer is given. */
const waitedFor = Effect.fnUntraced(function* (precedence: Precedence.Precedence, count: number) {
  const answer = yield* Deferred.make<void>()
  yield* Effect.forEach(
    Array.from({ length: count }),
    () => Effect.forkScoped(precedence.first(Deferred.await(answer)), { startImmediately: true }),
    { discard: true }
  )
  return Deferred.succeed(answer, undefined)
})

const standBack = (precedence: Precedence.Precedence) =>
  Effect.forkScoped(Effect.andThen(precedence.after, Clock.currentTimeMillis), { startImmediately: true })

describe("Precedence", () => {
  it.effect("lets both go on while few are waited for", () =>
    Effect.gen(function* () {
      const precedence = yield* Precedence.make
      yield* waitedFor(precedence, Precedence.most)
      yield* precedence.after
    })
  )

  it.effect("keeps the others back until few are left", () =>
    Effect.gen(function* () {
      const precedence = yield* Precedence.make
      yield* waitedFor(precedence, Precedence.most - 1)
      const answer = yield* waitedFor(precedence, 2)
      const other = yield* standBack(precedence)
      yield* TestClock.adjust("1 second")
      assert.isUndefined(other.pollUnsafe())
      yield* answer
      assert.strictEqual(yield* Fiber.join(other), 1000)
      yield* precedence.after
    })
  )

  it.effect("keeps nobody back for longer than five seconds, however many are waited for", () =>
    Effect.gen(function* () {
      const precedence = yield* Precedence.make
      yield* TestClock.adjust("1 minute")
      yield* waitedFor(precedence, 1000)
      const other = yield* standBack(precedence)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(other), 65_000)
      const later = yield* standBack(precedence)
      assert.strictEqual(yield* Fiber.join(later), 70_000)
    })
  )

  it.effect("counts those no more that end in failure or are given up", () =>
    Effect.gen(function* () {
      const precedence = yield* Precedence.make
      yield* waitedFor(precedence, Precedence.most)
      yield* Effect.exit(precedence.first(Effect.fail("refused")))
      const given = yield* Effect.forkScoped(precedence.first(Effect.never), { startImmediately: true })
      yield* Fiber.interrupt(given)
      yield* precedence.after
    })
  )
})
