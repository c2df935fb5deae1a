import { assert, describe, it } from "@effect/vitest"
import type * as RequestedRef from "../../../src/api/RequestedRef.ts"
import { commit, delivery, type Headers, ignored, invalid, named, read, zeros } from "../reading.ts"

const gitlab = (event: string): Headers => ({
  "x-gitlab-event": event,
  "x-gitlab-event-uuid": "event-1",
  "idempotency-key": "key-1"
})

const project = {
  git_http_url: "https://gitlab.example/acme/plant.git",
  git_ssh_url: "git@gitlab.example:acme/plant.git",
  web_url: "https://gitlab.example/acme/plant"
}
const push = {
  object_kind: "push",
  event_name: "push",
  ref: "refs/heads/main",
  before: commit("a"),
  after: commit("b"),
  checkout_sha: commit("b"),
  project
}
const tag = { ...push, object_kind: "tag_push", event_name: "tag_push", ref: "refs/tags/v2", before: zeros }
const release = { object_kind: "release", action: "create", tag: "v2", commit: { id: commit("b") }, project }

describe("GitLab", () => {
  it("a push to a branch", () =>
    assert.deepStrictEqual(delivery(read(push, gitlab("Push Hook"))), {
      _tag: "Push",
      by: "gitlab",
      ref: "main",
      kind: "branch",
      repositories: named(...Object.values(project)),
      before: commit("a"),
      after: commit("b"),
      id: "key-1"
    }))

  it("a push of a new annotated tag: the commit, not the tag's own id", () => {
    const found = delivery(read({ ...tag, after: commit("c") }, gitlab("Tag Push Hook")))
    assert.deepInclude(found, { _tag: "Push", ref: "v2", kind: "tag", after: commit("b") })
    assert.notProperty(found, "before")
  })

  it("a system hook has its event in the body alone", () => {
    const { object_kind: _, ...system } = push
    assert.deepInclude(delivery(read(system, gitlab("System Hook"))), { _tag: "Push", ref: "main" })
    assert.include(ignored(read({ event_name: "user_create" }, gitlab("System Hook"))), "user_create")
  })

  it("a branch that is called refs/heads/main", () =>
    assert.strictEqual(
      delivery(read({ ...push, ref: "refs/heads/refs/heads/main" }, gitlab("Push Hook"))).ref,
      "refs/heads/main"
    ))

  it.each([push, tag])("a deletion is ignored: $ref", (body) =>
    assert.include(ignored(read({ ...body, after: zeros, checkout_sha: null }, gitlab("Push Hook"))), "was deleted")
  )

  it("a new release moves, by its tag and commit", () => {
    const found = delivery(read(release, gitlab("Release Hook"))) as RequestedRef.Promotion
    assert.deepInclude(found, {
      _tag: "Promotion",
      by: "gitlab",
      ref: "v2",
      commit: commit("b"),
      repositories: named(...Object.values(project)),
      id: "key-1"
    })
    assert.isString(found.digest)
  })

  it.each(["update", "delete"])("a release on %s is ignored", (action) =>
    assert.include(ignored(read({ ...release, action }, gitlab("Release Hook"))), action)
  )

  it("a release without a tag is invalid", () =>
    assert.include(invalid(read({ ...release, tag: null }, gitlab("Release Hook"))), '"tag" is missing'))

  it.each([
    ["a job, although it has a ref", "Job Hook", { object_kind: "build", ref: "main", build_status: "success" }],
    ["a merge request", "Merge Request Hook", { object_kind: "merge_request", project }],
    ["an event without any kind", "Emoji Hook", {}]
  ])("%s is ignored", (_, event, body) => assert.include(ignored(read(body, gitlab(event))), "nothing to act on"))

  it("known by its body when no header is there, so that a job is no generic ref", () => {
    assert.deepInclude(delivery(read(push)), { by: "gitlab", ref: "main" })
    assert.deepInclude(delivery(read(release)), { by: "gitlab", ref: "v2" })
    assert.include(ignored(read({ object_kind: "build", ref: "main" })), "build")
  })

  it("what GitHub's CI posts of itself is no message of GitLab", () =>
    assert.deepInclude(delivery(read({ ref: "refs/heads/main", event_name: "push", repository: "acme/plant" })), {
      by: "generic",
      ref: "main"
    }))

  it.each<readonly [Headers, string]>([
    [{ "idempotency-key": "a", "webhook-id": "b", "x-gitlab-event-uuid": "c" }, "a"],
    [{ "webhook-id": "b", "x-gitlab-event-uuid": "c" }, "b"],
    [{ "x-gitlab-event-uuid": "c" }, "c"]
  ])("the id of a delivery: %j", (headers, id) =>
    assert.strictEqual(delivery(read(push, { "x-gitlab-event": "Push Hook", ...headers })).id, id)
  )

  it("the old place of the URLs", () => {
    const { project: _, ...old } = push
    const repository = { git_http_url: project.git_http_url, homepage: project.web_url }
    assert.deepStrictEqual(
      delivery(read({ ...old, repository }, gitlab("Push Hook"))).repositories,
      named(project.git_http_url)
    )
  })

  it.each([
    ["no ref", { ...push, ref: undefined }],
    ["a ref that is no text", { ...push, ref: {} }],
    ["a project that is none", { ...push, project: "acme" }]
  ])("a push with %s is invalid", (_, body) =>
    assert.include(invalid(read(body, gitlab("Push Hook"))), "push of GitLab")
  )

  it("a push whose project is null names no repository", () =>
    assert.deepStrictEqual(delivery(read({ ...push, project: null }, gitlab("Push Hook"))).repositories, []))
})
