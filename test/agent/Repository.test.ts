/** The clone that the metadata names, and the credentials with which it is fetched. */
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Context, Effect, FileSystem, Layer, Option, Record, Redacted, Stream } from "effect"
import { spawnSync } from "node:child_process"
import { Repository } from "../../src/agent/Repository.ts"
import { Settings } from "../../src/agent/Settings.ts"
import type * as Metadata from "../../src/api/Metadata.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { GitServer as HttpBackend, listenTls, makeRepository, pem } from "../git/HttpBackend.ts"
import { generateKey, makeSshServer } from "../git/SshServer.ts"
import { services } from "./Plant.ts"

const hasClient = spawnSync("ssh", ["-V"]).status === 0

/** An agent's repository, its clone in a folder of its own, and the file of its token. */
const start = Effect.fnUntraced(function* (
  credentials: Readonly<Record<string, string>> = { GIT_TOKEN_FILE: "token" }
) {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-repository-test-" })
  yield* fs.makeDirectory(`${folder}/credentials`)
  const environment = {
    POD_NAME: "ignition-0",
    POD_NAMESPACE: "plant",
    CR_NAME: "site",
    DATA_PATH: `${folder}/data`,
    REPO_PATH: `${folder}/repo`,
    API_KEY_FILE: `${folder}/api-key`,
    ...Record.map(credentials, (file) => `${folder}/credentials/${file}`)
  }
  const context = yield* Layer.build(
    Repository.layer.pipe(
      Layer.provide([Settings.layer, GitCommand.layer]),
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(environment)))
    )
  )
  const repository = Context.get(context, Repository)
  /** Every file of the commit, with its text. */
  const contents = Effect.fnUntraced(function* (gitURL: string, commit: string) {
    const mirror = yield* repository.open({ gitURL } as Metadata.Data)
    yield* mirror.ensure({ commit, ref: "main" })
    const entries = yield* mirror.listTree(commit, [""])
    const blobs = yield* Stream.runCollect(mirror.readBlobs(entries.map(({ id }) => id)))
    return Object.fromEntries(entries.map(({ path }, index) => [path, blobs[index]?.content.toString()]))
  })
  const credential = (name: string, content: string) => fs.writeFileString(`${folder}/credentials/${name}`, content)
  return { contents, credential, folder }
})

const login = (username: string, password: string) => Option.some({ username, password: Redacted.make(password) })

layer(services, { excludeTestServices: true })("Repository", (it) => {
  it.effect("reads the token anew for each fetch, and the user name beside it", () =>
    Effect.gen(function* () {
      const { contents, credential } = yield* start()
      const remote = yield* (yield* GitServer).create("repository-token")
      const first = yield* remote.commit({ files: { a: "1" } })
      yield* remote.requireLogin(login("x-access-token", "old"))
      yield* credential("token", "old")
      assert.deepStrictEqual(yield* contents(remote.url, first), { a: "1" })

      yield* remote.requireLogin(login("x-access-token", "new"))
      const second = yield* remote.commit({ files: { a: "2" } })
      const refused = yield* Effect.flip(contents(remote.url, second))
      assert.deepStrictEqual(refused.reason, { _tag: "Unauthorized", sent: "token" })
      yield* credential("token", "new\n")
      assert.deepStrictEqual(yield* contents(remote.url, second), { a: "2" })

      yield* remote.requireLogin(login("robot", "new"))
      yield* credential("username", "robot\n")
      const third = yield* remote.commit({ files: { a: "3" } })
      assert.deepStrictEqual(yield* contents(remote.url, third), { a: "3" })
    })
  )

  it.effect("trusts the authority beside the token, which may come later", () =>
    Effect.gen(function* () {
      const { contents, credential } = yield* start()
      const remote = yield* makeRepository("repository-tls.git")
      const commit = yield* remote.commit({ a: "1" })
      yield* remote.push()
      const url = `${yield* listenTls}/repository-tls.git`
      yield* credential("token", "any")
      assert.strictEqual((yield* Effect.flip(contents(url, commit))).reason._tag, "Tls")
      yield* credential("ca.crt", pem("cert"))
      assert.deepStrictEqual(yield* contents(url, commit), { a: "1" })
    }).pipe(Effect.provide(HttpBackend.layer))
  )

  it.effect.skipIf(!hasClient)("reads the ssh key and the known hosts anew for each fetch", () =>
    Effect.gen(function* () {
      const { root } = yield* HttpBackend
      const { contents, credential } = yield* start({
        GIT_SSH_KEY_FILE: "ssh-privatekey",
        GIT_KNOWN_HOSTS_FILE: "known_hosts"
      })
      const [former, next] = [generateKey(), generateKey()]
      let allowed = former.public
      const server = yield* makeSshServer(root, () => allowed)
      const remote = yield* makeRepository("repository-ssh.git")
      const url = server.url("repository-ssh.git")
      const push = Effect.fnUntraced(function* (text: string) {
        const commit = yield* remote.commit({ a: text })
        yield* remote.push()
        return commit
      })
      const reason = (commit: string) => Effect.map(Effect.flip(contents(url, commit)), (error) => error.reason)
      const first = yield* push("1")
      yield* credential("ssh-privatekey", former.private)
      yield* credential("known_hosts", server.knownHost(next.public))
      assert.deepStrictEqual(yield* reason(first), { _tag: "HostKey" })
      yield* credential("known_hosts", server.knownHost(server.hostKey))
      assert.deepStrictEqual(yield* contents(url, first), { a: "1" })

      allowed = next.public
      const second = yield* push("2")
      assert.deepStrictEqual(yield* reason(second), { _tag: "Unauthorized", sent: "key" })
      yield* credential("ssh-privatekey", next.private)
      assert.deepStrictEqual(yield* contents(url, second), { a: "2" })
    }).pipe(Effect.provide(HttpBackend.layer))
  )

  it.effect("names the credential file that is missing, and takes it when it comes", () =>
    Effect.gen(function* () {
      const { contents, credential, folder } = yield* start()
      const remote = yield* (yield* GitServer).create("repository-missing")
      const commit = yield* remote.commit({ files: { a: "1" } })
      const error = yield* Effect.flip(contents(remote.url, commit))
      assert.include(error.message, `${folder}/credentials/token cannot be read (NotFound)`)
      assert.include(error.message, "is the Secret of spec.git.auth there")
      yield* credential("token", "any")
      assert.deepStrictEqual(yield* contents(remote.url, commit), { a: "1" })
    })
  )

  it.effect("goes to another repository and back, also when a clone could not be made between", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { contents, credential, folder } = yield* start()
      yield* credential("token", "any")
      const server = yield* GitServer
      const one = yield* server.create("repository-one")
      const other = yield* server.create("repository-other")
      const commits = [
        yield* one.commit({ files: { a: "one" } }),
        yield* other.commit({ files: { a: "other" } })
      ] as const
      assert.deepStrictEqual(yield* contents(one.url, commits[0]), { a: "one" })
      assert.deepStrictEqual(yield* contents(other.url, commits[1]), { a: "other" })
      // A file where the folder of clones should be.
      yield* fs.rename(`${folder}/repo`, `${folder}/aside`)
      yield* fs.writeFileString(`${folder}/repo`, "")
      assert.include((yield* Effect.flip(contents(one.url, commits[0]))).message, `${folder}/repo`)
      yield* fs.remove(`${folder}/repo`)
      yield* fs.rename(`${folder}/aside`, `${folder}/repo`)
      assert.strictEqual((yield* Effect.flip(contents("ftp://x/y", commits[0]))).reason._tag, "UnsupportedUrl")
      const next = yield* other.commit({ files: { a: "again" } })
      assert.deepStrictEqual(yield* contents(other.url, next), { a: "again" })
    })
  )
})
