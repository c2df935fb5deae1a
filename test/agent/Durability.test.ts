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

layer(NodeServices.layer)("an apply", (it) => {
  it.effect("syncs contents, then the journal, then the folders that it renamed into", () =>
    Effect.gen(function* () {
      const root = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped({ prefix: "stoker-durability-" })
      const order = yield* syncedBy(
        root,
        Site.start({
          id: "one",
          tree: { "projects/a/project.json": "{}", "projects/a/x/view.json": "1" },
          mappings: [{ source: "projects", destination: "projects/" }]
        }).pipe(Effect.provide(Volume.layer(root)))
      )
      const contents = order.flatMap((path, at) => (path.startsWith(".stoker/staging/") ? [at] : []))
      const journal = order.findIndex((path) => path.startsWith(".stoker/journal"))
      const folders = ["projects/a", "projects/a/x"].map((folder) => order.lastIndexOf(folder))
      assert.isAtLeast(contents.length, 2, order.join(", "))
      assert.isAbove(journal, Math.max(...contents.slice(0, 2)), order.join(", "))
      for (const folder of folders) assert.isAbove(folder, journal, order.join(", "))
    })
  )
})
