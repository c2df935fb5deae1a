import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option } from "effect"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Store from "../../src/kubernetes/Store.ts"
import type { Event, Identity } from "../../src/kubernetes/Watcher.ts"

interface Thing {
  readonly name: string
  readonly color: string
}

const id = (name: string, resourceVersion: string, uid = `${name}-uid`): Identity => ({
  namespace: "ns",
  name,
  uid,
  resourceVersion
})
const apply = (name: string, version: string, color = "red", uid?: string): Event<Thing> => ({
  _tag: "Apply",
  id: id(name, version, uid),
  object: { name, color }
})
const listed = (...events: ReadonlyArray<Event<Thing>>): ReadonlyArray<Event<Thing>> => [
  { _tag: "Init" },
  ...events.map((event) => (event._tag === "Apply" ? { ...event, _tag: "InitApply" as const } : event)),
  { _tag: "InitDone" }
]
const make = Store.make<Thing>(Resource.configMaps, { color: (thing) => [thing.color] })
const ref = (name: string) => ({ namespace: "ns", name })
const said = (changes: ReadonlyArray<Store.Change<Thing>>) =>
  changes.map(({ after, before, ref: { name } }) => `${name}: ${before?.color ?? "-"} → ${after?.color ?? "-"}`)

describe("Store", () => {
  it.effect("answers nothing before the first list is complete", () =>
    Effect.gen(function* () {
      const { store, write } = yield* make
      const waiting = yield* Effect.forkChild(store.ready, { startImmediately: true })
      yield* write([{ _tag: "Init" }, { ...apply("a", "1"), _tag: "InitApply" } as Event<Thing>])
      assert.strictEqual((yield* Effect.flip(store.get(ref("a"))))._tag, "StoreNotReady")
      assert.isUndefined(waiting.pollUnsafe())
      assert.deepStrictEqual(said(yield* write([{ _tag: "InitDone" }])), ["a: - → red"])
      yield* Fiber.join(waiting)
      assert.deepStrictEqual(yield* store.get(ref("a")), Option.some({ name: "a", color: "red" }))
      assert.deepStrictEqual(yield* store.get(ref("b")), Option.none())
    })
  )

  it.effect("swaps at the end of a list, and announces what vanished and what came back as another", () =>
    Effect.gen(function* () {
      const { store, write } = yield* make
      yield* write(listed(apply("gone", "1"), apply("same", "2"), apply("moved", "3"), apply("again", "4")))
      const swap = listed(apply("same", "2"), apply("moved", "5", "blue"), apply("again", "6", "red", "other-uid"))
      yield* write(swap.slice(0, -1))
      assert.lengthOf(yield* store.all, 4)
      assert.deepStrictEqual(said(yield* write(swap.slice(-1))), [
        "gone: red → -",
        "moved: red → blue",
        "again: red → -",
        "again: - → red"
      ])
      assert.lengthOf(yield* store.all, 3)
    })
  )

  it.effect("keeps its indexes with every change", () =>
    Effect.gen(function* () {
      const { store, write } = yield* make
      yield* write(listed(apply("a", "1"), apply("b", "2")))
      const red = Effect.map(store.by("color", "red"), (things) => things.map(({ name }) => name))
      assert.deepStrictEqual(yield* red, ["a", "b"])
      yield* write([apply("a", "3", "blue")])
      assert.deepStrictEqual(yield* red, ["b"])
      yield* write([{ _tag: "Delete", id: id("b", "4") }])
      assert.deepStrictEqual(yield* red, [])
      yield* write(listed(apply("c", "5")))
      assert.deepStrictEqual(yield* red, ["c"])
      assert.deepStrictEqual(yield* store.by("color", "blue"), [])
    })
  )

  it.effect("keeps the last good version of what cannot be read any more, also over a list", () =>
    Effect.gen(function* () {
      const { store, write } = yield* make
      yield* write(listed(apply("a", "1")))
      const invalid = (initial: boolean): Event<Thing> => ({
        _tag: "Invalid",
        id: Option.some(id("a", "2")),
        message: "bad",
        initial
      })
      assert.deepStrictEqual(yield* write([invalid(false)]), [])
      assert.deepStrictEqual(yield* write(listed(invalid(true))), [])
      assert.isTrue(Option.isSome(yield* store.get(ref("a"))))
    })
  )

  it.effect("shows what we wrote ourselves, and no older version that the watch still brings", () =>
    Effect.gen(function* () {
      const { acknowledge, store, write } = yield* make
      yield* write(listed(apply("a", "9")))
      yield* acknowledge(id("a", "12"), { name: "a", color: "blue" })
      const color = Effect.map(store.get(ref("a")), (thing) => Option.getOrThrow(thing).color)
      assert.strictEqual(yield* color, "blue")
      assert.deepStrictEqual(yield* write([apply("a", "11", "red")]), [])
      assert.strictEqual(yield* color, "blue")
      // The watch brings what is known: nothing to tell.
      assert.deepStrictEqual(yield* write([apply("a", "12", "blue")]), [])
      assert.deepStrictEqual(said(yield* write([apply("a", "13", "green")])), ["a: blue → green"])
      // An answer that comes late is older.
      yield* acknowledge(id("a", "12"), { name: "a", color: "blue" })
      assert.strictEqual(yield* color, "green")
    })
  )

  it.effect("brings nothing back to life by an answer that comes after the deletion", () =>
    Effect.gen(function* () {
      const { acknowledge, store, write } = yield* make
      yield* write(listed(apply("a", "1")))
      yield* write([{ _tag: "Delete", id: id("a", "3") }])
      yield* acknowledge(id("a", "2"), { name: "a", color: "blue" })
      assert.deepStrictEqual(yield* store.get(ref("a")), Option.none())
      yield* write([apply("a", "4", "red", "other-uid")])
      yield* acknowledge(id("a", "5"), { name: "a", color: "blue" })
      assert.deepStrictEqual(yield* store.get(ref("a")), Option.some({ name: "a", color: "red" }))
    })
  )

  it.effect("follows an API server that was set back, once it lists again", () =>
    Effect.gen(function* () {
      const { acknowledge, store, write } = yield* make
      yield* write(listed(apply("a", "100")))
      yield* acknowledge(id("a", "200"), { name: "a", color: "blue" })
      yield* write(listed(apply("a", "50", "red")))
      assert.deepStrictEqual(yield* store.get(ref("a")), Option.some({ name: "a", color: "red" }))
      assert.deepStrictEqual(said(yield* write([apply("a", "51", "green")])), ["a: red → green"])
    })
  )
})
