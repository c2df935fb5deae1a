import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Layer, Option, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { ApiClient, type Page } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Watcher from "../../src/kubernetes/Watcher.ts"

const Thing = Schema.Struct({ metadata: Schema.Struct({ name: Schema.String }), color: Schema.String })

const thing = (name: string, resourceVersion: string, rest: object = { color: "red" }) => ({
  metadata: { name, namespace: "ns", uid: `${name}-uid`, resourceVersion },
  ...rest
})
const line = (type: string, object: object) => JSON.stringify({ type, object })
const bookmark = (resourceVersion: string) => line("BOOKMARK", { metadata: { resourceVersion } })
const gone = line("ERROR", { kind: "Status", reason: "Expired", code: 410, message: "too old" })
const fault = (reason: ApiErrors.Reason) => new ApiErrors.ApiError({ operation: "test", reason })
const unreachable = fault(new ApiErrors.Unreachable({ message: "refused" }))

type ListOptions = Parameters<ApiClient["Service"]["list"]>[1]
type WatchOptions = Parameters<ApiClient["Service"]["watch"]>[1]

const page = (resourceVersion: string, items: ReadonlyArray<unknown>, next?: string): Page => ({
  resourceVersion,
  items,
  continue: Option.fromNullishOr(next)
})

/** An API server that plays its answers one after the other; the last one again and again. Probes are lists of one. */
const observed = Effect.fnUntraced(function* (server: {
  readonly probe?: Effect.Effect<Page, ApiErrors.ApiError>
  readonly lists: ReadonlyArray<Effect.Effect<Page, ApiErrors.ApiError>>
  readonly watches: ReadonlyArray<Stream.Stream<string, ApiErrors.ApiError>>
}) {
  const lists: Array<ListOptions> = []
  const probes: Array<ListOptions> = []
  const watches: Array<WatchOptions & { readonly at: number }> = []
  const events: Array<Watcher.Event<typeof Thing.Type>> = []
  const play = <A>(answers: ReadonlyArray<A>, index: number) => answers[Math.min(index, answers.length - 1)]!
  const client = Layer.mock(ApiClient, {
    list: (_, options) =>
      options.limit === 1
        ? Effect.andThen(
            Effect.sync(() => probes.push(options)),
            options.resourceVersion === "10" ? (server.probe ?? empty) : empty
          )
        : play(server.lists, lists.push(options) - 1),
    watch: (_, options) =>
      Stream.unwrap(
        Effect.map(Clock.currentTimeMillis, (at) => play(server.watches, watches.push({ ...options, at }) - 1))
      )
  })
  yield* Watcher.run({ resource: Resource.configMaps, schema: Thing }, (batch) =>
    Effect.sync(() => void events.push(...batch))
  ).pipe(Effect.provide(client), Effect.forkScoped)
  const told = () =>
    events.map((event) => ("id" in event && event._tag !== "Invalid" ? `${event._tag} ${event.id.name}` : event._tag))
  return { lists, probes, watches, events, told }
})

const empty = Effect.succeed(page("10", []))
const quiet = Stream.never

describe("Watcher", () => {
  it.effect("lists page by page, then watches from the version of the last page", () =>
    Effect.gen(function* () {
      const { lists, told, watches } = yield* observed({
        lists: [Effect.succeed(page("7", [thing("a", "1")], "token")), Effect.succeed(page("7", [thing("b", "2")]))],
        watches: [
          Stream.concat(
            Stream.make(
              line("ADDED", thing("c", "8")),
              line("MODIFIED", thing("a", "9")),
              line("DELETED", thing("b", "10"))
            ),
            quiet
          )
        ]
      })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(told(), [
        "Init",
        "InitApply a",
        "InitApply b",
        "InitDone",
        "Apply c",
        "Apply a",
        "Delete b"
      ])
      assert.deepStrictEqual(
        lists.map(({ continue: token, limit, resourceVersion }) => ({ token, limit, resourceVersion })),
        [
          { token: undefined, limit: 500, resourceVersion: undefined },
          { token: "token", limit: 500, resourceVersion: undefined }
        ]
      )
      assert.strictEqual(watches[0]?.resourceVersion, "7")
      assert.isTrue(watches[0]!.timeoutSeconds >= 240 && watches[0]!.timeoutSeconds < 290)
    })
  )

  it.effect("watches on from the last event or bookmark after a clean end, without a list and without a pause", () =>
    Effect.gen(function* () {
      const { lists, told, watches } = yield* observed({
        lists: [empty],
        watches: [
          Stream.make(line("ADDED", thing("a", "11")), bookmark("15")),
          Stream.make(line("ADDED", thing("b", "16"))),
          quiet
        ]
      })
      for (let turn = 0; turn < 5; turn++) yield* TestClock.adjust(0)
      assert.deepStrictEqual(told(), ["Init", "InitDone", "Apply a", "Apply b"])
      assert.deepStrictEqual(
        watches.map(({ at, resourceVersion }) => [at, resourceVersion]),
        [
          [0, "10"],
          [0, "15"],
          [0, "16"]
        ]
      )
      assert.lengthOf(lists, 1)
    })
  )

  for (const [form, watch] of [
    ["an ERROR event", Stream.make(gone)],
    ["an answer", Stream.fail(fault(new ApiErrors.Expired({ message: "too old" })))]
  ] as const) {
    it.effect(`lists afresh after 410 as ${form}`, () =>
      Effect.gen(function* () {
        const { lists, told } = yield* observed({
          lists: [Effect.succeed(page("10", [thing("a", "1")])), Effect.succeed(page("20", [thing("b", "2")]))],
          watches: [watch, quiet]
        })
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(told(), ["Init", "InitApply a", "InitDone", "Failed", "Init", "InitApply b", "InitDone"])
        assert.isUndefined(lists[1]?.resourceVersion)
      })
    )
  }

  it.effect("starts a list again when a page is too old", () =>
    Effect.gen(function* () {
      const { told } = yield* observed({
        lists: [
          Effect.succeed(page("7", [thing("a", "1")], "token")),
          Effect.fail(fault(new ApiErrors.Expired({ message: "continue token" }))),
          Effect.succeed(page("8", [thing("a", "1")]))
        ],
        watches: [quiet]
      })
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(told(), ["Init", "InitApply a", "Failed", "Init", "InitApply a", "InitDone"])
    })
  )

  it.effect("keeps its place when the connection fails, and waits longer each time, up to 30 to 60 s", () =>
    Effect.gen(function* () {
      const { lists, watches } = yield* observed({ lists: [empty], watches: [Stream.fail(unreachable)] })
      for (let second = 0; second < 600; second++) yield* TestClock.adjust("1 second")
      assert.lengthOf(lists, 1)
      assert.isTrue(watches.every(({ resourceVersion }) => resourceVersion === "10"))
      const pauses = watches.slice(1).map(({ at }, index) => at - watches[index]!.at)
      pauses.forEach((pause, index) => {
        const least = Math.min(30_000, 800 * 2 ** index)
        assert.isTrue(pause >= least - 1 && pause <= least * 2 + 1000, `pause ${index} is ${pause}`)
      })
      assert.isAtLeast(pauses.length, 8)
    })
  )

  it.effect("is back within seconds when an API server is, however long it was away", () =>
    Effect.gen(function* () {
      let away = true
      const { watches } = yield* observed({
        lists: [empty],
        probe: Effect.suspend(() => (away ? Effect.fail(unreachable) : empty)),
        watches: [
          Stream.fail(unreachable),
          // As one does that has just started.
          Stream.fail(fault(new ApiErrors.ServerError({ status: 503, message: "starting" }))),
          quiet
        ]
      })
      for (let second = 0; second < 600; second++) yield* TestClock.adjust("1 second")
      assert.lengthOf(watches, 1)
      away = false
      yield* TestClock.adjust("10 seconds")
      assert.lengthOf(watches, 3)
    })
  )

  it.effect("is not fooled by a server that sends one event and fails", () =>
    Effect.gen(function* () {
      const { watches } = yield* observed({
        lists: [empty],
        watches: [Stream.concat(Stream.make(line("ADDED", thing("a", "11"))), Stream.fail(unreachable))]
      })
      for (let second = 0; second < 100; second++) yield* TestClock.adjust("1 second")
      assert.isAtMost(watches.length, 8)
    })
  )

  it.effect("waits as long as a 429 says", () =>
    Effect.gen(function* () {
      const { watches } = yield* observed({
        lists: [empty],
        watches: [
          Stream.fail(fault(new ApiErrors.TooManyRequests({ retryAfterMillis: 20_000, message: "initializing" }))),
          quiet
        ]
      })
      yield* TestClock.adjust("19 seconds")
      assert.lengthOf(watches, 1)
      yield* TestClock.adjust("6 seconds")
      assert.lengthOf(watches, 2)
    })
  )

  it.effect("cuts a connection that says nothing though bookmarks are due", () =>
    Effect.gen(function* () {
      const { events, watches } = yield* observed({
        lists: [empty],
        watches: [Stream.concat(Stream.make(bookmark("11")), quiet), quiet]
      })
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("128 seconds")
      assert.lengthOf(watches, 1)
      yield* TestClock.adjust("5 seconds")
      assert.lengthOf(watches, 2)
      assert.strictEqual(watches[1]?.resourceVersion, "11")
      const failure = events.find((event) => event._tag === "Failed")
      assert.strictEqual(failure?.error.reason._tag, "TimedOut")
    })
  )

  it.effect("cuts one by the end that it asked for, where an API server never sends bookmarks", () =>
    Effect.gen(function* () {
      const { events, lists, watches } = yield* observed({ lists: [empty], watches: [quiet] })
      // Whether bookmarks come is not known yet.
      yield* TestClock.adjust("131 seconds")
      yield* TestClock.adjust("2 seconds")
      assert.lengthOf(watches, 2)
      const { at, timeoutSeconds } = watches[1]!
      yield* TestClock.setTime(at + (timeoutSeconds + 4) * 1000)
      assert.lengthOf(watches, 2)
      yield* TestClock.adjust("1 second")
      yield* TestClock.adjust("2 seconds")
      assert.lengthOf(watches, 3)
      assert.lengthOf(lists, 1)
      const said = events.flatMap((event) => (event._tag === "Failed" ? [event.error.message] : []))
      assert.match(said[0] ?? "", /not a byte for 130 s/)
      assert.match(said[1] ?? "", new RegExp(`not a byte for ${timeoutSeconds + 5} s`))
    })
  )

  for (const [code, tag] of [
    [500, "ServerError"],
    [403, "Forbidden"]
  ] as const) {
    it.effect(`takes an ERROR event of ${code} for a failure, and watches on from where it was`, () =>
      Effect.gen(function* () {
        const status = { kind: "Status", code, message: "not now" }
        const { events, lists, told, watches } = yield* observed({
          lists: [empty],
          watches: [
            Stream.make(line("ADDED", thing("a", "11")), line("ERROR", status), line("ADDED", thing("b", "12"))),
            quiet
          ]
        })
        yield* TestClock.adjust("700 millis")
        assert.lengthOf(watches, 1)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(told(), ["Init", "InitDone", "Apply a", "Failed"])
        const failure = events.find((event) => event._tag === "Failed")
        assert.deepStrictEqual([failure?.error.reason._tag, failure?.error.reason.message], [tag, "not now"])
        assert.deepStrictEqual(
          watches.map(({ resourceVersion }) => resourceVersion),
          ["10", "11"]
        )
        assert.lengthOf(lists, 1)
      })
    )
  }

  it.effect("does not spin on watches that end at once without a line", () =>
    Effect.gen(function* () {
      const { watches } = yield* observed({ lists: [empty], watches: [Stream.empty] })
      for (let second = 0; second < 60; second++) yield* TestClock.adjust("1 second")
      assert.isAtMost(watches.length, 7)
    })
  )

  it.effect("does not spin on watches that say one line and end at once, again and again, and forgives a few", () =>
    Effect.gen(function* () {
      let version = 10
      const oneLine = Stream.suspend(() => Stream.make(line("MODIFIED", thing("a", String(++version)))))
      const { events, watches } = yield* observed({ lists: [empty], watches: [oneLine] })
      for (let turn = 0; turn < 20; turn++) yield* TestClock.adjust(0)
      assert.lengthOf(watches, 4)
      for (let second = 0; second < 60; second++) yield* TestClock.adjust("1 second")
      assert.isAtMost(watches.length, 10)
      // Nothing is lost, and nothing listed again.
      assert.lengthOf(
        events.filter(({ _tag }) => _tag === "Apply"),
        watches.length
      )
      assert.deepStrictEqual(
        watches.map(({ resourceVersion }) => resourceVersion),
        watches.map((_, index) => String(10 + index))
      )
    })
  )

  const fromTheFuture = Effect.fail(
    fault(new ApiErrors.TooLargeResourceVersion({ message: "Too large resource version" }))
  )
  for (const [when, watch] of [
    ["a watch without a line", Stream.fromEffectDrain(Effect.sleep("100 seconds"))],
    ["a watch that ended at once", Stream.empty],
    ["a failure", Stream.fail(unreachable)]
  ] as const) {
    it.effect(`finds out after ${when} that its resourceVersion lies in the future, and lists afresh`, () =>
      Effect.gen(function* () {
        const { lists, probes, told } = yield* observed({
          lists: [empty, Effect.succeed(page("3", [thing("a", "1")]))],
          watches: [watch, quiet],
          probe: fromTheFuture
        })
        yield* TestClock.adjust("1 second")
        yield* TestClock.adjust("100 seconds")
        yield* TestClock.adjust("4 seconds")
        assert.deepStrictEqual(
          told().filter((what) => what !== "Failed"),
          ["Init", "InitDone", "Init", "InitApply a", "InitDone"]
        )
        assert.strictEqual(probes[0]?.resourceVersion, "10")
        assert.isUndefined(lists[1]?.resourceVersion)
      })
    )
  }

  it.effect("leaves out what it cannot read, and goes on with the rest", () =>
    Effect.gen(function* () {
      const { events, told } = yield* observed({
        lists: [Effect.succeed(page("10", [thing("bad", "1", { color: 1 }), thing("good", "2")]))],
        watches: [
          Stream.concat(
            Stream.make(
              "{ no json",
              line("MODIFIED", thing("good", "11", {})),
              line("ADDED", thing("next", "12")),
              line("DELETED", thing("bad", "13", { color: 1 }))
            ),
            quiet
          )
        ]
      })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(told(), [
        "Init",
        "Invalid",
        "InitApply good",
        "InitDone",
        "Invalid",
        "Invalid",
        "Apply next",
        "Delete bad"
      ])
      const names = events.flatMap((event) =>
        event._tag === "Invalid" ? [Option.getOrUndefined(event.id)?.name ?? "a line"] : []
      )
      assert.deepStrictEqual(names, ["bad", "a line", "good"])
    })
  )

  it("waits between 0.8 s and a minute", () => {
    assert.deepStrictEqual(
      [0, 1, 5, 6, 100].map((failures) => Duration.toMillis(Watcher.backoff(failures, 0))),
      [800, 1600, 25_600, 30_000, 30_000]
    )
    assert.strictEqual(Duration.toMillis(Watcher.backoff(6, 0.5)), 45_000)
  })
})
