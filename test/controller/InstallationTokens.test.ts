import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Layer, Metric, Redacted } from "effect"
import { PrometheusMetrics } from "effect/observability"
import { TestClock } from "effect/testing"
import { InstallationTokens } from "../../src/controller/InstallationTokens.ts"
import { GitHubApp, GitHubAppError } from "../../src/git/GitHubApp.ts"

const installation = { appId: 1, installationId: 2, privateKey: Redacted.make("key") }

describe("InstallationTokens", () => {
  it.effect("gives one token to all until five minutes before its end, and a refusal for a moment", () =>
    Effect.gen(function* () {
      let asked = 0
      let fails = false
      const app = Layer.succeed(GitHubApp, {
        exchange: Effect.fnUntraced(function* () {
          asked++
          if (fails) return yield* new GitHubAppError({ message: "no" })
          const expiresAt = (yield* Clock.currentTimeMillis) + Duration.toMillis(Duration.hours(1))
          return { token: Redacted.make(`token-${asked}`), expiresAt }
        })
      })
      yield* Effect.gen(function* () {
        const tokens = yield* InstallationTokens
        const get = Effect.map(tokens.get({ ...installation }, "plant/site"), ({ token }) => Redacted.value(token))
        assert.strictEqual(yield* get, "token-1")
        yield* TestClock.adjust("54 minutes")
        assert.strictEqual(yield* get, "token-1")
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* get, "token-2")
        yield* tokens.get({ ...installation, privateKey: Redacted.make("another") }, "plant/site")
        assert.strictEqual(asked, 3)

        fails = true
        yield* TestClock.adjust("1 hour")
        yield* Effect.flip(get)
        yield* Effect.flip(get)
        assert.strictEqual(asked, 4)
        fails = false
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(yield* get, "token-5")
      }).pipe(Effect.provide(InstallationTokens.layerNoDeps.pipe(Layer.provide(app))))
    })
  )

  it.effect("shows an App in the metrics as long as somebody needs it", () =>
    Effect.gen(function* () {
      const app = Layer.succeed(GitHubApp, {
        exchange: () => Effect.succeed({ token: Redacted.make("token"), expiresAt: 3_600_000 })
      })
      const series = Effect.map(PrometheusMetrics.format(), (text) =>
        text.split("\n").filter((line) => line.startsWith("stoker_controller_github_app_token_expiry"))
      )
      const line = (installationId: number) =>
        `stoker_controller_github_app_token_expiry_timestamp_seconds{app_id="1",installation_id="${installationId}"} 3600`
      yield* Effect.gen(function* () {
        const tokens = yield* InstallationTokens
        yield* tokens.get(installation, "plant/one")
        yield* tokens.get(installation, "plant/two")
        assert.deepStrictEqual(yield* series, [line(2)])
        yield* tokens.forget("plant/one")
        yield* tokens.forget("plant/never-there")
        assert.deepStrictEqual(yield* series, [line(2)])
        // An edit of the spec.
        const other = { ...installation, installationId: 3 }
        yield* tokens.get(other, "plant/two")
        assert.deepStrictEqual(yield* series, [line(3)])
        // Again, from the cache.
        yield* tokens.get(installation, "plant/one")
        assert.deepStrictEqual((yield* series).sort(), [line(2), line(3)])
        yield* Effect.forEach(["plant/one", "plant/two"], tokens.forget)
        assert.deepStrictEqual(yield* series, [])
      }).pipe(
        Effect.provide(InstallationTokens.layerNoDeps.pipe(Layer.provide(app))),
        Effect.provideService(Metric.MetricRegistry, new Map())
      )
    })
  )
})
