import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Metric, Ref } from "effect"
import { TestClock } from "effect/testing"
import * as SupervisorModule from "../../src/telemetry/Supervisor.ts"
import { Supervisor } from "../../src/telemetry/Supervisor.ts"

const restartsOf = (fiber: string) =>
  Effect.map(Metric.value(Metric.withAttributes(SupervisorModule.restarts, { fiber })), ({ count }) => Number(count))

/** The fiber's name only shows up once it runs. */
const fiberNamed = (name: string) =>
  Effect.gen(function* () {
    const { fibers } = yield* Supervisor
    while (true) {
      const fiber = (yield* fibers).get(name)
      if (fiber !== undefined) return fiber
      yield* Effect.yieldNow
    }
  })

describe("Supervisor", () => {
  it.effect("starts a killed fiber again, and counts it", () =>
    Effect.gen(function* () {
      const { supervise } = yield* Supervisor
      const starts = yield* Ref.make(0)
      const first = yield* Deferred.make<void>()
      const again = yield* Deferred.make<void>()
      yield* supervise(
        "killed",
        Effect.gen(function* () {
          const start = yield* Ref.updateAndGet(starts, (n) => n + 1)
          yield* Deferred.succeed(start === 1 ? first : again, undefined)
          return yield* Effect.never
        })
      )
      yield* Deferred.await(first)
      yield* Fiber.interrupt(yield* fiberNamed("killed"))
      yield* TestClock.adjust(SupervisorModule.pause(0))
      yield* Deferred.await(again)
      assert.strictEqual(yield* Ref.get(starts), 2)
      assert.strictEqual(yield* restartsOf("killed"), 1)
    }).pipe(Effect.scoped, Effect.provide(Supervisor.layer))
  )

  it.effect("counts an end without an error as a failure too", () =>
    Effect.gen(function* () {
      const { supervise } = yield* Supervisor
      const starts = yield* Ref.make(0)
      yield* supervise(
        "ended",
        Ref.update(starts, (n) => n + 1)
      )
      yield* TestClock.adjust(Duration.sum(SupervisorModule.pause(0), SupervisorModule.pause(1)))
      assert.strictEqual(yield* Ref.get(starts), 3)
      assert.strictEqual(yield* restartsOf("ended"), 3)
    }).pipe(Effect.scoped, Effect.provide(Supervisor.layer))
  )

  it.effect("gives up on a defect that keeps coming, and says which", () =>
    Effect.gen(function* () {
      const { failed, supervise } = yield* Supervisor
      yield* supervise("broken", Effect.die(new Error("always the same")))
      const verdict = yield* Effect.forkChild(Effect.exit(failed))
      yield* TestClock.adjust("2 minutes")
      const exit = yield* Fiber.join(verdict)
      assert.isTrue(Exit.isFailure(exit))
      const error = yield* Effect.flip(Effect.suspend(() => exit))
      assert.strictEqual(error.fiber, "broken")
      assert.include(error.message, "always the same")
      assert.strictEqual(yield* restartsOf("broken"), SupervisorModule.mostRestarts + 1)
    }).pipe(Effect.scoped, Effect.provide(Supervisor.layer))
  )

  it.effect("forgives after a minute of peace", () =>
    Effect.gen(function* () {
      const { failed, supervise } = yield* Supervisor
      yield* supervise("now and then", Effect.andThen(Effect.sleep("61 seconds"), Effect.fail("again")))
      const verdict = yield* Effect.forkChild(failed)
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(verdict.pollUnsafe())
      assert.isAbove(yield* restartsOf("now and then"), SupervisorModule.mostRestarts)
    }).pipe(Effect.scoped, Effect.provide(Supervisor.layer))
  )

  it.effect("ends what it watches with its scope", () =>
    Effect.gen(function* () {
      const { supervise } = yield* Supervisor
      const ended = yield* Deferred.make<void>()
      const running = yield* Deferred.make<void>()
      yield* Effect.scoped(
        Effect.andThen(
          supervise(
            "scoped",
            Effect.andThen(Deferred.succeed(running, undefined), Effect.never).pipe(
              Effect.onInterrupt(() => Deferred.succeed(ended, undefined))
            )
          ),
          Deferred.await(running)
        )
      )
      yield* Deferred.await(ended)
    }).pipe(Effect.provide(Supervisor.layer))
  )
})
