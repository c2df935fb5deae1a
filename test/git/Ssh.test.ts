import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Redacted, Stream } from "effect"
import { spawnSync } from "node:child_process"
import * as Credentials from "../../src/git/Credentials.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import * as Mirror from "../../src/git/Mirror.ts"
import { RemoteRefs } from "../../src/git/RemoteRefs.ts"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"
import { GitServer, makeRepository } from "./HttpBackend.ts"
import { generateKey, makeSshServer } from "./SshServer.ts"

const TestLayer = Layer.mergeAll(
  GitServer.layer,
  RemoteRefs.layer.pipe(Layer.provide(GitCommand.layer)),
  GitCommand.layer
).pipe(Layer.provideMerge(NodeServices.layer))

const hasClient = spawnSync("ssh", ["-V"]).status === 0

/** Resolves `main`, fetches its files, changes them there, and fetches again. */
const sync = Effect.fnUntraced(function* (
  href: string,
  credentials: Credentials.Credentials,
  push: Effect.Effect<unknown, unknown> = Effect.void
) {
  const refs = yield* RemoteRefs
  const fs = yield* FileSystem.FileSystem
  const folder = `${yield* fs.makeTempDirectoryScoped({ prefix: "stoker-test-ssh-" })}/clone`
  const url = yield* Effect.fromResult(RepositoryUrl.parse(href))
  const mirror = yield* Mirror.make({ folder, url, credentials: Effect.succeed(credentials) })
  const read = Effect.gen(function* () {
    const { commit } = yield* refs.resolve({ url, credentials, ref: "main" })
    yield* mirror.ensure({ commit, ref: "main" })
    const entries = yield* mirror.listTree(commit, ["a"])
    const blobs = yield* Stream.runCollect(mirror.readBlobs(entries.map(({ id }) => id)))
    yield* mirror.setApplied(commit, [])
    return blobs.map(({ content }) => content.toString())
  })
  const before = yield* read
  yield* Effect.orDie(push)
  return [before, yield* read]
}, Effect.scoped)

layer(TestLayer, { excludeTestServices: true })("ssh", (it) => {
  // Without the `ssh` program there is nothing to test: git starts it.
  it.effect.skipIf(!hasClient)("resolves and fetches with a key, and tells what is wrong with keys and hosts", () =>
    Effect.gen(function* () {
      const { root } = yield* GitServer
      const repository = yield* makeRepository("by-ssh.git")
      yield* repository.commit({ "a/x": "1", b: "b" })
      yield* repository.push()
      const key = generateKey()
      const server = yield* makeSshServer(root, () => key.public)
      const url = server.url("by-ssh.git")
      const privateKey = Redacted.make(key.private)
      const push = Effect.andThen(repository.commit({ "a/x": "2" }), repository.push())
      const trusted = Credentials.ssh(privateKey, server.knownHost(server.hostKey))
      assert.deepStrictEqual(yield* sync(url, trusted, push), [["1"], ["2"]])
      // Without known hosts any host will do.
      assert.deepStrictEqual(yield* sync(url, Credentials.ssh(privateKey)), [["2"], ["2"]])

      const reasonOf = (credentials: Credentials.Credentials, href = url) =>
        Effect.map(Effect.flip(sync(href, credentials)), (error) => error.reason)
      const stranger = generateKey()
      assert.deepStrictEqual(yield* reasonOf(Credentials.ssh(privateKey, server.knownHost(stranger.public))), {
        _tag: "HostKey"
      })
      assert.deepStrictEqual(yield* reasonOf(Credentials.ssh(privateKey, `elsewhere ${server.hostKey}`)), {
        _tag: "HostKey"
      })
      assert.deepStrictEqual(yield* reasonOf(Credentials.ssh(Redacted.make(stranger.private))), {
        _tag: "Unauthorized",
        sent: "key"
      })
      assert.deepStrictEqual(yield* reasonOf(Credentials.ssh(Redacted.make("no key"))), {
        _tag: "Unauthorized",
        sent: "key"
      })
      assert.deepStrictEqual(yield* reasonOf(Credentials.none), { _tag: "Unauthorized", sent: "nothing" })
      assert.deepStrictEqual(yield* reasonOf(trusted, server.url("nowhere.git")), { _tag: "RepositoryNotFound" })
      const closed = yield* Effect.scoped(makeSshServer(root, () => key.public))
      assert.strictEqual((yield* reasonOf(Credentials.ssh(privateKey), closed.url("by-ssh.git")))._tag, "Refused")
    })
  )
})
