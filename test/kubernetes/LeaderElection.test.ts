import { assert, describe, it, layer } from "@effect/vitest"
import { Clock, Context, DateTime, Deferred, Duration, Effect, Fiber, Layer, Ref, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import * as LeaderElection from "../../src/kubernetes/LeaderElection.ts"
import * as MicroTime from "../../src/kubernetes/MicroTime.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Connection from "./Connection.ts"

interface StoredLease {
  readonly metadata: { readonly resourceVersion: string }
  readonly spec: { readonly holderIdentity?: string; readonly renewTime?: string }
}

/**
 * The part of an API server that keeps one Lease, with its optimistic lock. `cut` cuts off all who ask, `stalled` leaves
 * them without an answer until the scope ends.
 */
const server = Effect.sync(() => {
  let lease: StoredLease | undefined
  let version = 0
  let isCut = false
  let isBroken = false
  let isStalled = false
  const fail = (reason: ApiErrors.Reason) => Effect.fail(new ApiErrors.ApiError({ operation: "test", reason }))
  const store = (body: object) => {
    const { spec } = body as StoredLease
    lease = { metadata: { resourceVersion: String(++version) }, spec }
    return Effect.succeed(lease)
  }
  const reachable = <A>(answer: () => Effect.Effect<A, ApiErrors.ApiError>) =>
    Effect.suspend(() =>
      isBroken
        ? Effect.die(new Error("a bug"))
        : isStalled
          ? Effect.never
          : isCut
            ? fail(new ApiErrors.Unreachable({ message: "cut off" }))
            : answer()
    )
  const client = {
    get: () =>
      reachable(() =>
        lease === undefined ? fail(new ApiErrors.NotFound({ message: "no lease" })) : Effect.succeed<unknown>(lease)
      ),
    create: (_resource: unknown, _namespace: unknown, body: object) =>
      reachable(() =>
        lease === undefined ? store(body) : fail(new ApiErrors.AlreadyExists({ message: "there is one" }))
      ),
    request: (_method: unknown, _path: unknown, body?: object) =>
      reachable(() =>
        (body as StoredLease).metadata.resourceVersion === lease?.metadata.resourceVersion
          ? store(body!)
          : fail(new ApiErrors.Conflict({ message: "modified" }))
      )
  }
  return {
    layer: Layer.mock(ApiClient, client),
    cut: (value: boolean) => {
      isCut = value
    },
    break: () => {
      isBroken = true
    },
    stalled: Effect.acquireRelease(
      Effect.sync(() => {
        isStalled = true
      }),
      () =>
        Effect.sync(() => {
          isStalled = false
        })
    ),
    holder: () => lease?.spec.holderIdentity,
    remove: () => {
      lease = undefined
    },
    spec: () => lease?.spec
  }
})

/** Each elector has a term of its own, as each process has. */
const ownTerm = Effect.provideServiceEffect(LeaderElection.Term, Ref.make(Number.NEGATIVE_INFINITY))

/** An elector whose work notes when it began. */
const elector = Effect.fnUntraced(function* (client: Layer.Layer<ApiClient>, identity: string) {
  const leading = yield* Deferred.make<number>()
  const lost = yield* Deferred.make<number>()
  const mark = (deferred: Deferred.Deferred<number>) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => Deferred.succeed(deferred, now))
  const fiber = yield* LeaderElection.lead(
    { namespace: "default", name: "lease", identity, lost: mark(lost) },
    Effect.andThen(mark(leading), Effect.never)
  ).pipe(Effect.provide(client), ownTerm, Effect.forkScoped)
  return {
    fiber,
    isLost: Deferred.isDone(lost),
    isLeading: Deferred.isDone(leading)
  }
})

const seconds = (count: number) =>
  Effect.forEach(Array.from({ length: count }), () => TestClock.adjust("1 second"), { discard: true })

describe("LeaderElection", () => {
  it.effect("lets one of two lead, for as long as it renews", () =>
    Effect.gen(function* () {
      const api = yield* server
      const first = yield* elector(api.layer, "first")
      yield* seconds(3)
      const second = yield* elector(api.layer, "second")
      yield* seconds(120)
      assert.isTrue(yield* first.isLeading)
      assert.isFalse(yield* second.isLeading)
      assert.isFalse(yield* first.isLost)
      assert.strictEqual(api.holder(), "first")
    })
  )

  it.effect("hands over within a retry when the leader stops", () =>
    Effect.gen(function* () {
      const api = yield* server
      const first = yield* elector(api.layer, "first")
      yield* seconds(3)
      const second = yield* elector(api.layer, "second")
      yield* seconds(10)
      yield* Fiber.interrupt(first.fiber)
      assert.strictEqual(api.holder(), "")
      yield* seconds(3)
      assert.isTrue(yield* second.isLeading)
    })
  )

  it.effect(
    "gives back what it took a moment before it had to stop, and asks for nothing that it never asked for",
    () =>
      Effect.gen(function* () {
        const api = yield* server
        const written = yield* Deferred.make<void>()
        const asked: Array<string> = []
        const client = yield* Effect.provide(ApiClient, api.layer)
        const unanswered = Layer.succeed(ApiClient, {
          ...client,
          get: (...args) =>
            Effect.andThen(
              Effect.sync(() => asked.push("get")),
              client.get(...args)
            ),
          create: (...args) =>
            client.create(...args).pipe(
              Effect.andThen(Deferred.succeed(written, undefined)),
              // The answer is on its way when SIGTERM comes.
              Effect.andThen(Effect.never)
            )
        })
        const first = yield* elector(unanswered, "first")
        yield* Deferred.await(written)
        assert.strictEqual(api.holder(), "first")
        yield* Fiber.interrupt(first.fiber)
        assert.strictEqual(api.holder(), "")

        yield* elector(api.layer, "second")
        yield* seconds(3)
        assert.strictEqual(api.holder(), "second")
        const third = yield* elector(unanswered, "third")
        yield* seconds(3)
        const before = asked.length
        yield* Fiber.interrupt(third.fiber)
        assert.strictEqual(asked.length, before)
      })
  )

  it.effect("takes over from a leader that is gone without a word, after the lease and a retry", () =>
    Effect.gen(function* () {
      const api = yield* server
      // It led once, and never renews.
      yield* api.layer.pipe(
        Layer.build,
        Effect.flatMap((context) =>
          Effect.provide(
            Effect.flatMap(ApiClient, (client) =>
              client.create(
                Resource.leases,
                "default",
                {
                  spec: { holderIdentity: "gone", leaseDurationSeconds: 15, renewTime: "2099-01-01T00:00:00.000000Z" }
                },
                { fieldManager: "gone" }
              )
            ),
            context
          )
        )
      )
      const second = yield* elector(api.layer, "second")
      yield* seconds(14)
      assert.isFalse(yield* second.isLeading)
      yield* seconds(4)
      assert.isTrue(yield* second.isLeading)
    })
  )

  it.effect("says that the lease is lost when it could not be renewed for ten seconds, before another can lead", () =>
    Effect.gen(function* () {
      const api = yield* server
      const first = yield* elector(api.layer, "first")
      yield* seconds(3)
      api.cut(true)
      yield* seconds(8)
      assert.isFalse(yield* first.isLost)
      yield* seconds(5)
      assert.isTrue(yield* first.isLost)
    })
  )

  it.effect("says so by then also when the API server leaves it without an answer", () =>
    Effect.gen(function* () {
      const api = yield* server
      const first = yield* elector(api.layer, "first")
      yield* seconds(3)
      yield* api.stalled
      const renewed = Date.parse(api.spec()!.renewTime!)
      const now = yield* Clock.currentTimeMillis
      yield* TestClock.adjust(Duration.millis(renewed + 10_000 - now))
      assert.isTrue(yield* first.isLost)
    })
  )

  it.effect("leads no more as soon as it reads that another does: somebody deleted the Lease", () =>
    Effect.gen(function* () {
      const api = yield* server
      const electors = [yield* elector(api.layer, "first"), yield* elector(api.layer, "second")]
      yield* seconds(3)
      const [leader, other] = (yield* electors[0]!.isLeading) ? electors : electors.toReversed()
      // Whoever looks first takes it: until it is the other one.
      while (!(yield* other!.isLeading)) {
        api.remove()
        yield* TestClock.adjust("100 millis")
      }
      yield* seconds(3)
      assert.isTrue(yield* leader!.isLost)
      assert.isFalse(yield* other!.isLost)
    })
  )

  it.effect("a bug in the renewal is a lost lease too: a leader that does not renew is none", () =>
    Effect.gen(function* () {
      const api = yield* server
      const first = yield* elector(api.layer, "first")
      yield* seconds(3)
      api.break()
      yield* seconds(3)
      assert.isTrue(yield* first.isLost)
    })
  )

  it.effect("bears an API server that is away for a moment", () =>
    Effect.gen(function* () {
      const api = yield* server
      const first = yield* elector(api.layer, "first")
      yield* seconds(3)
      api.cut(true)
      yield* seconds(7)
      api.cut(false)
      yield* seconds(30)
      assert.isFalse(yield* first.isLost)
      assert.strictEqual(api.holder(), "first")
    })
  )

  it.effect("keeps the lease while its work drains", () =>
    Effect.gen(function* () {
      const api = yield* server
      const drained = yield* Deferred.make<void>()
      const fiber = yield* LeaderElection.lead(
        { namespace: "default", name: "lease", identity: "first", lost: Effect.void },
        Effect.onInterrupt(Effect.never, () => Deferred.await(drained))
      ).pipe(Effect.provide(api.layer), ownTerm, Effect.forkScoped)
      yield* seconds(3)
      const second = yield* elector(api.layer, "second")
      const stopped = yield* Effect.forkScoped(Fiber.interrupt(fiber))
      yield* seconds(60)
      assert.strictEqual(api.holder(), "first")
      assert.isFalse(yield* second.isLeading)
      yield* Deferred.succeed(drained, undefined)
      yield* Fiber.join(stopped)
      yield* seconds(3)
      assert.isTrue(yield* second.isLeading)
    })
  )

  it.effect("lets its work write for as long as it renews in time, and no longer", () =>
    Effect.gen(function* () {
      const api = yield* server
      const asked: Array<string> = []
      const note = (what: string) => () => Effect.sync(() => asked.push(what))
      const plant = Layer.mock(ApiClient, {
        get: note("get"),
        create: note("create"),
        mergePatch: note("mergePatch"),
        jsonPatch: note("jsonPatch"),
        apply: note("apply"),
        delete: () => Effect.sync(() => void asked.push("delete")),
        request: (method) => Effect.sync(() => asked.push(method))
      })
      const term = yield* Ref.make(Number.NEGATIVE_INFINITY)
      const haveTerm = Effect.provideService(LeaderElection.Term, term)
      const guarded = yield* Effect.map(
        Layer.build(LeaderElection.whileLeading.pipe(Layer.provide(plant))),
        Context.get(ApiClient)
      ).pipe(haveTerm)
      const ref = { namespace: "plant", name: "site" }
      const by = { fieldManager: "test" }
      const writes = [
        guarded.create(Resource.configMaps, "plant", {}, by),
        guarded.mergePatch(Resource.configMaps, ref, {}, by),
        guarded.jsonPatch(Resource.configMaps, ref, [], by),
        guarded.apply(Resource.configMaps, ref, {}, by),
        guarded.delete(Resource.configMaps, ref),
        guarded.request("POST", "/apis", {})
      ]
      const refused = Effect.gen(function* () {
        asked.length = 0
        for (const write of writes) assert.strictEqual((yield* Effect.flip(write)).reason._tag, "NotLeading")
        yield* guarded.get(Resource.configMaps, ref)
        yield* guarded.request("GET", "/apis")
        assert.deepStrictEqual(asked, ["get", "GET"])
      })

      yield* refused
      const fiber = yield* LeaderElection.lead(
        { namespace: "default", name: "lease", identity: "first", lost: Effect.void },
        Effect.never
      ).pipe(Effect.provide(api.layer), haveTerm, Effect.forkScoped)
      yield* seconds(60)
      yield* Effect.all(writes)
      assert.deepStrictEqual(asked.slice(2), ["create", "mergePatch", "jsonPatch", "apply", "delete", "POST"])

      api.cut(true)
      yield* seconds(7)
      yield* Effect.all(writes)
      // As when the process stood still: nothing of it has run since, and its clock says how long.
      yield* Ref.update(term, (renewed) => renewed - 10_000)
      yield* refused
      api.cut(false)
      yield* seconds(3)
      yield* Effect.all(writes)
      yield* Fiber.interrupt(fiber)
      yield* refused
    })
  )

  it("writes times with six digits", () => {
    assert.strictEqual(MicroTime.format(DateTime.makeUnsafe(1_700_000_000_005)), "2023-11-14T22:13:20.005000Z")
  })
})

layer(Connection.layer, { excludeTestServices: true, timeout: "2 minutes" })(
  "LeaderElection on a real API server",
  (it) => {
    it.effect("takes, renews and gives back", () =>
      Effect.gen(function* () {
        const client = yield* ApiClient
        const ref = { namespace: "default", name: "lease" }
        const read = Effect.map(client.get(Resource.leases, ref), (lease) => lease as StoredLease)
        const fiber = yield* LeaderElection.lead({ ...ref, identity: "first", lost: Effect.void }, Effect.never).pipe(
          ownTerm,
          Effect.forkScoped
        )
        const until = (isSo: (lease: StoredLease) => boolean) =>
          read.pipe(
            Effect.retry(Schedule.spaced("20 millis")),
            Effect.repeat({ until: isSo, schedule: Schedule.spaced("20 millis") }),
            Effect.timeout(Duration.seconds(20))
          )
        const taken = yield* until(({ spec }) => spec.holderIdentity === "first")
        yield* until(({ spec }) => spec.renewTime !== taken.spec.renewTime)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* read).spec.holderIdentity, "")
      })
    )
  }
)
