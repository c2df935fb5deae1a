/**
 * The clone of the agent, against real git servers. What git-sync (v4, `test_e2e.sh`) proves of itself, as far as there
 * is such a thing here: we have no work tree, publish no link, and are told the commit by the controller. (G =
 * `GitCommand.test.ts`, R = `RemoteRefs.test.ts`; no letter: this file.)
 *
 * | git-sync | here |
 * |---|---|
 * | root missing, exists and empty, is a symlink, under another repository, fails sanity | "takes whatever is at its folder", "heals what a killed git left behind, and replaces a damaged clone" |
 * | HEAD, branch, tag, annotated tag | R "resolves branches, tags, annotated tags and commits; the tag wins"; by the ref where a server has nothing else: "works with servers … of protocol v0 …" |
 * | branch switch after depth 1 | "follows a force-push, an unrelated history and another URL" |
 * | SHA known, unknown; bad ref | all tests fetch by SHA; "names a commit that nobody has, and goes on"; R "tells a missing repository, an empty one and a missing ref apart" |
 * | work tree removed, wrong hash, a file named like the SHA | no work tree; "replaces a clone that turns out to be damaged while it is read" |
 * | crash before link, before work tree | "heals …", "survives fetches that are cut at any moment", `test/agent/Kills.test.ts` |
 * | repository URL switched | "follows … another URL", "follows a repository that is another one at the same URL", `test/agent/Repository.test.ts` "goes to another repository and back …" |
 * | slow git, short time-out; long time-out | "ends a fetch that is slower than its deadline, and takes one that is not" (both ways), G "… ends git with all its helpers at the deadline" |
 * | SIGHUP, touch file, error file, period | no signals and files: metadata is watched, `test/agent/Agent.test.ts` "moves to a commit …", "retries …" |
 * | depth across updates; across restarts | "stays whole over many updates, one request each …"; "keeps what has come of many files … over restarts" |
 * | password wrong; in the URL; in a file; file reloaded | R "sends credentials …, and reads 401 …"; `RepositoryUrl.test.ts`; `test/agent/Repository.test.ts` "reads the token anew for each fetch …" |
 * | ssh, both forms of URL; known hosts | `Ssh.test.ts`, G "gives ssh a private key file that is gone afterwards …" |
 * | askpass wrong, flaky, slow to start | no askpass; "tells what a server says …" (401, 403, 429), `test/agent/Agent.test.ts` "tries again after a second …" |
 * | GitHub App | `GitHubApp.test.ts` |
 * | hooks succeed, fail and are retried, one-time, after a crash | the gateway's scan is our hook: `test/agent/Agent.test.ts` "retries a scan that fails …", "does not forget a scan over a restart" |
 * | HTTP before and after the first sync, after a restart | `test/agent/Agent.test.ts` "puts the files there before the gateway starts …", "starting with metadata …" |
 * | submodules (9) | "lists files, folders, links and submodules as they are"; refused: `test/agent/Plan.test.ts` "a submodule" |
 * | sparse checkout; filter (3) | "fetches the site's blobs and nothing else …"; "works with servers that know no filter …" |
 * | gc (5) | "keeps the number of packs bounded", "keeps the bytes of its packs bounded …" |
 * | init period, most failures at first and later | there is no giving up: `test/agent/Agent.test.ts` "waits, with nothing on the volume, while git is away" |
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, Logger, PlatformError, Redacted, Schedule, Stream } from "effect"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import type { IncomingMessage, ServerResponse } from "node:http"
import * as Credentials from "../../src/git/Credentials.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import * as Mirror from "../../src/git/Mirror.ts"
import * as PktLine from "../../src/git/PktLine.ts"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"
import { git, GitServer, makeRepository, serve } from "./HttpBackend.ts"

const TestLayer = Layer.mergeAll(GitServer.layer, GitCommand.layer).pipe(Layer.provideMerge(NodeServices.layer))

const makeFolder = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  return `${yield* fs.makeTempDirectoryScoped({ prefix: "stoker-test-mirror-" })}/clone`
})

const openAt = Effect.fnUntraced(function* (folder: string, url: string, options: Partial<Mirror.Options> = {}) {
  return yield* Mirror.make({
    ...options,
    folder,
    url: yield* Effect.fromResult(RepositoryUrl.parse(url)),
    credentials: Effect.succeed(Credentials.none)
  })
})

const open = (url: string) => Effect.flatMap(makeFolder, (folder) => openAt(folder, url))

/** Every file below the paths, with its text. */
const contents = Effect.fnUntraced(function* (
  mirror: Mirror.Mirror["Service"],
  target: Mirror.Target,
  paths: ReadonlyArray<string>
) {
  yield* mirror.ensure(target)
  const entries = yield* mirror.listTree(target.commit, paths)
  const blobs = yield* Stream.runCollect(mirror.readBlobs(entries.map(({ id }) => id)))
  return Object.fromEntries(entries.map(({ path }, index) => [path, blobs[index]?.content.toString()]))
})

/** Fails where an object is missing that no server is known to have. */
const checkWhole = (folder: string) =>
  git(folder, "-c", "safe.directory=*", "-c", "remote.origin.promisor=true", "fsck", "--connectivity-only")

/** What a git that was ended leaves behind. */
const leftovers = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => /\.lock$|(^|\/)(tmp_|\.tmp-)/.test(name))

const packsIn = (folder: string) => readdirSync(`${folder}/objects/pack`).filter((name) => name.endsWith(".pack"))

const until = (isSo: () => boolean) =>
  Effect.repeat(Effect.sync(isSo), { until: (so) => so, schedule: Schedule.spaced("10 millis") })

const noise = (size: number, seed: number) =>
  Uint8Array.from({ length: size }, (_, index) => (Math.imul(index + 1, 2654435761 + seed * 40503) >>> 13) & 255)

/** What neither packs nor resembles what another seed makes. */
const picture = (size: number, seed: number) =>
  Uint8Array.from(createHash("shake256", { outputLength: size }).update(String(seed)).digest())

/** `sites` folders of `files` files of incompressible bytes. */
const plant = (sites: number, files: number, size: number) =>
  Object.fromEntries(
    Array.from({ length: sites * files }, (_, index) => [
      `sites/${Math.floor(index / files)}/d${index % 7}/f${index % files}.bin`,
      noise(size, index)
    ])
  )

/** The git server goes away, for as long as the test lasts at most. */
const outages = Effect.gen(function* () {
  const server = yield* GitServer
  const back = Effect.sync(() => server.setFault(undefined))
  yield* Effect.addFinalizer(() => back)
  const away = Effect.sync(() =>
    server.setFault((_, response) => {
      response.socket?.destroy()
      return true
    })
  )
  return { away, back }
})

/** A clone over its bound, which the next fetch replaces, of a repository that has one more commit (`next`). */
const grown = Effect.fnUntraced(function* (name: string) {
  const repository = yield* makeRepository(name)
  const folder = yield* makeFolder
  const open = openAt(folder, repository.url, { maxBytes: 100_000 })
  const mirror = yield* open
  let commit = ""
  for (const round of [1, 2, 3, 4]) {
    commit = yield* repository.commit({ a: String(round), image: picture(30_000, round) })
    yield* repository.push()
    yield* contents(mirror, { commit }, [""])
    if (round === 1) writeFileSync(`${folder}/stoker-needed`, "10000")
    yield* mirror.setApplied(commit, [])
  }
  /** What a start does: nothing has changed, and so it tidies. */
  const opened = Effect.tap(open, (mirror) => mirror.tidy([]))
  const applied = Effect.fnUntraced(function* (mirror: Mirror.Mirror["Service"]) {
    assert.strictEqual((yield* contents(mirror, { commit }, ["a"]))["a"], "4")
  })
  const next = Effect.tap(repository.commit({ a: "next" }), () => repository.push())
  return { applied, folder, next, open: opened }
})

layer(TestLayer, { excludeTestServices: true })("Mirror", (it) => {
  it.effect("fetches the site's blobs and nothing else, in two requests; an update in one", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("plant.git")
      const first = yield* repository.commit(plant(20, 20, 4096))
      yield* repository.push()
      const mirror = yield* open(repository.url)
      const before = server.sent()
      server.requests.length = 0
      const site = yield* contents(mirror, { commit: first }, ["sites/3"])
      assert.lengthOf(Object.keys(site), 20)
      const bytes = server.sent() - before
      // One site of twenty: its 80 KiB and the trees of all.
      assert.isBelow(bytes, 2.2 * 20 * 4096)
      assert.deepStrictEqual(server.requests, Array(2).fill("POST /plant.git/git-upload-pack"))
      yield* mirror.setApplied(first, [])

      const second = yield* repository.commit({ "sites/3/d1/f1.bin": "changed", "sites/4/d1/f1.bin": "other" })
      yield* repository.push()
      server.requests.length = 0
      const middle = server.sent()
      const changed = yield* contents(mirror, { commit: second }, ["sites/3"])
      assert.deepStrictEqual(changed, { ...site, "sites/3/d1/f1.bin": "changed" })
      assert.deepStrictEqual(server.requests, ["POST /plant.git/git-upload-pack"])
      assert.isBelow(server.sent() - middle, 4096)

      // Known: nobody is asked.
      server.requests.length = 0
      yield* mirror.ensure({ commit: first })
      assert.deepStrictEqual(server.requests, [])
      // Another site: what is missing comes in one go.
      const other = yield* contents(mirror, { commit: second }, ["sites/4"])
      assert.strictEqual(other["sites/4/d1/f1.bin"], "other")
      assert.lengthOf(Object.keys(other), 21)
      assert.lengthOf(server.requests, 1)
    })
  )

  it.effect("lists files, folders, links and submodules as they are", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const repository = yield* makeRepository("kinds.git")
      yield* repository.commit({ "a/b/c.txt": "c", "a/b.txt": "b", "a-b": "x", "größe/日本 x.txt": "u" })
      yield* fs.symlink("a", `${repository.work}/link`)
      repository.git("update-index", "--add", "--cacheinfo", `160000,${"1".repeat(40)},sub`)
      yield* fs.chmod(`${repository.work}/a-b`, 0o755)
      yield* fs.makeDirectory(`${repository.work}/sub`)
      repository.git("add", "a-b", "link")
      repository.git("commit", "-q", "-m", "kinds")
      const commit = repository.git("rev-parse", "HEAD")
      yield* repository.push()
      const mirror = yield* open(repository.url)
      yield* mirror.ensure({ commit })
      const list = (...paths: ReadonlyArray<string>) =>
        Effect.map(mirror.listTree(commit, paths), (entries) => entries.map(({ mode, path }) => `${mode} ${path}`))
      assert.deepStrictEqual(yield* list(""), [
        "100755 a-b",
        "100644 a/b.txt",
        "100644 a/b/c.txt",
        "100644 größe/日本 x.txt",
        "120000 link",
        "160000 sub"
      ])
      assert.deepStrictEqual(yield* list("a/"), ["100644 a/b.txt", "100644 a/b/c.txt"])
      assert.deepStrictEqual(yield* list("a/b", "./a/b/c.txt", "a/b/c.txt"), ["100644 a/b/c.txt"])
      assert.deepStrictEqual(yield* list("größe/日本 x.txt"), ["100644 größe/日本 x.txt"])
      // What is behind a link is not followed: the link itself is seen.
      assert.deepStrictEqual(yield* list("link/b"), ["120000 link"])
      assert.deepStrictEqual(yield* list("a-b/x", "nothing", "a/bb", "A"), [])
      assert.deepStrictEqual(yield* list(), [])
    })
  )

  it.effect("heals what a killed git left behind, and replaces a damaged clone", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const repository = yield* makeRepository("heal.git")
      const first = yield* repository.commit({ "a.txt": "1", "b.txt": "b" })
      yield* repository.push()
      const folder = yield* makeFolder
      yield* Effect.scoped(
        Effect.flatMap(openAt(folder, repository.url), (mirror) => contents(mirror, { commit: first }, [""]))
      )
      for (const name of ["shallow.lock", "HEAD.lock", "config.lock", "refs/stoker/fetched.lock"]) {
        writeFileSync(`${folder}/${name}`, "")
      }
      writeFileSync(`${folder}/objects/pack/tmp_pack_x`, "half")
      writeFileSync(`${folder}/objects/pack/.tmp-7-pack-x.pack`, "half")
      const second = yield* repository.commit({ "a.txt": "2" })
      yield* repository.push()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const mirror = yield* openAt(folder, repository.url)
          assert.deepStrictEqual(yield* contents(mirror, { commit: second }, [""]), { "a.txt": "2", "b.txt": "b" })
        })
      )
      assert.deepStrictEqual(leftovers(folder), [])

      const damages: ReadonlyArray<(name: string) => Effect.Effect<void, unknown>> = [
        // Every pack emptied.
        () =>
          Effect.forEach(
            readdirSync(`${folder}/objects/pack`).filter((file) => file.endsWith(".pack")),
            (file) =>
              Effect.andThen(
                fs.chmod(`${folder}/objects/pack/${file}`, 0o644),
                fs.writeFileString(`${folder}/objects/pack/${file}`, "rubbish")
              ),
            { discard: true }
          ),
        () => fs.remove(`${folder}/objects`, { recursive: true }),
        () => fs.remove(`${folder}/HEAD`),
        () => fs.writeFileString(`${folder}/refs/stoker/fetched`, "0".repeat(39)),
        () => fs.writeFileString(`${folder}/shallow`, "rubbish"),
        () => fs.writeFileString(`${folder}/config`, "[[["),
        () => Effect.andThen(fs.remove(folder, { recursive: true }), fs.writeFileString(folder, "a file"))
      ]
      for (const [index, damage] of damages.entries()) {
        yield* damage(folder)
        const commit = yield* repository.commit({ "a.txt": `after ${index}` })
        yield* repository.push()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const mirror = yield* openAt(folder, repository.url)
            const files = yield* contents(mirror, { commit }, [""])
            assert.deepStrictEqual(files, { "a.txt": `after ${index}`, "b.txt": "b" }, `damage ${index}`)
          })
        )
        assert.deepStrictEqual(
          readdirSync(`${folder}/..`).filter((name) => name.includes("damaged")),
          []
        )
      }
    })
  )

  it.effect("replaces a clone that turns out to be damaged while it is read", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const repository = yield* makeRepository("damaged.git")
      const commit = yield* repository.commit({ "a/a.txt": "1" })
      yield* repository.push()
      const folder = yield* makeFolder
      yield* Effect.scoped(
        Effect.flatMap(openAt(folder, repository.url), (mirror) => contents(mirror, { commit }, [""]))
      )
      for (const name of readdirSync(`${folder}/objects/pack`)) yield* fs.remove(`${folder}/objects/pack/${name}`)
      const mirror = yield* openAt(folder, repository.url)
      const error = yield* Effect.flip(contents(mirror, { commit }, [""]))
      assert.strictEqual(error.reason._tag, "Damaged")
      assert.deepStrictEqual(yield* contents(mirror, { commit }, [""]), { "a/a.txt": "1" })
    })
  )

  it.effect("follows a force-push, an unrelated history and another URL", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("force.git")
      const first = yield* repository.commit({ "a.txt": "1", "keep.txt": "k" })
      yield* repository.push()
      const folder = yield* makeFolder
      yield* Effect.scoped(
        Effect.gen(function* () {
          const mirror = yield* openAt(folder, repository.url)
          yield* contents(mirror, { commit: first }, [""])
          yield* mirror.setApplied(first, [])
          repository.git("commit", "-q", "--amend", "-m", "rewritten")
          const rewritten = yield* repository.commit({ "a.txt": "2" })
          yield* repository.push()
          assert.deepStrictEqual(yield* contents(mirror, { commit: rewritten }, [""]), {
            "a.txt": "2",
            "keep.txt": "k"
          })
          yield* mirror.setApplied(rewritten, [])
          repository.git("checkout", "-q", "--orphan", "other")
          repository.git("rm", "-rqf", ".")
          const unrelated = yield* repository.commit({ "z.txt": "z" })
          yield* repository.push()
          assert.deepStrictEqual(yield* contents(mirror, { commit: unrelated }, [""]), { "z.txt": "z" })
          yield* mirror.setApplied(unrelated, [])
        })
      )
      const server = yield* GitServer
      const elsewhere = yield* makeRepository("elsewhere.git")
      const commit = yield* elsewhere.commit(plant(20, 5, 4096))
      yield* elsewhere.push()
      const before = server.sent()
      const mirror = yield* openAt(folder, elsewhere.url)
      assert.lengthOf(Object.keys(yield* contents(mirror, { commit }, ["sites/7"])), 5)
      // The base of the former repository must not make the server send every blob.
      assert.isBelow(server.sent() - before, 2.5 * 5 * 4096)
    })
  )

  it.effect("works with servers that know no filter, and with those of protocol v0, which hand out refs only", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("plain.git")
      repository.gitAtServer("config", "uploadpack.allowFilter", "false")
      const first = yield* repository.commit({ "a/a.txt": "1", "b.txt": "b" })
      yield* repository.push()
      const mirror = yield* open(repository.url)
      assert.deepStrictEqual(yield* contents(mirror, { commit: first }, ["a"]), { "a/a.txt": "1" })

      server.setFault((request) => {
        delete request.headers["git-protocol"]
        return false
      })
      const old = yield* open(repository.url)
      assert.deepStrictEqual(yield* contents(old, { commit: first, ref: "main" }, ["a"]), { "a/a.txt": "1" })
      const second = yield* repository.commit({ "a/a.txt": "2" })
      repository.git("tag", "-a", "-m", "t", "v2")
      const third = yield* repository.commit({ "a/a.txt": "3" })
      yield* repository.push("HEAD:main", "v2")
      assert.deepStrictEqual(yield* contents(old, { commit: second, ref: "v2" }, [""]), {
        "a/a.txt": "2",
        "b.txt": "b"
      })
      // The ref has moved on: what is there is not what was asked for.
      const gone = yield* repository.commit({ "a/a.txt": "4" })
      const error = yield* Effect.flip(old.ensure({ commit: gone, ref: "main" }))
      assert.deepStrictEqual(error.reason, {
        _tag: "CommitNotFound",
        commit: gone,
        detail: `"main" is at ${third}`
      })
      assert.strictEqual((yield* Effect.flip(old.ensure({ commit: gone }))).reason._tag, "CommitNotFound")
      assert.strictEqual((yield* Effect.flip(old.ensure({ commit: gone, ref: "no" }))).reason._tag, "CommitNotFound")

      // It filters files out, and then hands none out by its id: noticed once, and never asked for again.
      repository.gitAtServer("config", "uploadpack.allowFilter", "true")
      const folder = yield* makeFolder
      const filtering = yield* openAt(folder, repository.url)
      assert.strictEqual(
        (yield* Effect.flip(contents(filtering, { commit: third, ref: "main" }, ["a"]))).reason._tag,
        "CommitNotFound"
      )
      assert.deepStrictEqual(yield* contents(filtering, { commit: third, ref: "main" }, ["a"]), { "a/a.txt": "3" })

      // Noticed in the background too, where only a start without git needs them.
      const quiet = yield* makeFolder
      const target = { commit: third, ref: "main" }
      const unread = yield* openAt(quiet, repository.url)
      yield* unread.ensure(target)
      const files = (yield* unread.listTree(third, ["a"])).map(({ id }) => id)
      yield* unread.setApplied(third, files)
      const isRenewed = Effect.map(unread.ensure(target), () => existsSync(`${quiet}.former`))
      yield* Effect.repeat(isRenewed, { until: (so) => so, schedule: Schedule.spaced("10 millis") })
      yield* unread.setApplied(third, files)
      assert.isTrue(existsSync(`${quiet}/stoker-needed`))
      assert.isFalse(existsSync(`${quiet}.former`))
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("asks again for a commit that the server has not got yet", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("lagging.git")
      yield* repository.commit({ a: "1" })
      yield* repository.push()
      const mirror = yield* open(repository.url)
      const late = yield* repository.commit({ a: "2" })
      let asked = 0
      // The replica gets it after the first refusal.
      server.setFault((request) => {
        if (request.method === "POST" && ++asked === 2) repository.git("push", "-q", "origin", "HEAD:main")
        return false
      })
      assert.deepStrictEqual(yield* contents(mirror, { commit: late }, [""]), { a: "2" })
      assert.isAtLeast(asked, 2)
    })
  )

  it.effect("survives fetches that are cut at any moment", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("cut-off.git")
      yield* repository.commit({ a: "1" })
      yield* repository.push()
      const folder = yield* makeFolder
      const mirror = yield* openAt(folder, repository.url)
      const moments: ReadonlyArray<(response: ServerResponse) => void> = [
        () => {},
        (response) => response.flushHeaders(),
        (response) => response.write("0011shallow-info\n00"),
        (response) => response.write(Buffer.concat([PktLine.line("packfile"), Buffer.from("0010\x01PACK\0\0\0\x02")]))
      ]
      for (const [index, answer] of moments.entries()) {
        const commit = yield* repository.commit({ a: `at ${index}` })
        yield* repository.push()
        const reached = Promise.withResolvers<void>()
        server.setFault((_, response) => {
          response.writeHead(200, { "content-type": "application/x-git-upload-pack-result" })
          answer(response)
          reached.resolve()
          return true
        })
        const fiber = yield* Effect.forkChild(mirror.ensure({ commit }))
        yield* Effect.promise(() => reached.promise)
        // As a git killed in the middle of writing leaves it.
        writeFileSync(`${folder}/shallow.lock`, "")
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(leftovers(folder), [])
        server.setFault(undefined)
        assert.deepStrictEqual(yield* contents(mirror, { commit }, [""]), { a: `at ${index}` })
      }
      // A reader that stops early does not spoil the next one.
      const files = Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`f${index}`, noise(65_536, index)]))
      const commit = yield* repository.commit(files)
      yield* repository.push()
      yield* mirror.ensure({ commit })
      const ids = (yield* mirror.listTree(commit, [""])).map(({ id }) => id)
      assert.lengthOf(yield* Stream.runCollect(Stream.take(mirror.readBlobs(ids), 3)), 3)
      const blobs = yield* Stream.runCollect(mirror.readBlobs(ids))
      assert.deepStrictEqual(
        blobs.map(({ id }) => id),
        ids
      )
    })
  )

  it.effect("keeps nothing of the remote on disk", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const repository = yield* makeRepository("on-disk.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const folder = yield* makeFolder
      const url = yield* Effect.fromResult(RepositoryUrl.parse(repository.url))
      const credentials = Credentials.token(Redacted.make("s3cret-marked"))
      const mirror = yield* Mirror.make({ folder, url, credentials: Effect.succeed(credentials) })
      yield* contents(mirror, { commit }, [""])
      const marks = ["s3cret-marked", Buffer.from("x-access-token:s3cret-marked").toString("base64")]
      for (const name of yield* fs.readDirectory(folder, { recursive: true })) {
        if ((yield* fs.stat(`${folder}/${name}`)).type !== "File") continue
        const content = Buffer.from(yield* fs.readFile(`${folder}/${name}`)).toString("latin1")
        for (const mark of marks) assert.notInclude(content, mark, name)
      }
    })
  )

  it.effect("follows a repository that was renamed, with its credentials, on the same server", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("new-name.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const refusals: Array<string> = []
      server.setFault((request, response) => {
        if (request.headers.authorization === undefined) refusals.push(request.url ?? "")
        if (request.url?.startsWith("/old-name.git/") !== true) return false
        response.writeHead(301, { location: request.url.replace("old-name", "new-name") }).end()
        return true
      })
      const mirror = yield* Mirror.make({
        folder: yield* makeFolder,
        url: yield* Effect.fromResult(RepositoryUrl.parse(server.url("old-name.git"))),
        credentials: Effect.succeed(Credentials.token(Redacted.make("t")))
      })
      assert.deepStrictEqual(yield* contents(mirror, { commit }, [""]), { a: "1" })
      assert.deepStrictEqual(refusals, [])
      // The new place is remembered.
      server.requests.length = 0
      const second = yield* repository.commit({ a: "2" })
      yield* repository.push()
      assert.deepStrictEqual(yield* contents(mirror, { commit: second }, [""]), { a: "2" })
      assert.isTrue(server.requests.every((request) => request.includes("/new-name.git/")))
    })
  )

  it.effect("keeps the number of packs bounded", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("packs.git")
      const first = yield* repository.commit(plant(2, 3, 512))
      yield* repository.push()
      const folder = yield* makeFolder
      const mirror = yield* Mirror.make({
        folder,
        url: yield* Effect.fromResult(RepositoryUrl.parse(repository.url)),
        credentials: Effect.succeed(Credentials.none),
        maxPacks: 3
      })
      const site = yield* contents(mirror, { commit: first }, ["sites/0"])
      for (const round of [1, 2, 3, 4, 5, 6, 7, 8]) {
        const commit = yield* repository.commit({ "sites/0/x": String(round) })
        yield* repository.push()
        assert.deepStrictEqual(yield* contents(mirror, { commit }, ["sites/0"]), {
          ...site,
          "sites/0/x": String(round)
        })
        yield* mirror.setApplied(commit, [])
        assert.isAtMost(packsIn(folder).length, 7)
      }
      // Ended by the fetches, it is taken up again.
      yield* mirror.tidy([])
      yield* until(() => packsIn(folder).length <= 3)
    })
  )

  it.effect("packs while no fetch comes, and does not hold one up", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("packs-give-way.git")
      const real = yield* GitCommand
      const repacks = { begun: 0, ended: 0 }
      const endless = Effect.andThen(
        Effect.sync(() => void repacks.begun++),
        Effect.onInterrupt(Effect.never, () => Effect.sync(() => void repacks.ended++))
      )
      const mirror = yield* openAt(yield* makeFolder, repository.url, { maxPacks: 2 }).pipe(
        Effect.provideService(
          GitCommand,
          GitCommand.of({
            ...real,
            run: (args, options) => (args[0] === "repack" ? endless : real.run(args, options))
          })
        )
      )
      for (const [round, text] of ["1", "2", "3"].entries()) {
        const commit = yield* repository.commit({ a: text })
        yield* repository.push()
        assert.deepStrictEqual(yield* contents(mirror, { commit }, [""]), { a: text })
        yield* mirror.setApplied(commit, [])
        yield* until(() => repacks.begun === round)
      }
      assert.strictEqual(repacks.ended, 1)
    })
  )

  it.effect("has a fresh clone get the files that are in place already, behind whatever is waited for", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("complete.git")
      const commit = yield* repository.commit({ "a/x": "1", "a/y": "2", "b/z": "3" })
      yield* repository.push()
      const folder = yield* makeFolder
      const blobs = yield* Effect.scoped(
        Effect.gen(function* () {
          const mirror = yield* openAt(folder, repository.url)
          yield* mirror.ensure({ commit })
          const blobs = (yield* mirror.listTree(commit, ["a"])).map(({ id }) => id)
          const asked = Promise.withResolvers<void>()
          server.setFault(() => {
            asked.resolve()
            return true
          })
          yield* mirror.setApplied(commit, blobs)
          yield* Effect.promise(() => asked.promise)
          server.setFault(undefined)
          const second = yield* repository.commit({ "b/z": "4" })
          yield* repository.push()
          // That one hangs; this goes on.
          yield* mirror.ensure({ commit: second })
          yield* mirror.tidy(blobs)
          yield* until(() => existsSync(`${folder}/stoker-needed`))
          return blobs
        })
      )
      server.setFault((_, response) => {
        response.socket?.destroy()
        return true
      })
      const mirror = yield* openAt(folder, repository.url)
      yield* mirror.ensure({ commit })
      const found = yield* Stream.runCollect(mirror.readBlobs(blobs))
      assert.deepStrictEqual(
        found.map(({ content }) => content.toString()),
        ["1", "2"]
      )
      // Nor is asked for more than that.
      const [other] = yield* mirror.listTree(commit, ["b"])
      yield* Effect.flip(mirror.prefetch([other!.id]))
    })
  )

  it.effect("tries again by itself to get them, however often it tidies, and says so once", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const logged: Array<string> = []
      const logger = Logger.make<unknown, void>(({ logLevel }) => void logged.push(logLevel))
      const repository = yield* makeRepository("away.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const folder = yield* makeFolder
      yield* Effect.gen(function* () {
        const mirror = yield* openAt(folder, repository.url)
        yield* mirror.ensure({ commit })
        const blobs = (yield* mirror.listTree(commit, [""])).map(({ id }) => id)
        let refused = 0
        server.setFault((_, response) => {
          refused++
          response.socket?.destroy()
          return true
        })
        yield* mirror.setApplied(commit, blobs)
        yield* until(() => logged.length === 1)
        const first = refused
        for (let pass = 0; pass < 50; pass++) yield* mirror.tidy(blobs)
        assert.strictEqual(refused, first)
        server.setFault(undefined)
        yield* until(() => existsSync(`${folder}/stoker-needed`))
      }).pipe(Effect.provide(Logger.layer([logger])))
      assert.deepStrictEqual(logged, ["Warn"])
    })
  )

  it.effect("packs also a clone that has not got all its files yet", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("incomplete.git")
      const folder = yield* makeFolder
      const mirror = yield* openAt(folder, repository.url, { maxPacks: 2 })
      let tidied: Effect.Effect<void, unknown> = Effect.void
      for (const round of [1, 2, 3, 4, 5]) {
        const commit = yield* repository.commit({ [`a${round}`]: String(round), b: "same" })
        yield* repository.push()
        yield* mirror.ensure({ commit })
        const blobs = (yield* mirror.listTree(commit, ["b"])).map(({ id }) => id)
        tidied = mirror.setApplied(commit, blobs)
      }
      const before = packsIn(folder).length
      assert.isAbove(before, 4)
      server.setFault((_, response) => {
        response.socket?.destroy()
        return true
      })
      yield* tidied
      yield* until(() => packsIn(folder).length === 1)
      assert.isFalse(existsSync(`${folder}/stoker-needed`))
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("gives up a clone that has grown not before there is another one", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { away, back } = yield* outages
      const { applied, folder, next, open } = yield* grown("grown.git")
      const mirror = yield* open
      yield* applied(mirror)
      const packs = packsIn(folder)
      const commit = yield* next
      yield* away
      assert.strictEqual((yield* Effect.flip(mirror.ensure({ commit }))).reason._tag, "Transport")
      const isWhole = Effect.fnUntraced(function* (mirror: Mirror.Mirror["Service"]) {
        assert.deepStrictEqual(packsIn(folder), packs)
        yield* applied(mirror)
      })
      yield* isWhole(mirror)
      // The process is killed in that fetch: nothing yet, or an empty clone.
      yield* fs.rename(folder, `${folder}.former`)
      yield* isWhole(yield* open)
      yield* fs.rename(folder, `${folder}.former`)
      git(`${folder}.former`, "init", "-q", "--bare", folder)
      yield* isWhole(yield* open)
      yield* back
      assert.strictEqual((yield* contents(mirror, { commit }, ["a"]))["a"], "next")
      yield* mirror.setApplied(commit, [])
      assert.isFalse(existsSync(`${folder}.former`))
      assert.notIncludeMembers(packsIn(folder), packs)
      checkWhole(folder)
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("has the applied commit without git until another one is applied, also when that has its own clone", () =>
    Effect.gen(function* () {
      const { away, back } = yield* outages
      for (const how of ["at once", "after a restart", "after a restart with the next one damaged"]) {
        const { applied, folder, next, open } = yield* grown(`${how.replaceAll(" ", "-")}.git`)
        const first = yield* open
        const commit = yield* next
        // Fetched, and never applied.
        assert.strictEqual((yield* contents(first, { commit }, ["a"]))["a"], "next", how)
        if (how.endsWith("damaged")) rmSync(`${folder}/HEAD`)
        const mirror = how === "at once" ? first : yield* open
        yield* away
        yield* applied(mirror)
        yield* back
        assert.strictEqual((yield* contents(mirror, { commit }, ["a"]))["a"], "next", how)
        yield* away
        yield* applied(yield* open)
        assert.strictEqual((yield* contents(mirror, { commit }, ["a"]))["a"], "next", how)
        assert.isFalse(existsSync(`${folder}.former`), how)
        checkWhole(folder)
        yield* back
      }
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("has the applied commit without git when the disk has no room for a fresh clone", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { away } = yield* outages
      const { applied, folder, next, open } = yield* grown("full.git")
      let refused: string | undefined
      const refusal = PlatformError.systemError({ _tag: "WriteZero", module: "FileSystem", method: "any" })
      const unless = <A>(path: string, effect: Effect.Effect<A, PlatformError.PlatformError>) =>
        refused !== undefined && path.endsWith(refused) ? Effect.fail(refusal) : effect
      const filling = FileSystem.FileSystem.of({
        ...fs,
        remove: (path, ...rest) => unless(path, fs.remove(path, ...rest)),
        writeFileString: (path, ...rest) => unless(path, fs.writeFileString(path, ...rest))
      })
      const mirror = yield* Effect.provideService(open, FileSystem.FileSystem, filling)
      const commit = yield* next
      const isRefused = Effect.map(Effect.flip(mirror.ensure({ commit })), ({ reason }) => reason._tag === "Command")
      refused = "HEAD"
      for (const _ of ["first", "second"]) assert.isTrue(yield* isRefused)
      // What is aside could not be removed, nor can it now.
      yield* fs.makeDirectory(`${folder}.former`)
      refused = ".former"
      assert.isTrue(yield* isRefused)
      refused = undefined
      yield* away
      yield* applied(mirror)
      yield* applied(yield* open)
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("keeps what has come of many files when the rest is cut, over restarts", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("parts.git")
      const files = Object.fromEntries(Array.from({ length: 25 }, (_, index) => [`f${index}`, noise(2000, index)]))
      const commit = yield* repository.commit(files)
      yield* repository.push()
      const folder = yield* makeFolder
      const attempt = Effect.scoped(
        Effect.gen(function* () {
          const mirror = yield* openAt(folder, repository.url, { maxBlobs: 10 })
          server.requests.length = 0
          return Object.keys(yield* contents(mirror, { commit }, [""])).length
        })
      )
      let asked = 0
      server.setFault((_, response) => {
        if (++asked <= 2) return false
        response.writeHead(200, { "content-type": "application/x-git-upload-pack-result" })
        response.end(Buffer.concat([PktLine.line("packfile"), PktLine.line("\x01PACK\0\0\0\x02\0\0\0\x0a")]))
        return true
      })
      yield* Effect.flip(attempt)
      server.setFault(undefined)
      assert.strictEqual(yield* attempt, 25)
      // The ten that had come are not asked for again, nor is the commit.
      assert.lengthOf(server.requests, 2)
    })
  )

  it.effect("after an update that was cut, takes the commit first and its files in parts", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("cut-update.git")
      const first = yield* repository.commit({ "a/x": "1", "b/x": "1" })
      yield* repository.push()
      const folder = yield* makeFolder
      const update = Effect.fnUntraced(function* (mirror: Mirror.Mirror["Service"], text: string) {
        const commit = yield* repository.commit({ "a/x": text, "b/x": picture(100_000, text.length) })
        yield* repository.push()
        server.requests.length = 0
        const before = server.sent()
        assert.deepStrictEqual(yield* contents(mirror, { commit }, ["a"]), { "a/x": text })
        yield* mirror.setApplied(commit, [])
        return { bytes: server.sent() - before, requests: server.requests.length }
      })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const mirror = yield* openAt(folder, repository.url)
          yield* contents(mirror, { commit: first }, ["a"])
          yield* mirror.setApplied(first, [])
          server.setFault((_, response) => {
            response.socket?.destroy()
            return true
          })
          yield* Effect.flip(mirror.ensure({ commit: yield* repository.commit({ "a/x": "lost" }) }))
          server.setFault(undefined)
          const second = yield* update(mirror, "second")
          assert.strictEqual(second.requests, 2)
          assert.isBelow(second.bytes, 10_000)
          assert.strictEqual((yield* update(mirror, "third")).requests, 1)
        })
      )
      // The same when the whole process was killed in it.
      writeFileSync(`${folder}/objects/pack/tmp_pack_x`, "half")
      const fourth = yield* update(yield* openAt(folder, repository.url), "fourth")
      assert.strictEqual(fourth.requests, 2)
      assert.isBelow(fourth.bytes, 10_000)
    })
  )

  it.effect("keeps the bytes of its packs bounded, however much came through it", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("bytes.git")
      const first = yield* repository.commit({ "a/keep": "k", "b/other": picture(50_000, 0) })
      yield* repository.push()
      const folder = yield* makeFolder
      const maxBytes = 250_000
      const mirror = yield* openAt(folder, repository.url, { maxBytes, maxPacks: 3 })
      yield* contents(mirror, { commit: first }, ["a"])
      yield* mirror.setApplied(first, [])
      const sizes: Array<number> = []
      for (let round = 1; round <= 12; round++) {
        const commit = yield* repository.commit({ "a/image": picture(60_000, round) })
        yield* repository.push()
        yield* mirror.ensure({ commit })
        const [image] = yield* mirror.listTree(commit, ["a/image"])
        const [blob] = yield* Stream.runCollect(mirror.readBlobs([image!.id]))
        assert.deepStrictEqual(new Uint8Array(blob!.content), picture(60_000, round))
        yield* mirror.setApplied(commit, [])
        const packs = readdirSync(`${folder}/objects/pack`).filter((name) => name.endsWith(".pack"))
        sizes.push(packs.reduce((sum, name) => sum + statSync(`${folder}/objects/pack/${name}`).size, 0))
      }
      // What is over the bound is one update, until the next one.
      assert.isBelow(Math.max(...sizes), maxBytes + 70_000, sizes.join())
      assert.deepStrictEqual(leftovers(folder), [])
      const last = yield* repository.commit({ "a/keep": "last" })
      yield* repository.push()
      assert.deepStrictEqual(yield* contents(mirror, { commit: last }, ["a/keep"]), { "a/keep": "last" })
      checkWhole(folder)
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("fetches a site that is larger than the bound once, not anew with each commit", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("large.git")
      let commit = yield* repository.commit({ "a/image": picture(300_000, 1), "a/x": "0" })
      yield* repository.push()
      const folder = yield* makeFolder
      const open = openAt(folder, repository.url, { maxBytes: 200_000 })
      let mirror = yield* Effect.scoped(
        Effect.tap(open, (mirror) =>
          Effect.andThen(
            contents(mirror, { commit }, ["a"]),
            Effect.suspend(() => mirror.setApplied(commit, []))
          )
        )
      )
      const packs = () => readdirSync(`${folder}/objects/pack`).filter((name) => name.endsWith(".pack"))
      const first = packs()
      for (const [round, text] of ["1", "2", "3"].entries()) {
        // What it needs is known after a restart too.
        if (round !== 1) mirror = yield* open
        commit = yield* repository.commit({ "a/x": text })
        yield* repository.push()
        assert.strictEqual((yield* contents(mirror, { commit }, ["a"]))["a/x"], text)
        yield* mirror.setApplied(commit, [])
        assert.includeMembers(packs(), first)
      }
    })
  )

  it.effect("takes whatever is at its folder", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const repository = yield* makeRepository("folders.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const prepare: Readonly<Record<string, (folder: string) => Effect.Effect<unknown, unknown>>> = {
        "nothing, nor above": () => Effect.void,
        "an empty folder": (folder) => fs.makeDirectory(folder, { recursive: true }),
        "a folder with files of others": (folder) =>
          Effect.andThen(fs.makeDirectory(folder, { recursive: true }), fs.writeFileString(`${folder}/x`, "x")),
        "a folder inside a work tree": (folder) =>
          Effect.gen(function* () {
            yield* fs.makeDirectory(folder, { recursive: true })
            git(`${folder}/..`, "init", "-q")
          }),
        "a link to a folder": (folder) =>
          Effect.gen(function* () {
            yield* fs.makeDirectory(`${folder}-elsewhere`, { recursive: true })
            yield* fs.symlink(`${folder}-elsewhere`, folder)
          }),
        "a link to nothing": (folder) =>
          Effect.gen(function* () {
            yield* fs.makeDirectory(folder.replace(/\/[^/]+$/, ""), { recursive: true })
            yield* fs.symlink(`${folder}-nowhere`, folder)
          })
      }
      for (const [what, make] of Object.entries(prepare)) {
        const folder = `${yield* makeFolder}/deep/clone`
        yield* make(folder)
        for (const start of ["first", "second"]) {
          const mirror = yield* openAt(folder, repository.url)
          assert.deepStrictEqual(yield* contents(mirror, { commit }, [""]), { a: "1" }, `${what}, ${start} start`)
        }
      }
    }).pipe(Effect.scoped)
  )

  it.effect("names a commit that nobody has, and goes on", () =>
    Effect.gen(function* () {
      const repository = yield* makeRepository("unknown.git")
      const first = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const mirror = yield* open(repository.url)
      yield* contents(mirror, { commit: first }, [""])
      const nobodys = yield* repository.commit({ a: "never pushed" })
      const error = yield* Effect.flip(mirror.ensure({ commit: nobodys, ref: "main" }))
      assert.deepStrictEqual(error.reason, {
        _tag: "CommitNotFound",
        commit: nobodys,
        detail: `"main" is at ${first}`
      })
      assert.deepStrictEqual(yield* contents(mirror, { commit: first }, [""]), { a: "1" })
      yield* repository.push()
      assert.deepStrictEqual(yield* contents(mirror, { commit: nobodys }, [""]), { a: "never pushed" })
    })
  )

  it.effect("follows a repository that is another one at the same URL", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const former = yield* makeRepository("replaced.git")
      const first = yield* former.commit({ a: "1", keep: "same" })
      yield* former.push()
      const folder = yield* makeFolder
      const mirror = yield* openAt(folder, former.url)
      yield* contents(mirror, { commit: first }, [""])
      yield* mirror.setApplied(first, [])
      yield* fs.remove(former.bare, { recursive: true })
      const next = yield* makeRepository("replaced.git")
      const second = yield* next.commit({ a: "2", keep: "same", "b/c": "new" })
      yield* next.push()
      const expected = { a: "2", keep: "same", "b/c": "new" }
      assert.deepStrictEqual(yield* contents(mirror, { commit: second }, [""]), expected)
      checkWhole(folder)
      yield* mirror.setApplied(second, [])
      const third = yield* next.commit({ a: "3" })
      yield* next.push()
      assert.deepStrictEqual(yield* contents(yield* openAt(folder, next.url), { commit: third }, [""]), {
        ...expected,
        a: "3"
      })
    })
  )

  it.effect("ends a fetch that is slower than its deadline, and takes one that is not", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("slow.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      const folder = yield* makeFolder
      const type = { "content-type": "application/x-git-upload-pack-result" }
      const stalls: ReadonlyArray<(request: IncomingMessage, response: ServerResponse) => boolean> = [
        // No answer; a pack that begins and never ends; the same for the git program.
        () => true,
        (_, response) => {
          response.writeHead(200, type)
          response.write(Buffer.concat([PktLine.line("packfile"), PktLine.line("\x01PACK\0\0\0\x02\0\0\0\x03")]))
          return true
        },
        (request, response) => {
          if (request.headers["user-agent"]?.startsWith("git/") === true) return true
          response.writeHead(200, type).end("<html>")
          return true
        }
      ]
      for (const [index, stall] of stalls.entries()) {
        const mirror = yield* openAt(folder, repository.url, { deadline: "500 millis" })
        server.setFault(stall)
        const error = yield* Effect.flip(mirror.ensure({ commit }))
        assert.deepStrictEqual(error.reason, { _tag: "Timeout", seconds: 0.5 }, `stall ${index}`)
        assert.deepStrictEqual(leftovers(folder), [])
      }
      // Slow, and within the deadline: answered only when it has been asked for.
      const asked = Promise.withResolvers<void>()
      const answers = Promise.withResolvers<void>()
      server.setFault((request, response) => {
        asked.resolve()
        void answers.promise.then(() => serve(server.root, request, response, () => {}))
        return true
      })
      const slow = yield* Effect.forkChild(contents(yield* openAt(folder, repository.url), { commit }, [""]))
      yield* Effect.promise(() => asked.promise)
      answers.resolve()
      assert.deepStrictEqual(yield* Fiber.join(slow), { a: "1" })
    })
  )

  it.effect("stays whole over many updates, one request each, and does not grow with them", () =>
    Effect.gen(function* () {
      const rounds = 20
      const server = yield* GitServer
      const repository = yield* makeRepository("many.git")
      const first = yield* repository.commit(plant(3, 8, 512))
      yield* repository.push()
      const folder = yield* makeFolder
      const mirror = yield* Mirror.make({
        folder,
        url: yield* Effect.fromResult(RepositoryUrl.parse(repository.url)),
        credentials: Effect.succeed(Credentials.none),
        maxPacks: 6
      })
      yield* contents(mirror, { commit: first }, ["sites/1"])
      yield* mirror.setApplied(first, [])
      for (let round = 1; round <= rounds; round++) {
        const commit = yield* repository.commit({ "sites/1/d1/f1.bin": `round ${round}\n${"line\n".repeat(200)}` })
        yield* repository.push()
        server.requests.length = 0
        const files = yield* contents(mirror, { commit }, ["sites/1"])
        assert.include(files["sites/1/d1/f1.bin"], `round ${round}\n`)
        assert.lengthOf(server.requests, 1)
        if (round % 5 === 0) checkWhole(folder)
        yield* mirror.setApplied(commit, [])
      }
      const shallow = readFileSync(`${folder}/shallow`, "utf8").trim().split("\n")
      assert.isBelow(shallow.length, rounds)
      assert.include(shallow, readFileSync(`${folder}/refs/stoker/applied`, "utf8").trim())
    })
  )

  it.effect("takes an update whose deltas build on files that it has not got", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("thin.git")
      const text = (site: number, last: string) =>
        Array.from({ length: 400 }, (_, line) => `site ${site} line ${line * 7919}\n`).join("") + last
      const first = yield* repository.commit({ "a/x.json": text(1, ""), "b/x.json": text(2, "") })
      yield* repository.push()
      const folder = yield* makeFolder
      const mirror = yield* openAt(folder, repository.url)
      yield* contents(mirror, { commit: first }, ["a"])
      yield* mirror.setApplied(first, [])
      const own = yield* repository.commit({ "a/x.json": text(1, "own") })
      yield* repository.push()
      server.requests.length = 0
      const before = server.sent()
      assert.deepStrictEqual(yield* contents(mirror, { commit: own }, ["a"]), { "a/x.json": text(1, "own") })
      assert.lengthOf(server.requests, 1)
      // A delta, not the file.
      assert.isBelow(server.sent() - before, 900)
      yield* mirror.setApplied(own, [])
      const both = yield* repository.commit({ "a/x.json": text(1, "both"), "b/x.json": text(2, "both") })
      yield* repository.push()
      server.requests.length = 0
      assert.deepStrictEqual(yield* contents(mirror, { commit: both }, ["a"]), { "a/x.json": text(1, "both") })
      assert.lengthOf(server.requests, 3)
      assert.isTrue(server.requests.every((request) => request.startsWith("POST ")))
      assert.deepStrictEqual(leftovers(folder), [])
      checkWhole(folder)
      assert.deepStrictEqual(yield* contents(mirror, { commit: both }, ["b"]), { "b/x.json": text(2, "both") })
    })
  )

  it.effect("leaves to git what it does not understand, and remembers it when that helped", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("odd.git")
      const answers: ReadonlyArray<readonly [status: number, type: string, body: string | Buffer]> = [
        [200, "application/x-git-upload-pack-result", ""],
        [200, "application/x-git-upload-pack-result", "<html>"],
        [200, "application/x-git-upload-pack-result", PktLine.line("ERR we do not do this here")],
        [200, "application/x-git-upload-pack-result", PktLine.line("something-else")],
        [200, "application/x-git-upload-pack-result", Buffer.concat([PktLine.line("packfile"), PktLine.line("\x04")])],
        [
          200,
          "application/x-git-upload-pack-result",
          Buffer.concat([PktLine.line("packfile"), PktLine.line("\x01not a pack"), PktLine.mark("flush")])
        ],
        [200, "text/html", "<html>Welcome</html>"],
        [400, "text/plain", ""],
        [500, "text/plain", ""]
      ]
      for (const [index, [status, type, body]] of answers.entries()) {
        const commit = yield* repository.commit({ a: `answer ${index}` })
        yield* repository.push()
        let ended = 0
        const mirror = yield* openAt(yield* makeFolder, repository.url, { onProgress: Effect.sync(() => void ended++) })
        let odd = 0
        server.setFault((request, response) => {
          if (request.headers["user-agent"]?.startsWith("git/") === true) return false
          odd++
          response.writeHead(status, { "content-type": type }).end(body)
          return true
        })
        assert.deepStrictEqual(yield* contents(mirror, { commit }, [""]), { a: `answer ${index}` }, String(body))
        assert.strictEqual(odd, 1)
        // Each of the two ways, and the files: a fetch takes long, and three as long as its deadline more.
        assert.strictEqual(ended, 3, String(body))
      }
    })
  )

  it.effect("tells what a server says, and keeps nothing of a pack that was cut", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const repository = yield* makeRepository("cut-pack.git")
      const commit = yield* repository.commit({ a: noise(300_000, 1) })
      yield* repository.push()
      const folder = yield* makeFolder
      const mirror = yield* openAt(folder, repository.url)
      const reason = Effect.map(Effect.flip(mirror.ensure({ commit })), (error) => error.reason)
      const pack = PktLine.line("\x01PACK\0\0\0\x02\0\0\0\x03")
      const type = { "content-type": "application/x-git-upload-pack-result" }
      const cuts: ReadonlyArray<(response: ServerResponse) => void> = [
        // The connection breaks.
        (response) => {
          response.write(Buffer.concat([PktLine.line("packfile"), pack]))
          response.socket?.end()
        },
        // The server ends its answer too early, at the end of a packet, and within one.
        (response) => response.end(Buffer.concat([PktLine.line("packfile"), pack])),
        (response) => response.end(Buffer.concat([PktLine.line("packfile"), pack.subarray(0, -3)])),
        (response) => response.end(PktLine.line("packfile")),
        (response) =>
          response.end(Buffer.concat([PktLine.line("packfile"), pack, PktLine.line("\x03out of memory"), pack]))
      ]
      for (const cut of cuts) {
        server.setFault((_, response) => {
          response.writeHead(200, type)
          cut(response)
          return true
        })
        assert.strictEqual((yield* reason)._tag, "Transport")
        assert.deepStrictEqual(leftovers(folder), [])
        assert.deepStrictEqual(readdirSync(`${folder}/objects/pack`), [])
      }
      for (const [status, expected] of [
        [401, { _tag: "Unauthorized", sent: "nothing" }],
        [403, { _tag: "Forbidden" }],
        [404, { _tag: "RepositoryNotFound" }],
        [429, { _tag: "RateLimited", retryAfterSeconds: 17 }]
      ] as const) {
        server.setFault((_, response) => {
          response.writeHead(status, { "retry-after": "17" }).end()
          return true
        })
        server.requests.length = 0
        assert.deepStrictEqual(yield* reason, expected)
        assert.lengthOf(server.requests, 1)
      }
      server.setFault(undefined)
      yield* contents(mirror, { commit }, [""])
    })
  )
})
