/** The clone that the metadata names, and the credentials with which it is fetched. */
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Context, Effect, FileSystem, Layer, Option, Redacted, Stream } from "effect"
import { Repository } from "../../src/agent/Repository.ts"
import { Settings } from "../../src/agent/Settings.ts"
import type * as Metadata from "../../src/api/Metadata.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { services } from "./Plant.ts"

/** An agent's repository, its clone in a folder of its own, and the file of its token. */
const start = Effect.gen(function* () {
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
    GIT_TOKEN_FILE: `${folder}/credentials/token`
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
      const { contents, credential } = yield* start
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

  it.effect("names the credential file that is missing, and takes it when it comes", () =>
    Effect.gen(function* () {
      const { contents, credential, folder } = yield* start
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
      const { contents, credential, folder } = yield* start
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
