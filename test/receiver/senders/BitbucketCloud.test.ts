import { assert, describe, it } from "@effect/vitest"
import { commit, deliveries, delivery, type Headers, ignored, invalid, named, read } from "../reading.ts"

const cloud: Headers = { "x-event-key": "repo:push", "x-hook-uuid": "hook-1", "x-request-uuid": "request-1" }

const end = (type: string, name: string, hash: string) => ({ type, name, target: { type: "commit", hash } })
const page = "https://bitbucket.org/acme/plant"
const push = (...changes: ReadonlyArray<unknown>) => ({
  push: { changes },
  repository: { full_name: "acme/plant", links: { html: { href: page } } }
})
const main = { old: end("branch", "main", commit("a")), new: end("branch", "main", commit("b")), closed: false }
const tag = { old: null, new: end("tag", "v2", commit("c")) }
const gone = { old: end("branch", "dev", commit("a")), new: null, closed: true }

describe("Bitbucket Cloud", () => {
  it("a push to a branch", () =>
    assert.deepStrictEqual(deliveries(read(push(main), cloud)), [
      {
        _tag: "Push",
        by: "bitbucket",
        ref: "main",
        kind: "branch",
        repositories: named(page),
        before: commit("a"),
        after: commit("b"),
        id: "request-1"
      }
    ]))

  it("every change of a delivery counts, but for deletions", () =>
    assert.deepStrictEqual(
      deliveries(read(push(gone, main, tag), cloud)).map(({ _tag, ref }) => [_tag, ref]),
      [
        ["Push", "main"],
        ["Push", "v2"]
      ]
    ))

  it.each([
    ["only deletions", push(gone), 'branch "dev" was deleted'],
    ["no change", push(), "changes no ref"],
    ["a bookmark of Mercurial", push({ old: null, new: end("bookmark", "b", commit("a")) }), "is a bookmark"]
  ])("%s is ignored", (_, body, word) => assert.include(ignored(read(body, cloud)), word))

  it("a branch that is called refs/heads/main", () =>
    assert.strictEqual(
      delivery(read(push({ new: end("branch", "refs/heads/main", commit("a")) }), cloud)).ref,
      "refs/heads/main"
    ))

  it("more changes than 1000 are none that the Cloud sends", () => {
    const many = (count: number) => push(...Array.from({ length: count }, () => main))
    assert.lengthOf(deliveries(read(many(1000), cloud)), 1000)
    assert.include(invalid(read(many(1001), cloud)), "more than the 1000")
  })

  it("another event is ignored", () =>
    assert.include(ignored(read(push(main), { ...cloud, "x-event-key": "repo:fork" })), "repo:fork"))

  it("known without the hook's id, and without any header", () => {
    assert.deepInclude(delivery(read(push(main), { "x-event-key": "repo:push" })), { by: "bitbucket", ref: "main" })
    assert.deepInclude(delivery(read(push(main))), { by: "bitbucket", ref: "main" })
  })

  it.each<readonly [string, object]>([
    ["changes that are no list", { ...push(), push: { changes: {} } }],
    ["no repository", { push: { changes: [main] } }],
    ["links that are a text", { push: { changes: [main] }, repository: { links: "x" } }]
  ])("%s is invalid", (_, body) => assert.include(invalid(read(body, cloud)), "push of Bitbucket"))

  it.each([null, 1, "x", {}, { new: 1 }, { new: { type: "__proto__", name: "x" } }])(
    "a change %j asks for nothing",
    (change) => {
      assert.isString(ignored(read(push(change), cloud)))
      assert.lengthOf(deliveries(read(push(change, main), cloud)), 1)
    }
  )
})
