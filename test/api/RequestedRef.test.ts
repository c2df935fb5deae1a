import { assert, describe, it } from "@effect/vitest"
import { vi } from "vitest"
import { request as keys } from "../../src/api/Names.ts"
import * as RepositoryIdentity from "../../src/api/RepositoryIdentity.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"

type Annotations = Readonly<Record<string, string>>

const commit = (digit: string) => digit.repeat(40)
const stamp: RequestedRef.Stamp = { at: "2026-01-02T03:04:05.000Z", freshId: "fresh", traceparent: "00-trace" }

const target = (change: Partial<RequestedRef.Target> = {}): RequestedRef.Target => ({
  annotations: {},
  repository: "https://github.com/acme/plant.git",
  specRef: "main",
  prereleases: false,
  synced: true,
  ...change
})

/** A promotion that is in force: asked for, maybe handled. */
const requested = (ref: string, id: string, over = "main"): Annotations => ({
  [keys.ref]: ref,
  [keys.at]: "2026-01-01T00:00:00.000Z",
  [keys.by]: "generic",
  [keys.id]: id,
  [keys.over]: over
})

const promotion = (ref: string, change: Partial<RequestedRef.Promotion> = {}): RequestedRef.Promotion => ({
  _tag: "Promotion",
  by: "generic",
  ref,
  ...change
})

const push = (ref: string, change: Partial<RequestedRef.Push> = {}): RequestedRef.Push => ({
  _tag: "Push",
  by: "github",
  ref,
  kind: "branch",
  id: "p1",
  ...change
})

const decide = (delivery: RequestedRef.Delivery, at: RequestedRef.Target) => RequestedRef.decide([delivery], at, stamp)

const written = (decision: RequestedRef.Decision) => {
  if (decision._tag !== "Write") throw new Error(`nothing is written: ${JSON.stringify(decision)}`)
  return decision
}
const apply = (annotations: Annotations, decision: RequestedRef.Decision) =>
  RequestedRef.after(annotations, written(decision).annotations)

const refusal = (decision: RequestedRef.Decision) => {
  if (decision._tag !== "NotForUs") throw new Error(`not refused: ${JSON.stringify(decision)}`)
  return decision.reason
}

const handled = (annotations: Annotations) => ({
  annotations,
  lastHandledRequest: RequestedRef.fingerprint(annotations)
})

describe("who wins", () => {
  it("nobody asked: spec.git.ref", () => assert.deepStrictEqual(RequestedRef.inForce({}, "main"), { ref: "main" }))

  it("an empty annotation is none", () =>
    assert.deepStrictEqual(RequestedRef.inForce({ [keys.ref]: "" }, "main"), { ref: "main" }))

  it("a request overrides spec.git.ref", () => {
    const { fate, ref, request } = RequestedRef.inForce(requested("v2", "1"), "main")
    assert.deepStrictEqual([ref, request?.ref, fate], ["v2", "v2", undefined])
  })

  it.each(["v2.0.0", "2.0.0"])("spec.git.ref catches up by saying %s", (specRef) => {
    const found = RequestedRef.inForce(requested("v2.0.0", "1"), specRef)
    assert.deepStrictEqual([found.ref, found.fate], ["v2.0.0", "caughtUp"])
  })

  it("spec.git.ref edited to anything else after the request: the newest writer wins", () => {
    const found = RequestedRef.inForce(requested("v2", "1", "main"), "dev")
    assert.deepStrictEqual(found, { ref: "dev", fate: "ended" })
  })

  it.each([keys.over, keys.id])("a request by hand, without %s, is adopted", (missing) => {
    const { [missing]: _, ...annotations } = requested("v2", "1")
    const found = RequestedRef.inForce(annotations, "main")
    assert.deepStrictEqual([found.ref, found.fate], ["v2", "adopt"])
  })
})

describe("handled or not", () => {
  it("nothing asked is nothing to handle", () => assert.isTrue(RequestedRef.isHandled({}, undefined)))

  it("a request is handled once its fingerprint says so", () => {
    const annotations = requested("v2", "1")
    assert.isFalse(RequestedRef.isHandled(annotations, undefined))
    assert.isTrue(RequestedRef.isHandled(annotations, RequestedRef.fingerprint(annotations)))
  })

  it.each([
    ["a new id", requested("v2", "2")],
    ["another ref under the same id (kubectl)", requested("v3", "1")],
    ["a push beside it", { ...requested("v2", "1"), [keys.pushed]: pushedJson("x") }]
  ])("%s is not handled", (_, annotations) =>
    assert.isFalse(RequestedRef.isHandled(annotations, RequestedRef.fingerprint(requested("v2", "1"))))
  )

  it("annotations that are gone are nothing to handle", () => {
    const both = { ...requested("v2", "1"), [keys.pushed]: pushedJson("p") }
    assert.isTrue(RequestedRef.isHandled({ [keys.pushed]: pushedJson("p") }, RequestedRef.fingerprint(both)))
    assert.isTrue(RequestedRef.isHandled({}, RequestedRef.fingerprint(both)))
  })

  it.each(["", "no json", "[]", '{"ref":1}'])("a fingerprint that does not decode (%j) has handled nothing", (text) =>
    assert.isFalse(RequestedRef.isHandled(requested("v2", "1"), text))
  )
})

function pushedJson(id: string): string {
  return JSON.stringify({ ref: "main", kind: "branch", at: stamp.at, by: "github", id })
}

describe("a promotion", () => {
  it("writes all requested-* keys, null for what it does not know", () => {
    const decision = written(decide(promotion("v2"), target()))
    assert.deepStrictEqual(decision.annotations, {
      [keys.ref]: "v2",
      [keys.at]: stamp.at,
      [keys.by]: "generic",
      [keys.commit]: null,
      [keys.id]: "fresh",
      [keys.over]: "main",
      [keys.traceparent]: "00-trace"
    })
    assert.isFalse(decision.repeats)
  })

  it("replaces every key of a former one", () => {
    const former = apply({}, decide(promotion("v1", { id: "1", commit: commit("a"), by: "kargo" }), target()))
    const annotations = apply(former, decide(promotion("v2", { id: "2" }), target({ annotations: former })))
    assert.deepStrictEqual(RequestedRef.override(annotations), {
      ref: "v2",
      at: stamp.at,
      by: "generic",
      id: "2",
      over: "main"
    })
    assert.strictEqual(annotations[keys.commit], undefined)
  })

  it("to the ref already requested leaves requested-ref and requested-at, and renews the id", () => {
    const annotations = requested("v2", "1")
    const decision = written(decide(promotion("v2"), target(handled(annotations))))
    assert.strictEqual(decision.message, "ref already set")
    const after = RequestedRef.after(annotations, decision.annotations)
    assert.strictEqual(after[keys.at], annotations[keys.at])
    assert.strictEqual(after[keys.by], "generic")
    assert.strictEqual(after[keys.id], "fresh")
    assert.isFalse(RequestedRef.isHandled(after, RequestedRef.fingerprint(annotations)))
  })

  it("after an edit of spec.git.ref is a new override, over what it says now", () => {
    const decision = written(decide(promotion("v2"), target({ annotations: requested("v2", "1"), specRef: "dev" })))
    assert.strictEqual(decision.annotations[keys.over], "dev")
    assert.strictEqual(decision.message, undefined)
  })

  describe("may be told what was reached before, when it asks again", () => {
    const annotations = requested("v2", "1")
    const reached = { ...handled(annotations), lastSyncRef: "v2", lastSyncCommit: commit("a") }
    it.each([
      ["for a tag", promotion("v2"), { ...reached, lastSyncRefKind: "tag" }, true],
      ["not for a branch: it may have moved", promotion("v2"), { ...reached, lastSyncRefKind: "branch" }, false],
      [
        "for a branch with the commit that is there",
        promotion("v2", { commit: commit("a") }),
        { ...reached, lastSyncRefKind: "branch" },
        true
      ],
      [
        "not for another commit",
        promotion("v2", { commit: commit("b") }),
        { ...reached, lastSyncRefKind: "tag" },
        false
      ],
      ["not for another ref", promotion("v3"), { ...reached, lastSyncRefKind: "tag" }, false],
      [
        "also when spec.git.ref has caught up and the override is gone",
        promotion("v2"),
        { specRef: "v2", lastSyncRef: "v2", lastSyncRefKind: "tag" },
        true
      ],
      ["not before it resolved", promotion("v2"), { ...handled(annotations), lastSyncRef: "main" }, false]
    ] as const)("%s", (_, delivery, change, expected) =>
      assert.strictEqual(written(decide(delivery, target(change))).repeats, expected)
    )
  })

  it("to a ref outside spec.webhook.refs is not for us", () => {
    assert.include(refusal(decide(promotion("v3.1"), target({ refs: ["v2.*", "release/**"] }))), "v2.*")
    assert.include(refusal(decide(promotion("v2.1"), target({ refs: [] }))), "spec.webhook.refs")
    written(decide(promotion("v2.1"), target({ refs: ["v2.*"] })))
    written(decide(promotion("release/a/b"), target({ refs: ["v2.*", "release/**"] })))
  })

  it("of a prerelease needs spec.webhook.prereleases", () => {
    assert.include(refusal(decide(promotion("v2-rc", { prerelease: true }), target())), "prerelease")
    written(decide(promotion("v2-rc", { prerelease: true }), target({ prereleases: true })))
  })
})

describe("twice", () => {
  const release = promotion("v2", { by: "github", id: "g1", digest: "d1" })
  const once = apply({}, decide(release, target()))

  it("a delivery that is in force and synced writes nothing", () =>
    assert.strictEqual(decide(release, target(handled(once)))._tag, "AlreadyHandled"))

  it.each([
    ["not handled yet", { annotations: once }],
    ["handled, not synced", { ...handled(once), synced: false }]
  ])("a delivery that is in force and %s wakes", (_, change) => {
    const decision = written(decide(release, target(change)))
    assert.strictEqual(decision.annotations[keys.id], "fresh")
    assert.isUndefined(decision.annotations[keys.ref])
  })

  it("a superseded delivery never moves it back", () => {
    const later = apply(once, decide(promotion("v3", { id: "g2" }), target({ annotations: once })))
    assert.include(refusal(decide(release, target({ annotations: later, synced: false }))), "v3")
  })

  it("a release's body under another id is the same delivery", () => {
    const later = apply(once, decide(promotion("v3", { id: "g2" }), target({ annotations: once })))
    assert.include(refusal(decide({ ...release, id: "other" }, target({ annotations: later }))), "v3")
    const { id: _, ...withoutId } = release
    assert.include(refusal(decide(withoutId, target({ annotations: later }))), "v3")
  })

  it("without an id nothing is remembered, so v1, v2, v1 is a roll-back", () => {
    const first = apply({}, decide(promotion("v1"), target()))
    const second = apply(first, decide(promotion("v2"), target({ annotations: first })))
    const third = apply(second, decide(promotion("v1"), target({ annotations: second })))
    assert.strictEqual(third[keys.ref], "v1")
    assert.isUndefined(third[keys.deliveries])
  })

  it("is forgiven when spec.git.ref says it now, under another spelling too", () => {
    const { [keys.deliveries]: deliveries } = apply({}, decide(promotion("v2.0.0", { id: "g1" }), target()))
    const at = target({ annotations: { [keys.deliveries]: deliveries! }, specRef: "2.0.0" })
    assert.strictEqual(decide(promotion("v2.0.0", { id: "g1" }), at)._tag, "AlreadyHandled")
  })

  it("remembers the last 32, the newest last", () => {
    let annotations: Annotations = {}
    for (let index = 0; index < RequestedRef.rememberedDeliveries + 3; index++) {
      annotations = apply(annotations, decide(promotion(`v${index}`, { id: `${index}` }), target({ annotations })))
    }
    const remembered = JSON.parse(annotations[keys.deliveries]!) as ReadonlyArray<{ readonly id: string }>
    assert.deepStrictEqual(
      remembered.map(({ id }) => id),
      Array.from({ length: RequestedRef.rememberedDeliveries }, (_, index) => `${index + 3}`)
    )
    // The first is forgotten, so it would be taken for new.
    written(decide(promotion("v0", { id: "0" }), target({ annotations })))
  })

  it("many pushes, or requests by hand, make no release forgotten", () => {
    let annotations = apply({}, decide(release, target()))
    for (let index = 0; index < RequestedRef.rememberedDeliveries + 1; index++) {
      const by = target({ annotations })
      annotations = apply(annotations, decide(push("v2", { kind: "tag", id: `p${index}` }), by))
      annotations = apply(annotations, decide(promotion("v2", { id: `h${index}` }), target({ annotations })))
    }
    annotations = apply(annotations, decide(promotion("v3", { id: "g3" }), target({ annotations })))
    assert.include(refusal(decide({ ...release, id: "other" }, target({ annotations }))), "handled before")
  })

  it("many pushes make no request by hand forgotten", () => {
    const byHand = promotion("v2", { id: "h1" })
    let annotations = apply({}, decide(byHand, target()))
    for (let index = 0; index < RequestedRef.rememberedDeliveries; index++) {
      annotations = apply(annotations, decide(push("v2", { kind: "tag", id: `p${index}` }), target({ annotations })))
    }
    annotations = apply(annotations, decide(promotion("v3", { id: "h2" }), target({ annotations })))
    assert.include(refusal(decide(byHand, target({ annotations }))), "handled before")
  })

  it("neither does one release under many ids, nor a push under its id", () => {
    const second = promotion("v3", { by: "github", id: "g2", digest: "d2" })
    let annotations = apply(once, decide(second, target({ annotations: once })))
    for (let index = 0; index < RequestedRef.rememberedDeliveries; index++) {
      const pending = target({ annotations, synced: false })
      annotations = apply(annotations, decide({ ...second, id: `x${index}` }, pending))
    }
    annotations = apply(annotations, decide(push("v3", { kind: "tag", id: "g1" }), target({ annotations })))
    assert.include(refusal(decide({ ...release, id: "other" }, target({ annotations }))), "handled before")
  })

  it("an annotation that somebody spoiled remembers nothing", () => {
    const annotations = { [keys.deliveries]: "{", [keys.pushed]: "nonsense" }
    written(decide(release, target({ annotations })))
    assert.isUndefined(RequestedRef.pushed(annotations))
  })
})

describe("a push", () => {
  it("wakes who follows the branch, and leaves requested-* alone", () => {
    const annotations = requested("dev", "1")
    const decision = written(decide(push("dev", { before: commit("a"), after: commit("b") }), target({ annotations })))
    assert.deepStrictEqual(Object.keys(decision.annotations).sort(), [keys.deliveries, keys.pushed, keys.traceparent])
    const after = RequestedRef.after(annotations, decision.annotations)
    assert.deepStrictEqual(RequestedRef.pushed(after), {
      ref: "dev",
      kind: "branch",
      before: commit("a"),
      after: commit("b"),
      at: stamp.at,
      by: "github",
      id: "p1"
    })
    assert.deepStrictEqual(RequestedRef.override(after), RequestedRef.override(annotations))
  })

  it("to another ref than the effective one is not for us", () => {
    assert.include(refusal(decide(push("main"), target({ annotations: requested("v2", "1") }))), '"v2"')
    assert.include(refusal(decide(push("dev"), target())), '"main"')
  })

  it.each([
    ["branch", "tag", false],
    ["tag", "branch", false],
    ["branch", "branch", true],
    ["tag", "tag", true],
    ["branch", "commit", false],
    ["branch", undefined, true]
  ] as const)("to a %s is for a GatewaySync on a %s: %s", (kind, followed, expected) => {
    const at = target({ lastSyncRef: "main", ...(followed === undefined ? {} : { lastSyncRefKind: followed }) })
    assert.strictEqual(decide(push("main", { kind }), at)._tag, expected ? "Write" : "NotForUs")
  })

  it("asks nothing of the kind of a ref that is not resolved yet", () => {
    const at = target({ annotations: requested("x", "1"), lastSyncRef: "main", lastSyncRefKind: "tag" })
    assert.strictEqual(decide(push("x"), at)._tag, "Write")
  })

  it("twice: nothing when it is synced, a wake-up when it is not", () => {
    const once = apply({}, decide(push("main"), target()))
    assert.strictEqual(decide(push("main"), target(handled(once)))._tag, "AlreadyHandled")
    const again = apply(once, decide(push("main"), target({ annotations: once })))
    assert.strictEqual(RequestedRef.pushed(again)?.id, "fresh")
    written(decide(push("main"), target({ annotations: again, synced: false })))
  })

  it("keeps what a release has left in the memory", () => {
    const release = promotion("v2", { by: "github", id: "g1", digest: "d1" })
    const released = apply({}, decide(release, target()))
    const pushedTo = apply(released, decide(push("v2", { kind: "tag" }), target({ annotations: released })))
    const moved = apply(pushedTo, decide(promotion("v3"), target({ annotations: pushedTo })))
    assert.include(refusal(decide({ ...release, id: "g9" }, target({ annotations: moved }))), "v3")
  })
})

describe("several deliveries in one message", () => {
  const ours = RepositoryIdentity.said(["git@github.com:acme/plant.git"])
  const decideAll = (deliveries: ReadonlyArray<RequestedRef.Delivery>, at = target()) =>
    RequestedRef.decide(deliveries, at, stamp)

  it("the one about our repository counts, in whatever way its URL is written", () => {
    const decision = decideAll([
      promotion("v1", { repositories: RepositoryIdentity.said(["https://github.com/acme/other"]) }),
      promotion("v2", { repositories: ours })
    ])
    assert.strictEqual(written(decision).ref, "v2")
  })

  it("ours comes before one that does not say", () =>
    assert.strictEqual(written(decideAll([promotion("v1"), promotion("v2", { repositories: ours })])).ref, "v2"))

  it("one that does not say, when none is ours", () =>
    assert.strictEqual(
      written(
        decideAll([
          promotion("v0", { repositories: RepositoryIdentity.said(["https://x.example/a"]) }),
          promotion("v1")
        ])
      ).ref,
      "v1"
    ))

  it.each([
    ["about our repository", ours],
    ["that do not say", undefined]
  ])("two refs %s: nobody can tell which is meant, and both are named", (_, repositories) => {
    const about = repositories === undefined ? {} : { repositories }
    const reason = refusal(decideAll([promotion("v1", about), promotion("v2", about), promotion("v1", about)]))
    assert.include(reason, '"v1"')
    assert.include(reason, '"v2"')
    // The same one twice is one.
    assert.strictEqual(written(decideAll([promotion("v1", about), promotion("v1", about)])).ref, "v1")
  })

  it("two refs of which spec.webhook.refs allows one: that is meant; of which it allows none, neither", () => {
    const refs = ["v*"]
    const freight = [promotion("a".repeat(40)), promotion("v1"), promotion("main")]
    assert.strictEqual(written(decideAll(freight, target({ refs }))).ref, "v1")
    assert.include(refusal(decideAll(freight, target({ refs: ["w*"] }))), "is none of spec.webhook.refs (w*)")
    assert.include(refusal(decideAll([...freight, promotion("v2")], target({ refs }))), '"v1" and for "v2"')
  })

  it("what was handled before is decoded once for all of them", () => {
    const annotations = { [keys.deliveries]: JSON.stringify([{ id: "p1", push: true }]) }
    const parse = vi.spyOn(JSON, "parse")
    const both = [push("main"), push("main", { kind: "tag" })]
    const decision = decideAll(both, target(handled(annotations)))
    const decodings = parse.mock.calls.filter(([text]) => text === annotations[keys.deliveries])
    parse.mockRestore()
    assert.strictEqual(decision._tag, "AlreadyHandled")
    assert.lengthOf(decodings, 1)
  })

  it("of changes of one ref the last counts, of a branch and a tag of one name the one that is followed", () => {
    const tip = (digit: string, kind: "branch" | "tag") => push("main", { kind, after: digit.repeat(40) })
    const followed = target({ lastSyncRef: "main", lastSyncRefKind: "branch" })
    const decision = decideAll([tip("a", "branch"), tip("b", "branch"), tip("c", "tag")], followed)
    assert.strictEqual(RequestedRef.pushed(apply({}, decision))?.after, "b".repeat(40))
  })

  it("another repository is not for us, and the reason names both", () => {
    const reason = refusal(
      decideAll([promotion("v1", { repositories: RepositoryIdentity.said(["https://github.com/acme/plant-2"]) })])
    )
    assert.include(reason, "github.com/acme/plant-2")
    assert.include(reason, "not github.com/acme/plant")
  })

  it("a reason quotes no URL, which may hold a password", () => {
    const reason = refusal(
      RequestedRef.decide(
        [
          promotion("v1", {
            repositories: RepositoryIdentity.said(["https://eve:s3cr3t@github.com/acme/other", "s3cr3t"])
          })
        ],
        { ...target(), repository: "https://bob:s3cr3t@github.com/acme/plant" },
        { at: "2026-01-01T00:00:00Z", freshId: "fresh" }
      )
    )
    assert.include(reason, "github.com/acme/other")
    assert.include(reason, "github.com/acme/plant")
    assert.notInclude(reason, "s3cr3t")
  })

  it("the first change of a push that is for us", () => {
    const decision = decideAll([push("dev"), push("main")])
    assert.strictEqual(RequestedRef.pushed(apply({}, decision))?.ref, "main")
  })
})

describe("the JSON Patch of a decision", () => {
  const at = (key: string) => `/metadata/annotations/${key.replace("/", "~1")}`

  it("tests the absence of all annotations, and makes their map", () =>
    assert.deepStrictEqual(
      RequestedRef.operations({ annotations: {}, specRef: "main" }, { [keys.ref]: "v2", [keys.commit]: null }),
      [
        { op: "test", path: "/spec/git/ref", value: "main" },
        { op: "test", path: "/metadata/annotations", value: null },
        { op: "add", path: "/metadata/annotations", value: {} },
        { op: "add", path: at(keys.ref), value: "v2" }
      ]
    ))

  it("tests each annotation that it was decided on, present or absent, and removes only what is there", () =>
    assert.deepStrictEqual(
      RequestedRef.operations(
        { annotations: { ...requested("v1", "1"), [keys.commit]: commit("a") }, specRef: "main" },
        { [keys.ref]: "v2", [keys.commit]: null, [keys.traceparent]: null }
      ),
      [
        { op: "test", path: "/spec/git/ref", value: "main" },
        { op: "test", path: at(keys.ref), value: "v1" },
        { op: "test", path: at(keys.id), value: "1" },
        { op: "test", path: at(keys.over), value: "main" },
        { op: "test", path: at(keys.pushed), value: null },
        { op: "test", path: at(keys.deliveries), value: null },
        { op: "add", path: at(keys.ref), value: "v2" },
        { op: "remove", path: at(keys.commit) }
      ]
    ))
})

describe("removal of an override", () => {
  it("tests ref and id first, and removes only what is there", () =>
    assert.deepStrictEqual(RequestedRef.removal(requested("v2", "1")), [
      { op: "test", path: "/metadata/annotations/stoker.io~1requested-ref", value: "v2" },
      { op: "test", path: "/metadata/annotations/stoker.io~1requested-id", value: "1" },
      { op: "remove", path: "/metadata/annotations/stoker.io~1requested-ref" },
      { op: "remove", path: "/metadata/annotations/stoker.io~1requested-at" },
      { op: "remove", path: "/metadata/annotations/stoker.io~1requested-by" },
      { op: "remove", path: "/metadata/annotations/stoker.io~1requested-id" },
      { op: "remove", path: "/metadata/annotations/stoker.io~1requested-over" }
    ]))

  it("of one without an id tests that there is none still: a webhook for the same ref writes only that", () =>
    assert.deepStrictEqual(RequestedRef.removal({ [keys.ref]: "v2" }), [
      { op: "test", path: "/metadata/annotations/stoker.io~1requested-ref", value: "v2" },
      { op: "test", path: "/metadata/annotations/stoker.io~1requested-id", value: null },
      { op: "remove", path: "/metadata/annotations/stoker.io~1requested-ref" }
    ]))
})
