import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { InstallationTokens } from "../../../src/controller/InstallationTokens.ts"
import * as Credentials from "../../../src/controller/steps/Credentials.ts"
import { ApiClient } from "../../../src/kubernetes/ApiClient.ts"
import { ApiError, Forbidden, NotFound, type Reason, ServerError } from "../../../src/kubernetes/ApiError.ts"
import * as Resource from "../../../src/kubernetes/Resource.ts"
import { gatewaySync } from "../fixtures.ts"

type Secrets = Readonly<Record<string, Readonly<Record<string, string>>>>

/** What is read with these Secrets of namespace `plant`, each by its name. */
const read = (
  auth: object,
  secrets: Secrets,
  resourceVersion = "1",
  refusal: Reason = new NotFound({ message: "no such thing" })
) =>
  Credentials.read(gatewaySync({ git: { auth } })).pipe(
    Effect.provide([
      Layer.mock(InstallationTokens, {}),
      Layer.mock(ApiClient, {
        get: (resource, { name, namespace }) => {
          const data = resource === Resource.secrets && namespace === "plant" ? secrets[name] : undefined
          return data === undefined
            ? Effect.fail(new ApiError({ operation: "GET", reason: refusal }))
            : Effect.succeed({
                metadata: { resourceVersion },
                data: Object.fromEntries(
                  Object.entries(data).map(([key, value]) => [key, Buffer.from(value).toString("base64")])
                )
              })
        }
      })
    ])
  )

const token = { token: { secretRef: { name: "git", key: "value" } } }
const ssh = { secretRef: { name: "git", key: "key" } }

describe("Credentials", () => {
  it.effect("are a token, with the user and the authority that its Secret names", () =>
    Effect.gen(function* () {
      const plain = yield* read(token, { git: { value: "secret" } })
      assert.deepInclude(plain.credentials, { _tag: "Basic", username: "x-access-token", ca: undefined })
      const { credentials } = yield* read(token, {
        git: { value: "secret", username: "deploy\n", "ca.crt": "-----BEGIN CERTIFICATE-----\n" }
      })
      assert.deepInclude(credentials, { _tag: "Basic", username: "deploy", ca: "-----BEGIN CERTIFICATE-----" })
      assert.strictEqual(credentials._tag === "Basic" && Redacted.value(credentials.password), "secret")
      assert.notInclude(JSON.stringify(credentials), "secret")
    })
  )

  it.effect("are a key, with the hosts that are known where a Secret says so", () =>
    Effect.gen(function* () {
      const secrets = { git: { key: "private" }, hosts: { list: "host ssh-ed25519 AAAA" } }
      const bare = yield* read({ sshKey: ssh }, secrets)
      assert.deepInclude(bare.credentials, { _tag: "Ssh", knownHosts: undefined })
      const { credentials, identity } = yield* read(
        { sshKey: { ...ssh, knownHosts: { secretRef: { name: "hosts", key: "list" } } } },
        secrets
      )
      assert.deepInclude(credentials, { _tag: "Ssh", knownHosts: "host ssh-ed25519 AAAA" })
      assert.notStrictEqual(identity, bare.identity)
    })
  )

  it.effect("are others with each version of their Secret, and with each key", () =>
    Effect.gen(function* () {
      const secrets = { git: { value: "secret", other: "secret" } }
      const identities = yield* Effect.all([
        read(token, secrets),
        read(token, secrets, "2"),
        read({ token: { secretRef: { name: "git", key: "other" } } }, secrets)
      ])
      assert.strictEqual(new Set(identities.map(({ identity }) => identity)).size, 3)
      assert.strictEqual((yield* read(token, secrets)).identity, identities[0].identity)
    })
  )

  it.effect("say which Secret or key is missing, and where it is named", () =>
    Effect.gen(function* () {
      const message = (secrets: Secrets) => Effect.map(Effect.flip(read(token, secrets)), (error) => error.message)
      const place = "(spec.git.auth.token.secretRef, namespace plant)."
      assert.strictEqual(yield* message({}), `there is no Secret "git"; create it ${place}`)
      assert.strictEqual(yield* message({ git: {} }), `the Secret "git" has no key "value"; add it ${place}`)
      assert.strictEqual(yield* message({ git: { value: "" } }), `the Secret "git" has no key "value"; add it ${place}`)
    })
  )
  it.effect("say which right is missing, and nothing of a Secret where the API server is at fault", () =>
    Effect.gen(function* () {
      const forbidden = yield* Effect.flip(read(token, {}, "1", new Forbidden({ message: "secrets are not yours" })))
      assert.strictEqual(
        forbidden.message,
        'Stoker may not read the Secret "git"; let its ServiceAccount get secrets here (spec.git.auth.token.secretRef, namespace plant).'
      )
      const away = yield* Effect.flip(read(token, {}, "1", new ServerError({ status: 500, message: "a bad day" })))
      assert.strictEqual(away._tag, "ApiError")
    })
  )
})
