import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Layer, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Settings } from "../../src/agent/Settings.ts"
import { Volume } from "../../src/agent/Volume.ts"
import * as Wanted from "../../src/agent/Wanted.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"

const data = { commit: "1".repeat(40), ref: "main", gitURL: "http://localhost/a.git", profiles: "{}" }
const origin = { commit: data.commit, namespace: "plant", cr: "site", profile: "default", metadata: data }
const inventory = (origin: unknown) => JSON.stringify({ version: 1, origin, files: {} })

/** What a process makes of a volume with this inventory, before it has heard the API server. */
const stateWith = Effect.fnUntraced(function* (applied: string, journal?: unknown) {
  const fs = yield* FileSystem.FileSystem
  const root = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-wanted-test-" })
  yield* fs.makeDirectory(`${root}/.stoker`)
  yield* fs.writeFileString(`${root}/.stoker/applied.json`, applied)
  if (journal !== undefined) yield* fs.writeFileString(`${root}/.stoker/journal.json`, JSON.stringify(journal))
  const environment = { POD_NAME: "p-0", POD_NAMESPACE: "plant", CR_NAME: "site", DATA_PATH: root, API_KEY_FILE: "/k" }
  return yield* Effect.gen(function* () {
    const wanted = yield* Wanted.Wanted
    yield* wanted.useKept
    return yield* wanted.current
  }).pipe(
    Effect.provide(
      Wanted.Wanted.layer.pipe(
        Layer.provide([Volume.layer(root), Layer.mock(ApiClient, {})]),
        Layer.provide(Settings.layer),
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(environment)))
      )
    )
  )
})

layer(NodeServices.layer)("Wanted", (it) => {
  it.effect("without an API server, is that by which the files of this very gateway came", () =>
    Effect.gen(function* () {
      const state = yield* stateWith(inventory(origin))
      assert.strictEqual(state._tag, "Kept")
      assert.strictEqual(Option.getOrThrow(Wanted.dataOf(state)).commit, data.commit)
    })
  )

  it.effect("without an API server, is that of an apply which is to be completed", () =>
    Effect.gen(function* () {
      const commit = "2".repeat(40)
      const next = { ...origin, commit, metadata: { ...data, commit } }
      const journal = { _tag: "Apply", origin: next, clear: [], writes: [], deletes: [], scans: [] }
      const state = yield* stateWith(inventory(origin), journal)
      assert.strictEqual(Option.getOrThrow(Wanted.dataOf(state)).commit, commit)
      const unknown = yield* stateWith(inventory(origin), { ...journal, origin: undefined })
      assert.strictEqual(unknown._tag, "Unheard")
    })
  )

  it.effect("is looked up where it cannot be watched, and only there", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const root = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-wanted-test-" })
      const environment = {
        POD_NAME: "p-0",
        POD_NAMESPACE: "plant",
        CR_NAME: "site",
        DATA_PATH: root,
        API_KEY_FILE: "/k"
      }
      const forbidden = new ApiErrors.ApiError({
        operation: "LIST",
        reason: new ApiErrors.Forbidden({ message: "no watch for you" })
      })
      let found: Record<string, string> | undefined = data
      let gets = 0
      const map = (data: Record<string, string>) => ({
        metadata: { name: "stoker-metadata-site", namespace: "plant", uid: "1", resourceVersion: "1" },
        data
      })
      let watchable = false
      const api = Layer.mock(ApiClient, {
        list: () =>
          watchable
            ? Effect.succeed({ resourceVersion: "1", continue: Option.none(), items: [map(found ?? {})] })
            : Effect.fail(forbidden),
        watch: () => Stream.never,
        get: (_resource, { name }) =>
          Effect.suspend(() => {
            gets++
            return found !== undefined && name === "stoker-metadata-site"
              ? Effect.succeed(map(found))
              : Effect.fail(
                  new ApiErrors.ApiError({ operation: "GET", reason: new ApiErrors.NotFound({ message: "none" }) })
                )
          })
      })
      yield* Effect.gen(function* () {
        const wanted = yield* Wanted.Wanted
        yield* Effect.forkChild(wanted.watch)
        const commit = Effect.map(wanted.current, (state) => Option.map(Wanted.dataOf(state), ({ commit }) => commit))
        yield* wanted.refresh
        assert.deepStrictEqual(yield* commit, Option.some("1".repeat(40)))
        found = { ...data, commit: "2".repeat(40) }
        yield* wanted.refresh
        assert.deepStrictEqual(yield* commit, Option.some("2".repeat(40)))
        found = undefined
        yield* wanted.refresh
        assert.strictEqual((yield* wanted.current)._tag, "Missing")
        found = { ...data, commit: "3".repeat(40) }
        watchable = true
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* commit, Option.some("3".repeat(40)))
        const before = gets
        yield* wanted.refresh
        assert.strictEqual(gets, before)
      }).pipe(
        Effect.provide(
          Wanted.Wanted.layer.pipe(
            Layer.provide([Volume.layer(root), api]),
            Layer.provide(Settings.layer),
            Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(environment)))
          )
        )
      )
    })
  )

  const others: ReadonlyArray<readonly [string, string]> = [
    ["that of another namespace", inventory({ ...origin, namespace: "other" })],
    ["that of another GatewaySync", inventory({ ...origin, cr: "other" })],
    ["that of another profile", inventory({ ...origin, profile: "other" })],
    ["half a file", inventory(origin).slice(0, 40)],
    ["none", inventory({ ...origin, metadata: undefined })],
    ["one without a commit", inventory({ ...origin, metadata: { ...data, commit: "main" } })]
  ]
  for (const [name, file] of others) {
    it.effect(`is unknown where the volume keeps ${name}`, () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* stateWith(file))._tag, "Unheard")
      })
    )
  }
})
