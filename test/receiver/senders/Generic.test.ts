import { assert, describe, it } from "@effect/vitest"
import { commit, deliveries, delivery, invalid, named, read, zeros } from "../reading.ts"

const url = "https://github.com/acme/plant.git"

describe("a generic body", () => {
  it("with all that it may say", () =>
    assert.deepStrictEqual(
      deliveries(read({ ref: "v2", commit: commit("a"), repoURL: url, note: "x" }, { "idempotency-key": "k1" })),
      [{ _tag: "Promotion", by: "generic", ref: "v2", commit: commit("a"), repositories: named(url), id: "k1" }]
    ))

  it("with a ref alone, or null for the others", () => {
    const alone = [{ _tag: "Promotion", by: "generic", ref: "v2" }] as const
    assert.deepStrictEqual(deliveries(read({ ref: "v2" })), alone)
    assert.deepStrictEqual(deliveries(read({ ref: "v2", commit: null, repoURL: null })), alone)
  })

  it("refs/heads/x and refs/tags/x are shortened", () => {
    assert.deepInclude(delivery(read({ ref: "refs/heads/main" })), { _tag: "Promotion", ref: "main", by: "generic" })
    assert.deepInclude(delivery(read({ ref: "refs/tags/v1" })), { _tag: "Promotion", ref: "v1" })
  })

  it("a commit of a SHA-256 repository", () => {
    const id = "a".repeat(64)
    assert.deepInclude(delivery(read({ ref: id, commit: id })), { ref: id, commit: id })
  })

  it.each(["abc", commit("a").slice(1), 1, zeros, {}, ""])("a commit %j is refused", (wrong) =>
    assert.include(invalid(read({ ref: "main", commit: wrong })), '"commit"')
  )

  it.each(["nonsense", 1, {}, "", "file:///etc", "s3cr3t@x"])("a repoURL %j is refused, and not sent back", (wrong) => {
    const message = invalid(read({ ref: "main", repoURL: wrong }))
    assert.include(message, '"repoURL"')
    assert.notInclude(message, "s3cr3t")
  })

  it("a ref that is there and nothing is no other sender's", () =>
    assert.include(invalid(read({ ref: null })), '"ref" is missing'))
})
