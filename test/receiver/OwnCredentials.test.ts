import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Logger, Option, References } from "effect"
import { TestClock } from "effect/testing"
import { request as keys } from "../../src/api/Names.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import { MemoryApi } from "./MemoryApi.ts"
import { bearer, both, run } from "./running.ts"
import { type Answer, post } from "./send.ts"

const own = (name: string) => ({ spec: { webhook: { token: { secretRef: { name, key: "token" } } } } })
const token = (text: string) => ({ authorization: `Bearer ${text}` })
const repoURL = "https://github.com/acme/plant.git"

const to = (path: string, headers: Record<string, string>) => post({ ref: "v2", repoURL }, { path, headers })
const status = ({ status }: Answer) => status

/** The GatewaySync `own` with the token `aaa` in Secret `hook`. */
const withOwn = MemoryApi.use((api) =>
  Effect.andThen(api.putSecret("hook", { token: "aaa" }), api.put("own", own("hook")))
)
const right = to("/webhook/plant/own", token("aaa"))

const logged = () => {
  const lines: Array<string> = []
  const logger = Logger.make(({ fiber, message }) => {
    lines.push(JSON.stringify({ message, ...fiber.getRef(References.CurrentLogAnnotations) }))
  })
  return { lines, logger }
}

describe("a Secret that cannot be read", () => {
  it.effect.each([
    ["unreachable", new ApiErrors.Unreachable({ message: "connect ECONNREFUSED" })],
    ["too many requests", new ApiErrors.TooManyRequests({ retryAfterMillis: 1000, message: "later" })],
    ["a server error", new ApiErrors.ServerError({ status: 500, message: "no" })]
  ] as const)(
    "%s: 503 for everybody, on each path, no failed attempt, and right again two seconds later",
    ([, reason]) => {
      const { lines, logger } = logged()
      return run(
        Effect.gen(function* () {
          const api = yield* MemoryApi
          yield* withOwn
          yield* api.hide(Option.some(reason))
          for (const path of ["/webhook/plant/own", "/webhook/plant", "/webhook"]) {
            for (const text of ["aaa", "guess"]) {
              const answer = yield* to(path, token(text))
              assert.strictEqual(answer.status, 503)
              assert.isString(answer.headers["retry-after"])
              assert.propertyVal(answer.body, "synced", false)
              assert.notInclude(answer.text, "hook")
            }
          }
          // Many who ask are one read.
          assert.deepStrictEqual(yield* api.secretReads, ["hook"])
          assert.include(lines[0], "Secret plant/hook")
          assert.include(lines[0], reason.message)
          yield* api.hide(Option.none())
          yield* TestClock.adjust("2 seconds")
          assert.strictEqual(status(yield* right), 202)
          assert.strictEqual(status(yield* to("/webhook/plant/own", token("guess"))), 401)
        }),
        { credentials: both, logger, limits: { failuresPerMinute: 1 } }
      )
    }
  )

  it.live("for a cause of many words makes no long line", () => {
    const { lines, logger } = logged()
    return run(
      Effect.gen(function* () {
        yield* withOwn
        const reason = new ApiErrors.ServerError({ status: 500, message: "x".repeat(10_000) })
        yield* MemoryApi.use((api) => api.hide(Option.some(reason)))
        assert.strictEqual(status(yield* right), 503)
        assert.isBelow(lines.join().length, 1000)
      }),
      { credentials: both, logger }
    )
  })

  it.effect("the API server is slow: 503 after 9 s", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn
        yield* api.readGate.close
        const asked = yield* Effect.forkChild(right)
        yield* api.secretsAsked(1)
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual(status(yield* Fiber.join(asked)), 503)
      }),
      { credentials: both }
    )
  )

  it.effect("the API server was slow for one sender whose time was over: the next has a time of its own", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "aaa" })
        yield* api.put("own", own("hook"), { inStore: false })
        yield* api.readGate.close
        const late = yield* Effect.forkChild(to("/webhook/plant/own", bearer))
        yield* api.asked(1)
        yield* TestClock.adjust("8900 millis")
        yield* api.readGate.open
        yield* api.readGate.close
        yield* api.secretsAsked(1)
        yield* TestClock.adjust("100 millis")
        assert.strictEqual(status(yield* Fiber.join(late)), 503)
        yield* api.catchUp
        const next = yield* Effect.forkChild(right)
        yield* api.lookedUp(2)
        yield* api.readGate.open
        assert.strictEqual(status(yield* Fiber.join(next)), 202)
      }),
      { credentials: both }
    )
  )

  it.effect(
    "the API server is slow, and they are many: no more are asked for after the first that were waited for",
    () =>
      run(
        Effect.gen(function* () {
          const api = yield* MemoryApi
          for (let index = 0; index < 40; index++) yield* api.put(`own-${index}`, own(`hook-${index}`))
          yield* api.readGate.close
          const asked = yield* Effect.forkChild(to("/webhook", token("aaa")))
          yield* api.secretsAsked(16)
          yield* TestClock.adjust("9 seconds")
          assert.strictEqual(status(yield* Fiber.join(asked)), 503)
          assert.lengthOf(yield* api.secretReads, 16)
        }),
        { credentials: both }
      )
  )

  it.effect("of one of many: the others are written, the answer is 503, and sent again it is for all", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn
        yield* api.put("other/site")
        yield* api.hide(Option.some(new ApiErrors.Unreachable({ message: "away" })))
        const first = yield* to("/webhook", bearer)
        assert.strictEqual(first.status, 503)
        assert.deepInclude(first.body, { accepted: false, synced: false })
        assert.notInclude(first.text, '"own"')
        assert.strictEqual((yield* api.annotations("site"))[keys.ref], "v2")
        yield* api.hide(Option.none())
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(status(yield* to("/webhook", bearer)), 202)
      }),
      { credentials: both }
    )
  )
})

describe("a Secret that fits nobody", () => {
  it.live.each<readonly [string, Record<string, string> | undefined, string]>([
    ["is not there", undefined, "is in a Secret that is not there"],
    ["lacks the key", { tokn: "aaa" }, "is not in it"],
    ["is empty", { token: "\n" }, "is empty"]
  ])("%s: 401, and the log says which and why", ([, data, words]) => {
    const { lines, logger } = logged()
    return run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        if (data !== undefined) yield* api.putSecret("hook", data)
        yield* api.put("own", own("hook"))
        for (const path of ["/webhook/plant/own", "/webhook"]) {
          assert.strictEqual(status(yield* to(path, token("aaa"))), 401)
          assert.strictEqual(status(yield* to(path, { authorization: "Bearer " })), 401)
        }
        for (const line of [lines[0], lines[2]]) {
          assert.include(line, `the key token of Secret plant/hook (spec.webhook.token) ${words}`)
        }
      }),
      { credentials: both, logger }
    )
  })

  it.live.each<readonly [string, string, Option.Option<ApiErrors.Reason>, string]>([
    ["of a name with a namespace", "team/hook", Option.none(), "is in a Secret whose name none can have"],
    ["of a name that is a path", "..", Option.none(), "is in a Secret whose name none can have"],
    ["forbidden", "odd", Option.some(new ApiErrors.Forbidden({ message: "no" })), "(RBAC)"],
    ["refused", "odd", Option.some(new ApiErrors.Invalid({ status: 400, message: "why not" })), "why not"]
  ])("%s: for its own 401 with the cause in the log, and others on a shared hook do not wait for it", (one) => {
    const [, name, reason, words] = one
    const { lines, logger } = logged()
    return run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("odd", own(name))
        yield* api.hide(reason)
        for (const path of ["/webhook/plant/odd", "/webhook"]) {
          assert.strictEqual(status(yield* to(path, token("aaa"))), 401)
          assert.include(lines.pop(), words)
        }
        assert.deepStrictEqual(yield* api.secretReads, Option.isSome(reason) ? ["odd"] : [])
        assert.strictEqual(status(yield* to("/webhook", bearer)), 202)
      }),
      { credentials: both, logger }
    )
  })

  it.live("of its many lines eight count, and the log says so", () => {
    const { lines, logger } = logged()
    return run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: Array.from({ length: 9 }, (_, index) => `t${index}`).join("\n") })
        yield* api.put("own", own("hook"))
        assert.strictEqual(status(yield* to("/webhook/plant/own", token("t7"))), 202)
        assert.strictEqual(status(yield* to("/webhook/plant/own", token("t8"))), 401)
        assert.include(lines[1], "has 9 lines, of which 8 count")
      }),
      { credentials: both, logger }
    )
  })
})

describe("how often it is read", () => {
  it.effect("once a minute, so a new secret counts a minute later, and the old one no more", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn
        assert.strictEqual(status(yield* right), 202)
        yield* api.putSecret("hook", { token: "bbb" })
        yield* TestClock.adjust("59 seconds")
        assert.strictEqual(status(yield* right), 202)
        assert.lengthOf(yield* api.secretReads, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(status(yield* right), 401)
        assert.strictEqual(status(yield* to("/webhook/plant/own", token("bbb"))), 202)
      }),
      { credentials: both }
    )
  )

  it.live("never for who offers nothing, on any path", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn
        for (const path of ["/webhook/plant/own", "/webhook/plant", "/webhook"]) {
          assert.strictEqual(status(yield* to(path, {})), 401)
          assert.strictEqual(status(yield* to(path, { "x-hub-signature-256": "sha256=" })), 401)
        }
        assert.deepStrictEqual(yield* api.secretReads, [])
      }),
      { credentials: both }
    )
  )

  it.effect("ahead of who asks: neither a right one nor a guess waits for a read", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn
        yield* api.put("absent", own("absent"))
        yield* api.listed.open
        yield* api.secretsAsked(2)
        yield* api.secretReads
        const everybody = Effect.all([
          right,
          to("/webhook/plant/own", token("guess")),
          to("/webhook/plant/absent", token("guess")),
          to("/webhook", token("guess"))
        ])
        for (const _ of [1, 2, 3]) {
          yield* TestClock.adjust("30 seconds")
          // The absent one also every five seconds: somebody may be about to make it.
          yield* api.secretsAsked(8)
          const reads = yield* api.secretReads
          assert.deepStrictEqual(reads.toSorted(), [...Array.from({ length: 7 }, () => "absent"), "hook"])
          assert.deepStrictEqual((yield* everybody).map(status), [202, 401, 401, 401])
          assert.deepStrictEqual(yield* api.secretReads, [])
        }
      }),
      { credentials: both }
    )
  )

  it.effect("every five seconds while it fits nobody, so one that is made late counts soon, asked for or not", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("own", own("hook"))
        yield* api.listed.open
        yield* api.secretsAsked(1)
        assert.strictEqual(status(yield* right), 401)
        yield* api.putSecret("hook", { token: "aaa" })
        yield* api.secretReads
        yield* TestClock.adjust("5 seconds")
        yield* api.secretsAsked(1)
        assert.strictEqual(status(yield* right), 202)
        yield* TestClock.adjust("24 seconds")
        assert.deepStrictEqual(yield* api.secretReads, ["hook"])
      }),
      { credentials: both }
    )
  )

  it.effect("of many that fit nobody sixteen so often, each in its turn", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 20; index++) yield* api.put(`own-${index}`, own(`hook-${index}`))
        yield* api.listed.open
        yield* api.secretsAsked(20)
        yield* api.secretReads
        yield* TestClock.adjust("5 seconds")
        yield* api.secretsAsked(16)
        const first = yield* api.secretReads
        assert.lengthOf(first, 16)
        yield* TestClock.adjust("5 seconds")
        yield* api.secretsAsked(16)
        const second = yield* api.secretReads
        assert.lengthOf(second, 16)
        assert.strictEqual(new Set([...first, ...second]).size, 20)
      }),
      { credentials: both }
    )
  )

  it.effect("what was read stays for its minute when it cannot be read again", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn
        yield* api.listed.open
        yield* api.secretsAsked(1)
        yield* api.secretReads
        yield* api.hide(Option.some(new ApiErrors.Unreachable({ message: "away" })))
        yield* TestClock.adjust("30 seconds")
        yield* api.secretsAsked(1)
        assert.strictEqual(status(yield* right), 202)
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(status(yield* right), 503)
      }),
      { credentials: both }
    )
  )

  it.effect("ahead also of who has not asked for any of many", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 40; index++) {
          yield* api.putSecret(`hook-${index}`, { token: `t${index}` })
          yield* api.put(`own-${index}`, own(`hook-${index}`))
        }
        yield* api.listed.open
        yield* api.secretsAsked(40)
        yield* api.secretReads
        for (const text of ["guess", "t39"]) yield* to("/webhook", token(text))
        assert.deepStrictEqual(yield* api.secretReads, [])
      }),
      { credentials: both }
    )
  )

  it.live("many at once, by sixteen", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 20; index++) {
          yield* api.putSecret(`hook-${index}`, { token: `t${index}` })
          yield* api.put(`own-${index}`, own(`hook-${index}`))
        }
        yield* api.readGate.close
        const asked = yield* Effect.forkChild(to("/webhook", token("t19")))
        yield* api.secretsAsked(16)
        assert.lengthOf(yield* api.secretReads, 16)
        yield* api.readGate.open
        assert.strictEqual(status(yield* Fiber.join(asked)), 202)
      }),
      { credentials: both }
    )
  )
})
