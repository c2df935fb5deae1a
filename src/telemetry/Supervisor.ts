/**
 * Keeps the long-lived fibers of a process alive. Each has a name; one that ends, fails or is killed is logged, counted
 * (`stoker_fiber_restarts_total{fiber}`) and started again after a pause. One that keeps failing is a defect that no
 * restart mends: then {@link Supervisor.failed} says so, and the process ends for Kubernetes to see.
 */
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Metric,
  Schema,
  type Scope
} from "effect"

/** A fiber ended again and again. End the process. */
export class KeepsFailing extends Schema.TaggedError<KeepsFailing>()("KeepsFailing", {
  fiber: Schema.String,
  message: Schema.String
}) {}

/** Pauses before a restart: 100 ms, doubling to 10 s; a minute of peace resets them. */
export const pause = (restarts: number): Duration.Duration =>
  Duration.millis(Math.min(10_000, 100 * 2 ** Math.min(restarts, 10)))
const peace = Duration.toMillis(Duration.minutes(1))
/** So many restarts without a minute of peace are one too many: with the pauses above, about half a minute of trying. */
export const mostRestarts = 8

export const restarts = Metric.counter("stoker_fiber_restarts_total", {
  description: "Restarts of long-lived fibers.",
  incremental: true
})

export class Supervisor extends Context.Service<
  Supervisor,
  {
    /** Starts a fiber that lives as long as the scope. Any end of the effect counts as a failure. */
    readonly supervise: <R>(
      name: string,
      effect: Effect.Effect<unknown, unknown, R>
    ) => Effect.Effect<void, never, R | Scope.Scope>
    /** The running fibers by name: for tests, which kill them. */
    readonly fibers: Effect.Effect<ReadonlyMap<string, Fiber.Fiber<unknown, unknown>>>
    /** Fails when a fiber keeps failing; never succeeds. */
    readonly failed: Effect.Effect<never, KeepsFailing>
  }
>()("stoker/telemetry/Supervisor") {
  static readonly layer = Layer.effect(
    Supervisor,
    Effect.gen(function* () {
      const verdict = yield* Deferred.make<never, KeepsFailing>()
      const running = new Map<string, Fiber.Fiber<unknown, unknown>>()

      const supervise = <R>(name: string, effect: Effect.Effect<unknown, unknown, R>) => {
        const counter = Metric.withAttributes(restarts, { fiber: name })
        const loop = Effect.gen(function* () {
          let streak = 0
          while (true) {
            const started = yield* Clock.currentTimeMillis
            const fiber = yield* Effect.forkChild(effect)
            running.set(name, fiber)
            const exit = yield* Fiber.await(fiber)
            running.delete(name)
            if ((yield* Clock.currentTimeMillis) - started > peace) streak = 0
            yield* Metric.update(counter, 1)
            const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
            if (streak >= mostRestarts) {
              yield* Effect.logFatal(`the fiber "${name}" keeps failing, so this process ends`, cause)
              yield* Deferred.fail(verdict, new KeepsFailing({ fiber: name, message: Cause.pretty(cause) }))
              return
            }
            yield* Effect.logError(`the fiber "${name}" ended and is started again`, cause)
            yield* Effect.sleep(pause(streak++))
          }
        })
        return Effect.asVoid(Effect.forkScoped(Effect.annotateLogs(loop, { fiber: name })))
      }

      return { supervise, fibers: Effect.sync(() => running), failed: Deferred.await(verdict) }
    })
  )
}
