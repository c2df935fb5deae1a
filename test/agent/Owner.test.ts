import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import {
  ConfigProvider,
  Context,
  Deferred,
  Effect,
  Exit,
  Fiber,
  FileSystem,
  Layer,
  Logger,
  Queue,
  Result,
  Scope
} from "effect"
import { TestClock } from "effect/testing"
import { Owner } from "../../src/agent/Owner.ts"
import { Settings } from "../../src/agent/Settings.ts"
import { Volume } from "../../src/agent/Volume.ts"
import * as Site from "./Site.ts"

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

/** A volume on which something happens before a folder is made, or before or after a file is replaced. */
const hooked = (
  root: string,
  hooks: {
    readonly makeFolder?: Effect.Effect<unknown>
    readonly replace?: Effect.Effect<unknown>
    readonly replaced?: Effect.Effect<unknown>
  }
): Layer.Layer<Volume> =>
  Layer.effect(
    Volume,
    Effect.map(Volume, (volume) =>
      Volume.of({
        ...volume,
        makeFolder: (path) => Effect.andThen(hooks.makeFolder ?? Effect.void, volume.makeFolder(path)),
        replace: (path, content) =>
          Effect.andThen(
            hooks.replace ?? Effect.void,
            Effect.tap(volume.replace(path, content), hooks.replaced ?? Effect.void)
          )
      })
    )
  ).pipe(Layer.provide(Volume.layer(root)))

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
      const looked = yield* Deferred.make<void>()
      const taken = yield* Deferred.make<void>()
      // The slower one has looked before the quicker one signs, and signs after it.
      const slow = hooked(root, {
        makeFolder: Effect.andThen(Deferred.succeed(looked, undefined), Deferred.await(taken))
      })
      const quicker = yield* agent(root, "1")
      const slower = yield* agent(root, "2", slow)
      const late = yield* Effect.forkChild(Effect.flip(slower.claim))
      yield* Deferred.await(looked)
      yield* quicker.claim
      yield* Deferred.succeed(taken, undefined)
      assert.match((yield* Fiber.join(late)).message, /in use by the agent of pod plant\/pod-1/)
      yield* quicker.claim
    })
  )

  it.effect("takes what nobody renewed for half a minute, and keeps what is renewed", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const renewed = yield* Queue.unbounded<void>()
      const one = yield* agent(root, "1", hooked(root, { replaced: Queue.offer(renewed, undefined) }))
      const two = yield* agent(root, "2")
      yield* one.claim
      const renewing = yield* Effect.forkChild(one.renew)
      for (let times = 0; times < 8; times++) {
        yield* turn
        yield* TestClock.adjust("5 seconds")
        yield* Queue.take(renewed)
        assert.isFalse(yield* claimed(two))
      }
      yield* Fiber.interrupt(renewing)
      yield* TestClock.adjust("30 seconds")
      assert.isTrue(yield* claimed(two))
      assert.isFalse(yield* claimed(one))
    })
  )

  it.effect("goes on while the disk refuses its mark, and renews it when it can", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const fs = yield* FileSystem.FileSystem
      const asked = yield* Queue.unbounded<void>()
      let full = false
      const one = yield* agent(
        root,
        "1",
        Site.disk(root, (real) => ({
          replace: (path, content) =>
            Effect.andThen(
              Queue.offer(asked, undefined),
              Effect.suspend(() => (full ? Site.refusal(path, "ENOSPC") : real.replace(path, content)))
            )
        }))
      )
      yield* one.claim
      const before = yield* fs.readFileString(`${root}/.stoker/owner`)
      const renewing = yield* Effect.forkChild(one.renew)
      full = true
      for (let times = 0; times < 30; times++) {
        yield* turn
        yield* TestClock.adjust("5 seconds")
        yield* Queue.take(asked)
      }
      assert.isUndefined(renewing.pollUnsafe())
      full = false
      while ((yield* fs.readFileString(`${root}/.stoker/owner`)) === before) {
        yield* turn
        yield* TestClock.adjust("5 seconds")
      }
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("tells its agent when another had the volume in between", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const fs = yield* FileSystem.FileSystem
      const one = yield* agent(root, "1")
      const first = yield* one.claim
      assert.strictEqual(yield* one.claim, first)
      yield* one.confirm(first)
      yield* fs.writeFileString(`${root}/.stoker/owner`, JSON.stringify({ pod: "plant/pod-2", uid: "2", at: 0 }))
      assert.match((yield* Effect.flip(one.confirm(first))).message, /in use by the agent of pod plant\/pod-2/)
      // It has ended, and everything may be another.
      yield* fs.remove(`${root}/.stoker/owner`)
      const second = yield* one.claim
      assert.notStrictEqual(second, first)
      yield* one.confirm(second)
      assert.isTrue(Result.isFailure(yield* Effect.result(one.confirm(first))))
    })
  )

  it.effect("tells its agent when it stood still in its renewal, and signed over another's mark", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const entered = yield* Deferred.make<void>()
      const leave = yield* Deferred.make<void>()
      const left = yield* Deferred.make<void>()
      const one = yield* agent(
        root,
        "1",
        hooked(root, {
          replace: Effect.andThen(Deferred.succeed(entered, undefined), Deferred.await(leave)),
          replaced: Deferred.succeed(left, undefined)
        })
      )
      const two = yield* agent(root, "2")
      const first = yield* one.claim
      yield* Effect.forkChild(one.renew)
      yield* turn
      yield* TestClock.adjust("5 seconds")
      yield* Deferred.await(entered)
      yield* TestClock.adjust("31 seconds")
      assert.isTrue(yield* claimed(two))
      const theirs = yield* two.claim
      yield* two.confirm(theirs)
      yield* Deferred.succeed(leave, undefined)
      yield* Deferred.await(left)
      yield* turn
      assert.match((yield* Effect.flip(two.confirm(theirs))).message, /in use by the agent of pod plant\/pod-1/)
      assert.match((yield* Effect.flip(one.confirm(first))).message, /while this one stood still/)
      // It may go on, but not with what it knew of the volume.
      assert.notStrictEqual(yield* one.claim, first)
    })
  )

  it.effect("does not count on a mark that it could not renew for half a minute", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const one = yield* agent(root, "1")
      const first = yield* one.claim
      yield* TestClock.adjust("29 seconds")
      yield* one.confirm(first)
      yield* TestClock.adjust("1 second")
      assert.match((yield* Effect.flip(one.confirm(first))).message, /while this one stood still/)
      assert.isTrue(yield* claimed(one))
      const second = yield* one.claim
      assert.notStrictEqual(second, first)
      yield* one.confirm(second)
    })
  )

  it.effect("has at once what a process of the same pod had a moment before", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const scope = yield* Scope.make()
      const killed = yield* Effect.provideService(
        agent(
          root,
          "1",
          Site.disk(root, () => ({ remove: () => Effect.void }))
        ),
        Scope.Scope,
        scope
      )
      yield* killed.claim
      yield* Scope.close(scope, Exit.void)
      const one = yield* agent(root, "1")
      yield* one.confirm(yield* one.claim)
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
