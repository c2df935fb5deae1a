/** How the receiver's server ends, with connections that are kept, and with some that it can do nothing about. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Goodbye from "../../src/receiver/Goodbye.ts"
import { connect } from "./raw.ts"
import { receiver } from "./running.ts"

/** A receiver that a test ends by itself. */
const ending = Effect.gen(function* () {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const server = yield* Layer.buildWithScope(receiver(), scope)
  return {
    connect: Effect.provide(connect, server),
    end: Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
  }
})

const asked = "GET /webhook/plant/nobody HTTP/1.1\r\nHost: receiver\r\n\r\n"

describe("the end of a receiver", () => {
  it.effect("waits for nobody when nobody is connected", () =>
    Effect.gen(function* () {
      const { end } = yield* ending
      yield* Fiber.join(yield* end)
    })
  )

  it.effect("answers on a connection that was kept, and asks its client to close it; then it waits no more", () =>
    Effect.gen(function* () {
      const { connect, end } = yield* ending
      const kept = yield* connect
      yield* kept.write(asked)
      assert.match(yield* kept.answered(/\}$/), /^HTTP\/1\.1 404 [^]*Connection: keep-alive/i)
      const ended = yield* end
      yield* kept.write(asked)
      assert.match(yield* kept.closed, /\}HTTP\/1\.1 404 [^]*Connection: close/i)
      yield* Fiber.join(ended)
    })
  )

  it.effect("closes a connection that was kept and is not used", () =>
    Effect.gen(function* () {
      const { connect, end } = yield* ending
      const kept = yield* connect
      yield* kept.write(asked)
      yield* kept.answered(/\}$/)
      const ended = yield* end
      yield* TestClock.adjust(Goodbye.notice)
      yield* kept.closed
      yield* Fiber.join(ended)
    })
  )

  it.effect("cuts one that never said anything, and one that never comes to an end", () =>
    Effect.gen(function* () {
      const { connect, end } = yield* ending
      const silent = yield* connect
      const slow = yield* connect
      const known = yield* connect
      yield* slow.write("POST /webhook/plant/site HTTP/1.1\r\nHost: receiver\r\nContent-Length: 10\r\n\r\n{")
      // All that was sent before this answer has arrived.
      yield* known.write(asked)
      yield* known.answered(/\}$/)
      const ended = yield* end
      yield* TestClock.adjust(Goodbye.notice)
      yield* known.closed
      assert.isUndefined(ended.pollUnsafe())
      yield* TestClock.adjust(Goodbye.longestFinish)
      yield* Effect.all([silent.closed, slow.closed])
      yield* Fiber.join(ended)
    })
  )
})
