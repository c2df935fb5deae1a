import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option } from "effect"
import { TestClock } from "effect/testing"
import { Settings } from "../../src/agent/Settings.ts"
import * as StatusReporter from "../../src/agent/StatusReporter.ts"
import type { Report } from "../../src/api/GatewayStatus.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"

const settings = Layer.succeed(Settings, {
  podName: "ignition-0",
  podNamespace: "plant",
  podUid: Option.none(),
  crName: "site",
  crNamespace: "plant",
  gatewayName: "ignition",
  profile: "default",
  repoPath: "/repo",
  dataPath: "/data",
  gatewayPort: 8088,
  gatewayTls: false,
  gatewayFixedUrl: Option.none(),
  apiKeyFile: "/key",
  tokenFile: Option.none(),
  sshKeyFile: Option.none(),
  knownHostsFile: Option.none(),
  labels: Effect.succeed({})
})

/** Runs with a reporter and what it sends; `refusals` come before the first success. */
const withReporter = <A>(
  refusals: ReadonlyArray<ApiErrors.Reason>,
  body: (report: (report: Report) => Effect.Effect<void>, sent: Array<unknown>) => Effect.Effect<A>
) => {
  const sent: Array<unknown> = []
  const left = [...refusals]
  const api = Layer.mock(ApiClient, {
    mergePatch: (resource, ref, body, options) =>
      Effect.suspend(() => {
        const reason = left.shift()
        if (reason !== undefined) return Effect.fail(new ApiErrors.ApiError({ operation: "PATCH", reason }))
        sent.push({ resource: resource.plural, ref, body, options })
        return Effect.succeed({})
      })
  })
  return Effect.gen(function* () {
    const { deliver, report } = yield* StatusReporter.StatusReporter
    yield* Effect.forkScoped(deliver)
    return yield* body(report, sent)
  }).pipe(Effect.scoped, Effect.provide(StatusReporter.StatusReporter.layer.pipe(Layer.provide([settings, api]))))
}

const one: Report = { syncStatus: "Synced", syncedCommit: "1" }
const two: Report = { syncStatus: "Synced", syncedCommit: "2" }
const patch = (report: Report) => ({
  resource: "configmaps",
  ref: { namespace: "plant", name: "stoker-status-site" },
  body: { data: { "ignition-0": JSON.stringify(report) } },
  options: { fieldManager: "stoker-agent" }
})

describe("StatusReporter", () => {
  it.effect("patches its own key within a quarter of a second, once", () =>
    withReporter([], (report, sent) =>
      Effect.gen(function* () {
        yield* report(one)
        yield* TestClock.adjust(StatusReporter.spread)
        assert.deepStrictEqual(sent, [patch(one)])
        yield* report({ ...one })
        yield* TestClock.adjust("1 minute")
        assert.lengthOf(sent, 1)
      })
    )
  )

  it.effect("sends only the newest of what comes together", () =>
    withReporter([], (report, sent) =>
      Effect.gen(function* () {
        yield* report(one)
        yield* report(two)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(sent, [patch(two)])
      })
    )
  )

  it.effect("waits for a map and a right that come later", () =>
    withReporter([new ApiErrors.NotFound({ message: "" }), new ApiErrors.Forbidden({ message: "" })], (report, sent) =>
      Effect.gen(function* () {
        yield* report(one)
        yield* TestClock.adjust("1 second")
        assert.lengthOf(sent, 0)
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(sent, [patch(one)])
      })
    )
  )

  it.effect("says it again after ten minutes", () =>
    withReporter([], (report, sent) =>
      Effect.gen(function* () {
        yield* report(one)
        yield* TestClock.adjust("9 minutes")
        assert.lengthOf(sent, 1)
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual(sent, [patch(one), patch(one)])
      })
    )
  )
})
