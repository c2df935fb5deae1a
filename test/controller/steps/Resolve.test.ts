import { assert, describe, it } from "@effect/vitest"
import * as Names from "../../../src/api/Names.ts"
import * as RequestedRef from "../../../src/api/RequestedRef.ts"
import { mark, type Remembered } from "../../../src/controller/Memory.ts"
import * as Resolve from "../../../src/controller/steps/Resolve.ts"
import { commit, gatewaySync, otherCommit, resolved } from "../fixtures.ts"

const url = "https://git.example.com/plant.git"
const minute = 60_000

const promotion = (ref: string, over = "main", id = "one") => ({
  [Names.request.ref]: ref,
  [Names.request.over]: over,
  [Names.request.id]: id
})
const push = (pushed: object) => ({
  [Names.request.pushed]: JSON.stringify({ ref: "main", kind: "branch", at: "now", by: "github", id: "p", ...pushed })
})

/** The question of now: first seen at 0, asked at 10 s under the same mark, unless told. */
const state = (
  options: Parameters<typeof gatewaySync>[0],
  remembered: Partial<Remembered> = {},
  now = 20_000,
  told: Resolve.Told | "no map" = { repository: url, commit: undefined }
): Resolve.State => {
  const cr = gatewaySync(options)
  const { commit: held, isSettled } = Resolve.held(cr, told === "no map" ? undefined : told)
  return {
    cr,
    inForce: RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref),
    held,
    isSettled,
    remembered: {
      question: { mark: mark(cr), since: 5000 },
      asked: { at: 10_000, mark: mark(cr), shift: 0 },
      ...remembered
    },
    now
  }
}
const asks = (one: Resolve.State) => Resolve.questions(one).refs
const handled = (annotations: Readonly<Record<string, string>>) => ({
  ...resolved,
  lastHandledRequest: RequestedRef.fingerprint(annotations)
})

describe("Resolve", () => {
  const known = { status: resolved }
  const other = "https://git.example.com/other.git"
  const told = { ref: "main", commit }
  const notResolved = [{ ...resolved.conditions[0], status: "False", reason: "RefResolutionFailed" }]

  const table: ReadonlyArray<readonly [string, Resolve.State, ReadonlyArray<string>]> = [
    ["nothing is known", state({}), ["main"]],
    ["the commit of the ref is known", state(known), []],
    ["after a restart, the commit is known", state(known, { asked: { at: 0, shift: 0 } }), []],
    ["the ref was edited", state({ ...known, git: { ref: "other" } }), ["other"]],
    ["the repository was edited", state(known, {}, 20_000, { repository: other, commit: undefined }), ["main"]],
    ["agents were told what the status says", state(known, {}, 20_000, { repository: url, commit: told }), []],
    [
      "agents were told of another commit",
      state(known, {}, 20_000, { repository: url, commit: { ...told, commit: otherCommit } }),
      ["main"]
    ],
    ["without a metadata map, the spec is the observed one", state(known, {}, 20_000, "no map"), []],
    [
      "without a metadata map, the spec is a newer one",
      state({ ...known, metadata: { generation: 2 } }, {}, 20_000, "no map"),
      ["main"]
    ],
    ["a request came", state({ ...known, metadata: { annotations: promotion("v2") } }), ["v2"]],
    [
      "the request was answered",
      state({
        metadata: { annotations: promotion("v2") },
        status: { ...handled(promotion("v2")), lastSyncRef: "v2" }
      }),
      []
    ],
    [
      "the same ref is requested again",
      state({
        metadata: { annotations: promotion("v2", "main", "two") },
        status: { ...handled(promotion("v2")), lastSyncRef: "v2" }
      }),
      ["v2"]
    ],
    ["a push came", state({ ...known, metadata: { annotations: push({}) } }), ["main"]],
    ["the push was answered", state({ metadata: { annotations: push({}) }, status: handled(push({})) }), []],
    ["the request is gone", state({ status: { ...handled(promotion("v2")), lastSyncRef: "v2" } }), ["main"]],
    ["a poll is not due", state(known, {}, 10_000 + minute - 1), []],
    ["a poll is due", state(known, {}, 10_000 + minute), ["main"]],
    ["a poll is due earlier by its shift", state(known, { asked: { at: 10_000, shift: -0.05 } }, 67_000), ["main"]],
    ["polling is off", state({ ...known, spec: { polling: { enabled: false } } }, {}, 10 * minute), []],
    [
      "a retry is not due",
      state({}, { failed: { mark: mark(gatewaySync()), count: 1, fresh: false, retryAt: 30_000 } }, 29_999),
      []
    ],
    [
      "a retry is due",
      state({}, { failed: { mark: mark(gatewaySync()), count: 1, fresh: false, retryAt: 30_000 } }, 30_000),
      ["main"]
    ],
    [
      "the failure was of another question",
      state({}, { failed: { mark: "0 {}", count: 1, fresh: false, retryAt: 90_000 } }),
      ["main"]
    ],
    [
      "only an edit helps",
      state({}, { failed: { mark: mark(gatewaySync()), count: 1, fresh: false, retryAt: Infinity } }, 10 * minute),
      []
    ],
    ["nobody remembers the retry", state({ status: { ...resolved, conditions: notResolved } }), ["main"]]
  ]
  for (const [when, one, refs] of table) {
    it(`asks ${refs.length === 0 ? "nothing" : `for ${refs.join(", ")}`} when ${when}`, () => {
      assert.deepStrictEqual(asks(one), refs)
    })
  }

  it("holds what the agents were told, of this repository only, before what the status says", () => {
    const cr = gatewaySync(known)
    const newer = { ...told, commit: otherCommit }
    const held = (one: Resolve.Told | undefined) => Resolve.held(cr, one).commit
    assert.deepStrictEqual(held({ repository: url, commit: newer }), newer)
    assert.deepStrictEqual(held({ repository: url, commit: told }), { ...told, kind: "branch" })
    assert.deepStrictEqual(held({ repository: url, commit: undefined }), { ...told, kind: "branch" })
    assert.isUndefined(held({ repository: other, commit: newer }))
    assert.isUndefined(held({ repository: other, commit: undefined }))
    assert.deepStrictEqual(held(undefined), { ...told, kind: "branch" })
  })

  it("asks for the spec's own ref first while it catches up, once an edit", () => {
    const annotations = promotion("v2.0.0")
    const one = (remembered: Partial<Remembered>) =>
      state(
        {
          git: { ref: "2.0.0" },
          metadata: { annotations, generation: 2 },
          status: { ...handled(annotations), lastSyncRef: "v2.0.0" }
        },
        remembered
      )
    assert.deepStrictEqual(asks(one({ asked: { at: 1000, mark: "an older one", shift: 0 } })), ["2.0.0", "v2.0.0"])
    assert.deepStrictEqual(asks(one({})), [])
  })

  it("polls the ref in force while another cannot be resolved", () => {
    const annotations = promotion("nowhere")
    const options = { ...known, metadata: { annotations } }
    const failed = { mark: mark(gatewaySync(options)), count: 5, fresh: false, retryAt: 10 * minute }
    const { meanwhile, refs } = Resolve.questions(state(options, { failed }, 10_000 + minute))
    assert.deepStrictEqual({ refs, meanwhile }, { refs: [], meanwhile: "main" })
    assert.isUndefined(Resolve.questions(state(options, { failed }, 10_000 + minute - 1)).meanwhile)
  })

  it("takes for a new question only what begins after it, for a poll what is younger by half an interval", () => {
    const asked = { at: 10_000, mark: "an older one", shift: 0 }
    const annotations = push({})
    assert.strictEqual(Resolve.questions(state({ ...known, metadata: { annotations } }, { asked })).after, 5000)
    assert.strictEqual(Resolve.questions(state(known, {}, 10_000 + minute)).after, 10_000 + minute / 2)
    // One that was asked before, and is back: what was found then is no answer.
    const back = { question: { mark: mark(gatewaySync({ ...known, metadata: { annotations } })), since: 15_000 } }
    assert.strictEqual(Resolve.questions(state({ ...known, metadata: { annotations } }, back)).after, 15_000)
    const slow = { ...known, spec: { polling: { interval: "10m" } } }
    assert.strictEqual(Resolve.questions(state(slow, {}, 11 * minute)).after, 10_000 + 5 * minute)
  })

  it("waits between tries: fast while a request is fresh, else from half a minute to five", () => {
    const delays = (fresh: boolean) => [1, 2, 3, 4, 5, 6].map((n) => Resolve.retryDelay(n, fresh) / 1000)
    assert.deepStrictEqual(delays(true), [1, 2, 4, 5, 5, 5])
    assert.deepStrictEqual(delays(false), [30, 60, 120, 240, 300, 300])
  })

  it("reads intervals as Go does, and takes none below a second", () => {
    assert.deepStrictEqual(
      ["60s", "1h30m", "1ms", "0", "often"].map(Resolve.interval),
      [60_000, 5_400_000, 1000, 1000, 60_000]
    )
  })

  it("sees lag only where the remote serves what the push replaced", () => {
    const found = { ref: "main", commit }
    assert.isTrue(Resolve.lags(push({ before: commit, after: otherCommit }), found))
    assert.isFalse(Resolve.lags(push({ before: otherCommit, after: commit }), found))
    assert.isFalse(Resolve.lags(push({ before: commit, after: commit }), found))
    assert.isFalse(Resolve.lags(push({ after: otherCommit }), found))
    assert.isFalse(Resolve.lags(push({ ref: "other", before: commit, after: otherCommit }), found))
    assert.isFalse(Resolve.lags({}, found))
  })

  it("looks again when the lag may be over, and not before", () => {
    const annotations = push({ before: commit, after: otherCommit })
    const options = { ...known, metadata: { annotations } }
    const lag = { mark: mark(gatewaySync(options)), count: 1, retryAt: 30_000 }
    assert.deepStrictEqual(asks(state(options, { lag }, 29_999)), [])
    assert.deepStrictEqual(asks(state(options, { lag }, 30_000)), ["main"])
  })
})
