import { assert, describe, it } from "@effect/vitest"
import { deliveries, delivery, invalid, lacks, read } from "../reading.ts"

const application = (annotations: unknown) => ({
  app: {
    metadata: { name: "plant", annotations },
    // Of the manifests, not of the gateways.
    spec: { source: { repoURL: "https://github.com/acme/manifests.git", targetRevision: "HEAD" } },
    status: { sync: { revision: "0".repeat(40) } }
  }
})

describe("Argo CD", () => {
  it("asks for the ref in the annotation, of whatever repository", () =>
    assert.deepStrictEqual(deliveries(read(application({ "git.ref": "v2", other: "x" }))), [
      { _tag: "Promotion", by: "argocd", ref: "v2" }
    ]))

  it("has the id that the template gives it", () =>
    assert.strictEqual(delivery(read(application({ "git.ref": "v2" }), { "idempotency-key": "k1" })).id, "k1"))

  it("a full ref is shortened", () =>
    assert.deepInclude(delivery(read(application({ "git.ref": "refs/tags/v2" }))), { ref: "v2" }))

  it.each([
    ["<no value>", "template"],
    ["", "empty"],
    [2, "quotes"],
    ["-x", '"-"']
  ])("of an annotation %j it says where it belongs", (ref, word) =>
    assert.deepStrictEqual(
      lacks(invalid(read(application({ "git.ref": ref }))), ['app.metadata.annotations["git.ref"]', word]),
      []
    )
  )

  it("of a missing value it says what usually causes it", () =>
    assert.include(invalid(read(application({ "git.ref": "<no value>" }))), "Argo CD Application"))

  it.each([null, [], "x", {}, { "git.ref": null }])("annotations %j are no message of Argo CD", (annotations) => {
    const reading = read(application(annotations))
    assert.notStrictEqual(reading._tag, "Request")
  })

  it.each([null, [], 1, {}, { metadata: null }, { metadata: 1 }])("nor is an app %j", (app) =>
    assert.include(invalid(read({ app })), "no ref found")
  )
})
