import { assert, describe, it } from "@effect/vitest"
import { commit, deliveries, delivery, type Headers, ignored, invalid, named, read, zeros } from "../reading.ts"

const azure: Headers = { "x-vss-activityid": "activity-1", "user-agent": "VSServices/1.0" }

const update = (name: string, newObjectId: string) => ({ name, oldObjectId: commit("a"), newObjectId })
const remoteUrl = "https://dev.azure.com/acme/plant/_git/site"
const push = (refUpdates: unknown) => ({
  id: "event-1",
  notificationId: 7,
  eventType: "git.push",
  publisherId: "tfs",
  resource: { refUpdates, repository: { remoteUrl } }
})
const main = update("refs/heads/main", commit("b"))

describe("Azure DevOps", () => {
  it("a push to a branch, with the id in its body", () =>
    assert.deepStrictEqual(delivery(read(push([main]), azure)), {
      _tag: "Push",
      by: "azure-devops",
      ref: "main",
      kind: "branch",
      repositories: named(remoteUrl),
      before: commit("a"),
      after: commit("b"),
      id: "event-1/7"
    }))

  it("every update of a delivery counts, but for deletions", () =>
    assert.deepStrictEqual(
      deliveries(read(push([update("refs/heads/dev", zeros), main, update("refs/tags/v2", commit("c"))]), azure)).map(
        ({ ref }) => ref
      ),
      ["main", "v2"]
    ))

  it.each([
    ["only deletions", push([update("refs/heads/dev", zeros)]), 'branch "dev" was deleted'],
    ["no update", push([]), "changes no ref"],
    ["an update that cannot be read", push([{}]), "no `name`"],
    ["minimal details", push(undefined), 'set "Resource details to send"']
  ])("%s is ignored", (_, body, word) => assert.include(ignored(read(body, azure)), word))

  it("more updates than 1000 are refused, with the bound", () => {
    const many = (count: number) => push(Array.from({ length: count }, () => main))
    assert.lengthOf(deliveries(read(many(1000), azure)), 1000)
    assert.include(invalid(read(many(1001), azure)), "more than the 1000")
  })

  it("another event is ignored", () =>
    assert.include(ignored(read({ ...push([main]), eventType: "build.complete" }, azure)), "build.complete"))

  it("before any other forge, and known by its body", () => {
    assert.deepInclude(delivery(read(push([main]), { ...azure, "x-github-event": "push" })), { by: "azure-devops" })
    assert.deepInclude(delivery(read(push([main]))), { by: "azure-devops", ref: "main" })
  })

  it.each<readonly [string, object]>([
    ["a resource that is none", { ...push([]), resource: null }],
    ["updates that are no list", push({})]
  ])("%s is invalid", (_, body) => assert.include(invalid(read(body, azure)), "push of Azure DevOps"))

  it("without an id it has none", () => {
    const { id: _, notificationId: __, ...rest } = push([main])
    assert.notProperty(delivery(read(rest, azure)), "id")
  })
})
