import { assert, describe, it } from "@effect/vitest"
import { type Context, Effect, Fiber, Layer, Logger, Metric, Option, References, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { request as keys } from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import { Authorizer } from "../../src/receiver/Authorizer.ts"
import * as Receiver from "../../src/receiver/Receiver.ts"
import { MemoryApi } from "./MemoryApi.ts"
import { bearer, both, receiver, run, signature, silent, written } from "./running.ts"
import { post, send } from "./send.ts"

const commit = (digit: string) => digit.repeat(40)

const annotations = MemoryApi.use((api) => api.annotations("site"))

const condition = (type: string) => ({
  type,
  status: "True",
  reason: "x",
  message: "",
  lastTransitionTime: "2026-01-01T00:00:00Z"
})

/** What the controller writes once every gateway has what the annotations ask for. */
const reached = (asked: RequestedRef.Annotations, ref: string, kind: "branch" | "tag") => ({
  annotations: { ...asked },
  status: {
    observedGeneration: 1,
    lastSyncRef: ref,
    lastSyncRefKind: kind,
    lastSyncCommit: commit("a"),
    lastHandledRequest: RequestedRef.fingerprint(asked),
    conditions: [condition("RefResolved"), condition("AllGatewaysSynced")],
    discoveredGateways: [{ name: "g", namespace: "plant", podName: "g-0", syncStatus: "Synced" }]
  }
})

const push = {
  ref: "refs/heads/main",
  before: commit("a"),
  after: commit("b"),
  head_commit: { id: commit("b") },
  repository: { clone_url: "https://github.com/acme/plant.git" }
}
const pushed = (id = "guid-1", body: object = push) =>
  post(body, { headers: { "x-github-event": "push", "x-github-delivery": id } })

describe("accepted", () => {
  it.live("a generic body is 202 once it is written", () =>
    run(
      Effect.gen(function* () {
        const answer = yield* post({ ref: "v2.0.0" })
        assert.strictEqual(answer.status, 202)
        assert.deepStrictEqual(answer.body, {
          accepted: true,
          ref: "v2.0.0",
          synced: false,
          gateways: { synced: 0, total: 0 }
        })
        const found = yield* annotations
        assert.deepInclude(found, { [keys.ref]: "v2.0.0", [keys.by]: "generic", [keys.over]: "main" })
        assert.match(found[keys.at] ?? "", /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
        assert.match(found[keys.id] ?? "", /^[0-9a-f-]{36}$/)
      })
    )
  )

  it.live("one patch and nothing else, when the store is up to date", () =>
    run(
      Effect.gen(function* () {
        yield* post({ ref: "v2.0.0" })
        const calls = yield* MemoryApi.use((api) => api.calls)
        assert.deepStrictEqual(
          calls.map(({ verb }) => verb),
          ["patch"]
        )
      })
    )
  )

  it.live("`requested-over` is the live spec.git.ref, also when the store lags behind", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put(
          "site",
          { spec: { git: { repo: "https://github.com/acme/plant.git", ref: "dev" } } },
          { inStore: false }
        )
        assert.strictEqual((yield* post({ ref: "v2" })).status, 202)
        assert.strictEqual((yield* annotations)[keys.over], "dev")
      })
    )
  )

  it.live("the same ref again says so, leaves the time and renews the id", () =>
    run(
      Effect.gen(function* () {
        yield* post({ ref: "v2" })
        const first = yield* annotations
        const answer = yield* post({ ref: "v2" })
        assert.strictEqual(answer.status, 202)
        assert.propertyVal(answer.body, "message", "ref already set")
        const second = yield* annotations
        assert.strictEqual(second[keys.at], first[keys.at])
        assert.notStrictEqual(second[keys.id], first[keys.id])
      })
    )
  )

  it.live("a push of the branch wakes, and is remembered", () =>
    run(
      Effect.gen(function* () {
        const answer = yield* pushed()
        assert.strictEqual(answer.status, 202)
        const found = yield* annotations
        assert.deepInclude(RequestedRef.pushed(found), {
          ref: "main",
          kind: "branch",
          before: commit("a"),
          after: commit("b"),
          by: "github",
          id: "guid-1"
        })
        assert.notProperty(found, keys.ref)
        assert.include(found[keys.deliveries], "guid-1")
      })
    )
  )

  it.live("GitHub's form, signed over the form's bytes", () =>
    run(
      Effect.gen(function* () {
        const body = new URLSearchParams({ payload: JSON.stringify(push) }).toString()
        const answer = yield* send({
          headers: {
            "content-type": "application/x-www-form-urlencoded",
            "x-github-event": "push",
            ...signature(body)
          },
          body
        })
        assert.strictEqual(answer.status, 202)
      }),
      { credentials: both }
    )
  )

  it.live("a Kargo freight with several commits takes the one of our repository", () =>
    run(
      Effect.gen(function* () {
        const answer = yield* post({
          freight: {
            commits: [
              { repoURL: "https://github.com/acme/other.git", tag: "v9", id: commit("c") },
              { repoURL: "git@github.com:acme/plant.git", tag: "v2", id: commit("b") }
            ]
          }
        })
        assert.strictEqual(answer.body["ref"], "v2")
        assert.deepInclude(yield* annotations, { [keys.commit]: commit("b"), [keys.by]: "kargo" })
      })
    )
  )
})

describe("waiting for the gateways", () => {
  it.live("a first POST is not synced, whatever was synced before", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("site", reached({}, "main", "branch")))
        const answer = yield* post({ ref: "v2" })
        assert.deepInclude(answer.body, { synced: false, gateways: { synced: 1, total: 1 } })
      })
    )
  )

  it.live("a repeated POST is told once the plant has the release", () =>
    run(
      Effect.gen(function* () {
        yield* post({ ref: "v2" })
        assert.propertyVal((yield* post({ ref: "v2" })).body, "synced", false)
        yield* MemoryApi.use((api) =>
          Effect.flatMap(api.annotations("site"), (asked) => api.put("site", reached(asked, "v2", "tag")))
        )
        assert.propertyVal((yield* post({ ref: "v2" })).body, "synced", true)
      })
    )
  )

  it.live("a repeated POST of a branch is told only by the commit that it names", () =>
    run(
      Effect.gen(function* () {
        yield* post({ ref: "dev" })
        yield* MemoryApi.use((api) =>
          Effect.flatMap(api.annotations("site"), (asked) => api.put("site", reached(asked, "dev", "branch")))
        )
        assert.propertyVal((yield* send({ method: "GET" })).body, "synced", true)
        assert.propertyVal((yield* post({ ref: "dev", commit: commit("a") })).body, "synced", true)
        yield* MemoryApi.use((api) =>
          Effect.flatMap(api.annotations("site"), (asked) => api.put("site", reached(asked, "dev", "branch")))
        )
        assert.propertyVal((yield* post({ ref: "dev" })).body, "synced", false)
      })
    )
  )

  it.live.each(["promotion-1", "promotion of line 1"])(
    "the id %j of a person, repeated, is no refusal in force",
    (id) =>
      run(
        Effect.gen(function* () {
          const once = post({ ref: "v2" }, { headers: { "idempotency-key": id } })
          yield* once
          yield* MemoryApi.use((api) =>
            Effect.flatMap(api.annotations("site"), (asked) => api.put("site", reached(asked, "v2", "tag")))
          )
          yield* written
          const answer = yield* once
          assert.strictEqual(answer.status, 202)
          assert.propertyVal(answer.body, "synced", true)
          assert.deepStrictEqual(yield* written, [])
        })
      )
  )

  it.live("says when it is paused", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("site", { spec: { paused: true } }))
        assert.propertyVal((yield* post({ ref: "v2" })).body, "paused", true)
      })
    )
  )

  it.live("GET tells the state from the API server, and changes nothing", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("site", reached({}, "main", "branch"))
        const before = yield* send({ method: "GET", headers: bearer })
        assert.strictEqual(before.status, 200)
        assert.deepInclude(before.body, {
          ref: "main",
          commit: commit("a"),
          synced: true,
          gateways: { synced: 1, total: 1 }
        })
        assert.lengthOf(before.body["conditions"] as ReadonlyArray<unknown>, 2)
        assert.deepStrictEqual(yield* written, [])
        // The store has not heard of it yet.
        yield* post({ ref: "v2" }, { headers: bearer })
        assert.deepInclude((yield* send({ method: "GET", headers: bearer })).body, {
          ref: "v2",
          commit: null,
          synced: false
        })
        assert.strictEqual((yield* send({ method: "GET" })).status, 401)
      }),
      { credentials: both }
    )
  )
})

describe("open to everybody", () => {
  const conditionTypes = Effect.map(send({ method: "GET", headers: { authorization: "Bearer own" } }), ({ body }) =>
    (body["conditions"] as ReadonlyArray<{ readonly type: string }>).map(({ type }) => type)
  )

  it.live("GET says so beside the conditions", () =>
    run(Effect.map(conditionTypes, (types) => assert.include(types, "WebhookProtected")))
  )

  it.live("not where a GatewaySync has credentials of its own", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "own" })
        yield* api.put("site", { spec: { webhook: { token: { secretRef: { name: "hook", key: "token" } } } } })
        assert.notInclude(yield* conditionTypes, "WebhookProtected")
      })
    )
  )
})

describe("not for this GatewaySync", () => {
  const github = (event: string, body: object) => post(body, { headers: { "x-github-event": event } })

  it.live("is 200 with the reason for a forge, and nothing is written", () =>
    run(
      Effect.gen(function* () {
        const answers = yield* Effect.all([
          github("ping", { zen: "x" }),
          github("push", { ...push, deleted: true }),
          github("push", { ...push, ref: "refs/heads/dev" }),
          github("push", { ...push, repository: { clone_url: "https://github.com/acme/plant-2.git" } }),
          github("release", { action: "edited", release: { tag_name: "v1" } }),
          github("release", { action: "published", release: { tag_name: "v2-rc", prerelease: true } }),
          github("delete", { ref: "main", ref_type: "branch" })
        ])
        for (const { body, status } of answers) {
          assert.strictEqual(status, 200)
          assert.propertyVal(body, "accepted", false)
          assert.isString(body["reason"])
          assert.property(body, "synced")
        }
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("is 422 for a person who waits", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("site", { spec: { webhook: { refs: ["v2.*"] } } }))
        for (const body of [
          { ref: "v3" },
          { app: { metadata: { annotations: { "git.ref": "v3" } } } },
          { freight: { commits: [{ tag: "v2.1", repoURL: "https://github.com/acme/other" }] } }
        ]) {
          const answer = yield* post(body)
          assert.strictEqual(answer.status, 422)
          assert.isString(answer.body["error"])
        }
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("is 422 with what could not be read beside it, which may have been ours", () =>
    run(
      Effect.gen(function* () {
        const other = { repoURL: "https://github.com/acme/other", tag: "v9" }
        const ours = { repoURL: "https://github.com/acme/plant", tag: 1.1 }
        for (const [commit, word] of [
          [null, "commitFrom"],
          [ours, "1.10 becomes 1.1"]
        ] as const) {
          for (const path of ["/webhook/plant/site", "/webhook"]) {
            const answer = yield* post({ freight: { commits: [other, commit] } }, { path })
            assert.strictEqual(answer.status, 422)
            assert.include(answer.body["error"], "acme/other")
            assert.include(answer.body["error"], word)
          }
        }
      })
    )
  )

  it.live("is not said to a person on the word of a store that lags behind", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("site", { spec: { webhook: { refs: ["v2.*"] } } })
        yield* api.put("site", { spec: { webhook: { refs: ["v3.*"] } } }, { inStore: false })
        assert.strictEqual((yield* post({ ref: "v3.0" })).status, 202)
      })
    )
  )

  it.live("a delivery twice is written once, and wakes while it is not synced", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        assert.strictEqual((yield* pushed()).status, 202)
        assert.strictEqual((yield* pushed()).status, 202)
        yield* Effect.flatMap(api.annotations("site"), (asked) => api.put("site", reached(asked, "main", "branch")))
        yield* written
        const again = yield* pushed()
        assert.strictEqual(again.status, 200)
        assert.include(again.body["reason"], "handled before")
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("a release posted again never moves it back", () =>
    run(
      Effect.gen(function* () {
        const release = (tag: string, id: string) =>
          post(
            { action: "published", release: { tag_name: tag } },
            { headers: { "x-github-event": "release", "x-github-delivery": id } }
          )
        assert.strictEqual((yield* release("v1", "a")).status, 202)
        assert.strictEqual((yield* release("v2", "b")).status, 202)
        const replayed = yield* release("v1", "another id")
        assert.strictEqual(replayed.status, 200)
        assert.strictEqual((yield* annotations)[keys.ref], "v2")
      })
    )
  )

  it.live("nor does its signed body in another wrapping", () =>
    run(
      Effect.gen(function* () {
        const release = (tag: string) =>
          JSON.stringify({ action: "published", release: { tag_name: tag }, repository: push.repository })
        const event = (id: string) => ({ "x-github-event": "release", "x-github-delivery": id })
        for (const tag of ["v1", "v2"]) {
          const body = release(tag)
          assert.strictEqual((yield* send({ body, headers: { ...signature(body), ...event(tag) } })).status, 202)
        }
        const captured = signature(release("v1"))["x-hub-signature-256"].replace("sha256=", "")
        for (const more of [{}, { n: "1" }]) {
          const replayed = yield* send({
            body: new URLSearchParams({ payload: release("v1"), ...more }).toString(),
            headers: {
              "content-type": "application/x-www-form-urlencoded",
              "x-gitea-signature": captured,
              ...event("another id")
            }
          })
          assert.strictEqual(replayed.status, 200)
        }
        assert.strictEqual((yield* annotations)[keys.ref], "v2")
      }),
      { credentials: both }
    )
  )

  it.live("a signed event that asks for nothing does not without its header either", () =>
    run(
      Effect.gen(function* () {
        const body = JSON.stringify({ ref: "refs/heads/evil", inputs: {}, repository: push.repository, sender: {} })
        const headers: ReadonlyArray<object> = [{ "x-github-event": "workflow_dispatch" }, {}]
        for (const event of headers) {
          assert.strictEqual((yield* send({ body, headers: { ...signature(body), ...event } })).status, 200)
        }
        assert.deepStrictEqual(yield* written, [])
      }),
      { credentials: both }
    )
  )
})

describe("bad input: no write, no 5xx, JSON", () => {
  it.live.each([
    ["not JSON", "hello", 400, "not JSON"],
    ["no ref", '{"foo":"bar"}', 400, "no ref found"],
    ["an empty body", "", 400, "empty"],
    ["a ref with a control character", '{"ref":"a\\nb"}', 400, "control"],
    ["a ref of 10 KiB", JSON.stringify({ ref: "f".repeat(10 * 1024) }), 400, "longer"],
    ["an option as a ref", '{"ref":"--upload-pack=x"}', 400, '"-"'],
    ["a number as a ref", '{"ref":1.1}', 400, "quotes"],
    ["no commit found by Kargo", '{"freight":{"commits":[null]}}', 400, "commitFrom"],
    ["deep nesting", "[".repeat(100_000), 400, "deeper"],
    ["a body that is too long", `{"ref":"main","a":"${"x".repeat(4 * 1024 * 1024)}"}`, 413, "4 MiB"]
  ] as const)("%s", ([, body, status, word]) =>
    run(
      Effect.gen(function* () {
        const answer = yield* send({ body })
        assert.strictEqual(answer.status, status)
        assert.include(answer.body["error"], word)
        assert.strictEqual(answer.headers["content-type"], "application/json")
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("a body of exactly 4 MiB is read", () =>
    run(
      Effect.gen(function* () {
        const frame = '{"ref":"main","a":""}'
        const body = frame.replace('""', `"${"x".repeat(4 * 1024 * 1024 - frame.length)}"`)
        assert.strictEqual((yield* send({ body })).status, 202)
        assert.strictEqual((yield* send({ body: `${body} ` })).status, 413)
      })
    )
  )

  it.live("a compressed body is 415, never inflated", () =>
    run(
      Effect.map(post({ ref: "v1" }, { headers: { "content-encoding": "gzip" } }), ({ status }) =>
        assert.strictEqual(status, 415)
      )
    )
  )

  it.live.each(["PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])(
    "%s is 405 with the methods that are allowed",
    (method) =>
      run(
        Effect.map(send({ method }), ({ body, headers, status }) => {
          assert.strictEqual(status, 405)
          assert.strictEqual(headers.allow, "GET, POST")
          assert.isString(body["error"])
        })
      )
  )

  it.live("HEAD is 405 too", () =>
    run(Effect.map(send({ method: "HEAD" }), ({ status }) => assert.strictEqual(status, 405)))
  )

  it.live("GET with a payload, as Gitea sends it when told so, is told to use POST", () =>
    run(
      Effect.map(send({ method: "GET", path: "/webhook/plant/site?payload=%7B%7D" }), ({ body, status }) => {
        assert.strictEqual(status, 400)
        assert.include(body["error"], "use POST")
      })
    )
  )

  it.live("GET with a body is told to use POST", () =>
    run(
      Effect.map(send({ method: "GET", body: '{"ref":"v1"}' }), ({ body, status }) => {
        assert.strictEqual(status, 400)
        assert.include(body["error"], "use POST")
      })
    )
  )

  it.live.each(["/", "/webhook/a/b/c", "/healthz", "/webhook/plant/%E0%A4", `/webhook/plant/${"x".repeat(300)}`])(
    "%s is 404",
    (path) =>
      run(
        Effect.map(post({ ref: "v1" }, { path }), ({ body, headers, status }) => {
          assert.strictEqual(status, 404)
          assert.isString(body["error"])
          assert.strictEqual(headers["content-type"], "application/json")
        })
      )
  )

  it.live.each(["/webhook/../site", "/webhook/plant/..%2Fother", "/webhook/plant/%00", "/webhook/Plant/site"])(
    "%s never reaches the API server",
    (path) =>
      run(
        Effect.gen(function* () {
          assert.strictEqual((yield* post({ ref: "v1" }, { path })).status, 404)
          assert.deepStrictEqual(yield* MemoryApi.use((api) => api.calls), [])
        })
      )
  )

  it.live("a name of 253 characters is one", () =>
    run(
      Effect.gen(function* () {
        const name = "n".repeat(253)
        yield* MemoryApi.use((api) => api.put(name))
        assert.strictEqual((yield* post({ ref: "v1" }, { path: `/webhook/plant/${name}` })).status, 202)
      })
    )
  )
})

describe("credentials", () => {
  const body = '{"ref":"v2"}'

  it.live("none or wrong ones are 401, and nothing is told or written", () =>
    run(
      Effect.gen(function* () {
        const asked = [
          {},
          { authorization: "Bearer wrong" },
          signature(`${body} `),
          signature(body, "another"),
          { ...signature(`${body} `), authorization: "Bearer wrong" }
        ]
        for (const headers of asked) {
          const known = yield* send({ headers, body })
          const unknown = yield* send({ headers, body, path: "/webhook/plant/nobody" })
          const bad = yield* send({ headers, body: "not JSON" })
          assert.strictEqual(known.status, 401)
          assert.strictEqual(known.headers["www-authenticate"], "Bearer")
          assert.deepStrictEqual([unknown.status, unknown.text], [known.status, known.text])
          assert.deepStrictEqual([bad.status, bad.text], [known.status, known.text])
        }
        assert.deepStrictEqual(yield* MemoryApi.use((api) => api.calls), [])
      }),
      { credentials: both }
    )
  )

  it.live("either method is enough, in whatever letter case the scheme is", () =>
    run(
      Effect.gen(function* () {
        const asked = [
          signature(body),
          bearer,
          { authorization: "bearer s3cret-token" },
          { authorization: "BEARER s3cret-token" },
          { ...signature("x"), ...bearer }
        ]
        for (const headers of asked) assert.strictEqual((yield* send({ headers, body })).status, 202)
      }),
      { credentials: both }
    )
  )

  it.live("an unknown GatewaySync is 404 after them, read live", () =>
    run(
      Effect.gen(function* () {
        assert.strictEqual((yield* post({ ref: "v2" }, { path: "/webhook/plant/nobody", headers: bearer })).status, 404)
        yield* MemoryApi.use((api) => api.put("new", {}, { inStore: false }))
        assert.strictEqual((yield* post({ ref: "v2" }, { path: "/webhook/plant/new", headers: bearer })).status, 202)
      }),
      { credentials: both }
    )
  )

  it.live("a GatewaySync that was deleted a moment ago is 404", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.delete("site"))
        assert.strictEqual((yield* post({ ref: "v2" })).status, 404)
        assert.strictEqual((yield* pushed()).status, 404)
        assert.strictEqual((yield* send({ method: "GET" })).status, 404)
      })
    )
  )

  it.live("of its own replace the receiver's, also before the store knows of it", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "own-token\n" })
        const spec = { webhook: { token: { secretRef: { name: "hook", key: "token" } } } }
        yield* api.put("site", { spec })
        yield* api.put("late", { spec }, { inStore: false })
        for (const path of ["/webhook/plant/site", "/webhook/plant/late"]) {
          const status = (headers: Record<string, string>) =>
            Effect.map(post({ ref: "v2" }, { path, headers }), (answer) => answer.status)
          assert.strictEqual(yield* status(bearer), 401)
          assert.strictEqual(yield* status(signature('{"ref":"v2"}')), 401)
        }
        const own = { authorization: "Bearer own-token" }
        assert.strictEqual((yield* post({ ref: "v2" }, { headers: own })).status, 202)
      }),
      { credentials: both }
    )
  )

  it.live("of its own that cannot be read fit nobody", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) =>
          api.put("site", { spec: { webhook: { token: { secretRef: { name: "absent", key: "token" } } } } })
        )
        assert.strictEqual((yield* post({ ref: "v2" }, { headers: { authorization: "Bearer " } })).status, 401)
        assert.strictEqual((yield* post({ ref: "v2" })).status, 401)
      })
    )
  )
})

describe("the API server is away", () => {
  it.live.each([
    ["unreachable", new ApiErrors.Unreachable({ message: "connect ECONNREFUSED 10.0.0.1:443" }), "2"],
    ["too many requests", new ApiErrors.TooManyRequests({ retryAfterMillis: 4200, message: "later" }), "5"],
    ["forbidden", new ApiErrors.Forbidden({ message: "no" }), "2"],
    ["refuses the object", new ApiErrors.Invalid({ status: 422, message: "no" }), "2"],
    ["a server error", new ApiErrors.ServerError({ status: 500, message: "no" }), "2"]
  ] as const)("%s: 503, try again, not synced", ([, reason, retryAfter]) =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.fault(Option.some(reason))
        for (const answer of [yield* post({ ref: "v2" }), yield* pushed(), yield* send({ method: "GET" })]) {
          assert.strictEqual(answer.status, 503)
          assert.strictEqual(answer.headers["retry-after"], retryAfter)
          assert.propertyVal(answer.body, "synced", false)
          assert.notInclude(answer.text, "10.0.0.1")
        }
        yield* api.fault(Option.none())
        assert.strictEqual((yield* post({ ref: "v2" })).status, 202)
      })
    )
  )

  it.effect("the API server is slow: 503 after 9 s, and the delivery is written all the same", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.gate.close
        const asked = yield* Effect.forkChild(post({ ref: "v2" }))
        yield* api.atGate(1)
        yield* TestClock.adjust("9 seconds")
        const answer = yield* Fiber.join(asked)
        assert.strictEqual(answer.status, 503)
        assert.include(answer.body["error"], "longer than 9 s")
        yield* api.gate.open
        yield* api.says("site", keys.ref, "v2")
      })
    )
  )

  it.effect("all that the API server is asked for has these 9 s together, and what was handed over is written", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "t0ken" })
        yield* api.put("own", { spec: { webhook: { token: { secretRef: { name: "hook", key: "token" } } } } })
        yield* api.readGate.close
        yield* api.gate.close
        const headers = { authorization: "Bearer t0ken" }
        const asked = yield* Effect.forkChild(post({ ref: "v2" }, { path: "/webhook/plant/own", headers }))
        yield* api.secretsAsked(1)
        yield* TestClock.adjust("6 seconds")
        yield* api.readGate.open
        yield* api.atGate(1)
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual((yield* Fiber.join(asked)).status, 503)
        yield* api.gate.open
        yield* api.says("own", keys.ref, "v2")
      })
    )
  )

  it.effect("a read of the API server is slow: 503 after 9 s", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.readGate.close
        const asked = yield* Effect.forkChild(send({ method: "GET" }))
        yield* api.asked(1)
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual((yield* Fiber.join(asked)).status, 503)
      })
    )
  )

  it.live("the store is not ready: 503", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.setReady(false)
        const answer = yield* post({ ref: "v2" })
        assert.strictEqual(answer.status, 503)
        assert.property(answer.headers, "retry-after")
      })
    )
  )

  it.live("an object that cannot be read: 503 with the reason", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("odd", { spec: { git: { repo: 1 } } }, { inStore: false })
        const answer = yield* post({ ref: "v2" }, { path: "/webhook/plant/odd" })
        assert.strictEqual(answer.status, 503)
        assert.include(answer.body["error"], "cannot be read")
      })
    )
  )
})

describe("at once", () => {
  it.live("64 to one GatewaySync: each 202, few patches, the last ref is there", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.gate.close
        const first = yield* Effect.forkChild(post({ ref: "v0" }))
        yield* api.atGate(1)
        const rest = yield* Effect.forEach(
          Array.from({ length: 63 }, (_, index) => `v${index + 1}`),
          (ref) => post({ ref }),
          { concurrency: "unbounded" }
        ).pipe(Effect.forkChild)
        yield* api.lookedUp(64 + 1)
        yield* api.gate.open
        const answers = [yield* Fiber.join(first), ...(yield* Fiber.join(rest))]
        assert.deepStrictEqual([...new Set(answers.map(({ status }) => status))], [202])
        assert.deepStrictEqual(new Set(answers.map(({ body }) => body["ref"])).size, 64)
        const patches = yield* written
        // What came while the first was written is in the second.
        assert.isAtMost(patches.length, 3)
        const last = patches
          .at(-1)
          ?.operations?.flatMap((one) => (one.op === "add" && one.path.endsWith("requested-ref") ? [one.value] : []))
        assert.deepStrictEqual(last, [(yield* annotations)[keys.ref]])
        assert.strictEqual((yield* api.inFlight).one, 1)
      })
    )
  )

  it.live("to 80 GatewaySyncs: 48 patches in flight at most", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        const names = Array.from({ length: 80 }, (_, index) => `site-${index}`)
        yield* Effect.forEach(names, (name) => api.put(name))
        yield* api.gate.close
        const all = yield* Effect.forEach(names, (name) => post({ ref: "v2" }, { path: `/webhook/plant/${name}` }), {
          concurrency: "unbounded"
        }).pipe(Effect.forkChild)
        yield* api.atGate(48)
        yield* api.gate.open
        const answers = yield* Fiber.join(all)
        assert.deepStrictEqual([...new Set(answers.map(({ status }) => status))], [202])
        assert.deepStrictEqual(yield* api.inFlight, { one: 1, all: 48 })
      })
    )
  )

  it.live("a patch that fails fails every delivery in it, and the next goes on", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.gate.close
        const first = yield* Effect.forkChild(post({ ref: "v0" }))
        yield* api.atGate(1)
        const rest = yield* Effect.forEach(["v1", "v2", "v3"], (ref) => post({ ref }), {
          concurrency: "unbounded"
        }).pipe(Effect.forkChild)
        yield* api.lookedUp(4 + 1)
        yield* api.fault(Option.some(new ApiErrors.Unreachable({ message: "away" })))
        yield* api.gate.open
        const answers = [yield* Fiber.join(first), ...(yield* Fiber.join(rest))]
        assert.deepStrictEqual(
          answers.map(({ status }) => status),
          [503, 503, 503, 503]
        )
        yield* api.fault(Option.none())
        assert.strictEqual((yield* post({ ref: "v4" })).status, 202)
        assert.strictEqual((yield* annotations)[keys.ref], "v4")
      })
    )
  )

  it.live("a delivery whose sender hangs up is written all the same", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.gate.close
        const first = yield* Effect.forkChild(post({ ref: "v0" }))
        yield* api.atGate(1)
        const second = yield* Effect.forkChild(post({ ref: "v1" }))
        yield* api.lookedUp(2 + 1)
        yield* Fiber.interrupt(first)
        yield* Fiber.interrupt(second)
        yield* api.gate.open
        yield* api.says("site", keys.ref, "v1")
        assert.strictEqual((yield* post({ ref: "v2" })).status, 202)
      })
    )
  )
})

describe("seen from outside", () => {
  /** Spans that ended, by a tracer that keeps them. */
  const recording = () => {
    const spans: Array<Tracer.Span> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    return { spans, layer: Layer.succeed(Tracer.Tracer, tracer) }
  }

  it.live("one span accept under the sender's trace, one patch under it, and the annotation hands accept on", () => {
    const { layer, spans } = recording()
    return Effect.gen(function* () {
      const traceId = "0af7651916cd43dd8448eb211c80319c"
      yield* MemoryApi.use((api) => api.put("site"))
      yield* post(
        { ref: "v2" },
        { headers: { traceparent: `00-${traceId}-b7ad6b7169203331-01`, "idempotency-key": "k1" } }
      )
      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["accept", "patch"]
      )
      const [accept, patch] = spans
      assert.strictEqual(accept?.traceId, traceId)
      assert.strictEqual(Option.getOrUndefined(patch?.parent ?? Option.none())?.spanId, accept?.spanId)
      assert.deepInclude(Object.fromEntries(accept?.attributes ?? []), {
        sender: "generic",
        ref: "v2",
        namespace: "plant",
        name: "site",
        delivery: "k1",
        status: 202
      })
      assert.strictEqual((yield* annotations)[keys.traceparent], `00-${traceId}-${accept?.spanId}-01`)
    }).pipe(Effect.provide(receiver()), Effect.provide(layer))
  })

  it.live("who is not let in leaves no span", () => {
    const { layer, spans } = recording()
    return Effect.gen(function* () {
      yield* MemoryApi.use((api) => api.put("site"))
      const guess = { authorization: "Bearer guess" }
      const asked = [{ path: "/webhook/plant/site" }, { path: "/webhook" }, { path: "/webhook", method: "GET" }]
      const answers = yield* Effect.forEach([...asked, { method: "PUT" }], (one) =>
        send({ body: "{}", headers: guess, ...one })
      )
      const long = yield* send({ body: "x".repeat(5 * 1024 * 1024), headers: bearer })
      assert.deepStrictEqual(
        [...answers, long].map(({ status }) => status),
        [401, 429, 400, 405, 413]
      )
      const twice = Effect.all([post({ ref: "v2" }, { headers: bearer }), post({ ref: "v3" }, { headers: bearer })])
      assert.deepStrictEqual(
        (yield* twice).map(({ status }) => status),
        [202, 429]
      )
      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["accept", "patch"]
      )
    }).pipe(
      Effect.provide(receiver({ credentials: both, limits: { failuresPerMinute: 1, deliveriesPerMinute: 1 } })),
      Effect.provide(layer)
    )
  })

  it.effect("the span begins with the request, and ends with the answer", () => {
    const { layer, spans } = recording()
    return Effect.gen(function* () {
      const api = yield* MemoryApi
      yield* api.put("own", { spec: { webhook: { token: { secretRef: { name: "hook", key: "token" } } } } })
      yield* api.putSecret("hook", { token: "own" })
      yield* api.readGate.close
      yield* api.gate.close
      const headers = { authorization: "Bearer own" }
      const asked = yield* Effect.forkChild(post({ ref: "v2" }, { path: "/webhook/plant/own", headers }))
      yield* api.secretsAsked(1)
      yield* TestClock.adjust("2 seconds")
      yield* api.readGate.open
      yield* api.atGate(1)
      yield* TestClock.adjust("3 seconds")
      yield* api.gate.open
      assert.strictEqual((yield* Fiber.join(asked)).status, 202)
      const [accept] = spans
      const status = accept?.status
      assert.deepStrictEqual(status?._tag === "Ended" ? [accept?.name, status.startTime, status.endTime] : status, [
        "accept",
        0n,
        5_000_000_000n
      ])
    }).pipe(Effect.provide(receiver({ credentials: both })), Effect.provide(layer))
  })

  it.live("a patch of several deliveries goes on in the trace of the newest, and is linked to the others", () => {
    const { layer, spans } = recording()
    return Effect.gen(function* () {
      const api = yield* MemoryApi
      yield* api.put("site")
      yield* api.gate.close
      const first = yield* Effect.forkChild(post({ ref: "v0" }))
      yield* api.atGate(1)
      const second = yield* Effect.forkChild(post({ ref: "v1" }))
      yield* api.lookedUp(3)
      const third = yield* Effect.forkChild(post({ ref: "v2" }))
      yield* api.lookedUp(4)
      yield* api.gate.open
      yield* Effect.all([Fiber.join(first), Fiber.join(second), Fiber.join(third)])
      const accepts = spans.filter(({ name }) => name === "accept")
      const merged = spans.filter(({ name }) => name === "patch").at(-1)
      assert.strictEqual(Option.getOrUndefined(merged?.parent ?? Option.none())?.spanId, accepts[2]?.spanId)
      assert.deepStrictEqual(
        merged?.links.map(({ span }) => span.spanId),
        [accepts[1]?.spanId]
      )
      assert.include((yield* annotations)[keys.traceparent], accepts[2]?.spanId)
    }).pipe(Effect.provide(receiver()), Effect.provide(layer))
  })

  it.live("each request is counted by sender and status", () =>
    run(
      Effect.gen(function* () {
        const count = (source: string, status_code: string) =>
          Effect.map(
            Metric.value(Metric.withAttributes(Receiver.requests, { source, status_code })),
            ({ count }) => count
          )
        const before = yield* Effect.all([count("generic", "202"), count("unknown", "400")])
        yield* post({ ref: "v2" })
        yield* post({ foo: "bar" })
        const after = yield* Effect.all([count("generic", "202"), count("unknown", "400")])
        assert.deepStrictEqual(after, [before[0] + 1, before[1] + 1])
      })
    )
  )

  it.effect("how long a request took is measured by sender", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        const taken = Effect.map(
          Metric.value(Metric.withAttributes(Receiver.duration, { source: "generic" })),
          ({ count, sum }) => [count, sum] as const
        )
        const [count, sum] = yield* taken
        yield* api.gate.close
        const asked = yield* Effect.forkChild(post({ ref: "v2" }))
        yield* api.atGate(1)
        yield* TestClock.adjust("2 seconds")
        yield* api.gate.open
        yield* Fiber.join(asked)
        assert.deepStrictEqual(yield* taken, [count + 1, sum + 2])
      })
    )
  )

  it.live("one log line a request: what came and what became of it, no body and no credential", () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ fiber, logLevel, message }) => {
      lines.push(JSON.stringify({ logLevel, message, ...fiber.getRef(References.CurrentLogAnnotations) }))
    })
    return Effect.gen(function* () {
      yield* MemoryApi.use((api) => api.put("site"))
      yield* post({ ref: "v2", note: "s3cret-body" }, { headers: { ...bearer, "idempotency-key": "k1" } })
      yield* post({ foo: "s3cret-body" }, { headers: bearer })
      yield* post({ ref: "v2" }, { headers: { authorization: "Bearer s3cret-guess" }, path: "/webhook/plant/a%0Ab" })
      assert.lengthOf(lines, 3)
      assert.notMatch(lines.join("\n"), /s3cret/)
      assert.deepInclude(JSON.parse(lines[0]!), {
        message: ["webhook accepted"],
        sender: "generic",
        delivery: "k1",
        namespace: "plant",
        name: "site",
        ref: "v2",
        status: 202
      })
      assert.include(lines[1], "no ref found")
      assert.notProperty(JSON.parse(lines[2]!), "name")
    }).pipe(Effect.provide(receiver({ credentials: both, logger })))
  })

  it.live("what fails in an unforeseen way before anybody is let in says in the log for whom it was", () => {
    const lines: Array<object> = []
    const logger = Logger.make(({ fiber, logLevel }) => {
      lines.push({ logLevel, ...fiber.getRef(References.CurrentLogAnnotations) })
    })
    return run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("own", { spec: { webhook: { token: { secretRef: { name: "hook", key: "token" } } } } })
        yield* api.breakOnce
        assert.strictEqual((yield* post({ ref: "v2" }, { path: "/webhook/plant/own", headers: bearer })).status, 503)
        assert.deepInclude(lines[0], { logLevel: "Error", namespace: "plant", name: "own" })
      }),
      { credentials: both, logger }
    )
  })

  it.effect(
    "attempts that are refused for their number have no line: the client's next one says how many they were",
    () => {
      const lines: Array<object> = []
      const logger = Logger.make(({ fiber }) => {
        lines.push({ ...fiber.getRef(References.CurrentLogAnnotations) })
      })
      return Effect.gen(function* () {
        const guess = send({ body: "{}", headers: { authorization: "Bearer guess" } })
        const before = yield* Metric.value(
          Metric.withAttributes(Receiver.requests, { source: "unknown", status_code: "429" })
        )
        yield* Effect.replicateEffect(guess, 5)
        yield* TestClock.adjust("1 minute")
        yield* guess
        const after = yield* Metric.value(
          Metric.withAttributes(Receiver.requests, { source: "unknown", status_code: "429" })
        )
        assert.strictEqual(after.count - before.count, 4)
        const line = { sender: "unknown", status: 401, client: "127.0.0.1", namespace: "plant", name: "site" }
        assert.lengthOf(lines, 2)
        assert.deepInclude(lines[0], line)
        assert.notProperty(lines[0], "unlogged")
        assert.deepInclude(lines[1], { ...line, unlogged: 4 })
      }).pipe(Effect.provide(receiver({ credentials: both, limits: { failuresPerMinute: 1 }, logger })))
    }
  )

  it.live("a reason of many words is cut in the log", () => {
    const reasons: Array<string> = []
    const logger = Logger.make(({ fiber }) => {
      reasons.push(String(fiber.getRef(References.CurrentLogAnnotations)["reason"]))
    })
    return Effect.gen(function* () {
      const refs = Array.from({ length: 64 }, (_, index) => `${index}-${"x".repeat(500)}`)
      yield* MemoryApi.use((api) => api.put("site", { spec: { webhook: { refs } } }))
      assert.strictEqual((yield* post({ ref: "v2" })).status, 422)
      assert.lengthOf(reasons, 1)
      assert.include(reasons[0], 'the ref "v2" is none of')
      assert.isAtMost(reasons[0]!.length, 500)
    }).pipe(Effect.provide(receiver({ logger })))
  })

  it.live("the log's delivery is the id that is remembered, also where the headers hold another", () => {
    const lines: Array<object> = []
    const logger = Logger.make(({ fiber }) => {
      lines.push({ ...fiber.getRef(References.CurrentLogAnnotations) })
    })
    return run(
      Effect.gen(function* () {
        const body = {
          id: "b1",
          notificationId: 7,
          eventType: "git.push",
          publisherId: "tfs",
          resource: { refUpdates: [{ name: "refs/heads/main", newObjectId: commit("b") }] }
        }
        yield* post(body, { headers: { "x-vss-activityid": "activity" } })
        assert.include((yield* annotations)[keys.deliveries], "b1/7")
        assert.deepInclude(lines[0], { delivery: "b1/7" })
      }),
      { logger }
    )
  })

  it.live("requests that were begun are answered before the server ends", () =>
    Effect.gen(function* () {
      const context = yield* Effect.context<MemoryApi>()
      const api: Context.Service.Shape<typeof MemoryApi> = yield* MemoryApi
      yield* api.put("site")
      yield* api.gate.close
      const answer = yield* Effect.gen(function* () {
        const fiber = yield* Effect.forkDetach(post({ ref: "v2" }))
        yield* api.atGate(1)
        // Later than the end of this block, which closes the server.
        setImmediate(() => setImmediate(() => Effect.runFork(api.gate.open)))
        return fiber
      }).pipe(
        Effect.provide(
          Receiver.serve({ store: api.store, port: 0, host: "127.0.0.1" }).pipe(
            Layer.provide(Authorizer.layerOf({})),
            Layer.provide(Layer.succeedContext(context)),
            Layer.provide(Logger.layer([silent]))
          )
        )
      )
      assert.strictEqual((yield* Fiber.join(answer)).status, 202)
    }).pipe(Effect.provide(MemoryApi.layer))
  )
})
