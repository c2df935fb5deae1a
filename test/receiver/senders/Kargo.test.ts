import { assert, describe, it } from "@effect/vitest"
import { commit, deliveries, delivery, invalid, lacks, named, read } from "../reading.ts"

describe("Kargo", () => {
  const kargo = (...commits: ReadonlyArray<unknown>) => read({ freight: { commits } })

  it("each commit is about its repository", () =>
    assert.deepStrictEqual(
      deliveries(
        kargo(
          { repoURL: "https://github.com/acme/other.git", id: commit("a"), tag: "v1" },
          { repoURL: "git@github.com:acme/plant.git", id: commit("b"), tag: "v2" }
        )
      ),
      [
        {
          _tag: "Promotion",
          by: "kargo",
          ref: "v1",
          repositories: named("https://github.com/acme/other.git"),
          commit: commit("a")
        },
        {
          _tag: "Promotion",
          by: "kargo",
          ref: "v2",
          repositories: named("git@github.com:acme/plant.git"),
          commit: commit("b")
        }
      ]
    ))

  it.each([
    ["no tag", { id: commit("b"), branch: "main" }],
    ["an empty tag", { id: commit("b"), tag: "" }],
    ["a null tag", { id: commit("b"), tag: null }],
    ["the names of the expressions", { ID: commit("b") }]
  ])("a commit with %s is asked for by its id", (_, one) =>
    assert.deepInclude(delivery(kargo(one)), { ref: commit("b"), commit: commit("b") })
  )

  it("a commit with the names of the expressions", () =>
    assert.deepInclude(delivery(kargo({ Tag: "v2", ID: commit("b"), RepoURL: "https://x.example/a" })), {
      ref: "v2",
      repositories: named("https://x.example/a")
    }))

  it("a commit that was not found is passed over when another was", () =>
    assert.strictEqual(delivery(kargo(null, { tag: "v2" })).ref, "v2"))

  it("what was passed over is not forgotten", () => {
    const reading = kargo({ tag: "v2" }, null)
    assert.include(reading._tag === "Request" ? reading.problem : "", "commitFrom")
    assert.notProperty(kargo({ tag: "v2" }), "problem")
  })

  it.each<readonly [string, ReadonlyArray<unknown>, string, string]>([
    ["nothing found", [null], "commits[0]", "commitFrom"],
    ["nothing in it", [], "empty", "Warehouse"],
    ["neither tag nor id", [{}], "commits[0].tag", "Warehouse"],
    ["a number for a tag", [{ tag: 1.1 }], "commits[0].tag", "1.1"],
    ["text", ["v2"], "commits[0]", "tag"],
    ["an illegal tag", [{ tag: "-x" }], "commits[0].tag", '"-"'],
    ["more than any freight has", Array.from({ length: 1000 }, () => null), "256", "commits"]
  ])("%s is invalid", (_, commits, ...words) => assert.deepStrictEqual(lacks(invalid(kargo(...commits)), words), []))

  it("commits that are no list are invalid", () => assert.include(invalid(read({ freight: { commits: {} } })), "list"))
})
