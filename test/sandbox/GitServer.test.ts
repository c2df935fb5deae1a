import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Fiber, FileSystem, Layer, Option, Path, Redacted, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { listServerRefs } from "isomorphic-git"
import http from "isomorphic-git/http/node"
import { GitServer, type Exchange } from "../../src/sandbox/GitServer.ts"

/** The user's side: a folder of its own, and git in it. */
class Workbench extends Context.Service<
  Workbench,
  {
    readonly folder: string
    readonly git: (...args: ReadonlyArray<string>) => Effect.Effect<string>
    /** Exit code, for what must fail. */
    readonly code: (...args: ReadonlyArray<string>) => Effect.Effect<number>
  }
>()("test/Workbench") {
  static readonly layer = Layer.effect(
    Workbench,
    Effect.gen(function* () {
      const fileSystem = yield* FileSystem.FileSystem
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const folder = yield* fileSystem.makeTempDirectoryScoped({ prefix: "stoker-test-git-" })
      const command = (args: ReadonlyArray<string>) =>
        ChildProcess.make("git", args, {
          cwd: folder,
          extendEnv: true,
          stderr: "ignore",
          env: { GIT_CONFIG_NOSYSTEM: "1", GIT_CONFIG_GLOBAL: "/dev/null", GIT_TERMINAL_PROMPT: "0" }
        })
      return {
        folder,
        git: (...args) => Effect.orDie(Effect.map(spawner.string(command(args)), (text) => text.trim())),
        code: (...args) => Effect.orDie(spawner.exitCode(command(args)))
      }
    })
  )
}

const Everything = Layer.mergeAll(GitServer.layer, Workbench.layer).pipe(Layer.provideMerge(NodeServices.layer))

layer(Everything, { excludeTestServices: true })("GitServer", (it) => {
  const exchangesOf = Effect.fnUntraced(function* (repository: string) {
    const all = yield* Effect.flatMap(GitServer, (server) => server.exchanges)
    return all.filter((exchange) => exchange.repository === repository)
  })
  const shape = ({ command, method, path, service, status }: Exchange) =>
    [method, path, service, Option.getOrElse(command, () => "-"), status].join(" ")

  it.effect("lists refs by protocol 2, only those asked for", () =>
    Effect.gen(function* () {
      const repository = yield* (yield* GitServer).create("refs")
      const commit = yield* repository.commit({ files: { "a.txt": "one" } })
      yield* repository.setRef("refs/heads/other", commit)
      const tag = yield* repository.annotatedTag("v1.0.0", commit)
      const listed = yield* Effect.promise(() =>
        listServerRefs({ http, url: repository.url, prefix: "refs/tags/v1", peelTags: true })
      )
      assert.deepStrictEqual(
        listed.map(({ oid, peeled, ref }) => ({ oid, peeled, ref })),
        [{ oid: tag, peeled: commit, ref: "refs/tags/v1.0.0" }]
      )
      assert.deepStrictEqual((yield* exchangesOf("refs")).map(shape), [
        "GET /info/refs git-upload-pack - 200",
        "POST /git-upload-pack git-upload-pack ls-refs 200"
      ])
      assert.isTrue((yield* exchangesOf("refs")).every(({ bytes }) => bytes > 0))
    })
  )

  it.effect("gives a partial clone of one commit by its id", () =>
    Effect.gen(function* () {
      const { code, git } = yield* Workbench
      const repository = yield* (yield* GitServer).create("team/partial")
      const old = yield* repository.commit({ files: { "a.txt": "old", "sub/b.txt": "b" } })
      yield* repository.commit({ files: { "a.txt": "new" } })
      yield* git("init", "--quiet", "--bare", "partial.git")
      const fetch = ["fetch", "--quiet", "--depth=1", "--filter=blob:none", repository.url, old]
      assert.strictEqual(yield* code("--git-dir", "partial.git", ...fetch), 0)
      assert.strictEqual(
        yield* git("--git-dir", "partial.git", "ls-tree", "-r", "--name-only", "FETCH_HEAD"),
        "a.txt\nsub/b.txt"
      )
    })
  )

  it.effect("takes a push, and shows it as traffic", () =>
    Effect.gen(function* () {
      const { git, code, folder } = yield* Workbench
      const fileSystem = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const server = yield* GitServer
      const repository = yield* server.create("pushed")
      yield* repository.commit({ files: { "a.txt": "one" } })
      yield* git("clone", "--quiet", repository.url, "work")
      assert.strictEqual(yield* fileSystem.readFileString(path.join(folder, "work", "a.txt")), "one")
      const push = yield* server.traffic.pipe(
        Stream.filter(({ method, service }) => method === "POST" && service === "git-receive-pack"),
        Stream.runHead,
        Effect.forkScoped({ startImmediately: true })
      )
      // More than 1 MB, so that git sends it in chunks.
      const noise = Array.from({ length: 60_000 }, (_, index) => `${index} ${Math.sin(index)}`).join("\n")
      yield* fileSystem.writeFileString(path.join(folder, "work", "a.txt"), noise)
      const as = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
      yield* git("-C", "work", ...as, "commit", "--quiet", "--all", "--message", "two")
      assert.strictEqual(yield* code("-C", "work", "-c", "http.postBuffer=65536", "push", "--quiet"), 0)
      const head = yield* git("-C", "work", "rev-parse", "HEAD")
      assert.deepStrictEqual(yield* repository.resolve("main"), Option.some(head))
      assert.isTrue(Option.isSome(yield* Fiber.join(push)))
    })
  )

  it.effect("makes every kind of entry, forks, roots and deletions", () =>
    Effect.gen(function* () {
      const { git } = yield* Workbench
      const repository = yield* (yield* GitServer).create("kinds")
      const files = { 'plain ä".txt': "é\n", run: { executable: "#!/bin/sh\n" }, link: { symlink: "run" } }
      const first = yield* repository.commit({ files })
      const second = yield* repository.commit({
        files: { run: null, module: { submodule: first }, bytes: new Uint8Array([0, 10, 255]) }
      })
      const show = (revision: string) =>
        Effect.map(git("--git-dir", repository.folder, "ls-tree", "-z", "-r", revision), (listing) =>
          Array.from(listing.matchAll(/(\d+) \w+ \w+\t([^\0]+)\0/g), ([, mode, path]) => `${mode} ${path}`)
        )
      assert.deepStrictEqual(yield* show(first), ["120000 link", '100644 plain ä".txt', "100755 run"])
      assert.deepStrictEqual(yield* show(second), [
        "100644 bytes",
        "120000 link",
        "160000 module",
        '100644 plain ä".txt'
      ])
      assert.deepStrictEqual(yield* repository.resolve(`${second}^`), Option.some(first))

      const forced = yield* repository.commit({ files: { run: "again" }, parent: first })
      assert.deepStrictEqual(yield* repository.resolve("main"), Option.some(forced))
      assert.deepStrictEqual(yield* repository.resolve("main^"), Option.some(first))
      const root = yield* repository.commit({ files: { only: "this" }, parent: "none" })
      assert.deepStrictEqual(yield* repository.resolve(`${root}^`), Option.none())
      assert.deepStrictEqual(yield* show("main"), ["100644 only"])
      yield* repository.deleteRef("refs/heads/main")
      assert.deepStrictEqual(yield* repository.resolve("main"), Option.none())
    })
  )

  it.effect("asks for a login where one is required", () =>
    Effect.gen(function* () {
      const { code } = yield* Workbench
      const repository = yield* (yield* GitServer).create("private")
      yield* repository.commit({ files: { "a.txt": "one" } })
      yield* repository.requireLogin(Option.some({ username: "user", password: Redacted.make("secret") }))
      assert.notStrictEqual(yield* code("ls-remote", repository.url), 0)
      const withLogin = (password: string) => repository.url.replace("http://", `http://user:${password}@`)
      assert.notStrictEqual(yield* code("ls-remote", withLogin("wrong")), 0)
      assert.strictEqual(yield* code("ls-remote", withLogin("secret")), 0)
      assert.include((yield* exchangesOf("private")).map(shape), "GET /info/refs git-upload-pack - 401")
    })
  )

  it.effect("answers 404 for what it does not have", () =>
    Effect.gen(function* () {
      const { url } = yield* GitServer
      const status = (path: string) => Effect.promise(() => fetch(url + path).then((response) => response.status))
      assert.strictEqual(yield* status("/none.git/info/refs?service=git-upload-pack"), 404)
      assert.strictEqual(yield* status("/refs.git/config"), 404)
      assert.strictEqual(yield* status("/refs.git/info/refs"), 404)
    })
  )
})
