import { assert, describe, it } from "@effect/vitest"
import * as Settings from "../../src/agent/Settings.ts"

describe("Settings", () => {
  it("reads labels as the downward API writes them", () => {
    assert.deepStrictEqual(
      Settings.parseLabels('app.kubernetes.io/name="ignition"\nsite="a \\"b\\" \\\\c"\nempty=""\nbroken\n'),
      { "app.kubernetes.io/name": "ignition", site: 'a "b" \\c', empty: "" }
    )
  })

  const ordinals: ReadonlyArray<readonly [string, Readonly<Record<string, string>>, number]> = [
    ["press-12", {}, 12],
    ["press", {}, 0],
    ["press-12", { "apps.kubernetes.io/pod-index": "3" }, 3],
    ["press-12", { "apps.kubernetes.io/pod-index": "" }, 12],
    ["press-7d9f-x2", {}, 2]
  ]
  for (const [name, labels, expected] of ordinals) {
    it(`the ordinal of ${name} ${JSON.stringify(labels)} is ${expected}`, () => {
      assert.strictEqual(Settings.podOrdinal(name, labels), expected)
    })
  }
})
