import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Context, Deferred, Effect, Exit, Fiber, FileSystem, Layer, Result, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Owner } from "../../src/agent/Owner.ts"
import { Settings } from "../../src/agent/Settings.ts"
import { Volume } from "../../src/agent/Volume.ts"

const folder = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.makeTempDirectoryScoped({ prefix: "stoker-owner-test-" })
})

/** The agent of a pod, for as long as the scope lives. */
const agent = Effect.fnUntraced(function* (
  root: string,
  uid: string,
  volume: Layer.Layer<Volume> = Volume.layer(root)
) {
  const environment = {
    POD_NAME: `pod-${uid}`,
    POD_NAMESPACE: "plant",
    POD_UID: uid,
    CR_NAME: "site",
    DATA_PATH: root,
    API_KEY_FILE: "/k"
  }
  const layer = Owner.layer.pipe(
    Layer.provide([volume, Settings.layer]),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(environment)))
  )
  return Context.get(yield* Layer.build(Layer.fresh(layer)), Owner)
})

/** Whether the volume was given to it. The disk is real, so the clock goes on bit by bit while something waits for it. */
const claimed = Effect.fnUntraced(function* (owner: (typeof Owner)["Service"]) {
  const claim = yield* Effect.forkChild(Effect.result(owner.claim))
  while (claim.pollUnsafe() === undefined) {
    yield* turn
    yield* TestClock.adjust("1 milli")
  }
  return Result.isSuccess(yield* Fiber.join(claim))
})
const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

layer(NodeServices.layer)("Owner", (it) => {
  it.effect("lets one of two pods write, and names it to the other until it ends", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const scope = yield* Scope.make()
      const one = yield* Effect.provideService(agent(root, "1"), Scope.Scope, scope)
      const two = yield* agent(root, "2")
      yield* one.claim
      yield* one.claim
      assert.match((yield* Effect.flip(two.claim)).message, /in use by the agent of pod plant\/pod-1/)
      yield* Scope.close(scope, Exit.void)
      yield* two.claim
    })
  )

  it.effect("lets only one of two have a volume that nobody has, when both find it so at once", () =>
    Effect.gen(function* () {
      const root = yield* folder
      // Both have looked before either signs.
      const looked = yield* Deferred.make<void>()
      let looks = 0
      const slow = Layer.effect(
        Volume,
        Effect.map(Volume, (volume) =>
          Volume.of({
            ...volume,
            makeFolder: (path) =>
              Effect.gen(function* () {
                if (++looks === 2) yield* Deferred.succeed(looked, undefined)
                yield* Deferred.await(looked)
                yield* volume.makeFolder(path)
              })
          })
        )
      ).pipe(Layer.provide(Volume.layer(root)))
      const pods = [yield* agent(root, "1", slow), yield* agent(root, "2", slow)]
      const results = yield* Effect.forEach(pods, (pod) => Effect.result(pod.claim), { concurrency: 2 })
      assert.strictEqual(results.filter(Result.isSuccess).length, 1)
    })
  )

  it.effect("takes what nobody renewed for half a minute, and keeps what is renewed", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const one = yield* agent(root, "1")
      const two = yield* agent(root, "2")
      yield* one.claim
      const fs = yield* FileSystem.FileSystem
      const mark = fs.readFileString(`${root}/.stoker/owner`)
      const renewing = yield* Effect.forkChild(one.renew)
      for (let times = 0; times < 8; times++) {
        const before = yield* mark
        while ((yield* mark) === before) yield* Effect.andThen(turn, TestClock.adjust("100 millis"))
        assert.isFalse(yield* claimed(two))
      }
      yield* Fiber.interrupt(renewing)
      yield* TestClock.adjust("30 seconds")
      assert.isTrue(yield* claimed(two))
      assert.isFalse(yield* claimed(one))
    })
  )

  const marks: ReadonlyArray<readonly [string, string]> = [
    ["from a clock that is an hour ahead", JSON.stringify({ pod: "plant/pod-9", uid: "9", at: 3_600_000 })],
    ["of which only half is there", '{"pod":']
  ]
  for (const [name, mark] of marks) {
    it.effect(`takes a mark ${name} once it has not changed for half a minute`, () =>
      Effect.gen(function* () {
        const root = yield* folder
        const fs = yield* FileSystem.FileSystem
        yield* fs.makeDirectory(`${root}/.stoker`)
        yield* fs.writeFileString(`${root}/.stoker/owner`, mark)
        const one = yield* agent(root, "1")
        assert.isFalse(yield* claimed(one))
        yield* TestClock.adjust("29 seconds")
        assert.isFalse(yield* claimed(one))
        yield* TestClock.adjust("1 second")
        assert.isTrue(yield* claimed(one))
      })
    )
  }
})
