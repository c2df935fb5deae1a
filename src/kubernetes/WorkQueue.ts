/**
 * A queue of keys for a controller: level-based, so a key says only "look again".
 *
 * *Guarantees.* Never two runs of one key at once. A key added while it waits keeps its earliest due time. A key added
 * while it runs is run once more right after: never dropped, never parallel. The delay that a run asks for competes with
 * new adds; the earliest wins.
 */
import { Clock, Context, Duration, Effect, type Fiber, FiberSet, Latch, Metric, Semaphore } from "effect"

/** Delays are clamped to this: a later look is none, and timers overflow beyond. */
export const longestDelay = Duration.days(1)

export interface AddOptions {
  readonly after?: Duration.Duration
  /** Why, in a word; of adds that are merged, the one that is due first gives it. */
  readonly reason?: string
}

export interface Job<K> {
  readonly key: K
  readonly reason: string
  /** How long it was due before it ran. */
  readonly waited: Duration.Duration
}

export interface WorkQueue<K> {
  readonly add: (key: K, options?: AddOptions) => Effect.Effect<void>
  /**
   * Runs jobs, at most `concurrency` at once but for those that stand {@link aside}, until interrupted; then no new job
   * starts, the running ones get `drain` to finish, and those that stand aside are cut off. The worker's answer is the
   * delay after which to look again, or undefined to wait for an add.
   */
  readonly run: <R>(
    worker: (job: Job<K>) => Effect.Effect<Duration.Duration | undefined, never, R>,
    options: { readonly concurrency: number; readonly drain: Duration.Duration }
  ) => Effect.Effect<never, never, R>
  /** Keys that wait (due or not), and keys that run. */
  readonly size: Effect.Effect<{ readonly waiting: number; readonly running: number }>
  /** In its metrics. */
  readonly name: string
}

interface Waiting {
  readonly due: number
  readonly reason: string
  readonly order: number
  /** To be run at once: a key that waits for its time is no work that piles up. */
  readonly urgent: boolean
}

const seconds = (name: string, description: string) =>
  Metric.histogram(name, {
    description,
    boundaries: Metric.exponentialBoundaries({ start: 0.001, factor: 4, count: 9 })
  })

/** The names that controllers share, so that the usual dashboards show them. All have the queue's `name`. */
export const metrics = {
  depth: Metric.gauge("workqueue_depth", { description: "Keys that wait to be worked on at once." }),
  adds: Metric.counter("workqueue_adds_total", { description: "Adds, merged ones included.", incremental: true }),
  retries: Metric.counter("workqueue_retries_total", {
    description: "Keys put back after a failure.",
    incremental: true
  }),
  waited: seconds("workqueue_queue_duration_seconds", "How long keys were due before they were worked on."),
  worked: seconds("workqueue_work_duration_seconds", "How long the work on a key took."),
  unfinished: Metric.gauge("workqueue_unfinished_work_seconds", {
    description: "How long the work that runs has taken so far, all keys together."
  }),
  longest: Metric.gauge("workqueue_longest_running_processor_seconds", {
    description: "How long the work that runs longest has taken so far."
  })
} as const

type StandAside = <A, E, R>(waiting: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

const Aside = Context.Reference<StandAside>("stoker/kubernetes/WorkQueue/Aside", {
  defaultValue: () => (waiting) => waiting
})

/**
 * For a worker: waits without its place among those that run, and goes on when there is one again. So that jobs that wait
 * for a server that does not answer keep no others from running. How many may wait is for the caller to limit.
 */
export const aside: StandAside = (waiting) => Effect.flatMap(Aside, (stand) => stand(waiting))

/** @param name of the queue in its metrics */
export const make = Effect.fnUntraced(function* <K>(name = "queue"): Effect.fn.Return<WorkQueue<K>> {
  const attributes = { name }
  const depth = Metric.withAttributes(metrics.depth, attributes)
  const adds = Metric.withAttributes(metrics.adds, attributes)
  const waited = Metric.withAttributes(metrics.waited, attributes)
  const worked = Metric.withAttributes(metrics.worked, attributes)
  let urgent = 0
  const wake = yield* Latch.make(false)
  /** A key waits, runs, or (added while it runs) both. */
  const waiting = new Map<K, Waiting>()
  /** Since when each runs. */
  const running = new Map<K, number>()
  const heap = new Heap<K>()
  let order = 0

  const schedule = (key: K, due: number, reason: string, isUrgent: boolean) => {
    const known = waiting.get(key)
    if (known !== undefined && known.due <= due) return
    const entry = { due, reason, order: order++, urgent: isUrgent }
    urgent += Number(isUrgent) - Number(known?.urgent ?? false)
    waiting.set(key, entry)
    // A running key enters the heap when it is done.
    if (!running.has(key)) heap.push(key, entry)
  }

  const add = (key: K, options: AddOptions = {}) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const delay = delayMillis(options.after)
      schedule(key, now + delay, options.reason ?? "changed", delay === 0)
      return Effect.andThen(Metric.update(adds, 1), Effect.andThen(Metric.update(depth, urgent), wake.open))
    })

  /** The next due job, or how long until there may be one. */
  const poll = (now: number): Job<K> | number => {
    while (true) {
      const top = heap.peek()
      if (top === undefined) return Number.POSITIVE_INFINITY
      // An entry that was replaced by an earlier one, or already taken.
      if (waiting.get(top.key) !== top.entry) {
        heap.pop()
        continue
      }
      if (top.entry.due > now) return top.entry.due - now
      heap.pop()
      waiting.delete(top.key)
      urgent -= Number(top.entry.urgent)
      running.set(top.key, now)
      return { key: top.key, reason: top.entry.reason, waited: Duration.millis(now - top.entry.due) }
    }
  }

  /** Only the waiting can be interrupted: a job that was taken is never lost. */
  const next = (restore: <A>(effect: Effect.Effect<A>) => Effect.Effect<A>): Effect.Effect<Job<K>> =>
    Effect.gen(function* () {
      while (true) {
        wake.closeUnsafe()
        const job = poll(yield* Clock.currentTimeMillis)
        if (typeof job !== "number") return job
        yield* restore(Number.isFinite(job) ? Effect.raceFirst(wake.await, Effect.sleep(job)) : wake.await)
      }
    })

  const done = (key: K, after: Duration.Duration | undefined) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      running.delete(key)
      const dirty = waiting.get(key)
      if (dirty !== undefined) heap.push(key, dirty)
      if (after !== undefined) schedule(key, now + delayMillis(after), "due", false)
      return wake.open
    })

  /** Looked at when somebody asks, for as long as the scope lives: work that hangs updates nothing by itself. */
  const observe = Effect.fnUntraced(function* (metric: typeof metrics.longest, of: (ages: Array<number>) => number) {
    const context = yield* Effect.context<never>()
    const clock = yield* Clock.Clock
    const get = () => {
      const now = clock.currentTimeMillisUnsafe()
      return { value: of(Array.from(running.values(), (since) => (now - since) / 1000)) }
    }
    const series = Metric.withAttributes(metric, attributes)
    yield* Effect.acquireRelease(
      Effect.sync(() => Metric.registerUnsafe(series, context, { get, update: () => {}, modify: () => {} })),
      (registration) => Effect.sync(registration.remove)
    )
  })

  const run = <R>(
    worker: (job: Job<K>) => Effect.Effect<Duration.Duration | undefined, never, R>,
    { concurrency, drain }: { readonly concurrency: number; readonly drain: Duration.Duration }
  ): Effect.Effect<never, never, R> =>
    Effect.gen(function* () {
      yield* observe(metrics.unfinished, (ages) => ages.reduce((sum, age) => sum + age, 0))
      yield* observe(metrics.longest, (ages) => Math.max(0, ...ages))
      const permits = yield* Semaphore.make(concurrency)
      const asides = new Set<Fiber.Fiber<unknown, unknown>>()
      let stopping = false
      const standAside: StandAside = (waiting) =>
        Effect.withFiber((fiber) =>
          Effect.acquireUseRelease(
            Effect.suspend(() => {
              asides.add(fiber)
              if (stopping) fiber.interruptUnsafe()
              return permits.release(1)
            }),
            () => waiting,
            () =>
              Effect.suspend(() => {
                asides.delete(fiber)
                // It is cut off then, and takes no place any more.
                return stopping ? Effect.void : permits.take(1)
              })
          )
        )
      const fibers = yield* FiberSet.make<void>()
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          stopping = true
          for (const fiber of asides) fiber.interruptUnsafe()
        }).pipe(Effect.andThen(FiberSet.awaitEmpty(fibers)), Effect.timeout(drain), Effect.ignore)
      )
      const start = Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          yield* restore(permits.take(1))
          const job = yield* next(restore)
          yield* Metric.update(depth, urgent)
          yield* Metric.update(waited, Duration.toSeconds(job.waited))
          const work = Effect.provideService(worker(job), Aside, standAside)
          yield* Effect.timed(restore(work)).pipe(
            Effect.flatMap(([took, after]) => Effect.as(Metric.update(worked, Duration.toSeconds(took)), after)),
            // A defect must not take the key out of the queue for ever.
            Effect.onExit((exit) => done(job.key, exit._tag === "Success" ? exit.value : Duration.seconds(30))),
            Effect.ensuring(permits.release(1)),
            Effect.asVoid,
            FiberSet.run(fibers)
          )
        })
      )
      return yield* Effect.forever(start)
    }).pipe(Effect.scoped)

  return { name, add, run, size: Effect.sync(() => ({ waiting: waiting.size, running: running.size })) }
})

const delayMillis = (after: Duration.Duration | undefined): number =>
  after === undefined ? 0 : Duration.toMillis(Duration.clamp(after, { minimum: Duration.zero, maximum: longestDelay }))

/** A binary heap by due time, then by order of adding. Entries that are out of date are skipped by whoever pops them. */
class Heap<K> {
  readonly #items: Array<{ readonly key: K; readonly entry: Waiting }> = []

  peek() {
    return this.#items[0]
  }

  push(key: K, entry: Waiting) {
    const items = this.#items
    let at = items.push({ key, entry }) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.#before(at, parent)) break
      this.#swap(at, parent)
      at = parent
    }
  }

  pop() {
    const items = this.#items
    const top = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return top
    items[0] = last
    let at = 0
    while (true) {
      const left = at * 2 + 1
      const right = left + 1
      let least = at
      if (left < items.length && this.#before(left, least)) least = left
      if (right < items.length && this.#before(right, least)) least = right
      if (least === at) return top
      this.#swap(at, least)
      at = least
    }
  }

  #before(a: number, b: number): boolean {
    const x = this.#items[a]!.entry
    const y = this.#items[b]!.entry
    return x.due < y.due || (x.due === y.due && x.order < y.order)
  }

  #swap(a: number, b: number) {
    const items = this.#items
    const held = items[a]!
    items[a] = items[b]!
    items[b] = held
  }
}
