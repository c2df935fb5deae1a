import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Redacted } from "effect"
import { readFileSync } from "node:fs"
import { GitHubApp, type Installation } from "../../src/git/GitHubApp.ts"
import * as ForwardProxy from "./ForwardProxy.ts"
import * as FakeGitHub from "./FakeGitHub.ts"

const pem = (name: string) => readFileSync(new URL(`../ignition/localhost-tls/${name}.pem`, import.meta.url), "utf8")

/** One exchange in an environment with these variables. */
const exchangeIn = (env: Readonly<Record<string, string>>, installation: Installation) =>
  Effect.flatMap(GitHubApp, ({ exchange }) => exchange(installation)).pipe(
    Effect.provide(
      Layer.fresh(GitHubApp.layer).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))
    )
  )

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
      assert.include(yield* said({ apiBaseURL: "http://127.0.0.1:1" }), "cannot be reached (ECONNREFUSED)")
    })
  )

  it.effect("goes through the proxy of the environment, and trusts a private authority that it is given", () =>
    Effect.gen(function* () {
      const github = yield* FakeGitHub.makeTls({ key: pem("key"), cert: pem("cert") })
      github.answer(201, { token: "the-token", expires_at: "2026-01-01T01:00:00Z" })
      const proxy = yield* ForwardProxy.make
      const installation: Installation = {
        appId: 7,
        installationId: 42,
        privateKey: Redacted.make(github.privateKey),
        apiBaseURL: github.url,
        ca: pem("cert")
      }
      const { token } = yield* exchangeIn({ HTTPS_PROXY: proxy.url }, installation)
      assert.strictEqual(Redacted.value(token), "the-token")
      assert.deepStrictEqual(proxy.asked, [`CONNECT ${github.url.replace("https://", "")}`])
      yield* exchangeIn({ HTTPS_PROXY: proxy.url, NO_PROXY: "localhost" }, installation)
      assert.lengthOf(proxy.asked, 1)
      const { ca: _ca, ...untrusting } = installation
      const error = yield* Effect.flip(exchangeIn({}, untrusting))
      assert.include(error.message, "(DEPTH_ZERO_SELF_SIGNED_CERT). For a private CA")
    })
  )
})
