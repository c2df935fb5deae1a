import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { HttpRouter, HttpServerRequest } from "effect/http"
import { Health } from "../../src/telemetry/Health.ts"

describe("Health", () => {
  it.effect(
    "routes answer 503 until started, then by checks that came after the routes, and forget them with their scope",
    () =>
      Effect.gen(function* () {
        const app = yield* HttpRouter.toHttpEffect(Health.routes)
        const { register, started } = yield* Health
        const ask = (path: string) =>
          app.pipe(
            Effect.provideService(
              HttpServerRequest.HttpServerRequest,
              HttpServerRequest.fromWeb(new Request(`http://localhost${path}`))
            ),
            Effect.map(({ status }) => status),
            Effect.scoped
          )
        assert.strictEqual(yield* ask("/readyz"), 503)
        yield* started
        assert.strictEqual(yield* ask("/readyz"), 200)
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* register("ready", "files", Effect.fail("waits"))
            assert.strictEqual(yield* ask("/readyz"), 503)
            assert.strictEqual(yield* ask("/healthz"), 200)
          })
        )
        assert.strictEqual(yield* ask("/readyz"), 200)
      }).pipe(Effect.scoped, Effect.provide(Health.layer))
  )
})
