import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Controller from "../../src/kubernetes/Controller.ts"
import * as WorkQueue from "../../src/kubernetes/WorkQueue.ts"

/** Runs a reconcile that fails as told, and notes when. */
const observed = Effect.fnUntraced(function* (
  outcomes: ReadonlyArray<Effect.Effect<Duration.Duration | undefined, string>>
) {
  const queue = yield* WorkQueue.make<string>()
  const times: Array<number> = []
  yield* Effect.forkScoped(
    Controller.run({
      queue,
      reconcile: () =>
        Effect.gen(function* () {
          times.push(yield* Clock.currentTimeMillis)
          return yield* outcomes[times.length - 1] ?? Effect.succeed(undefined)
        }),
      retry: (error, attempt) => (error === "terminal" ? undefined : Duration.seconds(10 * attempt)),
      concurrency: 2,
      drain: Duration.zero
    })
  )
  return { queue, times }
})

describe("Controller", () => {
  it.effect("tries a failure again after longer and longer, and forgets it with a success", () =>
    Effect.gen(function* () {
      const { queue, times } = yield* observed([
        Effect.fail("one"),
        Effect.fail("two"),
        Effect.succeed(Duration.seconds(100)),
        Effect.fail("three")
      ])
      yield* queue.add("a")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(times, [0, 10_000, 30_000, 130_000, 140_000])
    })
  )

  it.effect("leaves a terminal failure until something changes", () =>
    Effect.gen(function* () {
      const { queue, times } = yield* observed([Effect.fail("terminal")])
      yield* queue.add("a")
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(times, 1)
      yield* queue.add("a")
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(times, 2)
    })
  )

  it.effect("treats a defect as a failure, and goes on with the others", () =>
    Effect.gen(function* () {
      const { queue, times } = yield* observed([Effect.die(new Error("a defect"))])
      yield* queue.add("a")
      yield* queue.add("b")
      // The report of a defect takes its time: until then nobody sleeps.
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(times, [0, 0, 10_000])
    })
  )
})
