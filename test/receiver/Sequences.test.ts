/** Several deliveries about one thing, in the orders in which senders send them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { request as keys } from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import { MemoryApi } from "./MemoryApi.ts"
import { commit, zeros } from "./reading.ts"
import { run, written } from "./running.ts"
import { type Answer, post } from "./send.ts"

const repository = { clone_url: "https://github.com/acme/plant.git" }
const github = (event: string, id: string, path = "/webhook/plant/site") => ({
  path,
  headers: { "x-github-event": event, "x-github-delivery": id }
})
const release = (action: string, tag = "v2", path?: string) =>
  post(
    { action, release: { tag_name: tag }, repository },
    github("release", `${action} ${tag}`.replace(" ", "-"), path)
  )
const tagPush = (tag = "v2") =>
  post(
    { ref: `refs/tags/${tag}`, before: zeros, after: commit("b"), head_commit: { id: commit("b") }, repository },
    github("push", `push-${tag}`)
  )
const push = (after: string, id: string) =>
  post(
    { ref: "refs/heads/main", before: commit("a"), after, head_commit: { id: after }, repository },
    github("push", id)
  )

const annotations = MemoryApi.use((api) => api.annotations("site"))
const status = ({ status }: Answer) => status

describe("a release", () => {
  it.live("created, published and released at once is one request", () =>
    run(
      Effect.gen(function* () {
        const answers = yield* Effect.forEach(["created", "published", "released"], (action) => release(action), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(answers.map(status), [200, 202, 202])
        assert.deepInclude(yield* annotations, { [keys.ref]: "v2", [keys.over]: "main" })
      })
    )
  )

  it.live("of the last 32 releases no captured body moves the plant back, under whatever id", () =>
    run(
      Effect.gen(function* () {
        const post1 = (action: string, number: number, id: string) =>
          post({ action, release: { id: number, tag_name: `v${number}` }, repository }, github("release", id))
        for (let number = 1; number <= 32; number++) {
          for (const action of ["published", "released"]) {
            assert.strictEqual(status(yield* post1(action, number, `${action}-${number}`)), 202)
          }
        }
        for (const action of ["published", "released"]) {
          assert.strictEqual(status(yield* post1(action, 1, `new-${action}`)), 200)
        }
        assert.strictEqual((yield* annotations)[keys.ref], "v32")
        // The bound of the memory.
        yield* post1("published", 33, "33")
        assert.strictEqual(status(yield* post1("published", 1, "newer")), 202)
      })
    )
  )

  it.live("its tag is pushed first: that is not for us, the release is", () =>
    run(
      Effect.gen(function* () {
        assert.deepStrictEqual([status(yield* tagPush()), status(yield* release("published"))], [200, 202])
        assert.strictEqual((yield* annotations)[keys.ref], "v2")
      })
    )
  )

  it.live("its tag is pushed last: the request stays as it is, and the remote is asked once more", () =>
    run(
      Effect.gen(function* () {
        assert.strictEqual(status(yield* release("published")), 202)
        const before = yield* annotations
        assert.strictEqual(status(yield* tagPush()), 202)
        const after = yield* annotations
        for (const key of [keys.ref, keys.id, keys.at]) assert.strictEqual(after[key], before[key])
        assert.deepInclude(RequestedRef.pushed(after), { ref: "v2", kind: "tag" })
      })
    )
  )

  it.live("an old one is edited, unpublished or deleted: the plant stays", () =>
    run(
      Effect.gen(function* () {
        yield* release("published", "v2")
        const before = yield* annotations
        const answers = yield* Effect.forEach(["edited", "unpublished", "deleted"], (action) => release(action, "v1"))
        assert.deepStrictEqual(answers.map(status), [200, 200, 200])
        assert.deepStrictEqual(yield* annotations, before)
      })
    )
  )

  it.live("two hooks of one repository: one id for two GatewaySyncs acts on both", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("second")
        assert.strictEqual(status(yield* release("published", "v2", "/webhook/plant/site")), 202)
        assert.strictEqual(status(yield* release("published", "v2", "/webhook/plant/second")), 202)
        assert.strictEqual((yield* api.annotations("second"))[keys.ref], "v2")
      })
    )
  )

  it.live("sent again after a failure, with the same id, works", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.refuse(Option.some(new ApiErrors.Unreachable({ message: "away" })))
        assert.strictEqual(status(yield* release("published")), 503)
        yield* api.refuse(Option.none())
        assert.strictEqual(status(yield* release("published")), 202)
        assert.strictEqual((yield* annotations)[keys.ref], "v2")
      })
    )
  )
})

describe("pushes", () => {
  it.live("an older one that comes after a newer only wakes: which commit that is, the remote says", () =>
    run(
      Effect.gen(function* () {
        yield* push(commit("c"), "new")
        assert.strictEqual(status(yield* push(commit("b"), "old")), 202)
        assert.notProperty(yield* annotations, keys.ref)
      })
    )
  )

  it.live("the branch is called refs/heads/main, and so is what the GatewaySync follows", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("site", { spec: { git: { repo: repository.clone_url, ref: "refs/heads/main" } } })
        const body = { ref: "refs/heads/refs/heads/main", before: commit("a"), after: commit("b"), repository }
        assert.strictEqual(status(yield* post(body, github("push", "1"))), 202)
        assert.strictEqual(status(yield* push(commit("b"), "2")), 200)
      })
    )
  )

  it.live("of a branch that is called as the tag that is followed: not for us", () =>
    run(
      Effect.gen(function* () {
        const api = yield* MemoryApi
        yield* api.put("site", {
          spec: { git: { repo: repository.clone_url, ref: "v2" } },
          status: { lastSyncRef: "v2", lastSyncRefKind: "tag" }
        })
        const body = { ref: "refs/heads/v2", before: commit("a"), after: commit("b"), repository }
        assert.strictEqual(status(yield* post(body, github("push", "1"))), 200)
        assert.strictEqual(status(yield* tagPush("v2")), 202)
      })
    )
  )

  it.live("several changes in one delivery: the one that is followed wakes, wherever it stands", () =>
    run(
      Effect.gen(function* () {
        const end = (name: string) => ({ type: "branch", name, target: { hash: commit("b") } })
        const body = {
          push: { changes: [{ old: end("gone"), new: null }, { old: null, new: end("dev") }, { new: end("main") }] },
          repository: { links: { html: { href: "https://github.com/acme/plant" } } }
        }
        const headers = { "x-event-key": "repo:push", "x-hook-uuid": "h", "x-request-uuid": "r" }
        assert.strictEqual(status(yield* post(body, { headers })), 202)
        assert.deepInclude(RequestedRef.pushed(yield* annotations), { ref: "main", by: "bitbucket", id: "r" })
        assert.lengthOf(yield* written, 1)
      })
    )
  )
})

describe("a person's promotions", () => {
  it.live("v1, v2 and v1 again is a roll-back", () =>
    run(
      Effect.gen(function* () {
        const refs = yield* Effect.forEach(["v1", "v2", "v1"], (ref) =>
          Effect.andThen(
            post({ app: { metadata: { annotations: { "git.ref": ref } } } }),
            Effect.map(annotations, (found) => found[keys.ref])
          )
        )
        assert.deepStrictEqual(refs, ["v1", "v2", "v1"])
      })
    )
  )

  it.live(
    "Argo CD's whole Application, whose repository is that of the manifests, is for the GatewaySync of the path",
    () =>
      run(
        Effect.gen(function* () {
          const app = {
            metadata: { annotations: { "git.ref": "v2" } },
            spec: { source: { repoURL: "https://github.com/acme/manifests", targetRevision: "main" } }
          }
          assert.strictEqual(status(yield* post({ app })), 202)
        })
      )
  )
})
