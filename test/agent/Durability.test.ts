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

/** Paths below `root` in the order in which they are synced while the effect runs. */
const syncedBy = <A, E, R>(root: string, effect: Effect.Effect<A, E, R>) =>
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
      return { order, restore: () => void (prototype.sync = sync) }
    }),
    ({ order }) => Effect.as(effect, order),
    ({ restore }) => Effect.sync(restore)
  )

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
})
