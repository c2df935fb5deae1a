import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as GatewaySync from "../../src/api/GatewaySync.ts"

const decode = Schema.decodeUnknownSync(GatewaySync.GatewaySync)

/** One gateway that has it, and these conditions. */
const progress = (conditions: Readonly<Record<string, "True" | "False">>, generation = 1) =>
  GatewaySync.progress(
    decode({
      metadata: { name: "site", namespace: "plant", uid: "uid", resourceVersion: "1", generation },
      spec: {
        git: { repo: "https://git.example.com/plant.git", ref: "main" },
        gateway: { api: { secretName: "api" } },
        sync: { profiles: { default: { mappings: [{ source: "a", destination: "a" }] } } }
      },
      status: {
        observedGeneration: 1,
        discoveredGateways: [{ name: "gateway", namespace: "plant", podName: "gateway-0", syncStatus: "Synced" }],
        conditions: Object.entries(conditions).map(([type, status]) => ({
          type,
          status,
          reason: "Reason",
          message: "",
          lastTransitionTime: "2026-01-01T00:00:00Z"
        }))
      }
    })
  ).synced

describe("progress", () => {
  const good = { RefResolved: "True", AllGatewaysSynced: "True" } as const

  it("is made when ref, profiles and gateways are as the spec wants them", () => {
    assert.isTrue(progress(good))
    assert.isTrue(progress({ ...good, ProfilesValid: "True" }))
    assert.isFalse(progress({ ...good, ProfilesValid: "False" }))
    assert.isFalse(progress({ ...good, RefResolved: "False" }))
    assert.isFalse(progress({ ...good, AllGatewaysSynced: "False" }))
    assert.isFalse(progress(good, 2))
  })
})
