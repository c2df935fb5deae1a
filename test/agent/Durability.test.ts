/**
 * What a power cut must find: every content on disk before the journal that speaks of it, the journal before the first
 * rename, the renames before the apply says that it is done. Seen by the kernel's own names of what is synced.
 */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { readlinkSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { Volume } from "../../src/agent/Volume.ts"
import * as Site from "./Site.ts"

/** Paths below `root` in the order in which they are synced while the effect runs. @param commands come before those of `PATH` */
const syncedBy = <A, E, R>(root: string, effect: Effect.Effect<A, E, R>, commands?: string) =>
  Effect.acquireUseRelease(
    Effect.promise(async () => {
      const any = await open(root, "r")
      const prototype = Object.getPrototypeOf(any) as FileHandle
      await any.close()
      const order: Array<string> = []
      const sync = prototype.sync
      prototype.sync = function (this: FileHandle) {
        order.push(readlinkSync(`/proc/self/fd/${this.fd}`).slice(root.length + 1))
        return sync.call(this)
      }
      const path = process.env["PATH"]
      if (commands !== undefined) process.env["PATH"] = `${commands}:${path}`
      const restore = () => {
        prototype.sync = sync
        process.env["PATH"] = path
      }
      return { order, restore }
    }),
    ({ order }) => Effect.as(effect, order),
    ({ restore }) => Effect.sync(restore)
  )

/** Something else in place of `sync`; what it says, by call. */
const replaced = Effect.fnUntraced(function* (script: string) {
  const fs = yield* FileSystem.FileSystem
  const command = yield* root
  yield* fs.writeFileString(`${command}/sync`, `#!/bin/sh\n{ ${script}; echo =; } >> "$0.log"\n`)
  yield* fs.chmod(`${command}/sync`, 0o755)
  const calls = Effect.map(fs.readFileString(`${command}/sync.log`), (log) => log.split("=\n").slice(0, -1))
  return { command, calls }
})

const root = Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped({ prefix: "stoker-durability-" }))

layer(NodeServices.layer)("an apply", (it) => {
  it.effect("syncs contents where they are staged, then the journal, then the folders it changed, then says so", () =>
    Effect.gen(function* () {
      const data = yield* root
      const one = { "projects/a/project.json": "{}", "projects/a/x/view.json": "1" }
      const mappings = [{ source: "projects", destination: "projects/" }]
      yield* Effect.provide(Site.start({ id: "one", tree: one, mappings }), Volume.layer(data))
      const two = { "projects/a/project.json": "{2}", "projects/a/y/view.json": "2" }
      const order = yield* syncedBy(
        data,
        Effect.provide(Site.sync({ id: "two", tree: two, mappings }), Volume.layer(data))
      )
      const text = order.join(", ")
      const last = (test: (path: string) => boolean) => order.findLastIndex(test)
      const contents = order.filter((path) => /^\.stoker\/staging\/[^/]+\/\d\/\d$/.test(path))
      assert.lengthOf(contents, 2, text)
      const journal = order.indexOf(".stoker/journal.json.new")
      const staging = ["", "/[^/]+", "/[^/]+/0", "/[^/]+/1", "/[^/]+/0/0", "/[^/]+/1/1"]
      for (const path of staging) {
        const at = last((synced) => new RegExp(`^\\.stoker/staging${path}$`).test(synced))
        assert.isAtLeast(at, 0, `${path}: ${text}`)
        assert.isBelow(at, journal, `${path}: ${text}`)
      }
      const inventory = order.indexOf(".stoker/applied.json.new")
      const done = order.lastIndexOf(".stoker/journal.json.new")
      assert.isBelow(inventory, done, text)
      for (const folder of ["projects", "projects/a", "projects/a/y"]) {
        const at = order.lastIndexOf(folder)
        assert.isAbove(at, journal, `${folder}: ${text}`)
        assert.isBelow(at, inventory, `${folder}: ${text}`)
      }
    })
  )

  const large = {
    id: "large",
    tree: Object.fromEntries(Array.from({ length: 250 }, (_, n) => [`projects/a/f${n}/view.json`, String(n)])),
    mappings: [{ source: "projects", destination: "projects/" }]
  }

  it.effect("of many files syncs the whole file system, before the journal and before it says that it is done", () =>
    Effect.gen(function* () {
      const data = yield* root
      const { calls, command } = yield* replaced(`ls ${data}/.stoker ${data}/projects/a 2>&1`)
      const order = yield* syncedBy(data, Effect.provide(Site.start(large), Volume.layer(data)), command)
      assert.isBelow(order.length, 20, order.join(", "))
      const [before, after, ...more] = yield* calls
      assert.isEmpty(more)
      assert.match(before ?? "", /staging/)
      assert.notMatch(before ?? "", /journal\.json|f249/)
      assert.match(after ?? "", /journal\.json[^]*f249/)
      assert.notMatch(after ?? "", /applied\.json/)
    })
  )

  it.effect("of many files syncs each where the file system cannot be synced as a whole", () =>
    Effect.gen(function* () {
      const data = yield* root
      const { command } = yield* replaced("exit 1")
      const order = yield* syncedBy(data, Effect.provide(Site.start(large), Volume.layer(data)), command)
      const contents = new Set(order.filter((path) => /^\.stoker\/staging\/[^/]+\/\d+\/\d+$/.test(path)))
      assert.strictEqual(contents.size, 250)
    })
  )
})
