import { assert, layer } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { GitHubApp, type Installation } from "../../src/git/GitHubApp.ts"
import * as FakeGitHub from "./FakeGitHub.ts"

layer(GitHubApp.layer, { excludeTestServices: true })("GitHubApp", (it) => {
  const prepared = Effect.gen(function* () {
    const github = yield* FakeGitHub.make
    const { exchange } = yield* GitHubApp
    const installation: Installation = {
      appId: 7,
      installationId: 42,
      privateKey: Redacted.make(github.privateKey),
      apiBaseURL: `${github.url}/`
    }
    return { github, exchange, installation }
  })

  it.effect("gets a token for a signed claim of ten minutes at most, from a minute ago", () =>
    Effect.gen(function* () {
      const { exchange, github, installation } = yield* prepared
      github.answer(201, { token: "the-token", expires_at: "2026-01-01T01:00:00Z" })
      const { expiresAt, token } = yield* exchange(installation)
      assert.strictEqual(Redacted.value(token), "the-token")
      assert.strictEqual(expiresAt, Date.UTC(2026, 0, 1, 1))
      const [claims] = github.claims
      assert.strictEqual(claims?.iss, "7")
      assert.strictEqual(claims!.exp - claims!.iat, 600)
      assert.isAtMost(claims!.iat, Date.now() / 1000 - 59)
    })
  )

  it.effect("says what is wrong and what to look at, and never the key", () =>
    Effect.gen(function* () {
      const { exchange, github, installation } = yield* prepared
      const other = yield* FakeGitHub.make
      const said = (change: Partial<Installation>) =>
        Effect.map(Effect.flip(exchange({ ...installation, ...change })), ({ message }) => {
          assert.notInclude(message, "PRIVATE KEY")
          return message
        })
      assert.include(yield* said({ privateKey: Redacted.make(other.privateKey) }), "does not accept the key of App 7")
      assert.include(yield* said({ privateKey: Redacted.make("nonsense") }), "is no RSA key in PEM")
      assert.include(yield* said({ installationId: 1 }), "no installation 1 of App 7")
      github.answer(403, {})
      assert.include(yield* said({}), "may be suspended")
      github.answer(502, {})
      assert.include(yield* said({}), "answered 502")
      github.answer(201, { hello: "world" })
      assert.include(yield* said({}), "answered with no token")
      assert.include(yield* said({ apiBaseURL: "http://127.0.0.1:1" }), "cannot be reached")
    })
  )
})
