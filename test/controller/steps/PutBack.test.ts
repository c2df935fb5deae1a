/** What the controller owns and does not watch: the agents' rights and the token of a GitHub App. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Layer, Redacted } from "effect"
import { TestClock } from "effect/testing"
import type { GatewaySync } from "../../../src/api/GatewaySync.ts"
import * as Names from "../../../src/api/Names.ts"
import { InstallationTokens } from "../../../src/controller/InstallationTokens.ts"
import { Memory } from "../../../src/controller/Memory.ts"
import * as AgentAccess from "../../../src/controller/steps/AgentAccess.ts"
import * as GitHubToken from "../../../src/controller/steps/GitHubToken.ts"
import { ApiClient } from "../../../src/kubernetes/ApiClient.ts"
import { ApiError, NotFound } from "../../../src/kubernetes/ApiError.ts"
import * as Resource from "../../../src/kubernetes/Resource.ts"
import { gatewaySync } from "../fixtures.ts"

const privateKeySecretRef = { name: "app", key: "key" }
const cr = gatewaySync({ git: { auth: { githubApp: { appId: 1, installationId: 2, privateKeySecretRef } } } })
const token = Names.githubTokenSecret("site")
const role = Names.agentRole("site")

/** An API server that stores what is applied, and says what was. */
const cluster = Effect.gen(function* () {
  const stored = new Map<string, object>()
  const written: Array<string> = []
  const keyOf = ({ plural }: Resource.Resource, { name }: Resource.ObjectRef) => `${plural} ${name}`
  stored.set("secrets app", { metadata: { resourceVersion: "1" }, data: { key: "a2V5" } })
  const client = Layer.mock(ApiClient, {
    get: (resource, ref) => {
      const found = stored.get(keyOf(resource, ref))
      return found === undefined
        ? Effect.fail(new ApiError({ operation: "GET", reason: new NotFound({ message: "gone" }) }))
        : Effect.succeed(found)
    },
    apply: (resource, ref, body) =>
      Effect.sync(() => {
        const { metadata } = body as { readonly metadata: object }
        stored.set(keyOf(resource, ref), { ...body, metadata: { ...metadata, resourceVersion: "1" } })
        written.push(keyOf(resource, ref))
      })
  })
  const tokens = Layer.mock(InstallationTokens, {
    get: () => Effect.succeed({ token: Redacted.make("the-token"), expiresAt: Duration.toMillis(Duration.hours(1)) })
  })
  return { stored, written, layer: Layer.mergeAll(client, tokens, Memory.layer) }
})

const steps: ReadonlyArray<
  readonly [
    string,
    (cr: GatewaySync) => Effect.Effect<number, ApiError, ApiClient | InstallationTokens | Memory>,
    ReadonlyArray<string>
  ]
> = [
  ["the agents' Role and RoleBinding", (cr) => AgentAccess.apply(cr, []), [`roles ${role}`, `rolebindings ${role}`]],
  ["the token of a GitHub App", GitHubToken.keep, [`secrets ${token}`]]
]

describe("what is not watched", () => {
  for (const [what, step, objects] of steps) {
    it.effect(`${what}: looked at again within ten minutes, put back when deleted, and not written otherwise`, () =>
      Effect.gen(function* () {
        const { layer, stored, written } = yield* cluster
        yield* Effect.gen(function* () {
          const next = yield* step(cr)
          assert.deepStrictEqual(written, objects)
          assert.isAtMost(next - (yield* Clock.currentTimeMillis), Duration.toMillis("10 minutes"))

          yield* TestClock.setTime(next)
          const later = yield* step(cr)
          assert.deepStrictEqual(written, objects, "nothing differs")
          assert.isAbove(later, next)

          for (const object of objects) stored.delete(object)
          yield* TestClock.setTime(later)
          yield* step(cr)
          assert.deepStrictEqual(written, [...objects, ...objects])
        }).pipe(Effect.provide(layer))
      })
    )
  }

  it.effect("a token that somebody edits is put back", () =>
    Effect.gen(function* () {
      const { layer, stored, written } = yield* cluster
      yield* Effect.gen(function* () {
        const next = yield* GitHubToken.keep(cr)
        const secret = stored.get(`secrets ${token}`)!
        stored.set(`secrets ${token}`, { ...secret, data: { token: "bm9uZQ==" } })
        yield* TestClock.setTime(next)
        yield* GitHubToken.keep(cr)
        assert.lengthOf(written, 2)
        assert.deepStrictEqual(stored.get(`secrets ${token}`), secret)
      }).pipe(Effect.provide(layer))
    })
  )
})
