import { assert, describe, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import * as Traceparent from "../../src/telemetry/Traceparent.ts"

const sample = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

describe("Traceparent", () => {
  it("reads what W3C writes, and nothing else", () => {
    const span = Option.getOrThrow(Traceparent.parse(sample))
    assert.strictEqual(span.traceId, "0af7651916cd43dd8448eb211c80319c")
    assert.strictEqual(span.spanId, "b7ad6b7169203331")
    assert.isTrue(span.sampled)
    for (const bad of [undefined, "", "x", "00-0-0-01", sample.replace("0af7", "zzzz"), `${sample}-more`]) {
      assert.isTrue(Option.isNone(Traceparent.parse(bad)), bad)
    }
  })

  it("writes what it read", () => {
    assert.strictEqual(Traceparent.format(Option.getOrThrow(Traceparent.parse(sample))), sample)
  })

  it.effect("continues a trace in another process", () =>
    Effect.gen(function* () {
      const inside = yield* Traceparent.current.pipe(Effect.withSpan("child"), Traceparent.continueFrom(sample))
      const text = Option.getOrThrow(inside)
      assert.strictEqual(text.slice(3, 35), sample.slice(3, 35))
      assert.notStrictEqual(text.slice(36, 52), sample.slice(36, 52))
    })
  )

  it.effect("is absent outside of a span", () =>
    Effect.gen(function* () {
      assert.isTrue(Option.isNone(yield* Traceparent.current))
    })
  )
})
