import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, Metric, References } from "effect"
import * as MetricsServer from "../../src/telemetry/MetricsServer.ts"

describe("MetricsServer", () => {
  it.live("gives the metrics of the process as text, and nothing else", () =>
    Effect.gen(function* () {
      let port = 0
      const capture = Logger.make(({ fiber }) => {
        port = Number(fiber.getRef(References.CurrentLogAnnotations)["port"] ?? port)
      })
      yield* MetricsServer.serve({ host: "127.0.0.1", port: 0 }).pipe(Effect.provide(Logger.layer([capture])))
      const get = (path: string) =>
        Effect.promise(async () => {
          const response = await fetch(`http://127.0.0.1:${port}${path}`)
          return { status: response.status, text: await response.text() }
        })
      yield* Metric.update(Metric.counter("stoker_test_total", { incremental: true }), 3)
      const { status, text } = yield* get("/metrics?x")
      assert.strictEqual(status, 200)
      assert.match(text, /^stoker_test_total 3$/m)
      assert.strictEqual((yield* get("/")).status, 404)
    }).pipe(Effect.scoped)
  )
})
