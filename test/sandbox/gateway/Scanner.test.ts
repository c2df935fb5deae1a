import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FileSystem from "effect/FileSystem"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as Scanner from "../../../src/sandbox/gateway/Scanner.ts"

const make = Effect.gen(function* () {
  const dataDir = yield* FileSystem.FileSystem.pipe(Effect.flatMap((_) => _.makeTempDirectoryScoped()))
  return yield* Scanner.make({ dataDir, duration: 0, resigns: false })
})

const lock = {
  actor: "eve",
  acquireTimeout: Duration.seconds(10),
  holdTimeout: Duration.seconds(60),
  idle: Effect.void
}

// The test clock stands still: whatever is compared by time here is the same moment.
describe("Scanner", () => {
  it.effect("stamps each scan newer than the one before, in the same millisecond too", () =>
    Effect.gen(function* () {
      const scanner = yield* make
      const stamps: Array<number> = []
      for (let i = 0; i < 3; i++) {
        yield* scanner.request("config", undefined)
        yield* scanner.idle("config")
        stamps.push((yield* scanner.state("config")).lastScanTimestamp)
      }
      assert.deepStrictEqual(stamps, [1, 2, 3])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  it.effect("scans by timer only when nobody holds the lock", () =>
    Effect.gen(function* () {
      const scanner = yield* make
      yield* scanner.locks.projects.acquire(lock)
      const timer = yield* Effect.forkChild(scanner.scanByTimer("projects"), { startImmediately: true })
      assert.isFalse((yield* scanner.state("projects")).scanActive)
      yield* scanner.locks.projects.release
      yield* Fiber.join(timer)
      yield* scanner.idle("projects")
      const causes = (yield* SubscriptionRef.get(scanner.history)).map((_) => _.cause)
      assert.deepStrictEqual(causes, ["timer"])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )

  it.effect("keeps what a scan of the other kind has loaded meanwhile", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const dataDir = yield* fs.makeTempDirectoryScoped()
      const scanner = yield* Scanner.make({ dataDir, duration: 0, resigns: false })
      yield* fs.makeDirectory(`${dataDir}/projects/p`, { recursive: true })
      yield* fs.writeFileString(`${dataDir}/projects/p/project.json`, "{}")
      yield* fs.makeDirectory(`${dataDir}/config/resources/core`, { recursive: true })
      yield* fs.writeFileString(`${dataDir}/config/resources/core/config-mode.json`, "{}")
      yield* scanner.request("projects", undefined)
      yield* scanner.request("config", undefined)
      yield* scanner.idle("projects")
      yield* scanner.idle("config")
      const model = Scanner.modelOf(yield* SubscriptionRef.get(scanner.history))
      assert.deepStrictEqual([Object.keys(model.projects), Object.keys(model.collections)], [["p"], ["core"]])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )
})
