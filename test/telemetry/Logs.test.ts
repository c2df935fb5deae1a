import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Logger, Redacted } from "effect"
import * as Logs from "../../src/telemetry/Logs.ts"

/** What is logged, as the lines a cluster would see. */
const linesOf = <E, R>(effect: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function* () {
    const lines: Array<string> = []
    const capture = Logger.map(Logs.formatJson, (line) => {
      lines.push(line)
    })
    yield* effect.pipe(Effect.provide(Logger.layer([capture])))
    return lines.map((line) => ({ line, json: JSON.parse(line) as Record<string, unknown> }))
  })

describe("Logs.formatJson", () => {
  it.effect("has the message, what it is about, and the trace", () =>
    Effect.gen(function* () {
      const [entry] = yield* linesOf(
        Effect.logInfo("webhook accepted").pipe(
          Effect.annotateLogs({ namespace: "plant", name: "site" }),
          Effect.withSpan("accept")
        )
      )
      assert.strictEqual(entry?.json["message"], "webhook accepted")
      assert.strictEqual(entry?.json["level"], "info")
      assert.strictEqual(entry?.json["namespace"], "plant")
      assert.strictEqual(entry?.json["name"], "site")
      assert.match(String(entry?.json["trace_id"]), /^[0-9a-f]{32}$/)
      assert.match(String(entry?.json["span_id"]), /^[0-9a-f]{16}$/)
    })
  )

  it.effect("shows no secret: neither a Redacted value nor a password in a URL", () =>
    Effect.gen(function* () {
      const entries = yield* linesOf(
        Effect.gen(function* () {
          yield* Effect.logInfo("a token", Redacted.make("s3cr3t-a"))
          yield* Effect.logInfo("cannot reach https://joe:s3cr3t-b@example.com/r.git")
          yield* Effect.logError("failed", Cause.fail(new Error("https://joe:s3cr3t-c@example.com said no")))
          yield* Effect.annotateLogs(Effect.logInfo("about"), {
            url: "https://s3cr3t-d@example.com",
            key: Redacted.make("s3cr3t-e")
          })
        })
      )
      assert.strictEqual(entries.length, 4)
      for (const { line } of entries) assert.notInclude(line, "s3cr3t")
      assert.include(entries[1]!.line, "example.com/r.git")
    })
  )
})
