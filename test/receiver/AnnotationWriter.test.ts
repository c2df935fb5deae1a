import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Scope } from "effect"
import { request as keys } from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import type { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import * as Precedence from "../../src/kubernetes/Precedence.ts"
import * as AnnotationWriter from "../../src/receiver/AnnotationWriter.ts"
import { MemoryApi } from "./MemoryApi.ts"

const site = { namespace: "plant", name: "site" }
const to = (ref: string): ReadonlyArray<RequestedRef.Delivery> => [{ _tag: "Promotion", by: "generic", ref, id: ref }]

/** What makes a GatewaySync a synced one, see `GatewaySync.progress`. */
const synced = {
  observedGeneration: 1,
  conditions: ["RefResolved", "AllGatewaysSynced"].map((type) => ({
    type,
    status: "True",
    reason: "x",
    message: "",
    lastTransitionTime: "2026-01-01T00:00:00Z"
  })),
  discoveredGateways: [{ name: "g", namespace: "plant", podName: "g-0", syncStatus: "Synced" }]
}

const run = <A, E>(
  test: (writer: AnnotationWriter.AnnotationWriter) => Effect.Effect<A, E, MemoryApi | ApiClient | Scope.Scope>
) =>
  Effect.gen(function* () {
    const api = yield* MemoryApi
    yield* api.put("site")
    return yield* test(yield* AnnotationWriter.make(api.store))
  }).pipe(Effect.scoped, Effect.provide(MemoryApi.layer))

describe("AnnotationWriter", () => {
  it.live("what another replica wrote meanwhile is decided on anew, not overwritten", () =>
    run((writer) =>
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* writer.write(site, to("a"), Option.none())
        const other = yield* AnnotationWriter.make(api.store)
        // The store has heard of neither.
        yield* other.write(site, to("b"), Option.none())
        yield* writer.write(site, to("c"), Option.none())
        const found = yield* api.annotations("site")
        assert.strictEqual(found[keys.ref], "c")
        assert.deepStrictEqual(JSON.parse(found[keys.deliveries]!), [{ id: "a" }, { id: "b" }, { id: "c" }])
      })
    )
  )

  it.live("a push is not told that it is for nobody on the word of a store that has not heard of the request", () =>
    run((writer) =>
      Effect.gen(function* () {
        const api = yield* MemoryApi
        const other = yield* AnnotationWriter.make(api.store)
        yield* other.write(site, to("release"), Option.none())
        // The store still shows that the site follows main.
        const { decision } = yield* writer.write(
          site,
          [{ _tag: "Push", by: "github", ref: "release", kind: "branch", id: "push-1" }],
          Option.none()
        )
        assert.strictEqual(decision._tag, "Write")
        assert.include((yield* api.annotations("site"))[keys.pushed] ?? "", "push-1")
      })
    )
  )

  it.live("a repeated release is not told that it is done on the word of a store that has not heard of another", () =>
    run((writer) =>
      Effect.gen(function* () {
        const api = yield* MemoryApi
        const release = (id: string, ref: string): ReadonlyArray<RequestedRef.Delivery> => [
          { _tag: "Promotion", by: "github", ref, id, digest: ref }
        ]
        yield* writer.write(site, release("1", "v1"), Option.none())
        const asked = yield* api.annotations("site")
        const status = { lastHandledRequest: RequestedRef.fingerprint(asked) }
        // All is done in the store's eyes, and the API server knows of v2 already.
        yield* api.put("site", { annotations: { ...asked }, status: { ...status, ...synced } })
        const other = yield* AnnotationWriter.make(api.store)
        yield* other.write(site, release("2", "v2"), Option.none())
        const { decision } = yield* writer.write(site, release("1", "v1"), Option.none())
        assert.strictEqual(decision._tag, "NotForUs")
      })
    )
  )

  it.live("no more than 1024 wait for one GatewaySync: the next is told to come again", () =>
    run((writer) =>
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.gate.close
        yield* Effect.forkChild(writer.write(site, to("v"), Option.none()))
        yield* api.atGate(1)
        const waiting = yield* Effect.forEach(
          Array.from({ length: 1024 }, (_, index) => `v${index}`),
          (ref) => Effect.forkChild(writer.write(site, to(ref), Option.none()), { startImmediately: true })
        )
        const more = yield* Effect.flip(writer.write(site, to("more"), Option.none()))
        assert.strictEqual(more._tag, "NotTaken")
        yield* api.gate.open
        yield* Effect.forEach(waiting, Fiber.join)
        assert.strictEqual((yield* api.annotations("site"))[keys.ref], "v1023")
      })
    )
  )

  it.live("a patch that is refused for itself is not tried for ever", () =>
    run((writer) =>
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.refuse(Option.some(new ApiErrors.Invalid({ status: 422, message: "too long" })))
        const error = yield* Effect.flip(writer.write(site, to("a"), Option.none()))
        assert.include(error.message, "too long")
        const calls = yield* api.calls
        assert.isAtMost(calls.length, 4)
      })
    )
  )

  it.live("when it ends, what waits is not taken, and says so", () =>
    Effect.gen(function* () {
      const api = yield* MemoryApi
      yield* api.put("site")
      yield* api.gate.close
      const scope = yield* Scope.make()
      const writer = yield* AnnotationWriter.make(api.store).pipe(Scope.provide(scope))
      const flying = yield* Effect.forkChild(Effect.flip(writer.write(site, to("a"), Option.none())))
      yield* api.atGate(1)
      const waiting = yield* Effect.forkChild(Effect.flip(writer.write(site, to("b"), Option.none())))
      yield* Effect.yieldNow
      yield* Scope.close(scope, Exit.void)
      assert.include((yield* Fiber.join(flying)).message, "stopping")
      assert.include((yield* Fiber.join(waiting)).message, "stopping")
    }).pipe(Effect.provide(MemoryApi.layer))
  )

  it.live("a defect fails its deliveries and no others", () =>
    run((writer) =>
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.gate.close
        yield* api.breakOnce
        const first = yield* Effect.forkChild(Effect.exit(writer.write(site, to("a"), Option.none())))
        yield* api.atGate(1)
        const second = yield* Effect.forkChild(writer.write(site, to("b"), Option.none()))
        yield* Effect.yieldNow
        yield* api.gate.open
        assert.isTrue(Exit.isFailure(yield* Fiber.join(first)))
        assert.strictEqual((yield* Fiber.join(second)).decision._tag, "Write")
        assert.strictEqual((yield* api.annotations("site"))[keys.ref], "b")
      })
    )
  )

  it.live("its work goes first from its beginning to its end, since a sender waits for it", () =>
    Effect.gen(function* () {
      const precedence = yield* Precedence.make
      let first = 0
      const counting: Precedence.Precedence = {
        ...precedence,
        first: (work) =>
          Effect.acquireUseRelease(
            Effect.sync(() => first++),
            () => work,
            () => Effect.sync(() => first--)
          )
      }
      yield* run((writer) =>
        Effect.gen(function* () {
          const api = yield* MemoryApi
          yield* api.gate.close
          const writing = yield* Effect.forkChild(writer.write(site, to("a"), Option.none()))
          yield* api.atGate(1)
          assert.strictEqual(first, 1)
          yield* api.gate.open
          yield* Fiber.join(writing)
          // The next of this GatewaySync begins when the former has ended.
          yield* writer.write(site, to("b"), Option.none())
        })
      ).pipe(Effect.provideService(Precedence.Current, counting))
      assert.strictEqual(first, 0)
    })
  )
})
