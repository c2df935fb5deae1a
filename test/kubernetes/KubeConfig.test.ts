import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Layer, Option, Redacted } from "effect"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"
import * as Https from "node:https"
import type { AddressInfo } from "node:net"
import { rootCertificates } from "node:tls"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../../src/kubernetes/KubeConfig.ts"

const pem = (name: string) => readFileSync(new URL(`../ignition/localhost-tls/${name}.pem`, import.meta.url), "utf8")
const anotherCa = rootCertificates[0]!

/** A Pod's ServiceAccount; each of its files can be replaced, as the kubelet does, or taken away. */
const pod = Effect.fnUntraced(function* (port = 443) {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* fs.makeTempDirectoryScoped()
  const write = (file: string, text: string) => fs.writeFileString(`${folder}/${file}`, text)
  yield* write("namespace", "plant")
  yield* write("token", "first")
  yield* write("ca.crt", anotherCa)
  const environment = ConfigProvider.layer(
    ConfigProvider.fromUnknown({
      KUBERNETES_SERVICE_HOST: "localhost",
      KUBERNETES_SERVICE_PORT: String(port),
      SERVICE_ACCOUNT_DIR: folder
    })
  )
  return {
    write,
    remove: (file: string) => fs.remove(`${folder}/${file}`),
    config: Layer.fresh(KubeConfig.layerInCluster).pipe(Layer.provide(environment))
  }
})

/** An API server that says whose token came. */
const apiServer = Effect.gen(function* () {
  const server = Https.createServer({ key: pem("key"), cert: pem("cert") }, (request, response) =>
    response.end(JSON.stringify({ authorization: request.headers.authorization }))
  )
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "localhost", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )
  return (server.address() as AddressInfo).port
})

layer(NodeServices.layer)("KubeConfig in a Pod", (it) => {
  it.effect("reads a renewed token after a minute, or at once after a 401", () =>
    Effect.gen(function* () {
      const { config, write } = yield* pod()
      yield* Effect.gen(function* () {
        const { authorization, renew } = yield* KubeConfig
        const said = Effect.map(authorization, (header) => Redacted.value(Option.getOrThrow(header)))
        assert.strictEqual(yield* said, "Bearer first")
        yield* write("token", "second\n")
        assert.strictEqual(yield* said, "Bearer first")
        yield* TestClock.adjust("61 seconds")
        assert.strictEqual(yield* said, "Bearer second")
        yield* write("token", "third")
        yield* renew
        assert.strictEqual(yield* said, "Bearer third")
      }).pipe(Effect.provide(config))
    })
  )

  it.effect("keeps the token that it has while the file cannot be read", () =>
    Effect.gen(function* () {
      const { config, remove, write } = yield* pod()
      yield* Effect.gen(function* () {
        const { authorization, tls } = yield* KubeConfig
        const said = Effect.map(authorization, (header) => Option.getOrUndefined(Option.map(header, Redacted.value)))
        yield* said
        yield* remove("token")
        yield* TestClock.adjust("61 seconds")
        assert.strictEqual(yield* said, "Bearer first")
        assert.deepStrictEqual(yield* tls, { ca: anotherCa.trim() })
        yield* write("token", "second")
        yield* TestClock.adjust("61 seconds")
        assert.strictEqual(yield* said, "Bearer second")
      }).pipe(Effect.provide(config))
    })
  )

  it.effect("trusts a renewed ca.crt after a minute, without a restart", () =>
    Effect.gen(function* () {
      const { config, write } = yield* pod(yield* apiServer)
      yield* Effect.gen(function* () {
        const client = yield* ApiClient
        const error = yield* Effect.flip(client.request("GET", "/api"))
        assert.strictEqual(error.reason._tag, "Unreachable")
        yield* write("ca.crt", pem("cert"))
        yield* TestClock.adjust("61 seconds")
        assert.deepStrictEqual(yield* client.request("GET", "/api"), { authorization: "Bearer first" })
        const { tls } = yield* KubeConfig
        const before = yield* tls
        yield* TestClock.adjust("61 seconds")
        // Or each look would open connections anew.
        assert.strictEqual(yield* tls, before)
      }).pipe(Effect.provide(Layer.fresh(ApiClient.layer).pipe(Layer.provideMerge(config))))
    })
  )
})
