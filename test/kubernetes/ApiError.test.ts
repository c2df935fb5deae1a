import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import type { ApiError } from "../../src/kubernetes/ApiError.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as Connection from "./Connection.ts"

layer(Connection.layer, { excludeTestServices: true, timeout: "2 minutes" })("ApiError", (it) => {
  it.effect("tells a JSON Patch that does not fit from an object that validation refuses", () =>
    Effect.gen(function* () {
      const client = yield* ApiClient
      const by = { fieldManager: "test" }
      const ref = { namespace: "default", name: "patched" }
      yield* client.create(Resource.configMaps, "default", { metadata: { name: ref.name }, data: { a: "1" } }, by)
      const invalid = Effect.fnUntraced(function* (operation: object) {
        const patch: Effect.Effect<unknown, ApiError> = client.jsonPatch(Resource.configMaps, ref, [operation], by)
        const { reason } = yield* Effect.flip(patch)
        return reason._tag === "Invalid"
          ? { fields: reason.fields.toSorted(), isFailedTest: reason.isFailedTest }
          : reason._tag
      })
      const failedTest = { fields: [], isFailedTest: true }
      assert.deepStrictEqual(yield* invalid({ op: "test", path: "/data/a", value: "2" }), failedTest)
      assert.deepStrictEqual(yield* invalid({ op: "remove", path: "/data/b" }), failedTest)
      assert.deepStrictEqual(yield* invalid({ op: "add", path: "/metadata/finalizers", value: ["no domain"] }), {
        fields: ["metadata.finalizers", "metadata.finalizers[0]"],
        isFailedTest: false
      })
      assert.deepStrictEqual(yield* invalid({ op: "add", path: "/data/no~1key", value: "1" }), {
        fields: ["data[no/key]"],
        isFailedTest: false
      })
    })
  )
})
