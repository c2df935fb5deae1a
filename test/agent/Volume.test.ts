import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { type FileHandle, open } from "node:fs/promises"
import { Volume } from "../../src/agent/Volume.ts"

const folder = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.makeTempDirectoryScoped({ prefix: "stoker-volume-test-" })
})

const on = <A, E>(root: string, use: (volume: (typeof Volume)["Service"]) => Effect.Effect<A, E>) =>
  Effect.flatMap(Volume, use).pipe(Effect.provide(Volume.layer(root)))

/** No file can be written while the effect runs: the disk is full. */
const full = <A, E, R>(root: string, effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.promise(async () => {
      const any = await open(root, "r")
      const prototype = Object.getPrototypeOf(any) as FileHandle
      await any.close()
      const writeFile = prototype.writeFile
      prototype.writeFile = () => Promise.reject(Object.assign(new Error("no space"), { code: "ENOSPC" }))
      return () => void (prototype.writeFile = writeFile)
    }),
    () => effect,
    (restore) => Effect.sync(restore)
  )

layer(NodeServices.layer)("Volume", (it) => {
  it.effect("leaves nothing of a file that the disk has no room for", () =>
    Effect.gen(function* () {
      const root = yield* folder
      yield* on(root, (volume) =>
        Effect.gen(function* () {
          const error = yield* Effect.flip(full(root, volume.create("a", Buffer.from("1"))))
          assert.match(error.message, /cannot write a in the data directory \(ENOSPC\): the volume is full/)
          assert.deepStrictEqual(yield* volume.list("."), [])
          yield* volume.create("a", Buffer.from("1"))
          // Somebody else's stays.
          assert.strictEqual((yield* Effect.flip(full(root, volume.create("a", Buffer.from("2"))))).code, "EEXIST")
          assert.deepStrictEqual(yield* volume.list("."), ["a"])
        })
      )
    })
  )

  it.effect("finds that a folder can be written to, or the one that it will be made in, and changes nothing", () =>
    Effect.gen(function* () {
      const root = yield* folder
      yield* on(root, (volume) =>
        Effect.gen(function* () {
          yield* volume.makeFolder("a")
          yield* volume.create("a/file", Buffer.from("1"))
          yield* volume.create(".stoker.none", Buffer.from("theirs"))
          yield* volume.checkFolders([".", "a", "a/b/c", "a/file", "a/file/b"])
          assert.deepStrictEqual([yield* volume.list("."), yield* volume.list("a")], [[".stoker.none", "a"], ["file"]])
        })
      )
    })
  )

  it.effect("finds a folder on another mount before anything is renamed into it", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(on("/", (volume) => volume.checkFolders(["dev/stoker/a"])))
      assert.match(error.message, /cannot write into dev in the data directory \(EXDEV\): .*mount one volume/)
    })
  )

  // The administrator may write everywhere.
  it.effect.skipIf(process.getuid?.() === 0)("finds a folder that it may not write to", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const fs = yield* FileSystem.FileSystem
      yield* fs.makeDirectory(`${root}/a`)
      yield* fs.chmod(`${root}/a`, 0o555)
      const error = yield* Effect.flip(on(root, (volume) => volume.checkFolders([".", "a/b"])))
      assert.match(error.message, /cannot write into a in the data directory \(EACCES\)/)
    })
  )
})
