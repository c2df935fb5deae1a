import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Ref } from "effect"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { ApiError, Conflict, Invalid, type Reason } from "../../src/kubernetes/ApiError.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as TakeOver from "../../src/kubernetes/TakeOver.ts"

const entry = (manager: string, operation: string, key: string) => ({
  manager,
  operation,
  apiVersion: "v1",
  fieldsType: "FieldsV1",
  fieldsV1: { "f:data": { [`f:${key}`]: {} } }
})
/** What an apply leaves where another program wrote by Update before. */
const mixed = {
  metadata: { resourceVersion: "1", managedFields: [entry("ours", "Apply", "a"), entry("theirs", "Update", "old")] },
  data: { a: "1", old: "1" }
}
const clean = {
  metadata: { resourceVersion: "2", managedFields: [entry("ours", "Apply", "a")] },
  data: { a: "1" }
}

const apply = Effect.fnUntraced(function* (patch: Effect.Effect<unknown, Reason>) {
  const applied = yield* Ref.make(0)
  const client = Layer.mock(ApiClient, {
    apply: () =>
      Effect.map(
        Ref.updateAndGet(applied, (count) => count + 1),
        (count) => (count === 1 ? mixed : clean)
      ),
    jsonPatch: () => Effect.mapError(patch, (reason) => new ApiError({ operation: "PATCH configmaps a/b", reason }))
  })
  const answer = TakeOver.apply(
    Resource.configMaps,
    { namespace: "a", name: "b" },
    { data: { a: "1" } },
    { fieldManager: "ours", part: "data", isWhole: (answer) => answer === clean }
  ).pipe(Effect.provide(client))
  return { answer, applied: Ref.get(applied) }
})

describe("TakeOver", () => {
  it.effect("takes over what another program wrote, and applies once more", () =>
    Effect.gen(function* () {
      const { answer, applied } = yield* apply(Effect.succeed({}))
      assert.strictEqual(yield* answer, clean)
      assert.strictEqual(yield* applied, 2)
    })
  )

  for (const [what, reason] of [
    ["its test fails", new Invalid({ status: 422, message: "the server rejected our request" })],
    ["it conflicts", new Conflict({ message: "modified" })]
  ] as const) {
    it.effect(`leaves it to the next apply where somebody wrote meanwhile: ${what}`, () =>
      Effect.gen(function* () {
        const { answer, applied } = yield* apply(Effect.fail(reason))
        assert.strictEqual(yield* answer, mixed)
        assert.strictEqual(yield* applied, 1)
      })
    )
  }

  it.effect("fails where validation refuses it, which no next apply would mend", () =>
    Effect.gen(function* () {
      const { answer } = yield* apply(
        Effect.fail(new Invalid({ status: 422, message: "too long", fields: ["metadata.labels"] }))
      )
      assert.strictEqual((yield* Effect.flip(answer)).reason._tag, "Invalid")
    })
  )
})
