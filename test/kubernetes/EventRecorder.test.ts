import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { ApiError, NotFound, Unreachable } from "../../src/kubernetes/ApiError.ts"
import * as EventRecorder from "../../src/kubernetes/EventRecorder.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Connection from "./Connection.ts"

const regarding = { apiVersion: "v1", kind: "ConfigMap", namespace: "default", name: "thing", uid: "uid" }
const happened = (change: Partial<EventRecorder.Event> = {}): EventRecorder.Event => ({
  type: "Normal",
  regarding,
  reason: "Happened",
  action: "Look",
  note: "it happened",
  ...change
})
const fault = (reason: ApiError["reason"]) => Effect.fail(new ApiError({ operation: "test", reason }))

/** A recorder in a scope of its own, on an API server that answers as told and notes what was written. */
const recorder = Effect.fnUntraced(function* (
  answer: (write: number) => Effect.Effect<unknown, ApiError> = () => Effect.succeed({})
) {
  const writes: Array<string> = []
  const note = (line: string) => Effect.suspend(() => answer(writes.push(line) - 1))
  const client = Layer.mock(ApiClient, {
    create: (_, namespace, body) => note(`create in ${namespace}: ${(body as { readonly note: string }).note}`),
    mergePatch: (_, _ref, body) =>
      note(`series of ${(body as { readonly series: { readonly count: number } }).series.count}`)
  })
  const scope = yield* Scope.fork(yield* Effect.scope)
  const services = yield* EventRecorder.EventRecorder.layer({ controller: "example.org/test", instance: "pod-0" }).pipe(
    Layer.provide(client),
    Layer.buildWithScope(scope)
  )
  const record = (event: EventRecorder.Event) =>
    Effect.flatMap(EventRecorder.EventRecorder, (events) => events.record(event)).pipe(Effect.provide(services))
  return { record, writes, close: Scope.close(scope, Exit.void) }
})

/** Lets the recorder do all that it can do now. */
const settled = Effect.forEach(Array.from({ length: 20 }), () => TestClock.adjust(0), { discard: true })

describe("EventRecorder", () => {
  it.effect("counts what happens again within six minutes, whatever its text", () =>
    Effect.gen(function* () {
      const { record, writes } = yield* recorder()
      yield* record(happened())
      yield* settled
      yield* TestClock.adjust("5 minutes")
      yield* record(happened({ note: "in other words" }))
      yield* settled
      yield* TestClock.adjust("5 minutes")
      yield* record(happened())
      yield* settled
      yield* TestClock.adjust("6 minutes")
      yield* record(happened({ note: "later" }))
      yield* settled
      assert.deepStrictEqual(writes, [
        "create in default: it happened",
        "series of 2",
        "series of 3",
        "create in default: later"
      ])
    })
  )

  it.effect("keeps apart what differs in object, type, action, reason or the other object", () =>
    Effect.gen(function* () {
      const { record, writes } = yield* recorder()
      yield* record(happened())
      yield* record(happened({ regarding: { ...regarding, uid: "another" } }))
      yield* record(happened({ type: "Warning" }))
      yield* record(happened({ action: "Other" }))
      yield* record(happened({ reason: "Other" }))
      yield* record(happened({ related: { ...regarding, uid: "pod" } }))
      yield* settled
      assert.isTrue(writes.every((line) => line.startsWith("create")))
      assert.lengthOf(writes, 6)
    })
  )

  it.effect("makes a new one where the API server has forgotten the series", () =>
    Effect.gen(function* () {
      const { record, writes } = yield* recorder((write) =>
        write === 1 ? fault(new NotFound({ message: "gone" })) : Effect.succeed({})
      )
      yield* record(happened())
      yield* record(happened())
      yield* record(happened())
      yield* settled
      assert.deepStrictEqual(
        writes.map((line) => line.split(" ")[0]),
        ["create", "series", "create", "series"]
      )
    })
  )

  it.effect("tries again for a while, drops what is too much meanwhile, and never holds anybody up", () =>
    Effect.gen(function* () {
      const { record, writes } = yield* recorder((write) =>
        write < 4 ? fault(new Unreachable({ message: "away" })) : Effect.succeed({})
      )
      yield* record(happened())
      yield* settled
      const many = EventRecorder.capacity + 10
      for (let index = 0; index < many; index++) yield* record(happened({ reason: `Reason${index}` }))
      yield* TestClock.adjust("6 seconds")
      assert.lengthOf(writes, 3)
      yield* TestClock.adjust("2 seconds")
      yield* settled
      // The first was given up after four tries, ten found no place.
      assert.lengthOf(writes, 4 + EventRecorder.capacity)
    })
  )

  it.effect("writes at its end what was recorded, but waits no longer than five seconds", () =>
    Effect.gen(function* () {
      const quick = yield* recorder()
      yield* quick.record(happened())
      yield* quick.close
      assert.lengthOf(quick.writes, 1)

      const stuck = yield* recorder(() => Effect.never)
      yield* stuck.record(happened())
      const closing = yield* Effect.forkChild(stuck.close)
      yield* TestClock.adjust("4 seconds")
      assert.isUndefined(closing.pollUnsafe())
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
    })
  )

  it("cuts at whole characters", () => {
    assert.strictEqual(EventRecorder.cut("short", 1024), "short")
    assert.strictEqual(EventRecorder.cut("ä".repeat(5), 10), "ä".repeat(5))
    assert.strictEqual(EventRecorder.cut("ä".repeat(6), 10), "äää…")
    assert.strictEqual(EventRecorder.cut("😀".repeat(300), 1024).length, 255 * 2 + 1)
  })
})

const Written = Schema.Struct({
  items: Schema.Array(
    Schema.Struct({
      note: Schema.String,
      reason: Schema.String,
      reportingInstance: Schema.String,
      regarding: Schema.Struct({ uid: Schema.String }),
      series: Schema.optionalKey(Schema.Struct({ count: Schema.Int }))
    })
  )
})

layer(Connection.layer, { excludeTestServices: true, timeout: "2 minutes" })(
  "EventRecorder on a real API server",
  (it) => {
    it.effect("writes events and their series as the API server takes them", () =>
      Effect.gen(function* () {
        const client = yield* ApiClient
        const services = yield* Layer.build(
          EventRecorder.EventRecorder.layer({ controller: "example.org/test", instance: "pod-0" })
        )
        const { record } = yield* Effect.provide(EventRecorder.EventRecorder, services)
        yield* record(happened({ note: "é".repeat(2000), related: { ...regarding, kind: "Pod", uid: "pod" } }))
        yield* record(happened({ note: "again", related: { ...regarding, kind: "Pod", uid: "pod" } }))
        const read = Effect.flatMap(
          client.request("GET", Resource.path(Resource.events, { namespace: "default" })),
          Schema.decodeUnknownEffect(Written)
        )
        const { items } = yield* read.pipe(
          Effect.repeat({
            until: ({ items }) => items[0]?.series?.count === 2,
            schedule: Schedule.spaced("10 millis")
          }),
          Effect.timeout("20 seconds")
        )
        assert.lengthOf(items, 1)
        assert.strictEqual(Buffer.byteLength(items[0]!.note), 1023)
        assert.strictEqual(items[0]!.reportingInstance, "pod-0")
      })
    )
  }
)
