import { assert, describe, it } from "@effect/vitest"
import * as Names from "../../src/api/Names.ts"
import { concerns } from "../../src/controller/Stores.ts"
import { gatewaySync, resolved } from "./fixtures.ts"

describe("a change of a GatewaySync", () => {
  const before = gatewaySync()
  const changes: ReadonlyArray<readonly [string, ReturnType<typeof gatewaySync> | undefined, boolean]> = [
    ["its status", gatewaySync({ status: resolved }), false],
    [
      "what the receiver remembers",
      gatewaySync({ metadata: { annotations: { [Names.request.deliveries]: "[]" } } }),
      false
    ],
    ["its trace", gatewaySync({ metadata: { annotations: { [Names.request.traceparent]: "00" } } }), false],
    ["somebody's annotation", gatewaySync({ metadata: { annotations: { note: "one" } } }), false],
    ["its spec", gatewaySync({ metadata: { generation: 2 } }), true],
    ["a requested ref", gatewaySync({ metadata: { annotations: { [Names.request.ref]: "v2" } } }), true],
    ["a request's id", gatewaySync({ metadata: { annotations: { [Names.request.id]: "two" } } }), true],
    ["a push", gatewaySync({ metadata: { annotations: { [Names.request.pushed]: "{}" } } }), true],
    ["a leave for mass deletion", gatewaySync({ metadata: { annotations: { [Names.allowMassDeletion]: "a" } } }), true],
    ["its finalizers", gatewaySync({ metadata: { finalizers: [Names.finalizer] } }), true],
    ["its deletion", gatewaySync({ metadata: { deletionTimestamp: "2026-01-01T00:00:00Z" } }), true],
    ["its end", undefined, true]
  ]
  for (const [what, after, expected] of changes) {
    it(`${expected ? "is looked at" : "is passed over"}: ${what}`, () => {
      assert.strictEqual(concerns(before, after), expected)
    })
  }

  it("is looked at when it is new", () => {
    assert.isTrue(concerns(undefined, before))
  })
})
