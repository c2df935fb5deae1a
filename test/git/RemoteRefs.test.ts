import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { Effect, Layer, Redacted, Result } from "effect"
import * as Net from "node:net"
import * as Credentials from "../../src/git/Credentials.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import type { GitError } from "../../src/git/GitError.ts"
import { RemoteRefs } from "../../src/git/RemoteRefs.ts"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"
import { GitServer, makeRepository } from "./HttpBackend.ts"

const TestLayer = Layer.mergeAll(
  GitServer.layer,
  RemoteRefs.layer.pipe(Layer.provide(GitCommand.layer)),
  GitCommand.layer
).pipe(Layer.provideMerge(NodeServices.layer))

const secret = "s3cret-marked-token"
const anonymous = Credentials.none
const withToken = Credentials.token(Redacted.make(secret))

const resolve = Effect.fnUntraced(function* (
  url: string,
  ref: string,
  options: { credentials?: Credentials.Credentials; deadline?: number } = {}
) {
  const refs = yield* RemoteRefs
  return yield* refs.resolve({
    url: yield* Effect.fromResult(RepositoryUrl.parse(url)),
    credentials: options.credentials ?? anonymous,
    ref,
    deadline: options.deadline ?? 20_000
  })
})

/** The reason of a failure, after a look that its message shows no secret. */
const reasonOf = (effect: Effect.Effect<unknown, GitError, RemoteRefs>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.notInclude(error.message, secret)
    assert.notInclude(JSON.stringify(error), secret)
    return error.reason
  })

/** A TCP server on a free port of loopback. */
const tcpServer = (onConnection: (socket: Net.Socket) => void) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{ server: Net.Server; sockets: Set<Net.Socket> }>((resume) => {
        const sockets = new Set<Net.Socket>()
        const server = Net.createServer((socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          onConnection(socket)
        })
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed({ server, sockets })))
      }),
      ({ server, sockets }) =>
        Effect.callback<void>((resume) => {
          for (const socket of sockets) socket.destroy()
          server.close(() => resume(Effect.void))
        })
    ),
    ({ server }) => (server.address() as Net.AddressInfo).port
  )

layer(TestLayer, { excludeTestServices: true })("RemoteRefs", (it) => {
  it.effect("resolves branches, tags, annotated tags and commits; the tag wins", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("refs.git")
      const first = yield* repository.commit({ a: "1" })
      repository.git("tag", "v1")
      repository.git("tag", "-a", "-m", "annotated", "v1-annotated")
      repository.git("tag", "both")
      const second = yield* repository.commit({ a: "2" })
      yield* repository.push("HEAD:main", "HEAD:main2", "HEAD:feature/x", "HEAD:refs/heads/both", "refs/tags/*")
      assert.deepStrictEqual(yield* resolve(repository.url, "main"), { ref: "main", kind: "branch", commit: second })
      assert.deepStrictEqual(yield* resolve(repository.url, "feature/x"), {
        ref: "feature/x",
        kind: "branch",
        commit: second
      })
      assert.deepStrictEqual(yield* resolve(repository.url, "v1"), { ref: "v1", kind: "tag", commit: first })
      assert.deepStrictEqual(yield* resolve(repository.url, "v1-annotated"), {
        ref: "v1-annotated",
        kind: "tag",
        commit: first
      })
      assert.deepStrictEqual(yield* resolve(repository.url, "both"), { ref: "both", kind: "tag", commit: first })
      assert.deepStrictEqual(yield* resolve(repository.url, second.toUpperCase()), {
        ref: second.toUpperCase(),
        kind: "commit",
        commit: second
      })
      // A prefix of a name is no name.
      for (const ref of ["mai", "v1-annotate", "feature", "refs/heads/main"]) {
        assert.deepStrictEqual(yield* reasonOf(resolve(repository.url, ref)), { _tag: "RefNotFound", ref })
      }
    })
  )

  it.effect("resolves many refs in one go, each with an answer of its own", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("many.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const refs = yield* RemoteRefs
      const ask = Effect.fnUntraced(function* (url: string, ...asked: ReadonlyArray<string>) {
        const remote = { url: yield* Effect.fromResult(RepositoryUrl.parse(url)), credentials: anonymous }
        const answers = yield* refs.resolveAll({ ...remote, refs: asked })
        return asked.map((ref) =>
          Result.match(answers.get(ref)!, {
            onSuccess: ({ kind }): string => kind,
            onFailure: ({ reason }) => reason._tag
          })
        )
      })
      assert.deepStrictEqual(yield* ask(repository.url, "main", "nowhere", "bad..name", commit), [
        "branch",
        "RefNotFound",
        "InvalidRef",
        "commit"
      ])
      assert.deepStrictEqual(yield* ask(server.url("nowhere.git"), "main", commit), [
        "RepositoryNotFound",
        "RepositoryNotFound"
      ])
    })
  )

  it.effect("asks once for all names, and once for a commit, by a request of a few bytes each", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("requests.git")
      const commit = yield* repository.commit({ a: "1".repeat(10_000) })
      yield* repository.push()
      for (const ref of ["main", commit]) {
        server.requests.length = 0
        const before = server.sent()
        yield* resolve(repository.url, ref, { credentials: withToken })
        assert.deepStrictEqual(server.requests, ["POST /requests.git/git-upload-pack"])
        assert.isBelow(server.sent() - before, 100)
      }
    })
  )

  it.effect("knows a commit that the server has not got, where that can be known", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("commits.git")
      const first = yield* repository.commit({ a: "1" })
      yield* repository.commit({ a: "2" })
      yield* repository.push()
      assert.strictEqual((yield* resolve(repository.url, first)).commit, first)
      const gone = "1234".repeat(10)
      assert.deepStrictEqual(yield* reasonOf(resolve(repository.url, gone)), {
        _tag: "CommitNotFound",
        commit: gone,
        detail: `not our ref ${gone}`
      })
      // Protocol v0 cannot tell.
      const old = yield* makeRepository("old-commits.git")
      server.setFault((request) => {
        delete request.headers["git-protocol"]
        return false
      })
      assert.strictEqual((yield* resolve(old.url, gone)).kind, "commit")
    })
  )

  it.effect("asks servers of older protocols in their way, and remembers it", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("old.git")
      const commit = yield* repository.commit({ a: "1" })
      repository.git("tag", "-a", "-m", "annotated", "v1")
      yield* repository.push("HEAD:main", "v1")
      server.setFault((request) => {
        delete request.headers["git-protocol"]
        return false
      })
      server.requests.length = 0
      assert.deepStrictEqual(yield* resolve(repository.url, "main"), { ref: "main", kind: "branch", commit })
      const [first, ...others] = server.requests
      assert.strictEqual(first, "POST /old.git/git-upload-pack")
      assert.isTrue(others.length > 0 && others.every((request) => request.startsWith("GET ")))
      server.requests.length = 0
      assert.deepStrictEqual(yield* resolve(repository.url, "v1"), { ref: "v1", kind: "tag", commit })
      assert.isTrue(server.requests.every((request) => request.startsWith("GET ")))
      assert.deepStrictEqual(yield* reasonOf(resolve(repository.url, "no")), { _tag: "RefNotFound", ref: "no" })
    })
  )

  it.effect("tells a missing repository, an empty one and a missing ref apart", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const empty = yield* makeRepository("empty.git")
      assert.deepStrictEqual(yield* reasonOf(resolve(empty.url, "main")), { _tag: "EmptyRepository" })
      assert.deepStrictEqual(yield* reasonOf(resolve(server.url("nowhere.git"), "main")), {
        _tag: "RepositoryNotFound"
      })
      // Nothing but a tag, HEAD pointing nowhere: not empty.
      const tagged = yield* makeRepository("only-a-tag.git")
      yield* tagged.commit({ a: "1" })
      tagged.git("tag", "v1")
      yield* tagged.push("v1")
      assert.deepStrictEqual(yield* reasonOf(resolve(tagged.url, "main")), { _tag: "RefNotFound", ref: "main" })
    })
  )

  it.effect("sends credentials with the first request, and reads 401, 403, 429 and 500", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("private.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const expected = `Basic ${Buffer.from(`x-access-token:${secret}`).toString("base64")}`
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      server.setFault((request, response) => {
        if (request.headers.authorization === expected) return false
        response.writeHead(401, { "www-authenticate": "Basic" }).end()
        return true
      })
      server.requests.length = 0
      const resolved = yield* resolve(repository.url, "main", { credentials: withToken })
      assert.strictEqual(resolved.commit, commit)
      assert.lengthOf(server.requests, 1)
      assert.deepStrictEqual(yield* reasonOf(resolve(repository.url, "main")), {
        _tag: "Unauthorized",
        sent: "nothing"
      })
      const wrong = Credentials.token(Redacted.make(`${secret}-wrong`))
      assert.deepStrictEqual(yield* reasonOf(resolve(repository.url, "main", { credentials: wrong })), {
        _tag: "Unauthorized",
        sent: "token"
      })
      const answers = [
        [403, { _tag: "Forbidden" }],
        [429, { _tag: "RateLimited", retryAfterSeconds: 17 }],
        [500, { _tag: "Transport", detail: "HTTP 500" }]
      ] as const
      for (const [status, reason] of answers) {
        server.setFault((_, response) => {
          response.writeHead(status, { "retry-after": "17" }).end(`echo ${secret}`)
          return true
        })
        assert.deepStrictEqual(yield* reasonOf(resolve(repository.url, "main", { credentials: withToken })), reason)
      }
    })
  )

  it.effect("follows a redirect, but never takes credentials to another origin", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("renamed.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const elsewhere = server.origin.replace("127.0.0.1", "localhost")
      const stranger: Array<string | undefined> = []
      server.setFault((request, response) => {
        if (request.headers.host?.startsWith("localhost") === true) stranger.push(request.headers.authorization)
        const target = /^\/(old|other)\.git/.exec(request.url ?? "")
        if (target === null) return false
        const location = (request.url ?? "").replace(/^\/\w+/, "/renamed")
        response.writeHead(301, { location: target[1] === "old" ? location : elsewhere + location }).end()
        return true
      })
      const same = yield* resolve(server.url("old.git"), "main", { credentials: withToken })
      assert.strictEqual(same.commit, commit)
      const other = yield* resolve(server.url("other.git"), "main")
      assert.strictEqual(other.commit, commit)
      assert.deepStrictEqual(yield* reasonOf(resolve(server.url("other.git"), "main", { credentials: withToken })), {
        _tag: "Moved",
        to: `${elsewhere}/renamed.git`
      })
      assert.isTrue(stranger.every((header) => header === undefined))
    })
  )

  it.effect("tells apart who does not answer: no host, refused, silent, not git, not HTTP, cut short", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      assert.deepStrictEqual(yield* reasonOf(resolve("http://nowhere.invalid/a.git", "main")), {
        _tag: "NoSuchHost",
        host: "nowhere.invalid"
      })
      const closed = yield* Effect.scoped(tcpServer(() => {}))
      assert.deepStrictEqual(yield* reasonOf(resolve(`http://127.0.0.1:${closed}/a.git`, "main")), {
        _tag: "Refused",
        host: `127.0.0.1:${closed}`
      })
      const ended = Promise.withResolvers<void>()
      const silent = yield* tcpServer((socket) => socket.resume().on("close", () => ended.resolve()))
      assert.deepStrictEqual(yield* reasonOf(resolve(`http://127.0.0.1:${silent}/a.git`, "main", { deadline: 50 })), {
        _tag: "Timeout",
        seconds: 0.05
      })
      // The request is ended with the effect, not left behind.
      yield* Effect.promise(() => ended.promise)
      const ssh = yield* tcpServer((socket) => socket.write("SSH-2.0-OpenSSH_9\r\n"))
      assert.strictEqual((yield* reasonOf(resolve(`http://127.0.0.1:${ssh}/a.git`, "main")))._tag, "NotAGitServer")
      const plain = yield* tcpServer((socket) => socket.end())
      assert.strictEqual((yield* reasonOf(resolve(`https://127.0.0.1:${plain}/a.git`, "main")))._tag, "Transport")
      assert.strictEqual(
        (yield* reasonOf(resolve(server.origin.replace("http:", "https:") + "/a.git", "main")))._tag,
        "Tls"
      )
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      server.setFault((_, response) => {
        response.writeHead(200, { "content-type": "text/html" }).end("<html>Welcome</html>")
        return true
      })
      assert.strictEqual((yield* reasonOf(resolve(server.url("a.git"), "main")))._tag, "NotAGitServer")
      const repository = yield* makeRepository("cut.git")
      yield* repository.commit({ a: "1" })
      yield* repository.push()
      server.setFault((request, response) => {
        if (request.method === "GET") return false
        response.writeHead(200, { "content-type": "application/x-git-upload-pack-result", "content-length": "900" })
        response.write("00")
        response.socket?.end()
        return true
      })
      // A cut answer must not read as "no such ref".
      assert.strictEqual((yield* reasonOf(resolve(repository.url, "main")))._tag, "Transport")
    })
  )

  it.effect("waits no longer for many refs than for one", () =>
    Effect.gen(function* () {
      const refs = yield* RemoteRefs
      const asked: Array<Net.Socket> = []
      const silent = yield* tcpServer((socket) => void asked.push(socket.resume()))
      const commits = Array.from({ length: 9 }, (_, index) => `${index}`.repeat(40))
      const url = yield* Effect.fromResult(RepositoryUrl.parse(`http://127.0.0.1:${silent}/a.git`))
      const answers = yield* refs.resolveAll({
        url,
        credentials: anonymous,
        refs: ["main", ...commits, ".."],
        deadline: 300
      })
      const reasons = Array.from(answers.values(), (answer) => Result.isFailure(answer) && answer.failure.reason._tag)
      assert.deepStrictEqual(reasons, ["InvalidRef", ...Array.from({ length: 10 }, () => "Timeout" as const)])
      // What waited for its turn has not begun a time of its own.
      assert.lengthOf(asked, 4)
    })
  )

  it.effect("refuses what can be no ref, without asking", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      server.requests.length = 0
      const refs = [
        "",
        "@",
        "a..b",
        "x.lock",
        "-x",
        "--upload-pack=x",
        "x y",
        "x\ny",
        "x~1",
        "x^{}",
        "x:y",
        "*",
        "x\u007f"
      ]
      for (const ref of [...refs, "a".repeat(10_240), "/x", "x/", "x//y", ".x", "x/.y", "x.", "\ud800"]) {
        assert.strictEqual((yield* reasonOf(resolve(server.url("a.git"), ref)))._tag, "InvalidRef", ref)
      }
      assert.isTrue(Result.isSuccess(RepositoryUrl.parse(server.url("a.git"))))
      assert.deepStrictEqual(server.requests, [])
    })
  )
})
