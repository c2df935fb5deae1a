import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option } from "effect"
import { Memory } from "../../../src/controller/Memory.ts"
import type { Pod } from "../../../src/controller/Pod.ts"
import * as AgentAccess from "../../../src/controller/steps/AgentAccess.ts"
import { ApiClient } from "../../../src/kubernetes/ApiClient.ts"
import { ApiError, Forbidden } from "../../../src/kubernetes/ApiError.ts"
import * as Resource from "../../../src/kubernetes/Resource.ts"
import { gatewaySync, pod } from "../fixtures.ts"

const cr = gatewaySync()
const account = (name: string) => ({ kind: "ServiceAccount", name, namespace: "plant" })

/** The ServiceAccounts that a step binds, where others are bound and pods are listed by their ServiceAccount. */
const bind = Effect.fnUntraced(function* (options: {
  readonly bound: ReadonlyArray<string>
  readonly pods: ReadonlyArray<Pod>
  readonly listed: (selector: string) => Effect.Effect<ReadonlyArray<unknown>, ApiError>
}) {
  let bound: ReadonlyArray<string> = options.bound
  const lists: Array<string> = []
  const { binding, role } = AgentAccess.desired(cr, [])
  const client = Layer.mock(ApiClient, {
    get: ({ plural }) =>
      Effect.succeed(
        plural === Resource.roles.plural ? role : { ...binding, subjects: options.bound.map((name) => account(name)) }
      ),
    list: (_, { fieldSelector = "" }) => {
      lists.push(fieldSelector)
      return Effect.map(options.listed(fieldSelector), (items) => ({
        items,
        resourceVersion: "1",
        continue: Option.none()
      }))
    },
    apply: (_, _ref, body) =>
      Effect.sync(() => {
        bound = (body as { readonly subjects: ReadonlyArray<{ readonly name: string }> }).subjects.map(
          ({ name }) => name
        )
      })
  })
  yield* AgentAccess.apply(cr, options.pods).pipe(Effect.provide(Layer.merge(client, Memory.layer)))
  return { bound, lists }
})

const one = [pod({ serviceAccountName: "one" })]
const none = () => Effect.succeed([])

describe("AgentAccess", () => {
  it.effect("binds the accounts of the pods, and drops one that no pod has any more", () =>
    Effect.gen(function* () {
      const { bound, lists } = yield* bind({ bound: ["one", "gone"], pods: one, listed: none })
      assert.deepStrictEqual(bound, ["one"])
      assert.deepStrictEqual(lists, ["spec.serviceAccountName=gone"])
    })
  )

  it.effect("keeps the account of a pod that has ended and still names the GatewaySync", () =>
    Effect.gen(function* () {
      const ended = { ...pod({ name: "ended", serviceAccountName: "ended" }), status: { phase: "Failed" } }
      const { bound } = yield* bind({
        bound: ["ended", "one", "other"],
        pods: one,
        listed: (selector) =>
          Effect.succeed(
            selector.endsWith("ended")
              ? [ended]
              : [pod({ serviceAccountName: "other", annotations: { "stoker.io/cr-name": "another" } })]
          )
      })
      assert.deepStrictEqual(bound, ["ended", "one"])
    })
  )

  it.effect("never takes a right away where the pods cannot be listed", () =>
    Effect.gen(function* () {
      const { bound } = yield* bind({
        bound: ["gone"],
        pods: one,
        listed: () =>
          Effect.fail(new ApiError({ operation: "LIST pods plant", reason: new Forbidden({ message: "no" }) }))
      })
      assert.deepStrictEqual(bound, ["gone", "one"])
    })
  )

  it.effect("asks for no pods where nothing is taken away", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* bind({ bound: ["one"], pods: one, listed: none }), { bound: ["one"], lists: [] })
      assert.deepStrictEqual(yield* bind({ bound: ["default"], pods: one, listed: none }), {
        bound: ["one"],
        lists: []
      })
      assert.deepStrictEqual(yield* bind({ bound: ["default"], pods: [], listed: none }), {
        bound: ["default"],
        lists: []
      })
    })
  )
})
