import { assert, describe, it } from "@effect/vitest"
import * as RepositoryIdentity from "../../../src/api/RepositoryIdentity.ts"
import { commit, deliveries, delivery, type Headers, ignored, invalid, named, read, zeros } from "../reading.ts"

const server: Headers = { "x-event-key": "repo:refs_changed", "x-request-id": "request-1" }

const change = (id: string, toHash: string, type = "UPDATE") => ({
  ref: { id, displayId: id, type: "BRANCH" },
  refId: id,
  fromHash: commit("a"),
  toHash,
  type
})
const clone = [
  { href: "ssh://git@bitbucket.example:7999/acme/plant.git", name: "ssh" },
  { href: "https://bitbucket.example/scm/acme/plant.git", name: "http" }
]
const push = (changes: ReadonlyArray<unknown>, links: unknown = { clone }) => ({
  eventKey: "repo:refs_changed",
  repository: { slug: "plant", project: { key: "ACME" }, links },
  changes
})
const onAnyHost = [RepositoryIdentity.onAnyHost("acme", "plant")]
const main = change("refs/heads/main", commit("b"))

describe("Bitbucket Data Center", () => {
  it("a push to a branch, with every way to clone", () =>
    assert.deepStrictEqual(delivery(read(push([main]), server)), {
      _tag: "Push",
      by: "bitbucket",
      ref: "main",
      kind: "branch",
      repositories: named(...clone.map(({ href }) => href)),
      before: commit("a"),
      after: commit("b"),
      id: "request-1"
    }))

  it("every change of a delivery counts, but for deletions", () =>
    assert.deepStrictEqual(
      deliveries(
        read(
          push([change("refs/heads/dev", zeros, "DELETE"), main, change("refs/tags/v2", commit("c"), "ADD")]),
          server
        )
      ).map(({ ref }) => ref),
      ["main", "v2"]
    ))

  it("without URLs it names project and slug", () =>
    assert.deepStrictEqual(delivery(read(push([main], null), server)).repositories, onAnyHost))

  // Bodies that have brought down other receivers.
  it.each<readonly [unknown]>([["x"], [1], [{ clone: "x" }], [{ clone: 1 }], [{ clone: [null] }], [{ clone: [1] }]])(
    "links %j are as good as none",
    (links) => assert.deepStrictEqual(delivery(read(push([main], links), server)).repositories, onAnyHost)
  )

  it("more changes than 1000, or more URLs than 16, are none that a server sends", () => {
    const many = (count: number) => Array.from({ length: count }, () => main)
    assert.lengthOf(deliveries(read(push(many(1000)), server)), 1000)
    assert.include(invalid(read(push(many(1001)), server)), "more than the 1000")
    const urls = (count: number) => ({
      clone: Array.from({ length: count }, (_, index) => ({ href: `https://bitbucket.example/${index}` }))
    })
    assert.lengthOf(delivery(read(push([main], urls(16)), server)).repositories ?? [], 16)
    assert.include(invalid(read(push([main], urls(17)), server)), "more than the 16")
  })

  it("ping says that the hook works", () =>
    assert.include(ignored(read({ test: true }, { "x-event-key": "diagnostics:ping" })), "works"))

  it.each([
    ["only deletions", push([change("refs/heads/dev", zeros, "DELETE")]), 'branch "dev" was deleted'],
    ["no change", push([]), "changes no ref"],
    ["a change that cannot be read", push([null]), "no `ref.id`"]
  ])("%s is ignored", (_, body, word) => assert.include(ignored(read(body, server)), word))

  it("another event is ignored", () =>
    assert.include(ignored(read(push([main]), { "x-event-key": "pr:merged" })), "pr:merged"))

  it("known by its body", () => {
    assert.deepInclude(delivery(read(push([main]))), { by: "bitbucket", ref: "main" })
    assert.include(ignored(read({ ...push([main]), eventKey: "repo:forked" })), "repo:forked")
  })

  it.each<readonly [string, object]>([
    ["changes that are no list", { ...push([]), changes: {} }],
    ["no repository", { changes: [main] }]
  ])("%s is invalid", (_, body) => assert.include(invalid(read(body, server)), "push of Bitbucket"))
})
