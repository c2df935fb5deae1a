import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Duration, Effect, Fiber, Metric, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as WorkQueue from "../../src/kubernetes/WorkQueue.ts"

interface Run {
  readonly key: string
  readonly began: number
  readonly reason: string
}

/** A queue whose worker takes so long, answers so, and notes what it ran. */
const observed = Effect.fnUntraced(function* (options: {
  readonly takes?: (run: number) => number
  readonly answers?: (run: number) => number | undefined
  readonly concurrency?: number
}) {
  const queue = yield* WorkQueue.make<string>()
  const runs: Array<Run> = []
  const running = new Set<string>()
  let together = 0
  let parallel = false
  const fiber = yield* Effect.forkScoped(
    queue.run(
      Effect.fnUntraced(function* ({ key, reason }) {
        if (running.has(key)) parallel = true
        running.add(key)
        together = Math.max(together, running.size)
        const run = runs.push({ key, reason, began: yield* Clock.currentTimeMillis }) - 1
        yield* Effect.sleep(options.takes?.(run) ?? 0)
        running.delete(key)
        const answer = options.answers?.(run)
        return answer === undefined ? undefined : Duration.millis(answer)
      }),
      { concurrency: options.concurrency ?? 4, drain: Duration.seconds(30) }
    )
  )
  return { queue, runs, fiber, together: () => together, parallel: () => parallel }
})

const began = (runs: ReadonlyArray<Run>) => runs.map((run) => `${run.key}@${run.began}`)

describe("WorkQueue", () => {
  it.effect("merges adds of a waiting key: the earliest time wins, with its reason", () =>
    Effect.gen(function* () {
      const { queue, runs } = yield* observed({})
      yield* queue.add("a", { after: Duration.seconds(10), reason: "first" })
      yield* queue.add("a", { after: Duration.seconds(3), reason: "second" })
      yield* queue.add("a", { after: Duration.seconds(7), reason: "third" })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(runs, [{ key: "a", began: 3000, reason: "second" }])
    })
  )

  it.effect("runs a key that was added while it ran once more, right after, however often it was added", () =>
    Effect.gen(function* () {
      const { parallel, queue, runs } = yield* observed({ takes: () => 100 })
      yield* queue.add("a")
      yield* TestClock.adjust(50)
      yield* Effect.forEach([1, 2, 3], () => queue.add("a"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(began(runs), ["a@0", "a@100"])
      assert.isFalse(parallel())
    })
  )

  it.effect("looks again after the answered delay, or earlier and then not when somebody asks", () =>
    Effect.gen(function* () {
      const { queue, runs } = yield* observed({ answers: (run) => (run < 2 ? 10_000 : undefined) })
      yield* queue.add("a")
      yield* TestClock.adjust(4000)
      yield* queue.add("a")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(began(runs), ["a@0", "a@4000", "a@14000"])
    })
  )

  it.effect("runs as many keys at once as it may, in the order in which they are due", () =>
    Effect.gen(function* () {
      const { queue, runs, together } = yield* observed({ takes: () => 100, concurrency: 2 })
      yield* Effect.forEach(["a", "b", "c", "d"], (key) => queue.add(key))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(began(runs), ["a@0", "b@0", "c@100", "d@100"])
      assert.strictEqual(together(), 2)
    })
  )

  it.effect("runs others while jobs stand aside, and lets those go on when there is a place", () =>
    Effect.gen(function* () {
      const queue = yield* WorkQueue.make<string>()
      const log: Array<string> = []
      const answer = yield* Deferred.make<void>()
      let busy = 0
      let most = 0
      const work = (line: string) =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            most = Math.max(most, ++busy)
          }),
          () =>
            Effect.delay(
              Effect.sync(() => log.push(line)),
              10
            ),
          () => Effect.sync(() => busy--)
        )
      const fiber = yield* Effect.forkScoped(
        queue.run(
          Effect.fnUntraced(function* ({ key }) {
            yield* work(`${key} begins`)
            if (key === "slow") yield* Effect.sleep("5 seconds")
            if (key === "slow" || key.startsWith("hung")) {
              yield* WorkQueue.aside(key === "slow" || key === "hung-4" ? Effect.never : Deferred.await(answer))
              yield* work(`${key} ends`)
            }
            return undefined
          }),
          { concurrency: 2, drain: Duration.seconds(30) }
        )
      )
      yield* Effect.forEach(["hung-1", "hung-2", "hung-3", "other"], (key) => queue.add(key))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(log, ["hung-1 begins", "hung-2 begins", "hung-3 begins", "other begins"])
      assert.deepStrictEqual(yield* queue.size, { waiting: 0, running: 3 })
      yield* Deferred.succeed(answer, undefined)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(log.slice(4).sort(), ["hung-1 ends", "hung-2 ends", "hung-3 ends"])
      assert.strictEqual(most, 2)

      // Who stands aside when it is stopped does nothing that could be cut in two: nobody waits for it, and it is not lost.
      yield* queue.add("hung-4")
      yield* queue.add("slow")
      yield* TestClock.adjust("1 second")
      const stopping = yield* Effect.forkScoped(Fiber.interrupt(fiber))
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* queue.size, { waiting: 1, running: 1 })
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(stopping.pollUnsafe())
      assert.deepStrictEqual(yield* queue.size, { waiting: 2, running: 0 })
    })
  )

  it.effect("keeps a key whose worker dies", () =>
    Effect.gen(function* () {
      const queue = yield* WorkQueue.make<string>()
      let runs = 0
      yield* Effect.forkChild(
        queue.run(() => (runs++ === 0 ? Effect.die("a defect") : Effect.succeed(undefined)), {
          concurrency: 1,
          drain: Duration.zero
        })
      )
      yield* queue.add("a")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(runs, 2)
      assert.deepStrictEqual(yield* queue.size, { waiting: 0, running: 0 })
    })
  )

  it.effect("lets running jobs finish when it is stopped, and starts no other", () =>
    Effect.gen(function* () {
      const { fiber, queue, runs } = yield* observed({ takes: () => 1000, concurrency: 1 })
      yield* queue.add("a")
      yield* queue.add("b")
      yield* TestClock.adjust(500)
      const stopped = yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* TestClock.adjust(499)
      assert.isUndefined(stopped.pollUnsafe())
      yield* TestClock.adjust(1)
      yield* Fiber.join(stopped)
      assert.deepStrictEqual(began(runs), ["a@0"])
      assert.deepStrictEqual(yield* queue.size, { waiting: 1, running: 0 })
    })
  )

  it.effect("goes on where it was when it is run again, with what was cut off", () =>
    Effect.gen(function* () {
      const queue = yield* WorkQueue.make<string>()
      const stuck = yield* Deferred.make<void>()
      const first = yield* Effect.forkChild(
        queue.run(() => Effect.as(Deferred.await(stuck), undefined), { concurrency: 1, drain: Duration.seconds(1) })
      )
      yield* queue.add("a")
      yield* queue.add("b")
      yield* TestClock.adjust(0)
      const stopped = yield* Effect.forkChild(Fiber.interrupt(first))
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(stopped)
      const seen: Array<string> = []
      yield* Effect.forkChild(
        queue.run(({ key }) => Effect.sync(() => void seen.push(key)), { concurrency: 1, drain: Duration.zero })
      )
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen, ["b", "a"])
    })
  )

  it.effect("counts adds, what waits to be run at once, and how long it waited and took", () =>
    Effect.gen(function* () {
      const queue = yield* WorkQueue.make<string>("counted")
      const value = <I, S>(metric: Metric.Metric<I, S>) =>
        Metric.value(Metric.withAttributes(metric, { name: "counted" }))
      yield* queue.add("later", { after: Duration.minutes(1) })
      yield* queue.add("a")
      yield* queue.add("a")
      yield* queue.add("b")
      assert.strictEqual((yield* value(WorkQueue.metrics.depth)).value, 2)
      assert.strictEqual((yield* value(WorkQueue.metrics.adds)).count, 4)
      yield* TestClock.adjust("2 seconds")
      yield* Effect.forkChild(
        queue.run(() => Effect.as(Effect.sleep(500), undefined), { concurrency: 2, drain: Duration.zero })
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* value(WorkQueue.metrics.depth)).value, 0)
      const [waited, worked] = [yield* value(WorkQueue.metrics.waited), yield* value(WorkQueue.metrics.worked)]
      assert.deepStrictEqual([waited.count, waited.sum, worked.count, worked.sum], [2, 4, 2, 1])
    })
  )

  it.effect("tells how long the work that runs has taken so far, while it hangs", () =>
    Effect.gen(function* () {
      const queue = yield* WorkQueue.make<string>("hanging")
      const series = Effect.map(Metric.snapshot, (all) =>
        all
          .filter(({ attributes }) => attributes?.["name"] === "hanging")
          .flatMap(({ id, state }) => (id.includes("_seconds") && "value" in state ? [[id, state.value]] : []))
      )
      const fiber = yield* Effect.forkChild(queue.run(() => Effect.never, { concurrency: 2, drain: Duration.zero }))
      yield* queue.add("a")
      yield* TestClock.adjust("2 seconds")
      yield* queue.add("b")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* series, [
        ["workqueue_unfinished_work_seconds", 4],
        ["workqueue_longest_running_processor_seconds", 3]
      ])
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* series, [])
    })
  )

  const Step = Schema.Struct({
    key: Schema.Literals(["a", "b", "c"]),
    pause: Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 0, maximum: 30 }))),
    after: Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 0, maximum: 50 })))
  })
  const Millis = Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 0, maximum: 40 })))

  it.effect.prop(
    "never runs a key twice at once, never late, never loses an add",
    { steps: Schema.Array(Step), takes: Schema.NonEmptyArray(Millis) },
    ({ steps, takes }) =>
      Effect.gen(function* () {
        // As many workers as keys, so that nothing waits for a worker.
        const { parallel, queue, runs } = yield* observed({
          takes: (run) => takes[run % takes.length]!,
          concurrency: 3
        })
        const start = yield* Clock.currentTimeMillis
        const adds: Array<{ readonly key: string; readonly at: number; readonly due: number }> = []
        for (const { after, key, pause } of steps) {
          yield* TestClock.adjust(pause)
          const at = yield* Clock.currentTimeMillis
          adds.push({ key, at, due: at + after })
          yield* queue.add(key, { after: Duration.millis(after) })
        }
        yield* TestClock.adjust("1 hour")
        assert.isFalse(parallel())
        assert.deepStrictEqual(yield* queue.size, { waiting: 0, running: 0 })
        const ends = runs.map((run, index) => run.began + takes[index % takes.length]!)
        for (const add of adds) {
          // Answered by a run that began after it, and no later than it was due, unless its key ran just then.
          const answer = runs.findIndex((run) => run.key === add.key && run.began >= add.at)
          assert.notStrictEqual(answer, -1, "an add was lost")
          const before = runs.findLastIndex((run, index) => run.key === add.key && index < answer)
          const busyUntil = before === -1 ? start : ends[before]!
          assert.isAtMost(runs[answer]!.began, Math.max(add.due, busyUntil))
        }
        // And no run without a reason: each begins when an add was due, or when the run before it ended.
        assert.isAtMost(runs.length, adds.length)
        runs.forEach((run, index) => {
          const before = runs.findLastIndex((other, at) => other.key === run.key && at < index)
          const isDue = adds.some((add) => add.key === run.key && add.due === run.began)
          assert.isTrue(isDue || (before !== -1 && ends[before] === run.began))
        })
      }).pipe(Effect.scoped),
    { timeout: 180_000, arbitrary: { runs: 10_000 } }
  )
})
