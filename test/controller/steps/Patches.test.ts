import { assert, describe, it } from "@effect/vitest"
import * as Names from "../../../src/api/Names.ts"
import * as RequestedRef from "../../../src/api/RequestedRef.ts"
import * as AgentAccess from "../../../src/controller/steps/AgentAccess.ts"
import * as Finalizer from "../../../src/controller/steps/Finalizer.ts"
import * as Request from "../../../src/controller/steps/Request.ts"
import { gatewaySync, pod } from "../fixtures.ts"

describe("Finalizer", () => {
  it("is added to whatever is there, and to nothing that changed meanwhile", () => {
    const path = "/metadata/finalizers"
    assert.deepStrictEqual(Finalizer.addition([]), [
      { op: "test", path, value: null },
      { op: "add", path, value: [Names.finalizer] }
    ])
    assert.deepStrictEqual(Finalizer.addition(["other"]), [
      { op: "test", path, value: ["other"] },
      { op: "add", path: `${path}/-`, value: Names.finalizer }
    ])
  })

  it("is removed from its own place only", () => {
    assert.deepStrictEqual(Finalizer.removal(["other", Names.finalizer]), [
      { op: "test", path: "/metadata/finalizers/1", value: Names.finalizer },
      { op: "remove", path: "/metadata/finalizers/1" }
    ])
  })
})

describe("Request", () => {
  it("completes an override with what it lacks, and only that override", () => {
    const ref = "/metadata/annotations/stoker.io~1requested-ref"
    assert.deepStrictEqual(Request.adoption({ ref: "v2" }, "main", "fresh"), [
      { op: "test", path: ref, value: "v2" },
      { op: "add", path: "/metadata/annotations/stoker.io~1requested-over", value: "main" },
      { op: "add", path: "/metadata/annotations/stoker.io~1requested-id", value: "fresh" }
    ])
    assert.deepStrictEqual(Request.adoption({ ref: "v2", id: "one" }, "main", "fresh"), [
      { op: "test", path: ref, value: "v2" },
      { op: "add", path: "/metadata/annotations/stoker.io~1requested-over", value: "main" }
    ])
  })

  it("takes only the override away", () => {
    const annotations = {
      [Names.request.ref]: "v2",
      [Names.request.id]: "one",
      [Names.request.over]: "main",
      [Names.request.deliveries]: "[]",
      note: "somebody's"
    }
    const cr = Request.withoutOverride(gatewaySync({ metadata: { annotations } }))
    assert.deepStrictEqual(cr.metadata.annotations, { [Names.request.deliveries]: "[]", note: "somebody's" })
    assert.isUndefined(RequestedRef.override(cr.metadata.annotations))
  })
})

describe("AgentAccess", () => {
  it("gives exactly what an agent needs", () => {
    assert.deepStrictEqual(AgentAccess.rules("site"), [
      {
        apiGroups: [""],
        resources: ["configmaps"],
        resourceNames: ["stoker-metadata-site"],
        verbs: ["get", "list", "watch"]
      },
      {
        apiGroups: [""],
        resources: ["configmaps"],
        resourceNames: ["stoker-status-site"],
        verbs: ["get", "update", "patch"]
      },
      { apiGroups: ["", "events.k8s.io"], resources: ["events"], verbs: ["create", "patch"] }
    ])
  })

  it("gives it to the accounts of all pods, whatever their phase, each once", () => {
    const names = (pods: Parameters<typeof AgentAccess.subjects>[0]) =>
      AgentAccess.subjects(pods, "plant").map(({ name }) => name)
    assert.deepStrictEqual(names([]), ["default"])
    assert.deepStrictEqual(
      names([
        pod({ serviceAccountName: "b" }),
        pod({ phase: "Pending", serviceAccountName: "a" }),
        pod({ deletionTimestamp: "2026-01-01T00:00:00Z", serviceAccountName: "b" })
      ]),
      ["a", "b"]
    )
  })
})
