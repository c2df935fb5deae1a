import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import * as ScanLock from "../../../src/sandbox/gateway/ScanLock.ts"

const request = {
  actor: "eve",
  acquireTimeout: Duration.seconds(10),
  holdTimeout: Duration.seconds(60),
  idle: Effect.void
}

describe("ScanLock", () => {
  it.effect("counts down, and is over by itself", () =>
    Effect.gen(function* () {
      const lock = yield* ScanLock.make
      assert.strictEqual((yield* lock.acquire(request)).remaining, 60)
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual((yield* lock.current)?.remaining, 1)
      yield* TestClock.adjust("1 second")
      assert.isUndefined(yield* lock.current)
      assert.strictEqual(yield* lock.expiries, 1)
      yield* lock.acquire(request)
    })
  )

  it.effect("that was released does not expire the next one", () =>
    Effect.gen(function* () {
      const lock = yield* ScanLock.make
      yield* lock.acquire(request)
      yield* TestClock.adjust("30 seconds")
      yield* lock.release
      yield* lock.acquire(request)
      yield* TestClock.adjust("31 seconds")
      assert.strictEqual((yield* lock.current)?.remaining, 29)
      assert.strictEqual(yield* lock.expiries, 0)
    })
  )

  it.effect("waits for a running scan as long as it was told, and then is 408", () =>
    Effect.gen(function* () {
      const lock = yield* ScanLock.make
      const scanned = yield* Deferred.make<void>()
      const waiting = yield* Effect.forkChild(lock.acquire({ ...request, idle: Deferred.await(scanned) }))
      const giving = yield* Effect.forkChild(
        Effect.flip(lock.acquire({ ...request, acquireTimeout: Duration.seconds(5), idle: Deferred.await(scanned) }))
      )
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(giving))._tag, "NotAcquired")
      yield* Deferred.succeed(scanned, undefined)
      assert.strictEqual((yield* Fiber.join(waiting)).actor, "eve")
    })
  )

  it.effect("goes to one of two that waited for the same scan", () =>
    Effect.gen(function* () {
      const lock = yield* ScanLock.make
      const scanned = yield* Deferred.make<void>()
      const waiting = { ...request, idle: Deferred.await(scanned) }
      const both = yield* Effect.forkChild(
        Effect.all([Effect.exit(lock.acquire(waiting)), Effect.exit(lock.acquire(waiting))], { concurrency: 2 }),
        { startImmediately: true }
      )
      yield* Deferred.succeed(scanned, undefined)
      assert.deepStrictEqual((yield* Fiber.join(both)).map((_) => _._tag).sort(), ["Failure", "Success"])
    })
  )

  it.effect("remembers when it was held", () =>
    Effect.gen(function* () {
      const lock = yield* ScanLock.make
      yield* TestClock.setTime(1_000)
      yield* lock.acquire(request)
      yield* TestClock.setTime(2_000)
      yield* lock.release
      yield* TestClock.setTime(3_000)
      yield* lock.acquire(request)
      yield* TestClock.setTime(3_500)
      const held = yield* Effect.forEach([900, 1_000, 1_999.9, 2_100, 3_400], lock.wasHeldAt)
      assert.deepStrictEqual(held, [false, true, true, false, true])
    })
  )

  it.effect("lets go who waits until it is free", () =>
    Effect.gen(function* () {
      const lock = yield* ScanLock.make
      yield* lock.awaitFree
      yield* lock.acquire(request)
      const waiting = yield* Effect.forkChild(lock.awaitFree, { startImmediately: true })
      yield* TestClock.adjust("59 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      yield* lock.release
      yield* Fiber.join(waiting)
    })
  )
})
