import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Logger, Option, References } from "effect"
import { TestClock } from "effect/testing"
import { request as keys } from "../../src/api/Names.ts"
import * as RepositoryIdentity from "../../src/api/RepositoryIdentity.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import * as AnnotationWriter from "../../src/receiver/AnnotationWriter.ts"
import { Authorizer } from "../../src/receiver/Authorizer.ts"
import * as Body from "../../src/receiver/Body.ts"
import * as Hook from "../../src/receiver/Hook.ts"
import * as OwnCredentials from "../../src/receiver/OwnCredentials.ts"
import type * as Reader from "../../src/receiver/Reader.ts"
import { MemoryApi } from "./MemoryApi.ts"
import { commit } from "./reading.ts"
import { bearer, both, run, signature, written } from "./running.ts"
import { type Answer, post, send } from "./send.ts"

const plant = "https://github.com/acme/plant.git"
const repository = { clone_url: plant }
const push = {
  ref: "refs/heads/main",
  before: commit("a"),
  after: commit("b"),
  head_commit: { id: commit("b") },
  repository
}
const release = { action: "published", release: { tag_name: "v2" }, repository }
const kargo = (...commits: ReadonlyArray<object>) => ({ freight: { commits } })

const everywhere = { path: "/webhook" }
const github = (event: string, request: { readonly path?: string; readonly headers?: object } = everywhere) => ({
  ...request,
  headers: { "x-github-event": event, "x-github-delivery": "guid-1", ...request.headers }
})

/** `namespace/name` of those that the answer speaks of, with whether they took it. */
const told = ({ body }: Answer) =>
  Object.fromEntries(
    (body["gatewaysyncs"] as ReadonlyArray<Readonly<Record<string, unknown>>>).map((one) => [
      `${String(one["namespace"])}/${String(one["name"])}`,
      one["accepted"] === true
    ])
  )

const specOf = (repo: string, ref = "main") => ({ spec: { git: { repo, ref } } })
const own = (name: string) => ({ spec: { webhook: { token: { secretRef: { name, key: "token" } } } } })

describe("one hook for many", () => {
  it.live("a push wakes every GatewaySync of the repository that follows the branch, however its URL is written", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("ssh", specOf("git@github.com:Acme/Plant"))
        yield* api.put("other/site")
        yield* api.put("release", specOf(plant, "v1"))
        yield* api.put("look-alike", specOf("https://github.com.evil.example/acme/plant"))
        yield* api.put("longer", specOf("https://github.com/acme/plant-2"))
        const answer = yield* post(push, github("push"))
        assert.strictEqual(answer.status, 202)
        assert.deepStrictEqual(told(answer), {
          "plant/site": true,
          "plant/ssh": true,
          "other/site": true,
          "plant/release": false
        })
        for (const name of ["site", "ssh", "other/site"]) {
          assert.deepInclude(RequestedRef.pushed(yield* api.annotations(name)), { ref: "main", id: "guid-1" })
        }
        assert.lengthOf(yield* written, 3)
      })
    )
  )

  it.live("a branch that none of many follows costs one list, and who follows it by now is woken", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 20; index++) yield* api.put(`release-${index}`, specOf(plant, "v1"))
        yield* api.put("site", specOf(plant, "v1"))
        yield* api.put("edited", specOf(plant, "v1"))
        yield* api.put("edited", specOf(plant, "main"), { inStore: false })
        yield* api.calls
        const answer = yield* post(push, github("push"))
        assert.strictEqual(answer.status, 202)
        assert.deepStrictEqual(
          Object.entries(told(answer)).filter(([, accepted]) => accepted),
          [["plant/edited", true]]
        )
        assert.deepStrictEqual(
          (yield* api.calls).map(({ key, verb }) => ({ key, verb })),
          [
            { verb: "list", key: "plant" },
            { verb: "patch", key: "plant/edited" }
          ]
        )
      })
    )
  )

  it.effect("a list that takes longer than two seconds is not waited for, which leaves time for those one by one", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 20; index++) yield* api.put(`other/release-${index}`, specOf(plant, "v1"))
        yield* api.put("site", specOf(plant, "v1"))
        yield* api.readGate.close
        const asked = yield* Effect.forkChild(post(push, github("push")))
        yield* api.asked(1)
        yield* TestClock.adjust("2 seconds")
        yield* api.asked(20)
        yield* api.readGate.open
        assert.strictEqual((yield* Fiber.join(asked)).status, 200)
        const [first, ...others] = yield* api.calls
        assert.deepInclude(first, { verb: "list", key: "" })
        assert.deepStrictEqual([...new Set(others.map(({ verb }) => verb))], ["get"])
      })
    )
  )

  it.effect("a list has what is left of the sender's 9 s, and what follows it is written all the same", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (let index = 0; index < 20; index++) yield* api.put(`w-${index}`, { spec: { webhook: { refs: ["w*"] } } })
        yield* api.put("own", own("hook"))
        yield* api.readGate.close
        const asked = yield* Effect.forkChild(post({ ref: "v2", repoURL: plant }, { ...everywhere, headers: bearer }))
        yield* api.secretsAsked(1)
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual((yield* Fiber.join(asked)).status, 503)
        yield* api.says("site", keys.ref, "v2")
      }),
      { credentials: both }
    )
  )

  it.effect("what the changes of a push say together of their repository is gone through once for all of them", () =>
    Effect.gen(function* () {
      const { put, store } = yield* MemoryApi
      yield* put("site")
      let looks = 0
      const [name] = RepositoryIdentity.said([plant])
      const repositories = Object.defineProperty([name!], 0, {
        get: () => {
          looks++
          return name!
        }
      })
      const delivery: RequestedRef.Delivery = {
        _tag: "Push",
        by: "bitbucket",
        ref: "main",
        kind: "branch",
        repositories
      }
      const reading: Reader.Request = {
        _tag: "Request",
        sender: "bitbucket",
        patience: "forge",
        deliveries: [delivery, ...Array.from({ length: 1000 }, (_, index) => ({ ...delivery, ref: `b${index}` }))]
      }
      const hook = Hook.make({
        store,
        authorizer: yield* Authorizer,
        ownCredentials: yield* OwnCredentials.make(store),
        writer: yield* AnnotationWriter.make(store)
      })
      const admission = yield* hook.admit(Body.received({}, new Uint8Array()), undefined, () => reading)
      assert.deepInclude(admission, { _tag: "Admitted" })
      assert.strictEqual(looks, 1)
    }).pipe(Effect.provide([MemoryApi.layer, Authorizer.layerOf({})]))
  )

  it.live("of one namespace", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("other/site"))
        const answer = yield* post(release, github("release", { path: "/webhook/other" }))
        assert.deepStrictEqual(told(answer), { "other/site": true })
        assert.deepStrictEqual(yield* MemoryApi.use((api) => api.annotations("site")), {})
      })
    )
  )

  it.live("each commit of a freight goes to the GatewaySyncs of its repository", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("mill", specOf("https://git.example/acme/mill"))
        const answer = yield* post(
          kargo({ repoURL: "https://git.example/acme/mill", tag: "m1" }, { repoURL: plant, tag: "v2" }),
          everywhere
        )
        assert.strictEqual(answer.status, 202)
        assert.strictEqual((yield* api.annotations("mill"))[keys.ref], "m1")
        assert.strictEqual((yield* api.annotations("site"))[keys.ref], "v2")
      })
    )
  )

  it.live("a push of Bitbucket Data Center without URLs is matched by project and slug", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("server", specOf("ssh://git@bitbucket.example:7999/prj/site.git")))
        const body = {
          eventKey: "repo:refs_changed",
          repository: { slug: "site", project: { key: "PRJ" } },
          changes: [{ ref: { id: "refs/heads/main" }, fromHash: commit("a"), toHash: commit("b") }]
        }
        assert.deepStrictEqual(told(yield* post(body, everywhere)), { "plant/server": true })
      })
    )
  )

  it.live("nobody else's text is taken for such a match: those move, and may name any host", () =>
    run(
      Effect.gen(function* () {
        const url = "?/acme/plant"
        const told = yield* post({ ...release, repository: { clone_url: url } }, everywhere)
        assert.deepInclude(told.body, { accepted: false })
        assert.strictEqual((yield* post(kargo({ repoURL: url, tag: "v2" }), everywhere)).status, 422)
        assert.strictEqual((yield* post({ ref: "v2", repoURL: url }, everywhere)).status, 400)
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("a generic body says which repository by repoURL", () =>
    run(
      Effect.gen(function* () {
        assert.strictEqual((yield* post({ ref: "v2", repoURL: "github.com:acme/plant" }, everywhere)).status, 202)
        const elsewhere = yield* post({ ref: "v2", repoURL: "https://git.example/x" }, everywhere)
        assert.strictEqual(elsewhere.status, 422)
        assert.include(elsewhere.body["error"], "no GatewaySync has the repository git.example/x")
        const none = yield* post({ ref: "v2" }, everywhere)
        assert.strictEqual(none.status, 422)
        assert.include(none.body["error"], "/webhook/{namespace}/{name}")
        assert.strictEqual((yield* post({ ref: "v2", repoURL: "nonsense" }, everywhere)).status, 400)
      })
    )
  )

  it.live("what is for nobody is 200 for a forge", () =>
    run(
      Effect.gen(function* () {
        for (const [event, body] of [
          ["ping", { zen: "x" }],
          ["push", { ...push, ref: "refs/heads/dev" }],
          ["push", { ...push, repository: { clone_url: "https://git.example/x" } }],
          ["push", { ...push, repository: null }],
          ["release", { ...release, action: "edited" }]
        ] as const) {
          const answer = yield* post(body, github(event))
          assert.strictEqual(answer.status, 200)
          assert.deepInclude(answer.body, { accepted: false, synced: false })
          assert.isString(answer.body["reason"])
        }
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("bad input is 400, and nothing is written", () =>
    run(
      Effect.gen(function* () {
        for (const body of ["hello", "", '{"foo":"bar"}', '{"ref":1.1}']) {
          assert.strictEqual((yield* send({ ...everywhere, body })).status, 400)
        }
        const packed = yield* send({ ...everywhere, body: "{}", headers: { "content-encoding": "gzip" } })
        assert.strictEqual(packed.status, 415)
        assert.deepStrictEqual(yield* written, [])
      })
    )
  )

  it.live("GET is none of it, and with a body it is told to use POST", () =>
    run(
      Effect.gen(function* () {
        const answer = yield* send({ ...everywhere, method: "GET" })
        assert.deepStrictEqual([answer.status, answer.headers.allow], [405, "POST"])
        assert.strictEqual((yield* send({ ...everywhere, method: "GET", body: "{}" })).status, 400)
        assert.strictEqual((yield* send({ ...everywhere, method: "PUT" })).status, 405)
      })
    )
  )

  it.live("one log line, with how many it was for", () => {
    const lines: Array<object> = []
    const logger = Logger.make(({ fiber, message }) => {
      lines.push({ message, ...fiber.getRef(References.CurrentLogAnnotations) })
    })
    return run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("second"))
        yield* post(release, github("release"))
        assert.lengthOf(lines, 1)
        assert.deepInclude(lines[0], { message: ["webhook accepted"], sender: "github", ref: "v2", gatewaysyncs: 2 })
      }),
      { logger }
    )
  })
})

describe("a repository that nobody has", () => {
  const said = (repoURL: string) => post({ ref: "v2", repoURL }, { ...everywhere, headers: bearer })
  const logged = () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ fiber, message }) => {
      lines.push(JSON.stringify({ message, ...fiber.getRef(References.CurrentLogAnnotations) }))
    })
    return { lines, logger }
  }

  it.live.each([
    "https://gitlab-ci-token:glcbt-s3cret@gitlab.com/x/y.git",
    "https://ghp_s3cret@github.com/x/y",
    "gitlab-ci-token:glcbt-s3cret@gitlab.com/x/y.git"
  ])("is never named as it was written: %s", (repoURL) => {
    const { lines, logger } = logged()
    return run(
      Effect.gen(function* () {
        const toOne = yield* post({ ref: "v2", repoURL }, { headers: bearer })
        for (const { status, text } of [yield* said(repoURL), toOne]) {
          assert.oneOf(status, [400, 422])
          assert.notInclude(text, "s3cret")
        }
        assert.lengthOf(lines, 2)
        assert.notInclude(lines.join(), "s3cret")
      }),
      { credentials: both, logger }
    )
  })

  it.live("a name of megabytes makes neither a long answer nor a long line", () => {
    const { lines, logger } = logged()
    return run(
      Effect.gen(function* () {
        for (const long of [1500, 3_000_000]) {
          const repoURL = `https://gitlab.com/${"x".repeat(long)}`
          for (const { text } of [yield* said(repoURL), yield* post({ ref: "v2", repoURL }, { headers: bearer })]) {
            assert.isBelow(text.length, 500)
          }
        }
        assert.lengthOf(lines, 4)
        for (const line of lines) assert.isBelow(line.length, 700)
      }),
      { credentials: both, logger }
    )
  })
})

describe("one of many fails", () => {
  it.live("the rest is written, the answer is 503 with each outcome, and sending it again is harmless", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("forbidden")
        yield* api.refuse(Option.some(new ApiErrors.Forbidden({ message: "no" })), "forbidden")
        const first = yield* post(release, github("release"))
        assert.strictEqual(first.status, 503)
        assert.isString(first.headers["retry-after"])
        assert.deepInclude(first.body, { synced: false })
        assert.include(first.body["error"], "1 of 2")
        assert.deepStrictEqual(told(first), { "plant/site": true, "plant/forbidden": false })
        const taken = (yield* api.annotations("site"))[keys.at]
        assert.strictEqual((yield* api.annotations("site"))[keys.ref], "v2")

        yield* api.refuse(Option.none())
        const second = yield* post(release, github("release"))
        assert.strictEqual(second.status, 202)
        assert.deepStrictEqual(told(second), { "plant/site": true, "plant/forbidden": true })
        assert.strictEqual((yield* api.annotations("site"))[keys.at], taken)
      })
    )
  )

  it.live("the sender waits for as long as the slowest of them asks for", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("busy")
        yield* api.refuse(
          Option.some(new ApiErrors.TooManyRequests({ retryAfterMillis: 40_000, message: "x" })),
          "busy"
        )
        assert.strictEqual((yield* post(release, github("release"))).headers["retry-after"], "40")
      })
    )
  )

  it.live("one that was deleted a moment ago is no failure", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("gone")
        yield* api.delete("gone")
        const answer = yield* post(push, github("push"))
        assert.strictEqual(answer.status, 202)
        assert.deepStrictEqual(told(answer), { "plant/site": true })
      })
    )
  )

  it.live("the store is not ready: 503", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.setReady(false))
        assert.strictEqual((yield* post(push, github("push"))).status, 503)
      })
    )
  )
})

describe("credentials of a hook for many", () => {
  it.live("none or wrong ones are 401, whether the repository is known or not, and no Secret is read without any", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "own-token" })
        yield* api.put("own", own("hook"))
        const unknown = { ...push, repository: { clone_url: "https://git.example/x" } }
        const answers = yield* Effect.forEach([push, unknown], (body) => post(body, github("push")))
        assert.deepStrictEqual(yield* api.secretReads, [])
        const guesses = yield* Effect.forEach([push, unknown], (body) =>
          post(body, github("push", { ...everywhere, headers: { authorization: "Bearer wrong" } }))
        )
        const junk = yield* send({ ...everywhere, body: "not JSON", headers: { authorization: "Bearer wrong" } })
        for (const answer of [...answers, ...guesses, junk]) {
          assert.deepStrictEqual([answer.status, answer.text], [401, answers[0]!.text])
        }
        assert.deepStrictEqual(yield* written, [])
        // Many guesses are one read.
        assert.deepStrictEqual(yield* api.secretReads, ["hook"])
      }),
      { credentials: both }
    )
  )

  it.live("the receiver's are for those without their own, a GatewaySync's own for it alone", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "own-token" })
        yield* api.put("own", own("hook"))
        yield* api.put("same", own("hook"))
        const general = yield* post(push, github("push", { ...everywhere, headers: bearer }))
        assert.deepStrictEqual(told(general), { "plant/site": true })
        const special = yield* post(
          push,
          github("push", { ...everywhere, headers: { authorization: "Bearer own-token" } })
        )
        assert.deepStrictEqual(told(special), { "plant/own": true, "plant/same": true })
      }),
      { credentials: both }
    )
  )

  it.live("those of one are counted apart from those of another", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        for (const name of ["a", "b"]) {
          yield* api.putSecret(name, { token: name })
          yield* api.put(name, own(name))
        }
        const by = (token: string) =>
          Effect.map(
            post(push, github("push", { ...everywhere, headers: { authorization: `Bearer ${token}` } })),
            ({ status }) => status
          )
        assert.deepStrictEqual(yield* Effect.all([by("a"), by("b"), by("a"), by("b")]), [202, 202, 429, 429])
      }),
      { credentials: both, limits: { deliveriesPerMinute: 1 } }
    )
  )

  it.live("a signature for another GatewaySync's secret is refused", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        const signed = (name: string) => ({
          spec: { webhook: { hmac: { secretRef: { name, key: "secret" } } } }
        })
        yield* api.putSecret("one", { secret: "one" })
        yield* api.putSecret("two", { secret: "two" })
        yield* api.put("one", signed("one"))
        yield* api.put("two", signed("two"))
        const body = JSON.stringify(push)
        const send1 = (path: string) =>
          send({ path, body, headers: { "x-github-event": "push", ...signature(body, "one") } })
        assert.strictEqual((yield* send1("/webhook/plant/two")).status, 401)
        assert.deepStrictEqual(told(yield* send1("/webhook")), { "plant/one": true })
        assert.deepStrictEqual(yield* api.annotations("two"), {})
      }),
      { credentials: both }
    )
  )

  it.live("a ping with the secret of one GatewaySync works", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.putSecret("hook", { token: "own-token" })
        yield* api.put("own", own("hook"))
        const headers = { authorization: "Bearer own-token" }
        assert.strictEqual((yield* post({ zen: "x" }, github("ping", { ...everywhere, headers }))).status, 200)
      }),
      { credentials: both }
    )
  )
})

describe("waiting for many", () => {
  it.live("synced only when each of them is", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("late")
        const promote = post(kargo({ repoURL: plant, tag: "v2" }), everywhere)
        assert.deepInclude((yield* promote).body, { synced: false, gateways: { synced: 0, total: 0 } })
        const reached = (name: string) =>
          Effect.flatMap(api.annotations(name), (annotations) =>
            api.put(name, {
              annotations: { ...annotations },
              status: {
                observedGeneration: 1,
                lastSyncRef: "v2",
                lastSyncRefKind: "tag",
                lastHandledRequest: RequestedRef.fingerprint(annotations),
                conditions: ["RefResolved", "AllGatewaysSynced"].map((type) => ({
                  type,
                  status: "True",
                  reason: "x",
                  message: "",
                  lastTransitionTime: "2026-01-01T00:00:00Z"
                })),
                discoveredGateways: [{ name: "g", namespace: "plant", podName: "g-0", syncStatus: "Synced" }]
              }
            })
          )
        yield* reached("site")
        assert.deepInclude((yield* promote).body, { synced: false, gateways: { synced: 1, total: 1 } })
        yield* reached("site")
        yield* reached("late")
        assert.deepInclude((yield* promote).body, { synced: true, gateways: { synced: 2, total: 2 } })
      })
    )
  )
})
