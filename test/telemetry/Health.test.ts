import { assert, describe, it } from "@effect/vitest"
import { Effect, Ref } from "effect"
import { Health } from "../../src/telemetry/Health.ts"

describe("Health", () => {
  it.effect("is neither ready nor started before every check is registered, yet alive", () =>
    Effect.gen(function* () {
      const health = yield* Health
      assert.deepStrictEqual(yield* health.failing("ready"), ["process: still starting"])
      assert.deepStrictEqual(yield* health.failing("startup"), ["process: still starting"])
      assert.deepStrictEqual(yield* health.failing("live"), [])
      yield* health.started
      assert.deepStrictEqual(yield* health.failing("ready"), [])
    }).pipe(Effect.provide(Health.layer))
  )

  it.effect("asks each check anew, and names the ones that fail", () =>
    Effect.gen(function* () {
      const health = yield* Health
      yield* health.started
      const problem = yield* Ref.make<string | undefined>("not listed yet")
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* health.register(
            "ready",
            "pods",
            Effect.flatMap(Ref.get(problem), (why) => (why === undefined ? Effect.void : Effect.fail(why)))
          )
          assert.deepStrictEqual(yield* health.failing("ready"), ["pods: not listed yet"])
          assert.deepStrictEqual(yield* health.failing("live"), [])
          yield* Ref.set(problem, undefined)
          assert.deepStrictEqual(yield* health.failing("ready"), [])
          yield* Ref.set(problem, "gone")
        })
      )
      // Its scope is closed: nobody asks it any more.
      assert.deepStrictEqual(yield* health.failing("ready"), [])
    }).pipe(Effect.provide(Health.layer))
  )
})
