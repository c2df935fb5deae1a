import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Metadata from "../../../src/api/Metadata.ts"
import * as Names from "../../../src/api/Names.ts"
import type { OwnedMap } from "../../../src/controller/OwnedMap.ts"
import * as Maps from "../../../src/controller/steps/Maps.ts"
import { commit, gatewaySync, otherCommit } from "../fixtures.ts"

const cr = gatewaySync()
const found = { ref: "main", commit }
const map = (data: Readonly<Record<string, string>>, owner = "uid"): OwnedMap => ({
  metadata: {
    name: "stoker-metadata-site",
    namespace: "plant",
    uid: "map",
    resourceVersion: "1",
    labels: {},
    ownerReferences: [{ uid: owner }]
  },
  data
})

describe("the metadata map", () => {
  const data = Maps.desired(cr, found)

  it.effect("is what agents can read", () =>
    Effect.gen(function* () {
      const read = yield* Metadata.decode(data)
      assert.deepInclude(read, {
        commit,
        ref: "main",
        gitURL: cr.spec.git.repo,
        paused: "false",
        authType: "none",
        gatewayPort: 8088
      })
      assert.deepStrictEqual(read.profiles["default"]?.mappings, [{ source: "a", destination: "a" }])
    })
  )

  it.effect("takes commits of SHA-256 repositories", () =>
    Effect.gen(function* () {
      const commit = "c".repeat(64)
      assert.strictEqual((yield* Metadata.decode(Maps.desired(cr, { ref: "main", commit }))).commit, commit)
    })
  )

  it("has another revision for whatever an agent must act on", () => {
    const revisions = [
      data,
      Maps.desired(cr, { ...found, commit: otherCommit }),
      Maps.desired(cr, { ...found, ref: "v1" }),
      Maps.desired(gatewaySync({ spec: { paused: true } }), found),
      Maps.desired(gatewaySync({ spec: { gateway: { port: 8043, tls: true, api: { secretName: "api" } } } }), found),
      Maps.desired(gatewaySync({ metadata: { annotations: { [Names.allowMassDeletion]: commit } } }), found)
    ].map(({ revision }) => revision)
    assert.lengthOf(new Set(revisions), revisions.length)
    assert.strictEqual(
      Maps.desired(gatewaySync({ metadata: { annotations: { note: "one" } } }), found).revision,
      data.revision
    )
  })

  it("is believed as the truth about a commit only while it is as it was written, for this GatewaySync", () => {
    const told = (changed: Readonly<Record<string, string>>, owner = "uid") =>
      Maps.told(cr, map(changed, owner))?.commit
    assert.deepStrictEqual(told(data), found)
    assert.deepStrictEqual(told({ ...data, traceparent: "00-1", note: "somebody's" }), found)
    assert.isUndefined(told({ ...data, commit: otherCommit }))
    assert.isUndefined(told({ ...data, gitURL: "https://git.example.com/other.git" }))
    assert.isUndefined(told({ ...data, revision: "" }))
    assert.isUndefined(told(data, "of a former one"))
    assert.strictEqual(Maps.told(cr, map({ commit, gitURL: "here" }))?.repository, "here")
    assert.isUndefined(Maps.told(cr, undefined))
  })

  it("is written only where it says something else", () => {
    assert.isTrue(Maps.says(map(data), cr, data))
    assert.isTrue(Maps.says(map({ ...data, traceparent: "00-1", note: "somebody's" }), cr, data))
    assert.isFalse(Maps.says(map({ ...data, commit: otherCommit }), cr, data))
    assert.isFalse(Maps.says(map({ ...data, allowMassDeletion: commit }), cr, data))
    assert.isFalse(Maps.says(map(data, "of a former one"), cr, data))
    assert.isFalse(Maps.says(map({}), cr, data))
  })
})
