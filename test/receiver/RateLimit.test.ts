import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import { TestClock } from "effect/testing"
import * as RateLimit from "../../src/receiver/RateLimit.ts"

/** Taken, and none before was refused. */
const free = Result.succeed(0)

describe("RateLimit", () => {
  it.effect("so many in a minute, and then one as soon as one has filled up", () =>
    Effect.gen(function* () {
      const { take } = yield* RateLimit.make(3)
      const taken = yield* Effect.all([take("a"), take("a"), take("a"), take("a"), take("a")])
      assert.deepStrictEqual(taken, [free, free, free, Result.fail(20), Result.fail(20)])
      yield* TestClock.adjust("15 seconds")
      assert.deepStrictEqual(yield* take("a"), Result.fail(5))
      yield* TestClock.adjust("5 seconds")
      // How many found none meanwhile.
      assert.deepStrictEqual(yield* take("a"), Result.succeed(3))
      assert.deepStrictEqual(yield* take("a"), Result.fail(20))
      yield* TestClock.adjust("40 seconds")
      assert.deepStrictEqual(yield* Effect.all([take("a"), take("a")]), [Result.succeed(1), free])
    })
  )

  it.effect("each key has its own", () =>
    Effect.gen(function* () {
      const { take } = yield* RateLimit.make(1)
      assert.deepStrictEqual(yield* Effect.all([take("a"), take("b")]), [free, free])
    })
  )

  it.effect("a rest of an hour gives no more than a minute's worth", () =>
    Effect.gen(function* () {
      const { take } = yield* RateLimit.make(1)
      yield* take("a")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Effect.all([take("a"), take("a")]), [free, Result.fail(60)])
    })
  )

  it.effect("forgets the keys that were not used for longest, and none that is", () =>
    Effect.gen(function* () {
      const { take } = yield* RateLimit.make(1)
      yield* take("first")
      yield* take("second")
      yield* Effect.forEach(
        Array.from({ length: 9_999 }, (_, index) => `other ${index}`),
        (key) => Effect.andThen(take(key), take("first"))
      )
      assert.isTrue(Result.isFailure(yield* take("first")))
      assert.deepStrictEqual(yield* take("second"), free)
    })
  )

  it.effect("0 is any number", () =>
    Effect.gen(function* () {
      const { take } = yield* RateLimit.make(0)
      const all = yield* Effect.replicateEffect(take("a"), 1000)
      assert.isTrue(all.every(Result.isSuccess))
    })
  )
})
