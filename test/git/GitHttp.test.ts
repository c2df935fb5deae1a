import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, FileSystem, Layer, Redacted, Stream } from "effect"
import * as Https from "node:https"
import * as Net from "node:net"
import * as Credentials from "../../src/git/Credentials.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import * as GitHttp from "../../src/git/GitHttp.ts"
import * as Mirror from "../../src/git/Mirror.ts"
import * as PktLine from "../../src/git/PktLine.ts"
import { RemoteRefs } from "../../src/git/RemoteRefs.ts"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"
import { listen } from "../Loopback.ts"
import * as ForwardProxy from "./ForwardProxy.ts"
import { GitServer, listenTls, makeRepository, pem, serve } from "./HttpBackend.ts"

const TestLayer = GitServer.layer.pipe(Layer.provideMerge(NodeServices.layer))

/** Resolves `main` and fetches its files, in an environment with these variables. */
const sync = Effect.fnUntraced(function* (
  href: string,
  credentials: Credentials.Credentials,
  env: Readonly<Record<string, string>> = {}
) {
  const fs = yield* FileSystem.FileSystem
  const folder = `${yield* fs.makeTempDirectoryScoped({ prefix: "stoker-test-http-" })}/clone`
  const url = yield* Effect.fromResult(RepositoryUrl.parse(href))
  const environment = ConfigProvider.layer(ConfigProvider.fromEnv({ env: { PATH: process.env["PATH"] ?? "", ...env } }))
  return yield* Effect.gen(function* () {
    const refs = yield* RemoteRefs
    const { commit } = yield* refs.resolve({ url, credentials, ref: "main" })
    const mirror = yield* Mirror.make({ folder, url, credentials: Effect.succeed(credentials) })
    yield* mirror.ensure({ commit, ref: "main" })
    const entries = yield* mirror.listTree(commit, [""])
    const blobs = yield* Stream.runCollect(mirror.readBlobs(entries.map(({ id }) => id)))
    return blobs.map(({ content }) => content.toString())
  }).pipe(
    Effect.provide(
      Layer.fresh(RemoteRefs.layer).pipe(
        Layer.provideMerge(Layer.fresh(GitCommand.layer)),
        Layer.provideMerge(environment)
      )
    )
  )
}, Effect.scoped)

layer(TestLayer, { excludeTestServices: true })("GitHttp", (it) => {
  it.effect("trusts a private authority when it is given, and says where to put it when it is not", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("tls.git")
      yield* repository.commit({ a: "over tls" })
      yield* repository.push()
      const url = `${yield* listenTls}/tls.git`
      const ca = pem("cert")
      assert.deepStrictEqual(yield* sync(url, { _tag: "None", ca }), ["over tls"])
      assert.deepStrictEqual(yield* sync(url, Credentials.token(Redacted.make("t"), { ca })), ["over tls"])
      const error = yield* Effect.flip(sync(url, Credentials.none))
      assert.strictEqual(error._tag, "GitError")
      assert.deepStrictEqual(error.reason, { _tag: "Tls", detail: "DEPTH_ZERO_SELF_SIGNED_CERT" })
      assert.include(error.message, "ca.crt")
      // Trusted, and another's.
      const other = yield* Effect.flip(sync(url.replace("localhost", "127.0.0.1"), { _tag: "None", ca }))
      assert.strictEqual(other._tag === "GitError" && other.reason._tag, "Tls")
    })
  )

  it.effect("does the same by the git program, for servers of older protocols", () =>
    Effect.gen(function* () {
      const { root } = yield* GitServer
      const repository = yield* makeRepository("old-tls.git")
      repository.gitAtServer("config", "uploadpack.allowFilter", "false")
      yield* repository.commit({ a: "over old tls" })
      yield* repository.push()
      const server = Https.createServer({ key: pem("key"), cert: pem("cert") }, (request, response) => {
        delete request.headers["git-protocol"]
        serve(root, request, response, () => {})
      })
      const url = `https://localhost:${yield* listen(server)}/old-tls.git`
      assert.deepStrictEqual(yield* sync(url, { _tag: "None", ca: pem("cert") }), ["over old tls"])
    })
  )

  it.effect("goes through the proxy of the environment, but not to hosts that are excepted", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("proxied.git")
      yield* repository.commit({ a: "by proxy" })
      yield* repository.push()
      const proxy = yield* ForwardProxy.make
      const origin = yield* listenTls
      const authority = origin.replace("https://", "")
      const none = { _tag: "None", ca: pem("cert") } as const
      for (const name of ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"]) {
        proxy.asked.length = 0
        assert.deepStrictEqual(yield* sync(`${origin}/proxied.git`, none, { [name]: proxy.url }), ["by proxy"], name)
        // One connection for all of a service's requests.
        assert.deepStrictEqual(proxy.asked, [`CONNECT ${authority}`, `CONNECT ${authority}`], name)
      }
      proxy.asked.length = 0
      const plain = server.url("proxied.git")
      assert.deepStrictEqual(yield* sync(plain, none, { http_proxy: proxy.url }), ["by proxy"])
      assert.deepStrictEqual(new Set(proxy.asked), new Set([`POST ${plain}/git-upload-pack`]))

      proxy.asked.length = 0
      const excepted = { HTTPS_PROXY: proxy.url, http_proxy: proxy.url, NO_PROXY: "localhost,127.0.0.1" }
      assert.deepStrictEqual(yield* sync(`${origin}/proxied.git`, none, excepted), ["by proxy"])
      assert.deepStrictEqual(yield* sync(plain, none, excepted), ["by proxy"])
      assert.deepStrictEqual(proxy.asked, [])

      const closed = yield* Effect.scoped(listen(Net.createServer()))
      const error = yield* Effect.flip(
        sync(`${origin}/proxied.git`, none, { HTTPS_PROXY: `http://user:s3cret@127.0.0.1:${closed}` })
      )
      assert.notInclude(JSON.stringify(error) + error.message, "s3cret")
    })
  )

  it.effect("gives up a server that goes silent, before its answer or within", () =>
    Effect.gen(function* () {
      const silences: ReadonlyArray<string> = [
        "",
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-result\r\ncontent-length: 100\r\n\r\n0"
      ]
      for (const answer of silences) {
        const server = Net.createServer((socket) => socket.on("data", () => socket.write(answer)).on("error", () => {}))
        const url = `http://127.0.0.1:${yield* listen(server)}/a.git`
        const error = yield* Effect.flip(sync(url, Credentials.none))
        assert.strictEqual(error._tag, "GitError")
        assert.deepStrictEqual(error.reason, { _tag: "Timeout", seconds: 0.1 }, answer)
      }
    }).pipe(Effect.provideService(GitHttp.Patience, Duration.millis(100)))
  )

  it.effect("asks again when a kept connection turns out to be closed", () =>
    Effect.gen(function* () {
      const commit = "12".repeat(20)
      const answer = Buffer.concat([PktLine.line(`${commit} refs/heads/main`), PktLine.mark("flush")])
      const head = `HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-result\r\ncontent-length: ${answer.length}\r\n\r\n`
      let connections = 0
      let requests = 0
      // One answer a connection, and no word that it is the last.
      const server = Net.createServer((socket) => {
        connections++
        let answered = false
        socket.on("data", (data) => {
          if (!data.includes("ls-refs")) return
          requests++
          if (answered) socket.resetAndDestroy()
          else socket.write(Buffer.concat([Buffer.from(head), answer]))
          answered = true
        })
      })
      const url = yield* Effect.fromResult(RepositoryUrl.parse(`http://127.0.0.1:${yield* listen(server)}/a.git`))
      const refs = yield* RemoteRefs
      for (const _ of [1, 2, 3]) {
        assert.strictEqual((yield* refs.resolve({ url, credentials: Credentials.none, ref: "main" })).commit, commit)
      }
      assert.deepStrictEqual({ connections, requests }, { connections: 3, requests: 5 })
    }).pipe(Effect.provide(RemoteRefs.layer.pipe(Layer.provide(GitCommand.layer))))
  )
})
