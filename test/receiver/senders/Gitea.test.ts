import { assert, describe, it } from "@effect/vitest"
import { commit, delivery, type Headers, ignored, named, read, zeros } from "../reading.ts"

/** Each sends GitHub's header as well, and Forgejo also Gitea's. */
const gitea = (event: string): Headers => ({
  "x-gitea-event": event,
  "x-gogs-event": event,
  "x-github-event": event,
  "x-gitea-delivery": "guid-1",
  "x-github-delivery": "another"
})

const repository = {
  clone_url: "https://gitea.example/acme/plant.git",
  ssh_url: "git@gitea.example:acme/plant.git",
  html_url: "https://gitea.example/acme/plant"
}
const push = {
  ref: "refs/heads/main",
  before: commit("a"),
  after: commit("b"),
  compare_url: "https://gitea.example/acme/plant/compare/a...b",
  total_commits: 1,
  repository
}
const release = { action: "published", release: { tag_name: "v2", draft: false, prerelease: false }, repository }

describe("Gitea, Forgejo and Gogs", () => {
  it.each<readonly [string, Headers]>([
    ["Gitea", gitea("push")],
    ["Forgejo", { ...gitea("push"), "x-forgejo-event": "push" }],
    ["Gogs", { "x-gogs-event": "push", "x-gogs-delivery": "guid-1", "x-github-event": "push" }]
  ])("%s: a push", (_, headers) =>
    assert.deepStrictEqual(delivery(read(push, headers)), {
      _tag: "Push",
      by: "gitea",
      ref: "main",
      kind: "branch",
      repositories: named(...Object.values(repository)),
      before: commit("a"),
      after: commit("b"),
      id: "guid-1"
    })
  )

  it("a published release moves", () =>
    assert.deepInclude(delivery(read(release, gitea("release"))), { _tag: "Promotion", by: "gitea", ref: "v2" }))

  it.each(["updated", "deleted"])("a release %s is ignored", (action) =>
    assert.include(ignored(read({ ...release, action }, gitea("release"))), action)
  )

  it("a draft is ignored, a prerelease says that it is one", () => {
    const change = (what: object) => read({ ...release, release: { ...release.release, ...what } }, gitea("release"))
    assert.include(ignored(change({ draft: true })), "draft")
    assert.deepInclude(delivery(change({ prerelease: true })), { prerelease: true })
  })

  it("create of a tag wakes, with the commit", () =>
    assert.deepInclude(
      delivery(
        read({ ref: "v2", ref_type: "tag", sha: commit("b"), pusher_type: "user", repository }, gitea("create"))
      ),
      { _tag: "Push", by: "gitea", ref: "v2", kind: "tag", after: commit("b") }
    ))

  it.each([
    ["delete", { ref: "v2", ref_type: "tag", pusher_type: "user", repository }],
    ["fork", { repository }],
    ["issues", { action: "opened" }]
  ])("%s is ignored", (event, body) => assert.include(ignored(read(body, gitea(event))), event))

  it("a deletion by zeros is ignored", () =>
    assert.include(ignored(read({ ...push, after: zeros }, gitea("push"))), "deleted"))

  it.each<readonly [string, object]>([
    ["no repository", { ...push, repository: null }],
    ["null commits", { ...push, commits: null, head_commit: null }]
  ])("a push with %s is read all the same", (_, body) =>
    assert.strictEqual(delivery(read(body, gitea("push"))).ref, "main")
  )
})
