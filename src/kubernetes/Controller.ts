/**
 * Runs a reconcile over a work queue: keys in, outcomes out.
 *
 * A reconcile answers when to look again, or fails. Failures are tried again after delays of the caller's choice, which a
 * success forgets; a defect is logged and treated as a failure, so that one bad object never stops the others.
 */
import { Cause, Duration, Effect, Exit, Metric } from "effect"
import { type Job, metrics, type WorkQueue } from "./WorkQueue.ts"

export interface Options<K, E, R> {
  readonly queue: WorkQueue<K>
  /** Succeeds with the delay after which to look again, or undefined to wait for a change. */
  readonly reconcile: (job: Job<K>) => Effect.Effect<Duration.Duration | undefined, E, R>
  /** The delay after the n-th failure in a row (1, 2, …), or undefined: a terminal error that only a change mends. */
  readonly retry: (error: E | Cause.Cause<never>, attempt: number) => Duration.Duration | undefined
  readonly concurrency: number
  /** How long running reconciles may take to finish when the controller stops. */
  readonly drain: Duration.Duration
}

/** Runs until interrupted. */
export const run = <K, E, R>(options: Options<K, E, R>): Effect.Effect<never, never, R> => {
  const failures = new Map<K, number>()
  const retries = Metric.withAttributes(metrics.retries, { name: options.queue.name })
  return options.queue.run(
    (job) =>
      Effect.exit(options.reconcile(job)).pipe(
        Effect.flatMap((exit) => {
          if (Exit.isSuccess(exit)) {
            failures.delete(job.key)
            return Effect.succeed(exit.value)
          }
          if (Cause.hasInterruptsOnly(exit.cause)) return Effect.succeed(undefined)
          const attempt = (failures.get(job.key) ?? 0) + 1
          failures.set(job.key, attempt)
          const error = Cause.findErrorOption(exit.cause)
          const delay = options.retry(error._tag === "Some" ? error.value : (exit.cause as Cause.Cause<never>), attempt)
          const log = Effect.logError(
            delay === undefined
              ? "the reconcile failed; only a change can mend it"
              : `the reconcile failed and is tried again in ${Duration.format(delay)}`,
            exit.cause
          )
          return Effect.annotateLogs(log, { key: String(job.key), attempt }).pipe(
            Effect.andThen(delay === undefined ? Effect.void : Metric.update(retries, 1)),
            Effect.as(delay)
          )
        })
      ),
    options
  )
}
