import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Metric } from "effect"
import { PrometheusMetrics } from "effect/observability"
import { Metrics } from "../../src/controller/Metrics.ts"
import { gatewaySync } from "./fixtures.ts"

const gateway = (name: string) => ({
  name,
  namespace: "plant",
  podName: `${name}-0`,
  syncStatus: "Synced" as const,
  lastSyncTime: "2026-01-01T00:00:00Z"
})

/** The lines of one metric, sorted. */
const lines = (name: string) =>
  Effect.map(PrometheusMetrics.format(), (text) =>
    text
      .split("\n")
      .filter((line) => line.startsWith(`stoker_controller_${name}{`))
      .sort()
  )

const run = <A, E>(test: Effect.Effect<A, E, Metrics>) =>
  test.pipe(Effect.provide(Metrics.layer), Effect.provideService(Metric.MetricRegistry, new Map()))

describe("Metrics", () => {
  it.effect("shows a GatewaySync and its gateways, and no longer a gateway that is gone", () =>
    run(
      Effect.gen(function* () {
        const { show } = yield* Metrics
        const cr = gatewaySync({ git: { repo: "https://somebody@git.example.com/plant.git" } })
        yield* show(cr, { discoveredGateways: [gateway("a"), gateway("b")] })
        assert.deepStrictEqual(yield* lines("gateways_synced"), [
          'stoker_controller_gateways_synced{namespace="plant",name="site"} 2'
        ])
        assert.lengthOf(yield* lines("gateway_sync_status"), 2)
        const [info] = yield* lines("cr_info")
        assert.include(info, 'git_repo="https://git.example.com/plant.git"')
        assert.notInclude(info, "somebody")

        yield* show(cr, { discoveredGateways: [gateway("b")] })
        const [only, ...more] = yield* lines("gateway_sync_status")
        assert.lengthOf(more, 0)
        assert.include(only, 'gateway="b"')
        assert.include((yield* lines("gateways_synced"))[0], "} 1")
      })
    )
  )

  it.effect("counts reconciles by result", () =>
    run(
      Effect.gen(function* () {
        const { reconciled } = yield* Metrics
        const ref = { namespace: "plant", name: "site" }
        yield* reconciled(ref, "success", Duration.millis(20))
        yield* reconciled(ref, "success", Duration.millis(20))
        yield* reconciled(ref, "failure", Duration.millis(20))
        const counts = yield* lines("reconcile_total")
        assert.deepStrictEqual(
          counts.map((line) => line.replace(/.*result="(\w+)".* (\d+)$/, "$1 $2")),
          ["failure 1", "success 2"]
        )
      })
    )
  )

  it.effect("forgets everything of a GatewaySync that is gone, and nothing of another", () =>
    run(
      Effect.gen(function* () {
        const { forget, reconciled, resolved, show } = yield* Metrics
        for (const name of ["site", "other"]) {
          const cr = gatewaySync({ metadata: { name } })
          yield* show(cr, { discoveredGateways: [gateway("a")] })
          yield* reconciled(cr.metadata, "success", Duration.millis(1))
          yield* resolved(cr.metadata, Duration.millis(1))
        }
        yield* forget({ namespace: "plant", name: "site" })
        const text = yield* PrometheusMetrics.format()
        assert.notInclude(text, 'name="site"')
        assert.include(text, 'name="other"')
      })
    )
  )
})
