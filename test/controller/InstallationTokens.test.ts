import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Layer, Redacted } from "effect"
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
        const get = Effect.map(tokens.get({ ...installation }), ({ token }) => Redacted.value(token))
        assert.strictEqual(yield* get, "token-1")
        yield* TestClock.adjust("54 minutes")
        assert.strictEqual(yield* get, "token-1")
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* get, "token-2")
        yield* tokens.get({ ...installation, privateKey: Redacted.make("another") })
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
})
