import { assert, describe, it, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, Redacted } from "effect"
import { TestClock } from "effect/testing"
import * as NodeHttp from "node:http"
import { gzipSync } from "node:zlib"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import type { ApiError } from "../../src/kubernetes/ApiError.ts"
import { KubeConfig } from "../../src/kubernetes/KubeConfig.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Connection from "./Connection.ts"
import { listen } from "../Loopback.ts"

const reasonOf = (request: Effect.Effect<unknown, ApiError>) =>
  Effect.map(Effect.flip(request), ({ reason }) => reason._tag)

/** A server that answers as it is told, and an ApiClient for it; `token` is what `renew` finds. */
const served = Effect.fnUntraced(function* (answer: NodeHttp.RequestListener, token = "renewed") {
  const server = NodeHttp.createServer(answer)
  const port = yield* listen(server)
  let current = "first"
  const config = Layer.succeed(KubeConfig, {
    server: `http://127.0.0.1:${port}`,
    namespace: "plant",
    tls: Effect.succeed({}),
    authorization: Effect.sync(() => Option.some(Redacted.make(current))),
    renew: Effect.sync(() => {
      current = token
    })
  })
  const context = yield* Layer.build(Layer.fresh(ApiClient.layer).pipe(Layer.provide(config)))
  return yield* Effect.provide(ApiClient, context)
})

describe("ApiClient", () => {
  it.effect("takes lists gzipped", () =>
    Effect.gen(function* () {
      const page = { metadata: { resourceVersion: "7", continue: "" }, items: [{ a: 1 }] }
      const accepted: Array<unknown> = []
      const client = yield* served((request, response) => {
        accepted.push(request.headers["accept-encoding"])
        response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(JSON.stringify(page)))
      })
      const list = yield* client.list(Resource.configMaps, { namespace: "plant" })
      assert.deepStrictEqual(list, { resourceVersion: "7", continue: Option.none(), items: [{ a: 1 }] })
      assert.deepStrictEqual(accepted, ["gzip"])
    })
  )

  it.effect("asks once more with a token read afresh when it is not known any more, and no third time", () =>
    Effect.gen(function* () {
      const seen: Array<string | undefined> = []
      const answer: NodeHttp.RequestListener = (request, response) => {
        seen.push(request.headers.authorization)
        response.writeHead(request.headers.authorization === "renewed" ? 200 : 401).end("{}")
      }
      yield* (yield* served(answer)).request("GET", "/api")
      assert.deepStrictEqual(seen.splice(0), ["first", "renewed"])
      assert.strictEqual(yield* reasonOf((yield* served(answer, "wrong")).request("GET", "/api")), "Unauthorized")
      assert.deepStrictEqual(seen, ["first", "wrong"])
    })
  )

  it.effect("gives up after 30 s without an answer, or without the rest of one", () =>
    Effect.gen(function* () {
      for (const begin of [false, true]) {
        const asked = yield* Deferred.make<void>()
        const client = yield* served((_, response) => {
          if (begin) response.write("{")
          Deferred.doneUnsafe(asked, Effect.void)
        })
        const failed = yield* Effect.forkChild(reasonOf(client.request("GET", "/api")))
        yield* Deferred.await(asked)
        yield* TestClock.adjust("29 seconds")
        assert.isUndefined(failed.pollUnsafe())
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(failed), "TimedOut")
      }
    })
  )
})

layer(Connection.layer, { excludeTestServices: true, timeout: "2 minutes" })("ApiClient on a real API server", (it) => {
  const by = (fieldManager: string) => ({ fieldManager })
  const one = (name: string) => ({ namespace: "default", name })
  const dataOf = (object: unknown) => (object as { readonly data?: object }).data

  it.effect("applies the full set of its manager, and takes over what another one holds", () =>
    Effect.gen(function* () {
      const client = yield* ApiClient
      const ref = one("applied")
      const apply = (manager: string, data: object) => client.apply(Resource.configMaps, ref, { data }, by(manager))
      yield* apply("ours", { a: "1", b: "1" })
      yield* apply("theirs", { b: "2", c: "2" })
      assert.deepStrictEqual(dataOf(yield* client.get(Resource.configMaps, ref)), { a: "1", b: "2", c: "2" })
      // `a` goes with us; `b` is taken back; `c` is theirs.
      assert.deepStrictEqual(dataOf(yield* apply("ours", { b: "3" })), { b: "3", c: "2" })
    })
  )

  it.effect("is told when somebody was faster", () =>
    Effect.gen(function* () {
      const client = yield* ApiClient
      const ref = one("contended")
      const { configMaps } = Resource
      const created = yield* client.create(configMaps, "default", { metadata: { name: ref.name } }, by("one"))
      const { resourceVersion, uid } = (
        created as { readonly metadata: { readonly resourceVersion: string; readonly uid: string } }
      ).metadata
      const stale = { metadata: { resourceVersion }, data: { a: "1" } }
      yield* client.mergePatch(configMaps, ref, stale, by("one"))
      assert.strictEqual(yield* reasonOf(client.mergePatch(configMaps, ref, stale, by("two"))), "Conflict")
      // With force, too.
      assert.strictEqual(yield* reasonOf(client.apply(configMaps, ref, stale, by("two"))), "Conflict")
      const again = client.create(configMaps, "default", { metadata: { name: ref.name } }, by("two"))
      assert.strictEqual(yield* reasonOf(again), "AlreadyExists")
      assert.strictEqual(yield* reasonOf(client.delete(configMaps, ref, { resourceVersion })), "Conflict")
      assert.strictEqual(yield* reasonOf(client.delete(configMaps, ref, { uid: `${uid}0` })), "Conflict")
      yield* client.delete(configMaps, ref, { uid })
      assert.strictEqual(yield* reasonOf(client.get(configMaps, ref)), "NotFound")
      assert.strictEqual(yield* reasonOf(client.mergePatch(configMaps, ref, {}, by("one"))), "NotFound")
    })
  )

  it.effect("says of a field that the API server does not know what to do, and of a Secret nothing", () =>
    Effect.gen(function* () {
      const client = yield* ApiClient
      const unknown = yield* Effect.flip(
        client.apply(Resource.configMaps, one("unknown"), { nonsense: { a: "1" } }, by("ours"))
      )
      assert.strictEqual(unknown.reason._tag, "UnknownField")
      assert.include(unknown.message, "apply the chart's crds/")
      assert.isFalse(unknown.isTransient)
      // The API server quotes the whole object, with what it held before.
      const secret = { metadata: { name: "hidden" }, data: { token: "czNjcmV0LW1hcmtlZA==" } }
      yield* client.create(Resource.secrets, "default", secret, by("ours"))
      const mistyped = { metadata: { labels: 5 } }
      const refused = yield* Effect.flip(client.mergePatch(Resource.secrets, one("hidden"), mistyped, by("ours")))
      assert.strictEqual(refused.reason._tag, "Invalid")
      assert.notInclude(JSON.stringify(refused) + refused.message, "czNjcmV0")
    })
  )
})
