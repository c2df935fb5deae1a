/**
 * What a stranger may cost: counted in digests of the body and in forms that are decoded, for one request without a valid
 * credential. Time is another machine's; these are not.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type * as Crypto from "node:crypto"
import type { createHmac } from "node:crypto"
import { vi } from "vitest"
import { request as keys } from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { MemoryApi } from "./MemoryApi.ts"
import { bearer, both, run, signature } from "./running.ts"
import { post, send } from "./send.ts"

const cost = vi.hoisted(() => ({ bytes: 0 }))
vi.mock("node:crypto", async (original) => {
  const crypto = await original<typeof Crypto>()
  const counted: typeof createHmac = (...options) => {
    const hmac = crypto.createHmac(...options)
    const update = hmac.update.bind(hmac)
    return Object.assign(hmac, {
      update: (data: string | NodeJS.ArrayBufferView, encoding?: BufferEncoding) => {
        cost.bytes += typeof data === "string" ? data.length : data.byteLength
        return typeof data === "string" && encoding !== undefined ? update(data, encoding) : update(data)
      }
    })
  }
  return { ...crypto, createHmac: counted }
})

const mebibyte = 1024 * 1024

/** What an effect made the receiver do. */
const counted = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      cost.bytes = 0
      const forms = vi.spyOn(globalThis, "decodeURIComponent")
      const others = vi.spyOn(URLSearchParams.prototype, "get")
      const long = () =>
        forms.mock.calls.filter(([text]) => text.length > mebibyte).length +
        others.mock.calls.filter(([name]) => name === "payload").length
      return { long, restore: () => [forms, others].forEach((spy) => spy.mockRestore()) }
    }),
    ({ long }) => Effect.map(effect, (answer) => ({ answer, digested: cost.bytes, forms: long() })),
    ({ restore }) => Effect.sync(restore)
  )

/** What was counted at most in a turn of the event loop while an effect ran: digested bytes, unless told otherwise. */
const longest = <A, E, R>(effect: Effect.Effect<A, E, R>, count = () => cost.bytes) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      let [most, before] = [0, count()]
      const look = () => {
        const now = count()
        most = Math.max(most, now - before)
        before = now
        return most
      }
      const turn = () => {
        look()
        timer = setImmediate(turn)
      }
      let timer = setImmediate(turn)
      return { most: look, stop: () => clearImmediate(timer) }
    }),
    ({ most }) => Effect.map(effect, (answer) => ({ answer, most: most() })),
    ({ stop }) => Effect.sync(stop)
  )

/** A GatewaySync that remembers as many deliveries as one may, and follows v9 at the word of the last of them. */
const remembering = (id: string) => {
  const others = Array.from({ length: RequestedRef.rememberedDeliveries - 1 }, (_, index) => ({ id: `${index}` }))
  return {
    [keys.deliveries]: JSON.stringify([...others, { id }]),
    [keys.ref]: "v9",
    [keys.id]: "later",
    [keys.over]: "main"
  }
}

/** How often such a memory was decoded, while an effect ran, and how often at most in one turn of the event loop. */
const decoded = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => vi.spyOn(JSON, "parse")),
    (spy) => {
      const count = () => spy.mock.calls.filter(([text]) => text.startsWith('[{"id":"0"}')).length
      return Effect.map(longest(effect, count), (found) => ({ ...found, decodings: count() }))
    },
    (spy) => Effect.sync(() => spy.mockRestore())
  )

const digits = "a".repeat(64)
const now = Effect.clockWith(({ currentTimeMillis }) => currentTimeMillis)

/** Every way to prove oneself at once, none of them right: the dearest of requests. */
const everything = Effect.map(now, (millis) => ({
  "x-hub-signature-256": `sha256=${digits}`,
  "x-hub-signature": `sha256=${digits}`,
  "x-gitea-signature": digits,
  "x-gogs-signature": digits,
  "webhook-id": "a",
  "webhook-timestamp": `${Math.floor(millis / 1000)}`,
  "webhook-signature": Array.from({ length: 20 }, () => `v1,${"A".repeat(43)}=`).join(" "),
  authorization: "Bearer guess",
  "x-gitlab-token": "guess"
}))

const repository = { clone_url: "https://github.com/acme/plant.git" }
const push = { ref: "refs/heads/main", before: "a".repeat(40), after: "b".repeat(40), repository }

/** As long as a body may be, in a form that takes the whole of it. */
const filled = (message: object): string => {
  const head = `payload=${encodeURIComponent(JSON.stringify({ ...message, filler: "" }).slice(0, -2))}`
  return `${head}${"a".repeat(4 * mebibyte - head.length - 6)}%22%7D`
}

const asForm = { "content-type": "application/x-www-form-urlencoded" }

/** GatewaySyncs with a Secret each, of several lines. */
const withOwn = (count: number) =>
  Effect.gen(function* () {
    const api = yield* MemoryApi
    for (let index = 0; index < count; index++) {
      yield* api.putSecret(`s${index}`, { secret: `${index}\n${"old\n".repeat(20)}` })
      const secretRef = { name: `s${index}`, key: "secret" }
      yield* api.put(`own-${index}`, { spec: { webhook: { hmac: { secretRef } } } })
    }
  })

describe("one request without a valid credential", () => {
  it.live.each([
    ["a push of the repository", "push", push],
    ["a ping, which names none", "ping", { zen: "x" }],
    ["what means nothing", "push", {}]
  ] as const)(
    "for all: %s of 4 MiB is decoded once, and digested a few times, for 64 who have their own",
    ([, event, body]) =>
      run(
        Effect.gen(function* () {
          yield* withOwn(64)
          for (const proof of [yield* everything, { "x-gitea-signature": digits }]) {
            const headers = { ...proof, ...asForm, "x-github-event": event }
            const { answer, digested, forms } = yield* counted(send({ path: "/webhook", body: filled(body), headers }))
            assert.strictEqual(answer.status, 503)
            assert.isAtMost(forms, 1)
            // The receiver's secret and one beside it, the first set of eight, and the bound for those of the others.
            assert.isAtMost(digested, (2 * 4 + 8 * 4 + 16 + 1) * mebibyte)
          }
        }),
        { credentials: both }
      )
  )

  it.live("for one: a Secret of many lines is no way to make it dear", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(1)
        const headers = { ...(yield* everything), ...asForm }
        const request = { path: "/webhook/plant/own-0", body: filled(push), headers }
        const { answer, digested, forms } = yield* counted(send(request))
        assert.strictEqual(answer.status, 401)
        assert.isAtMost(forms, 1)
        assert.isAtMost(digested, (8 * 4 + 1) * mebibyte)
      }),
      { credentials: both }
    )
  )

  it.live("what cannot be a proof costs nothing at all", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(64)
        const headers = {
          ...asForm,
          "x-github-event": "ping",
          "x-hub-signature-256": "sha256=",
          "x-gitea-signature": "x",
          "x-gogs-signature": "x",
          "webhook-signature": "v1,AAAA"
        }
        for (const path of ["/webhook", "/webhook/plant", "/webhook/plant/own-1", "/webhook/plant/nobody"]) {
          const { answer, digested, forms } = yield* counted(send({ path, body: filled({ zen: "x" }), headers }))
          assert.deepStrictEqual([path, answer.status, digested, forms], [path, 401, 0, 0])
        }
        assert.deepStrictEqual(yield* MemoryApi.use((api) => api.secretReads), [])
      }),
      { credentials: both }
    )
  )

  it.live("no more Secrets are read than may be compared", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(300)
        const headers = { "x-gitlab-token": "guess", "x-github-event": "ping" }
        assert.strictEqual((yield* send({ path: "/webhook", body: "{}", headers })).status, 503)
        assert.lengthOf(yield* MemoryApi.use((api) => api.secretReads), 256)
      }),
      { credentials: both }
    )
  )
})

describe("a stranger", () => {
  it.live("costs no look at those without credentials of their own", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* withOwn(1)
        for (let index = 0; index < 50; index++) yield* api.put(`plain-${index}`)
        const headers = { "x-gitlab-token": "guess", "x-github-event": "push" }
        for (const path of ["/webhook", "/webhook/plant"]) {
          const before = yield* api.handedOut
          assert.strictEqual((yield* send({ path, body: JSON.stringify(push), headers })).status, 401)
          // The one that has its own: whether there is any, and of that repository.
          assert.isAtMost((yield* api.handedOut) - before, 2)
        }
      }),
      { credentials: both }
    )
  )
})

describe("a body of long lists", () => {
  it.live("is gone through no further than it may be long, and what it may is told to who is let in", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(1)
        const many = <A>(count: number, one: A) => Array.from({ length: count }, () => one)
        const change = { ref: { id: "refs/heads/main" }, toHash: "b".repeat(40) }
        const clone = [...many(20_000, { href: "a" }), { href: repository.clone_url }]
        const body = JSON.stringify({
          eventKey: "repo:refs_changed",
          repository: { slug: "plant", project: { key: "acme" }, links: { clone } },
          changes: many(20_000, change)
        })
        const to = (headers: Record<string, string>) => send({ path: "/webhook", body, headers })
        assert.strictEqual((yield* to({ "x-gitlab-token": "guess" })).status, 401)
        const known = yield* to(bearer)
        assert.strictEqual(known.status, 400)
        assert.include(known.body["error"], "more than the 16")
      }),
      { credentials: both }
    )
  )
})

describe("who has a credential", () => {
  it.live("is found among many, also with a body of a usual length", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(200)
        const body = JSON.stringify({ ...push, filler: "a".repeat(10_000) })
        const headers = { ...signature(body, "199"), "x-github-event": "push" }
        assert.strictEqual((yield* send({ path: "/webhook", body, headers })).status, 202)
      }),
      { credentials: both }
    )
  )

  it.live(
    "beyond what is compared is told so and by what to come, is no failed attempt, and goes first ever after",
    () =>
      run(
        Effect.gen(function* () {
          yield* withOwn(40)
          const to = (path: string, filler: number) => {
            const body = JSON.stringify({ ...push, filler: "a".repeat(filler) })
            return send({ path, body, headers: { ...signature(body, "39"), "x-github-event": "push" } })
          }
          for (const _ of [1, 2]) {
            const late = yield* to("/webhook", 2 * mebibyte)
            assert.strictEqual(late.status, 503)
            assert.include(late.body["error"], "/webhook/{namespace}/{name}")
          }
          assert.strictEqual((yield* to("/webhook/plant/own-39", 2 * mebibyte)).status, 202)
          assert.strictEqual((yield* to("/webhook", 1000)).status, 202)
          // Its own are not all that it may be for, so more are looked at, within the bound of who is known.
          const { answer, digested } = yield* counted(to("/webhook", 2 * mebibyte))
          assert.strictEqual(answer.status, 503)
          assert.include(answer.text, '"own-39"')
          assert.isAtMost(digested, 257 * mebibyte)
        }),
        { credentials: both, limits: { failuresPerMinute: 1 } }
      )
  )

  it.live("goes first ever after also when others do", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(40)
        const to = (index: number, filler: number) => {
          const body = JSON.stringify({ ...push, filler: "a".repeat(filler) })
          return send({ path: "/webhook", body, headers: { ...signature(body, `${index}`), "x-github-event": "push" } })
        }
        for (const index of [38, 39]) assert.strictEqual((yield* to(index, 1000)).status, 202)
        for (const index of [38, 39]) assert.include((yield* to(index, mebibyte - 1000)).text, `"own-${index}"`)
      }),
      { credentials: both }
    )
  )

  it.live("others are served between two passes over what it sends", () =>
    run(
      Effect.gen(function* () {
        yield* withOwn(40)
        const body = JSON.stringify({ ...push, filler: "a".repeat(mebibyte) })
        const headers = { ...signature(body, "0"), "x-github-event": "push" }
        const request = counted(send({ path: "/webhook", body, headers }))
        const {
          answer: { answer, digested },
          most
        } = yield* longest(request)
        assert.strictEqual(answer.status, 503)
        assert.isAbove(digested, 200 * mebibyte)
        assert.isAtMost(most, 20 * mebibyte)
      }),
      { credentials: both }
    )
  )

  it.live("others are served between the many whom it may be for", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 200; index++) yield* api.put(`c${index}`, { annotations: remembering("k1") })
        const freight = { commits: [{ tag: "v1", repoURL: repository.clone_url }] }
        const headers = { ...bearer, "idempotency-key": "k1" }
        const { answer, decodings, most } = yield* decoded(post({ freight }, { path: "/webhook", headers }))
        assert.include(answer.text, "handled before")
        // Once to find who must be read live, and once to answer.
        assert.isAtMost(decodings, 2 * 200)
        assert.isAtMost(most, 48)
      }),
      { credentials: both }
    )
  )

  it.live("has the repositories that it names read once, for however many it may be", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 20; index++) yield* api.put(`c${index}`)
        const other = { tag: "v1", repoURL: "https://git.example/elsewhere" }
        const freight = { commits: [other, { tag: "v2", repoURL: repository.clone_url }] }
        const reads = yield* Effect.acquireRelease(
          Effect.sync(() => vi.spyOn(globalThis, "decodeURIComponent")),
          (spy) => Effect.sync(() => spy.mockRestore())
        )
        assert.strictEqual((yield* post({ freight }, { path: "/webhook", headers: bearer })).status, 202)
        assert.lengthOf(
          reads.mock.calls.filter(([text]) => text.includes("elsewhere")),
          1
        )
      }).pipe(Effect.scoped),
      { credentials: both }
    )
  )

  it.live("others are served between the many that it sends to one, and each of those is looked up once", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("site", { annotations: remembering("k1") })
        const headers = { ...bearer, "idempotency-key": "k1" }
        yield* api.gate.close
        const first = yield* Effect.forkChild(post({ ref: "v9" }, { headers: bearer }))
        yield* api.atGate(1)
        const again = Effect.replicateEffect(post({ ref: "v1" }, { headers }), 200, { concurrency: "unbounded" })
        const all = yield* Effect.forkChild(again)
        // The first has looked twice.
        yield* api.lookedUp(2 + 200)
        yield* Effect.yieldNow
        const opened = Effect.andThen(api.gate.open, Fiber.join(all))
        const { answer, decodings, most } = yield* decoded(opened)
        assert.deepStrictEqual([...new Set(answer.map(({ status }) => status))], [422])
        assert.isAtMost(decodings, 200)
        assert.isAtMost(most, 32)
        assert.strictEqual((yield* Fiber.join(first)).status, 202)
      }),
      { credentials: both }
    )
  )

  it.live("costs one pass for each secret that there is", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (const index of [0, 1, 2, 3]) {
          yield* api.putSecret(`s${index}`, { secret: `${index}` })
          const secretRef = { name: `s${index}`, key: "secret" }
          yield* api.put(`own-${index}`, { spec: { webhook: { hmac: { secretRef } } } })
        }
        const body = JSON.stringify({ ...push, filler: "a".repeat(mebibyte) })
        const headers = { ...signature(body, "0"), "x-github-event": "push" }
        const { answer, digested } = yield* counted(send({ path: "/webhook", body, headers }))
        assert.strictEqual(answer.status, 202)
        // The receiver's secret and one beside it, and those four.
        assert.isAtMost(digested, 6.1 * mebibyte)
      }),
      { credentials: both }
    )
  )

  it.live("is taken for all whom it fits, however long the body is", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 40; index++) {
          yield* api.putSecret(`team-${index}/hook`, { secret: "shared" })
          const secretRef = { name: "hook", key: "secret" }
          yield* api.put(`team-${index}/site`, { spec: { webhook: { hmac: { secretRef } } } })
        }
        const body = JSON.stringify({ ...push, filler: "a".repeat(mebibyte) })
        const headers = { ...signature(body, "shared"), "x-github-event": "push" }
        const answer = yield* send({ path: "/webhook", body, headers })
        assert.strictEqual(answer.status, 202)
        assert.lengthOf(answer.body["gatewaysyncs"] as ReadonlyArray<unknown>, 40)
      }),
      { credentials: both }
    )
  )
})
