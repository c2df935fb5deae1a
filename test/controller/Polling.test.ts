import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer, Redacted, Result } from "effect"
import { TestClock } from "effect/testing"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as Names from "../../src/api/Names.ts"
import { InstallationTokens } from "../../src/controller/InstallationTokens.ts"
import { Memory } from "../../src/controller/Memory.ts"
import { Metrics } from "../../src/controller/Metrics.ts"
import { SharedRefs } from "../../src/controller/SharedRefs.ts"
import * as Resolve from "../../src/controller/steps/Resolve.ts"
import { GitError } from "../../src/git/GitError.ts"
import { RemoteRefs } from "../../src/git/RemoteRefs.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { commit, gatewaySync, resolved } from "./fixtures.ts"

interface Asked {
  readonly refs: ReadonlyArray<string>
  readonly repository: string
  readonly at: number
  /** The token that was sent. */
  readonly token: string
}

/** A remote that counts who asks for which refs, and with what; it may be down. Secrets hold their own place as token. */
const remote = Effect.sync(() => {
  const asked: Array<Asked> = []
  /** The Secrets that were read, `namespace/name`. */
  const read: Array<string> = []
  let isDown = false
  const resolveAll: RemoteRefs["Service"]["resolveAll"] = Effect.fnUntraced(function* ({ credentials, refs, url }) {
    const token = credentials._tag === "Basic" ? Redacted.value(credentials.password) : ""
    asked.push({ refs, repository: url.href, at: yield* Clock.currentTimeMillis, token })
    yield* Effect.sleep(20)
    return new Map(
      refs.map((ref) => [
        ref,
        isDown
          ? Result.fail(new GitError({ repository: url.display, reason: { _tag: "Refused", host: "git" } }))
          : Result.succeed({ ref, kind: "branch", commit })
      ])
    )
  })
  return {
    asked,
    read,
    down: (value: boolean) => {
      isDown = value
    },
    layer: SharedRefs.layerNoDeps.pipe(
      Layer.provide(Layer.mock(RemoteRefs, { resolveAll })),
      Layer.merge(Memory.layer),
      Layer.merge(Metrics.layer),
      Layer.merge(
        Layer.mock(ApiClient, {
          get: (_, ref) =>
            Effect.sync(() => {
              const place = Resource.key(ref)
              read.push(place)
              return {
                metadata: { resourceVersion: "1" },
                data: { token: Buffer.from(place).toString("base64") }
              }
            })
        })
      ),
      Layer.merge(Layer.mock(InstallationTokens, {}))
    )
  }
})

/** What the queue does with one GatewaySync that nothing happens to. */
const follow = Effect.fnUntraced(function* (cr: ReturnType<typeof gatewaySync>) {
  const inForce = RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref)
  while (true) {
    const { nextLook } = yield* Resolve.resolve(cr, inForce, { repository: cr.spec.git.repo, commit: undefined })
    yield* Effect.sleep(nextLook - (yield* Clock.currentTimeMillis))
  }
})

const one = (index: number, options: Parameters<typeof gatewaySync>[0] = {}) =>
  gatewaySync({ metadata: { uid: `uid-${index}`, name: `site-${index}` }, status: resolved, ...options })

const seconds = (count: number) =>
  Effect.forEach(Array.from({ length: count }), () => TestClock.adjust("1 second"), { discard: true })

const minutes = (count: number) =>
  Effect.forEach(Array.from({ length: count }), () => TestClock.adjust("1 minute"), { discard: true })

describe("Polling", () => {
  it.effect("asks once an interval for a thousand GatewaySyncs of one remote, whenever each was made", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* remote
      yield* Effect.gen(function* () {
        for (let index = 0; index < 1000; index++) {
          yield* Effect.forkScoped(follow(one(index)))
          if (index % 20 === 0) yield* TestClock.adjust("1 second")
        }
        // The first round brings them together.
        yield* seconds(120)
        asked.length = 0
        yield* seconds(600)
      }).pipe(Effect.provide(layer))
      assert.isAtLeast(asked.length, 9)
      assert.isAtMost(asked.length, 11)
    })
  )

  it.effect(
    "asks once an interval for many GatewaySyncs on different refs of one remote, and apart for another one",
    () =>
      Effect.gen(function* () {
        const { asked, layer } = yield* remote
        yield* Effect.gen(function* () {
          for (let index = 0; index < 200; index++) {
            const ref = `v${index}`
            yield* Effect.forkScoped(follow(one(index, { git: { ref }, status: { ...resolved, lastSyncRef: ref } })))
            if (index % 10 === 0) yield* TestClock.adjust("1 second")
          }
          const elsewhere = { repo: "https://git.example.com/other.git", ref: "other" }
          yield* Effect.forkScoped(follow(one(1000, { git: elsewhere, status: { ...resolved, lastSyncRef: "other" } })))
          yield* seconds(120)
          asked.length = 0
          yield* seconds(600)
        }).pipe(Effect.provide(layer))
        const [others, many] = [
          asked.filter(({ refs }) => refs.includes("other")),
          asked.filter(({ refs }) => !refs.includes("other"))
        ]
        assert.isAtLeast(many.length, 9)
        assert.isAtMost(many.length, 11)
        assert.isTrue(many.every(({ refs }) => refs.length === 200))
        assert.isTrue(others.every(({ refs }) => refs.length === 1))
      })
  )

  it.effect("asks nothing for those that follow a commit, which stands for itself", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* remote
      yield* Effect.gen(function* () {
        for (let index = 0; index < 100; index++) {
          const ref = index.toString(16).padStart(40, "0")
          const status = { ...resolved, lastSyncRef: ref, lastSyncRefKind: "commit", lastSyncCommit: ref }
          yield* Effect.forkScoped(follow(one(index, { git: { ref }, status })))
        }
        yield* seconds(600)
      }).pipe(Effect.provide(layer))
      assert.deepStrictEqual(asked, [])
    })
  )

  it.effect("shares nothing between two Secrets, of one namespace or of two, and reads each once a poll", () =>
    Effect.gen(function* () {
      const { asked, layer, read } = yield* remote
      const places = ["plant/one", "plant/two", "other/one"]
      yield* Effect.gen(function* () {
        for (let index = 0; index < 60; index++) {
          const [namespace = "", name = ""] = places[index % 3]!.split("/")
          const metadata = { uid: `uid-${index}`, name: `site-${index}`, namespace }
          const git = { auth: { token: { secretRef: { name, key: "token" } } } }
          yield* Effect.forkScoped(follow(one(index, { metadata, git })))
          yield* TestClock.adjust("1 second")
        }
        yield* seconds(120)
        asked.length = read.length = 0
        yield* seconds(600)
      }).pipe(Effect.provide(layer))
      for (const place of places) {
        const times = asked.filter(({ token }) => token === place).length
        assert.isTrue(times >= 9 && times <= 11, `${place}: ${times}`)
      }
      assert.isAtMost(asked.length, 33)
      // Ten polls of sixty: a Secret is kept by nobody, and read by each who asks.
      assert.isTrue(read.length >= 600 && read.length <= 660, `read ${read.length} times`)
    })
  )

  it.effect("shares polls of an hour, too, and asks no longer for what nobody follows", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* remote
      yield* Effect.gen(function* () {
        const hourly = { spec: { polling: { interval: "1h" } } }
        const leaving = yield* Effect.forkScoped(
          follow(one(0, { git: { ref: "old" }, status: { ...resolved, lastSyncRef: "old" } }))
        )
        yield* TestClock.adjust("2 minutes")
        yield* Fiber.interrupt(leaving)
        for (let index = 1; index <= 10; index++) {
          yield* Effect.forkScoped(follow(one(index, hourly)))
          yield* TestClock.adjust("1 minute")
        }
        yield* minutes(120)
        asked.length = 0
        yield* minutes(600)
      }).pipe(Effect.provide(layer))
      assert.isAtLeast(asked.length, 9)
      assert.isAtMost(asked.length, 11)
      assert.isTrue(asked.every(({ refs }) => !refs.includes("old")))
    })
  )

  it.effect("gives each its own interval", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* remote
      yield* Effect.gen(function* () {
        yield* Effect.forkScoped(follow(one(1)))
        yield* Effect.forkScoped(
          follow(
            one(2, {
              git: { repo: "https://git.example.com/slow.git" },
              spec: { polling: { interval: "5m" } }
            })
          )
        )
        yield* Effect.forkScoped(
          follow(
            one(3, {
              git: { repo: "https://git.example.com/never.git" },
              spec: { polling: { enabled: false } }
            })
          )
        )
        yield* seconds(630)
      }).pipe(Effect.provide(layer))
      const count = (repository: string) => asked.filter((ask) => ask.repository.includes(repository)).length
      assert.include([10, 11], count("plant"))
      assert.strictEqual(count("slow"), 2)
      assert.strictEqual(count("never"), 0)
    })
  )

  it.effect("polls a little sooner or later each time, so that those who began together do not stay together", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* remote
      const repositories = Array.from({ length: 10 }, (_, index) => `https://git.example.com/${index}.git`)
      yield* Effect.gen(function* () {
        for (const [index, repo] of repositories.entries())
          yield* Effect.forkScoped(follow(one(index, { git: { repo } })))
        yield* Effect.forEach(Array.from({ length: 6000 }), () => TestClock.adjust("100 millis"), { discard: true })
      }).pipe(Effect.provide(layer))
      const pauses = repositories.flatMap((repo) => {
        const times = asked.filter(({ repository }) => repository === repo).map(({ at }) => at)
        return times.slice(1).map((at, index) => at - times[index]!)
      })
      assert.isTrue(pauses.every((pause) => pause >= 57_000 && pause <= 63_100))
      assert.isAtLeast(new Set(pauses).size, 20)
      const last = repositories.map((repo) => asked.findLast(({ repository }) => repository === repo)?.at)
      assert.isAtLeast(new Set(last).size, 5)
    })
  )

  it.effect("backs off while the remote fails, and polls again when it answers", () =>
    Effect.gen(function* () {
      const { asked, down, layer } = yield* remote
      down(true)
      yield* Effect.gen(function* () {
        yield* Effect.forkScoped(follow(one(1)))
        yield* seconds(1200)
        down(false)
        yield* seconds(600)
      }).pipe(Effect.provide(layer))
      const pauses = asked.slice(1).map(({ at }, index) => Math.round((at - asked[index]!.at) / 1000))
      assert.deepStrictEqual(pauses.slice(0, 6), [30, 60, 120, 240, 300, 300])
      assert.isTrue(pauses.slice(8).every((pause) => pause >= 57 && pause <= 63))
    })
  )

  it.effect("tries a fresh request often for a minute, and then as anything else that fails", () =>
    Effect.gen(function* () {
      const { asked, down, layer } = yield* remote
      down(true)
      const annotations = { [Names.request.ref]: "v2", [Names.request.over]: "main", [Names.request.id]: "one" }
      yield* Effect.gen(function* () {
        yield* Effect.forkScoped(
          follow(one(1, { metadata: { uid: "uid", name: "site", annotations }, spec: { polling: { enabled: false } } }))
        )
        yield* seconds(900)
      }).pipe(Effect.provide(layer))
      const at = asked.filter(({ refs }) => refs.includes("v2")).map((ask) => Math.round(ask.at / 1000))
      assert.deepStrictEqual(at.slice(0, 6), [0, 1, 3, 7, 12, 17])
      const slow = at.slice(at.findLastIndex((second) => second < 60))
      const pauses = slow.slice(1).map((second, index) => second - slow[index]!)
      assert.deepStrictEqual(pauses.slice(0, 5), [5, 30, 60, 120, 240])
    })
  )
  for (const [what, changed, delays] of [
    [
      "a webhook",
      {
        annotations: {
          [Names.request.pushed]: JSON.stringify({ ref: "main", kind: "branch", at: "", by: "github", id: "1" })
        }
      },
      [1, 2, 4, 5]
    ],
    ["an edit", { generation: 2 }, [30, 60, 120, 240]]
  ] as const) {
    it.effect(
      `asks a remote that it had backed off from at once after ${what}, and backs off from the start again`,
      () =>
        Effect.gen(function* () {
          const { asked, down, layer } = yield* remote
          down(true)
          const metadata = { uid: "uid", name: "site" }
          const spec = { polling: { enabled: true, interval: "1h" } }
          const status = {}
          yield* Effect.gen(function* () {
            const before = yield* Effect.forkScoped(follow(one(1, { metadata, spec, status })))
            yield* seconds(1000)
            yield* Fiber.interrupt(before)
            asked.length = 0
            yield* Effect.forkScoped(follow(one(1, { metadata: { ...metadata, ...changed }, spec, status })))
            yield* seconds(600)
          }).pipe(Effect.provide(layer))
          assert.strictEqual(Math.round(asked[0]!.at / 1000), 1000)
          const pauses = asked.slice(1).map(({ at }, index) => Math.round((at - asked[index]!.at) / 1000))
          assert.deepStrictEqual(pauses.slice(0, 4), [...delays])
        })
    )
  }
})
