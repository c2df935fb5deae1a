import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as SharedLookup from "../../src/git/SharedLookup.ts"

/** A lookup of a known length that notes when it began, and how many run at once. */
const observed = Effect.fnUntraced(function* (millis: (run: number) => number) {
  const runs: Array<{ readonly key: string; readonly began: number }> = []
  const running = new Map<string, number>()
  let most = 0
  const shared = yield* SharedLookup.make({
    key: (request: { readonly key: string }) => request.key,
    lookup: Effect.fnUntraced(function* ({ key }) {
      const run = { key, began: yield* Clock.currentTimeMillis }
      const count = (running.get(key) ?? 0) + 1
      running.set(key, count)
      most = Math.max(most, count)
      runs.push(run)
      yield* Effect.sleep(millis(runs.length))
      running.set(key, (running.get(key) ?? 0) - 1)
      return runs.length % 5 === 0 ? yield* Effect.fail(run) : run
    })
  })
  return { shared, runs, most: () => most }
})

describe("SharedLookup", () => {
  it.effect("is one lookup for all who ask before it begins, and one more for those who come while it runs", () =>
    Effect.gen(function* () {
      const { runs, shared } = yield* observed(() => 100)
      const first = yield* Effect.forEach(
        Array.from({ length: 1000 }, () => ({ key: "a" })),
        (request) => Effect.forkChild(shared.ask(request))
      )
      yield* TestClock.adjust(50)
      const second = yield* Effect.forEach(
        Array.from({ length: 1000 }, () => ({ key: "a" })),
        (request) => Effect.forkChild(shared.ask(request))
      )
      yield* TestClock.adjust(200)
      yield* Fiber.joinAll([...first, ...second])
      assert.lengthOf(runs, 2)
    })
  )

  it.effect("shares what began after `since`, also when it is done, and nothing older", () =>
    Effect.gen(function* () {
      const { runs, shared } = yield* observed(() => 10)
      const due = yield* Clock.currentTimeMillis
      yield* TestClock.adjust(1)
      const fiber = yield* Effect.forkChild(shared.ask({ key: "a" }, due))
      yield* TestClock.adjust(20)
      yield* Fiber.join(fiber)
      yield* shared.ask({ key: "a" }, due)
      assert.lengthOf(runs, 1)
      // Began exactly then: not provably after.
      const again = yield* Effect.forkChild(shared.ask({ key: "a" }, runs[0]?.began))
      yield* TestClock.adjust(20)
      yield* Fiber.join(again)
      assert.lengthOf(runs, 2)
    })
  )

  it.effect("goes on for the others when one gives up, and ends with its scope", () =>
    Effect.gen(function* () {
      const { runs, shared } = yield* observed(() => 100)
      const impatient = yield* Effect.forkChild(shared.ask({ key: "a" }))
      const patient = yield* Effect.forkChild(shared.ask({ key: "a" }))
      yield* TestClock.adjust(50)
      yield* Fiber.interrupt(impatient)
      yield* TestClock.adjust(60)
      yield* Fiber.join(patient)
      assert.lengthOf(runs, 1)

      const scope = yield* Scope.make()
      const other = yield* Scope.provide(
        observed(() => 100),
        scope
      )
      const running = yield* Effect.forkChild(other.shared.ask({ key: "a" }))
      yield* TestClock.adjust(50)
      const waiting = yield* Effect.forkChild(other.shared.ask({ key: "a" }))
      yield* TestClock.adjust(1)
      yield* Scope.close(scope, Exit.void)
      for (const fiber of [running, waiting]) {
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      }
      assert.lengthOf(other.runs, 1)
    })
  )

  const step = Schema.Struct({
    after: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })),
    key: Schema.Literals(["a", "b"]),
    takes: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 60 }))
  })

  it.effect.prop("never answers from before the question, never runs two of one key", [Schema.Array(step)], ([steps]) =>
    Effect.gen(function* () {
      const { most, runs, shared } = yield* observed((run) => steps[run % steps.length]?.takes ?? 1)
      const askers: Array<Fiber.Fiber<void, unknown>> = []
      for (const { after, key } of steps) {
        yield* TestClock.adjust(after)
        const asked = yield* Clock.currentTimeMillis
        const begun = runs.length
        askers.push(
          yield* Effect.forkChild(
            Effect.gen(function* () {
              const exit = yield* Effect.exit(shared.ask({ key }))
              const run = Exit.isSuccess(exit) ? exit.value : yield* Effect.flip(exit)
              assert.strictEqual(run.key, key)
              assert.isTrue(run.began >= asked)
              assert.isAtLeast(runs.indexOf(run), begun)
            })
          )
        )
      }
      yield* TestClock.adjust(100_000)
      yield* Fiber.joinAll(askers)
      assert.isAtMost(most(), 1)
    })
  )
})
