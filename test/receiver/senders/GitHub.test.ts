import { assert, describe, it } from "@effect/vitest"
import type * as RequestedRef from "../../../src/api/RequestedRef.ts"
import { commit, delivery, type Headers, ignored, invalid, named, read, readText, zeros } from "../reading.ts"

const github = (event: string): Headers => ({ "x-github-event": event, "x-github-delivery": "guid-1" })

const repository = {
  clone_url: "https://github.com/acme/plant.git",
  ssh_url: "git@github.com:acme/plant.git",
  html_url: "https://github.com/acme/plant"
}
const pushBody = {
  ref: "refs/heads/main",
  before: commit("a"),
  after: commit("b"),
  created: false,
  deleted: false,
  head_commit: { id: commit("b") },
  repository
}

describe("GitHub", () => {
  const release = {
    action: "published",
    release: { tag_name: "v2.0.0", draft: false, prerelease: false, target_commitish: "main" },
    repository
  }

  it("a published release", () => {
    const found = delivery(read(release, github("release")))
    assert.deepInclude(found, {
      _tag: "Promotion",
      by: "github",
      ref: "v2.0.0",
      id: "guid-1",
      prerelease: false,
      repositories: named(...Object.values(repository))
    })
  })

  it("a release is known again by what is signed of it, whatever it is wrapped in, published and released as one", () => {
    const digest = (text: string, headers: Headers = {}) =>
      (delivery(readText(text, { ...github("release"), ...headers })) as RequestedRef.Promotion).digest
    const json = JSON.stringify(release)
    assert.strictEqual(digest(json), digest(JSON.stringify({ ...release })))
    assert.strictEqual(digest(json), digest(JSON.stringify({ ...release, action: "released" })))
    const other = (change: object) => digest(JSON.stringify({ ...release, release: { ...release.release, ...change } }))
    for (const change of [{ tag_name: "other" }, { id: -1 }, { published_at: "2026-01-01" }, { prerelease: true }]) {
      assert.notStrictEqual(digest(json), other(change))
    }
    const form = { "content-type": "application/x-www-form-urlencoded" }
    assert.strictEqual(digest(new URLSearchParams({ payload: json, n: "1" }).toString(), form), digest(json))
    assert.strictEqual(digest(json, form), digest(json))
  })

  it("`released` moves too, a prerelease says that it is one", () => {
    assert.strictEqual(delivery(read({ ...release, action: "released" }, github("release"))).ref, "v2.0.0")
    const pre = { ...release, release: { ...release.release, prerelease: true } }
    assert.deepInclude(delivery(read(pre, github("release"))), { prerelease: true })
  })

  it.each(["unpublished", "created", "edited", "deleted", "prereleased", ""])("a release %s is ignored", (action) =>
    assert.include(ignored(read({ ...release, action }, github("release"))), "published")
  )

  it("a draft is ignored", () =>
    assert.include(ignored(read({ ...release, release: { tag_name: "v2", draft: true } }, github("release"))), "draft"))

  it("a push to a branch", () =>
    assert.deepStrictEqual(delivery(read(pushBody, github("push"))), {
      _tag: "Push",
      by: "github",
      ref: "main",
      kind: "branch",
      repositories: named(...Object.values(repository)),
      before: commit("a"),
      after: commit("b"),
      id: "guid-1"
    }))

  it("a push of a new annotated tag: the commit, not the tag's own id, and no before", () => {
    const found = delivery(
      read(
        { ...pushBody, ref: "refs/tags/v2", before: zeros, after: commit("c"), head_commit: { id: commit("b") } },
        github("push")
      )
    )
    assert.deepInclude(found, { _tag: "Push", ref: "v2", kind: "tag", after: commit("b") })
    assert.notProperty(found, "before")
  })

  it("a branch that is called refs/heads/main", () =>
    assert.strictEqual(
      delivery(read({ ...pushBody, ref: "refs/heads/refs/heads/main" }, github("push"))).ref,
      "refs/heads/main"
    ))

  it("a push of a SHA-256 repository says what was there before, and what is now", () => {
    const [before, after] = ["a".repeat(64), "b".repeat(64)]
    const body = { ...pushBody, before, after, head_commit: { id: after } }
    assert.deepInclude(delivery(read(body, github("push"))), { before, after })
    const fresh = delivery(read({ ...body, before: "0".repeat(64) }, github("push")))
    assert.notProperty(fresh, "before")
  })

  it("a push without a header is one by its before and after", () =>
    assert.deepInclude(delivery(read(pushBody)), { _tag: "Push", by: "generic", ref: "main", kind: "branch" }))

  it.each([
    ["the flag", { ...pushBody, deleted: true, head_commit: null }],
    ["the zeros", { ref: "refs/heads/main", before: commit("a"), after: zeros }]
  ])("a deletion by %s is ignored", (_, body) => assert.include(ignored(read(body, github("push"))), "deleted"))

  it.each(["refs/notes/commits", "refs/pull/1/merge", "refs/heads/a..b"])("a push to %s is ignored", (ref) =>
    assert.include(ignored(read({ ...pushBody, ref }, github("push"))), "ref")
  )

  it.each([
    ["a short ref", { ...pushBody, ref: "main" }],
    ["a ref that is no text", { ...pushBody, ref: { name: "main" } }],
    ["no ref", { before: commit("a") }]
  ])("a push with %s is invalid", (_, body) => assert.include(invalid(read(body, github("push"))), "ref"))

  it("create of a tag wakes, of a branch by its short name too", () => {
    const body = { ref: "v2", ref_type: "tag", master_branch: "main", pusher_type: "user", repository }
    assert.deepInclude(delivery(read(body, github("create"))), { _tag: "Push", ref: "v2", kind: "tag", id: "guid-1" })
    assert.deepInclude(delivery(read({ ...body, ref_type: "branch" }, github("create"))), { kind: "branch" })
    assert.include(ignored(read({ ...body, ref_type: "repository" }, github("create"))), "neither")
  })

  it("ping says that the hook works", () =>
    assert.include(ignored(read({ zen: "Keep it simple.", hook_id: 1 }, github("ping"))), "works"))

  it.each(["delete", "workflow_dispatch", "code_scanning_alert", "deployment", "push, push"])(
    "%s is ignored although there is a ref in it",
    (event) => assert.include(ignored(read({ ref: "main", ref_type: "branch" }, github(event))), event)
  )

  it("its form encoding reads like its JSON", () => {
    const form = new URLSearchParams({ payload: JSON.stringify(pushBody) }).toString()
    const headers = { ...github("push"), "content-type": "application/x-www-form-urlencoded" }
    assert.deepStrictEqual(delivery(readText(form, headers)), delivery(read(pushBody, github("push"))))
    assert.include(invalid(readText("a=b", headers)), "payload")
  })

  it("JSON that curl calls a form is JSON, whatever stands in its texts", () => {
    const form = { "content-type": "application/x-www-form-urlencoded" }
    for (const note of ["", "&payload=%7B%22ref%22%3A%22evil%22%7D&"]) {
      assert.strictEqual(delivery(readText(JSON.stringify({ ref: "a=b", note }), form)).ref, "a=b")
    }
  })

  it("create and delete are known without their header, so that a deleted branch is no generic ref", () => {
    const body = { ref: "v2", ref_type: "tag", pusher_type: "user", repository }
    assert.deepInclude(delivery(read({ ...body, master_branch: "main" })), { _tag: "Push", by: "github", ref: "v2" })
    assert.include(ignored(read(body)), "delete")
  })

  it("an event of another kind is no generic ref without its header", () => {
    const dispatched = { ref: "refs/heads/other", inputs: {}, workflow: "x.yml", repository, sender: { login: "x" } }
    assert.include(ignored(read(dispatched)), "without its header")
    assert.include(ignored(read({ ...dispatched, repository: undefined, organization: {} })), "without its header")
    // What a person writes has texts there.
    assert.strictEqual(delivery(read({ ref: "v2", repository: "acme/plant", sender: "ci" })).ref, "v2")
  })
})
