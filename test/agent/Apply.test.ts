import { NodeServices } from "@effect/platform-node"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Option, Result, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Apply from "../../src/agent/Apply.ts"
import * as Inventory from "../../src/agent/Inventory.ts"
import * as Journal from "../../src/agent/Journal.ts"
import * as Plan from "../../src/agent/Plan.ts"
import * as PathGlob from "../../src/api/PathGlob.ts"
import { Volume } from "../../src/agent/Volume.ts"
import * as Site from "./Site.ts"

const commit = (id: string, tree: Site.Tree, mappings?: Site.Commit["mappings"]): Site.Commit => ({
  id,
  tree,
  mappings: mappings ?? [
    { source: "projects", destination: "projects/" },
    { source: "config", destination: "config" }
  ]
})

/** A fresh data directory. */
const folder = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.makeTempDirectoryScoped({ prefix: "stoker-apply-test-" })
})

const heldBy = (root: string) => Effect.provide(Inventory.load, Volume.layer(root))
const inventoryOf = (root: string) => Effect.map(heldBy(root), (held) => Object.keys(Inventory.filesOf(held)).sort())
const originOf = (root: string) => Effect.map(heldBy(root), (held) => Option.getOrUndefined(held)?.origin?.commit)

const start = (root: string, wanted: Site.Commit) => Effect.provide(Site.start(wanted), Volume.layer(root))

layer(NodeServices.layer)("Apply", (it) => {
  describe("writes", () => {
    it.effect("what the commit has, and nothing else", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const tree = { "projects/a/project.json": "{}", "projects/a/x/view.json": "1", "config/c": "2", other: "3" }
        yield* start(root, commit("one", tree))
        const { other, ...expected } = tree
        assert.deepStrictEqual(yield* Site.read(root), expected)
        assert.strictEqual(other, "3")
        assert.deepStrictEqual(yield* inventoryOf(root), Object.keys(expected).sort())
      })
    )

    it.effect("only what differs, and leaves alone what is not ours", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const fs = yield* FileSystem.FileSystem
        yield* Site.plant(root, { "config/local/uuid": "theirs", "projects/mine/project.json": "mine" })
        yield* start(root, commit("one", { "config/a": "1", "config/b": "2" }))
        const before = yield* fs.stat(`${root}/config/a`)
        const changes = yield* start(root, commit("two", { "config/a": "1", "config/b": "3" }))
        assert.deepStrictEqual(
          changes.writes.map(({ path }) => path),
          ["config/b"]
        )
        assert.deepStrictEqual((yield* fs.stat(`${root}/config/a`)).ino, before.ino)
        assert.deepStrictEqual(yield* Site.read(root), {
          "config/a": "1",
          "config/b": "3",
          "config/local/uuid": "theirs",
          "projects/mine/project.json": "mine"
        })
      })
    )

    it.effect("describes after the data is there, and takes the description away first", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const tree = {
          "projects/p/project.json": "{}",
          "projects/p/v/resource.json": "{}",
          "projects/p/v/view.json": "1",
          "config/resources/core/config-mode.json": "{}"
        }
        const changes = yield* start(root, commit("one", tree))
        assert.deepStrictEqual(
          changes.writes.map(({ path }) => path),
          [
            "projects/p/v/view.json",
            "projects/p/v/resource.json",
            "config/resources/core/config-mode.json",
            "projects/p/project.json"
          ]
        )
        const gone = yield* start(root, commit("two", { "config/x": "1" }))
        assert.deepStrictEqual(gone.deletes, [
          "projects/p/project.json",
          "config/resources/core/config-mode.json",
          "projects/p/v/resource.json",
          "projects/p/v/view.json"
        ])
        assert.deepStrictEqual(yield* Site.read(root), { "config/x": "1" })
        const fs = yield* FileSystem.FileSystem
        assert.isTrue(yield* fs.exists(`${root}/projects`))
      })
    )

    it.effect("nothing when a file is only a Git LFS pointer", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
        const error = yield* Effect.flip(start(root, commit("one", { "config/a": "1", "config/icon.png": pointer })))
        assert.match(error.message, /config\/icon\.png is a Git LFS pointer/)
        assert.deepStrictEqual(yield* Site.read(root), {})
        const fs = yield* FileSystem.FileSystem
        assert.deepStrictEqual(yield* fs.readDirectory(`${root}/.stoker`), [])
        // Nor does one count as in order that somebody else has put there.
        yield* Site.plant(root, { "config/icon.png": pointer })
        const adopted = yield* Effect.flip(start(root, commit("one", { "config/icon.png": pointer })))
        assert.match(adopted.message, /config\/icon\.png is a Git LFS pointer/)
      })
    )
  })

  describe("deletes", () => {
    it.effect("nothing on a volume without an inventory", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* Site.plant(root, { "projects/old/project.json": "{}", "config/a": "other" })
        yield* start(root, commit("one", { "config/a": "1" }))
        assert.deepStrictEqual(yield* Site.read(root), { "projects/old/project.json": "{}", "config/a": "1" })
      })
    )

    it.effect("folders that are empty without it, but not those on top", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* Site.plant(root, { "projects/p/theirs": "x" })
        yield* start(root, commit("one", { "projects/p/a/b/c": "1", "config/x/y": "2", "config/z": "3" }))
        yield* start(root, commit("two", { "config/z": "3" }))
        assert.deepStrictEqual(yield* Site.read(root), { "projects/p/theirs": "x", "config/z": "3" })
      })
    )

    it.effect("not through a link that somebody put in place of a folder", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const elsewhere = yield* folder
        const fs = yield* FileSystem.FileSystem
        yield* Site.plant(elsewhere, { a: "precious" })
        yield* start(root, commit("one", { "config/x/a": "1", "config/z": "3" }))
        yield* fs.remove(`${root}/config/x`, { recursive: true })
        yield* fs.symlink(elsewhere, `${root}/config/x`)
        yield* start(root, commit("two", { "config/z": "3" }))
        assert.deepStrictEqual(yield* Site.read(elsewhere), { a: "precious" })
        assert.match(
          (yield* Effect.flip(start(root, commit("three", { "config/x/a": "2" })))).message,
          /config\/x is no folder/
        )
      })
    )
  })

  describe("changes shape", () => {
    const cases: ReadonlyArray<readonly [string, Site.Tree, Site.Tree]> = [
      ["a file becomes a folder", { "config/x": "1" }, { "config/x/y": "2" }],
      ["a folder becomes a file", { "config/x/y": "1", "config/x/z/w": "1" }, { "config/x": "2" }],
      ["a name changes its letter case", { "config/View/a": "1" }, { "config/view/a": "1" }],
      ["a name is composed otherwise", { "config/\u00e4": "1" }, { "config/a\u0308": "1" }],
      ["two files trade places", { "config/a": "1", "config/b": "2" }, { "config/a": "2", "config/b": "1" }],
      ["a file of 255 bytes comes", { "config/a": "1" }, { [`config/${"b".repeat(255)}`]: "1" }]
    ]
    for (const [name, before, after] of cases) {
      it.effect(name, () =>
        Effect.gen(function* () {
          const root = yield* folder
          yield* start(root, commit("one", before))
          yield* start(root, commit("two", after))
          assert.deepStrictEqual(yield* Site.read(root), after)
          assert.deepStrictEqual(yield* inventoryOf(root), Object.keys(after).sort())
        })
      )
    }

    it.effect("whichever step is the last before a kill", () =>
      Effect.forEach(
        cases,
        ([name, before, after]) =>
          Effect.gen(function* () {
            for (let at = 1, killed = true; killed; at++) {
              const root = yield* folder
              yield* start(root, commit("one", before))
              const { layer, steps } = Site.faulty(root, { at, how: "kill" })
              yield* Effect.exit(Effect.provide(Site.start(commit("two", after)), layer))
              killed = steps() >= at
              yield* Effect.provide(Apply.recover, Volume.layer(root))
              assert.deepInclude([before, after], yield* Site.read(root), `${name}, step ${at}`)
              yield* start(root, commit("two", after))
              assert.deepStrictEqual(yield* Site.read(root), after, `${name}, step ${at}`)
            }
          }),
        { discard: true }
      )
    )

    const respelled: typeof cases = [
      ...cases,
      [
        "a folder changes its letter case, one of its files its content",
        { "config/V/a": "1", "config/V/b": "1" },
        { "config/v/a": "1", "config/v/b": "2" }
      ]
    ]
    it.effect("also where case and composition make no difference, whichever step is the last before a kill", () =>
      Effect.forEach(
        respelled,
        ([name, before, after]) =>
          Effect.gen(function* () {
            const folded = (tree: Site.Tree) =>
              Object.fromEntries(Object.entries(tree).map(([path, text]) => [Plan.fold(path), text]))
            for (let at = 1, killed = true; killed; at++) {
              const root = yield* folder
              const disk = Site.folding(root)
              yield* Effect.provide(Site.start(commit("one", before)), disk)
              const { layer, steps } = Site.faulty(root, { at, how: "kill" }, disk)
              yield* Effect.exit(Effect.provide(Site.start(commit("two", after)), layer))
              killed = steps() >= at
              yield* Effect.provide(Apply.recover, disk)
              assert.deepInclude([folded(before), folded(after)], yield* Site.read(root), `${name}, step ${at}`)
              yield* Effect.provide(Site.start(commit("two", after)), disk)
              assert.deepStrictEqual(yield* Site.read(root), folded(after), `${name}, step ${at}`)
              assert.deepStrictEqual(yield* inventoryOf(root), Object.keys(after).sort(), `${name}, step ${at}`)
            }
          }),
        { discard: true }
      )
    )

    it.effect("a top folder becomes a file", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const mappings = [{ source: ".", destination: "." }]
        yield* start(root, commit("one", { "x/y": "1" }, mappings))
        yield* start(root, commit("two", { x: "2" }, mappings))
        assert.deepStrictEqual(yield* Site.read(root), { x: "2" })
      })
    )

    it.effect("but refuses a folder with an empty one of somebody else in it", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* start(root, commit("one", { "config/x/y": "1" }))
        yield* Site.plant(root, { "config/x/theirs/": "" })
        const error = yield* Effect.flip(start(root, commit("two", { "config/x": "2" })))
        assert.match(error.message, /config\/x\/theirs/)
        assert.deepStrictEqual(yield* Site.read(root), { "config/x/y": "1", "config/x/theirs/": "" })
      })
    )

    const refused: ReadonlyArray<readonly [string, Site.Tree, Site.Tree, RegExp]> = [
      [
        "a folder with a foreign file",
        { "config/x/theirs": "t" },
        { "config/x": "1" },
        /config\/x is a folder .*config\/x\/theirs/
      ],
      ["a foreign file in the way", { "config/x": "t" }, { "config/x/y": "1" }, /config\/x is no folder/]
    ]
    for (const [name, theirs, tree, expected] of refused) {
      it.effect(`but refuses ${name}`, () =>
        Effect.gen(function* () {
          const root = yield* folder
          yield* Site.plant(root, theirs)
          const error = yield* Effect.flip(start(root, commit("one", { ...tree, "config/other": "2" })))
          assert.match(error.message, expected)
          assert.deepStrictEqual(yield* Site.read(root), theirs)
        })
      )
    }
  })

  describe("compares with the disk", () => {
    it.effect("and puts back what was changed or removed", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const fs = yield* FileSystem.FileSystem
        const wanted = commit("one", { "config/a": "1", "config/b": "2", "config/c": "3" })
        yield* start(root, wanted)
        yield* Site.plant(root, { "config/a": "9" })
        yield* fs.remove(`${root}/config/b`)
        const changes = yield* start(root, wanted)
        assert.deepStrictEqual(
          changes.writes.map(({ path, isNew }) => [path, isNew]),
          [
            ["config/a", false],
            ["config/b", true]
          ]
        )
        assert.deepStrictEqual(yield* Site.read(root), wanted.tree)
      })
    )

    it.effect("by its size too, where the time is the same", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const fs = yield* FileSystem.FileSystem
        const wanted = commit("one", { "config/a": "1" })
        yield* start(root, wanted)
        const { modified } = (yield* Effect.map(Inventory.load, Inventory.filesOf).pipe(
          Effect.provide(Volume.layer(root))
        ))["config/a"]!
        yield* Site.plant(root, { "config/a": "longer" })
        yield* fs.utimes(`${root}/config/a`, modified / 1000, modified / 1000)
        assert.lengthOf((yield* start(root, wanted)).writes, 1)
      })
    )

    it.effect("but takes a resource that the gateway signed for the same", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const wanted = commit("one", { "config/r/resource.json": '{"scope":"A","attributes":{"enabled":true}}' })
        yield* start(root, wanted)
        const signed =
          '{\n "attributes": {"lastModification": {"actor": "x"}, "lastModificationSignature": "f", "enabled": true}, "scope": "A"\n}'
        yield* Site.plant(root, { "config/r/resource.json": signed })
        assert.deepStrictEqual((yield* start(root, wanted)).writes, [])
        yield* Site.plant(root, { "config/r/resource.json": signed.replace("true", "false") })
        assert.lengthOf((yield* start(root, wanted)).writes, 1)
      })
    )
  })

  describe("is refused", () => {
    const one = commit("one", { "config/a": "1", "config/x/b": "1" })
    const two = commit("two", { "config/a": "2", "config/x/b": "2", "config/y/c": "1" })

    it.effect("by a folder, before anything has changed", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* start(root, one)
        for (const refusing of ["config/x", ".stoker"]) {
          const disk = Site.disk(root, (real) => ({
            checkFolders: (paths) =>
              paths.includes(refusing) ? Site.refusal(refusing, "EACCES") : real.checkFolders(paths)
          }))
          const gone = commit("three", { "config/a": "2" })
          for (const wanted of [two, gone]) {
            const error = yield* Effect.flip(Effect.provide(Site.start(wanted), disk))
            assert.include(error.message, `cannot write into ${refusing} in the data directory (EACCES)`)
            assert.deepStrictEqual(yield* Site.read(root), one.tree)
            assert.deepStrictEqual(yield* (yield* FileSystem.FileSystem).readDirectory(`${root}/.stoker`), [
              "applied.json",
              "journal.json"
            ])
          }
        }
      })
    )

    it.effect("for want of room for a folder, before a file has changed", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* start(root, one)
        const disk = Site.disk(root, (real) => ({
          makeFolder: (path) => (path === "config/y" ? Site.refusal(path, "ENOSPC") : real.makeFolder(path))
        }))
        yield* Effect.flip(Effect.provide(Site.start(two), disk))
        assert.deepStrictEqual(yield* Site.read(root), one.tree)
        yield* start(root, two)
        assert.deepStrictEqual(yield* Site.read(root), two.tree)
      })
    )
  })

  describe("ends", () => {
    it.effect("before it is interrupted, but not later than 15 s after", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const wanted = commit("one", { "config/a": "1", "config/b": "2" })
        const stands = Site.disk(root, (real) => ({
          rename: (from, to) => (to === "config/b" ? Effect.never : real.rename(from, to))
        }))
        const applying = yield* Effect.forkChild(Effect.provide(Site.start(wanted), stands))
        const fs = yield* FileSystem.FileSystem
        while (!(yield* fs.exists(`${root}/config/a`))) yield* Effect.yieldNow
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(applying))
        yield* TestClock.adjust("14 seconds")
        assert.isUndefined(interrupting.pollUnsafe())
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(interrupting)
        assert.deepStrictEqual(yield* Site.read(root), { "config/a": "1" })
        yield* Effect.provide(Apply.recover, Volume.layer(root))
        assert.deepStrictEqual(yield* Site.read(root), wanted.tree)
      })
    )
  })

  describe("recovers", () => {
    const before = { "config/a": "1", "config/b": "1", "config/gone": "1" }
    const after = { "config/a": "2", "config/b": "2", "config/new/resource.json": "{}", "config/z/resource.json": "{}" }
    /** Killed in the middle of an apply: after so many of its renames. */
    const halfway = Effect.fnUntraced(function* (renames: number) {
      const root = yield* folder
      yield* start(root, commit("one", before))
      let left = renames
      const disk = Site.disk(root, (real) => ({
        rename: (from, to) => (left-- > 0 ? real.rename(from, to) : Effect.die("killed"))
      }))
      yield* Effect.exit(Effect.provide(Site.start(commit("two", after)), disk))
      return root
    })

    it.effect("and claims no commit when part of the contents is lost, until the disk was compared", () =>
      Effect.gen(function* () {
        const root = yield* halfway(1)
        const fs = yield* FileSystem.FileSystem
        yield* fs.remove(`${root}/config/b`)
        yield* fs.remove(`${root}/.stoker/staging`, { recursive: true })
        for (let starts = 0; starts < 2; starts++) {
          yield* Effect.provide(Apply.recover, Volume.layer(root))
          assert.deepStrictEqual(yield* Site.read(root), {
            "config/a": "2",
            "config/gone": "1",
            "config/new/": "",
            "config/z/": ""
          })
          assert.isUndefined(yield* originOf(root))
          assert.includeMembers([...(yield* inventoryOf(root))], ["config/a", "config/gone"])
        }
        yield* start(root, commit("two", after))
        assert.deepStrictEqual(yield* Site.read(root), after)
        assert.strictEqual(yield* originOf(root), "two")
      })
    )

    it.effect(
      "completes it though the gateway has signed a resource meanwhile, and leaves the claim to a compare",
      () =>
        Effect.gen(function* () {
          const root = yield* halfway(3)
          yield* Site.plant(root, { "config/new/resource.json": '{"attributes":{"lastModificationSignature":"f"}}' })
          yield* Effect.provide(Apply.recover, Volume.layer(root))
          assert.isUndefined(yield* originOf(root))
          assert.deepStrictEqual(yield* inventoryOf(root), Object.keys(after).sort())
          assert.hasAllKeys(yield* Site.read(root), Object.keys(after))
          // A commit that has not got what was new.
          yield* start(root, commit("three", before))
          assert.deepStrictEqual(yield* Site.read(root), before)
          assert.strictEqual(yield* originOf(root), "three")
        })
    )

    it.effect(
      "and when it cannot, what the gateway has signed meanwhile is still ours: it goes with a later commit",
      () =>
        Effect.gen(function* () {
          const root = yield* halfway(3)
          const { writes } = Option.getOrThrow(yield* Effect.provide(Apply.interrupted, Volume.layer(root)))
          yield* Site.plant(root, {
            "config/new/resource.json": '{"attributes":{"lastModificationSignature":"f"}}',
            [writes[3]!.staged]: "damaged"
          })
          yield* Effect.provide(Apply.recover, Volume.layer(root))
          assert.isUndefined(yield* originOf(root))
          assert.include(yield* inventoryOf(root), "config/new/resource.json")
          yield* start(root, commit("three", before))
          assert.deepStrictEqual(yield* Site.read(root), { ...before, "config/z/": "" })
        })
    )

    it.effect("though somebody removed what was renamed: that comes back with the compare", () =>
      Effect.gen(function* () {
        const root = yield* halfway(2)
        const fs = yield* FileSystem.FileSystem
        yield* fs.remove(`${root}/config/a`)
        yield* Effect.provide(Apply.recover, Volume.layer(root))
        const { "config/a": _, ...rest } = after
        assert.deepStrictEqual(yield* Site.read(root), rest)
        assert.isUndefined(yield* originOf(root))
        yield* start(root, commit("two", after))
        assert.deepStrictEqual(yield* Site.read(root), after)
      })
    )

    it.effect("and deletes nothing that came since it was staged", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* start(root, commit("one", { "config/a": "1", "config/b": "1", "config/z": "1" }))
        const killed = Site.disk(root, (real) => ({
          replace: (path, content) =>
            path === ".stoker/applied.json" ? Effect.die("killed") : real.replace(path, content)
        }))
        yield* Effect.exit(Effect.provide(Site.start(commit("two", { "config/z": "2" })), killed))
        assert.deepStrictEqual(yield* Site.read(root), { "config/z": "2" })
        yield* Site.plant(root, { "config/a": "saved by a Designer since" })
        yield* Effect.provide(Apply.recover, Volume.layer(root))
        yield* start(root, commit("two", { "config/z": "2" }))
        assert.deepStrictEqual(yield* Site.read(root), { "config/a": "saved by a Designer since", "config/z": "2" })
        assert.deepStrictEqual(yield* inventoryOf(root), ["config/z"])
      })
    )

    it.effect("and refuses where what came since is in the way of a folder", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* start(root, commit("one", { "config/x": "1" }))
        const two = commit("two", { "config/x/y": "2" })
        const killed = Site.disk(root, () => ({
          makeFolder: (path) => (path === "config/x" ? Effect.die("killed") : Effect.void)
        }))
        yield* Effect.provide(Apply.recover, Volume.layer(root))
        const { staged } = yield* Effect.provide(Site.stage(two), Volume.layer(root))
        yield* Effect.exit(Effect.provide(Apply.commit(staged!), killed))
        yield* Site.plant(root, { "config/x": "saved by a Designer since" })
        assert.match((yield* Effect.flip(start(root, two))).message, /config\/x/)
        assert.deepStrictEqual(yield* Site.read(root), { "config/x": "saved by a Designer since" })
        assert.isUndefined(yield* originOf(root))
      })
    )

    it.effect("nothing of an apply that was called off on a full disk", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const fs = yield* FileSystem.FileSystem
        yield* start(root, commit("one", before))
        const { staged } = yield* Effect.provide(Site.stage(commit("two", after)), Volume.layer(root))
        const staging = `${root}/${staged!.staging}`
        const full = Site.disk(root, (real) => ({
          replace: (path, content) =>
            Effect.flatMap(Effect.orDie(fs.exists(staging)), (isThere) =>
              isThere ? Site.refusal(path, "ENOSPC") : real.replace(path, content)
            )
        }))
        yield* Effect.provide(Apply.discard(staged!.staging, ["projects"]), full)
        assert.deepStrictEqual((yield* fs.readDirectory(`${root}/.stoker`)).sort(), ["applied.json", "journal.json"])
        assert.deepStrictEqual((yield* Effect.provide(Apply.recover, Volume.layer(root))).owed, ["projects"])
        assert.deepStrictEqual(yield* Site.read(root), before)
        assert.strictEqual(yield* originOf(root), "one")
      })
    )

    it.effect("owes what was owed before an apply that was called off", () =>
      Effect.gen(function* () {
        const root = yield* folder
        yield* Effect.gen(function* () {
          yield* Apply.recover
          const { staged } = yield* Site.stage(commit("one", { "config/a": "1" }), { owed: ["projects"] })
          assert.deepStrictEqual(staged?.journal.scans, ["projects", "config"])
          yield* Apply.discard(staged!.staging, ["projects"])
          assert.deepStrictEqual(yield* Apply.recover, { owed: ["projects"], interrupted: false })
        }).pipe(Effect.provide(Volume.layer(root)))
        assert.deepStrictEqual(yield* Site.read(root), {})
      })
    )

    it.effect("owes the scans of an interrupted apply", () =>
      Effect.gen(function* () {
        const root = yield* folder
        const wanted = commit("one", { "projects/p/project.json": "{}", "config/a": "1" })
        const underWay = Effect.map(
          Journal.load,
          Option.exists(({ _tag }) => _tag === "Apply")
        ).pipe(Effect.provide(Volume.layer(root)))
        for (let at = 1; !(yield* underWay); at++) {
          const { layer } = Site.faulty(root, { at, how: "kill" })
          yield* Effect.exit(Effect.provide(Site.start(wanted), layer))
        }
        yield* Effect.gen(function* () {
          assert.deepStrictEqual(yield* Apply.recover, { owed: ["projects", "config"], interrupted: true })
          assert.deepStrictEqual(yield* Apply.recover, { owed: ["projects", "config"], interrupted: false })
          yield* Journal.clear
          assert.deepStrictEqual(yield* Apply.recover, { owed: [], interrupted: false })
        }).pipe(Effect.provide(Volume.layer(root)))
        assert.deepStrictEqual(yield* Site.read(root), wanted.tree)
      })
    )

    const segment = Schema.Literals(["a", "b", "local"])
    const leaf = Schema.Literals(["a", "b", "d.json", "resource.json", "project.json"])
    const file = Schema.Struct({
      top: Schema.Literals(["projects", "config"]),
      folders: Schema.Array(segment).check(Schema.isMaxLength(2)),
      leaf,
      content: Schema.Literals(["1", "2", "333", ""])
    })
    const files = Schema.Array(file).check(Schema.isMaxLength(8))
    const mapping = Schema.Struct({
      source: Schema.Literals(["projects", "config", "projects/a", "config/b"]),
      destination: Schema.Literals(["projects/", "config", "config/a", "projects/b"])
    })
    const mappings = Schema.NonEmptyArray(mapping).check(Schema.isMaxLength(3))
    const case_ = Schema.Struct({
      before: files,
      after: files,
      foreign: files,
      mappings: Schema.Struct({ before: mappings, after: mappings }),
      excluded: Schema.Struct({
        before: Schema.Literals(["none", "**/b/**", "config/**/d.json"]),
        after: Schema.Literals(["none", "**/b/**", "config/**/d.json"])
      }),
      trust: Schema.Literals(["disk", "inventory"]),
      at: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 40 })),
      how: Schema.Literals(["kill", "tear", "full"])
    })
    const treeOf = (list: typeof files.Type): Site.Tree =>
      Object.fromEntries(list.map(({ content, folders, leaf, top }) => [[top, ...folders, leaf].join("/"), content]))
    /** A folder and a file of one name cannot lie in one tree. */
    const possible = (tree: Site.Tree) =>
      Object.keys(tree).every((path) => !Object.keys(tree).some((other) => other.startsWith(`${path}/`)))

    it.effect.prop(
      "to the state before or after, wherever it was killed, and converges",
      [case_],
      ([{ at, excluded, foreign, how, mappings, trust, ...trees }]) =>
        Effect.gen(function* () {
          const root = yield* folder
          const commitOf = (id: "before" | "after"): Site.Commit => ({
            id,
            tree: treeOf(trees[id]),
            mappings: mappings[id],
            excludePatterns: [excluded[id]]
          })
          const one = commitOf("before")
          const two = commitOf("after")
          const theirs = Object.fromEntries(Object.entries(treeOf(foreign)).map(([path, text]) => [`${path}-f`, text]))
          if (![one.tree, two.tree, theirs].every(possible)) return
          yield* Site.plant(root, theirs)
          // Refused, where a foreign file is in the way: then nothing may have happened at all.
          const first = yield* Effect.result(start(root, one))
          const start1 = yield* Site.read(root)
          if (Result.isFailure(first)) return assert.deepStrictEqual(start1, theirs)

          const { layer } = Site.faulty(root, { at, how })
          const exit = yield* Effect.exit(Effect.provide(Site.sync(two, trust), layer))
          yield* Effect.provide(Apply.recover, Volume.layer(root))
          const mended = yield* Site.read(root)
          const ours = Object.keys(mended).filter((path) => !Object.hasOwn(theirs, path))
          assert.deepStrictEqual(yield* inventoryOf(root), ours.sort())
          const claimed = yield* originOf(root)
          const second = yield* Effect.result(start(root, two))
          const end = yield* Site.read(root)
          if (Result.isFailure(second)) {
            assert.deepStrictEqual([mended, end], [start1, start1], `refused: ${second.failure.message}`)
            return
          }
          const plan = Result.getOrThrow(Site.plan(two, {}))
          const expected = Object.fromEntries(
            [...plan.files].map(([path, source]) => [path, two.tree[source.path]!] as const)
          )
          const isExcluded = PathGlob.excludes([excluded.after])
          const kept = Object.fromEntries(Object.entries(start1).filter(([path]) => isExcluded(path)))
          assert.deepStrictEqual(end, { ...kept, ...theirs, ...expected })
          if (exit._tag === "Success") assert.deepStrictEqual(mended, end)
          else assert.deepInclude([start1, end], mended)
          // A commit is claimed only where the disk has it.
          assert.deepStrictEqual(mended, claimed === "after" ? end : start1)
          // The inventory alone says what is there.
          const third = yield* Effect.result(Effect.provide(Site.sync(one, "inventory"), Volume.layer(root)))
          const plan1 = Result.getOrThrow(Site.plan(one, {}))
          if (Result.isSuccess(third)) {
            for (const [path, { path: source }] of plan1.files) {
              assert.strictEqual((yield* Site.read(root))[path], one.tree[source])
            }
          }
        }).pipe(Effect.scoped),
      { arbitrary: { runs: 150 } }
    )
  })
})
