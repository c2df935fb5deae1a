import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Tracer } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { OtlpSerialization, OtlpTracer } from "effect/observability"
import { TraceCollector, type Span } from "../../src/sandbox/TraceCollector.ts"

const traced = (service: string, url: string) =>
  OtlpTracer.layer({ url: `${url}/v1/traces`, resource: { serviceName: service } }).pipe(
    Layer.provide(OtlpSerialization.layerJson),
    Layer.provide(NodeHttpClient.layerUndici)
  )

const named = (name: string) => (span: Span) => span.name === name

describe("TraceCollector", () => {
  it.live("puts the spans of two processes together to one trace", () =>
    Effect.gen(function* () {
      const { awaitTrace, awaitSpan, trace, url } = yield* TraceCollector
      const traceId = yield* Effect.currentSpan.pipe(
        Effect.tap(() =>
          Effect.void.pipe(
            Effect.withSpan("child", { attributes: { text: "a", number: 7, half: 0.5, yes: true, list: ["a", 1] } })
          )
        ),
        Effect.map((span) => span.traceId),
        Effect.withSpan("parent"),
        Effect.provide(traced("sender", url))
      )
      const parent = yield* awaitSpan(named("parent"))
      yield* Effect.fail("broken").pipe(
        Effect.withSpan("other", { parent: Tracer.externalSpan({ traceId, spanId: parent.spanId }) }),
        Effect.ignore,
        Effect.provide(traced("receiver", url))
      )
      const spans = yield* awaitTrace(traceId, (spans) => spans.some(named("other")))

      assert.deepStrictEqual(
        spans.map(({ name, service, status }) => ({ name, service, status })),
        [
          { name: "parent", service: "sender", status: "ok" },
          { name: "child", service: "sender", status: "ok" },
          { name: "other", service: "receiver", status: "error" }
        ]
      )
      assert.deepStrictEqual(yield* trace(traceId), spans)
      const [first, child, other] = spans
      assert.isFalse("parentSpanId" in first!)
      assert.strictEqual(child?.parentSpanId, first?.spanId)
      assert.strictEqual(other?.parentSpanId, first?.spanId)
      assert.deepStrictEqual(child?.attributes, { text: "a", number: 7, half: 0.5, yes: true, list: ["a", 1] })
      assert.deepStrictEqual(
        other?.events.map(({ name }) => name),
        ["exception"]
      )
      assert.isTrue(first!.startMs <= child!.startMs && child!.endMs <= first!.endMs)
    }).pipe(Effect.provide(TraceCollector.layer))
  )

  it.live("keeps only the latest spans", () =>
    Effect.gen(function* () {
      const { awaitSpan, spans, url } = yield* TraceCollector
      for (const name of ["one", "two", "three"]) {
        yield* Effect.void.pipe(Effect.withSpan(name), Effect.provide(traced("sender", url)))
        yield* awaitSpan(named(name))
      }
      assert.deepStrictEqual(
        (yield* spans).map(({ name }) => name),
        ["two", "three"]
      )
    }).pipe(Effect.provide(TraceCollector.layerWith({ keep: 2 })))
  )

  it.live("takes logs and metrics, and refuses what is not OTLP as JSON", () =>
    Effect.gen(function* () {
      const { url } = yield* TraceCollector
      const post = (path: string, body: string) =>
        HttpClient.execute(
          HttpClientRequest.bodyText(HttpClientRequest.post(url + path), body, "application/json")
        ).pipe(Effect.map(({ status }) => status))
      assert.strictEqual(yield* post("/v1/logs", "{}"), 200)
      assert.strictEqual(yield* post("/v1/metrics", "{}"), 200)
      assert.strictEqual(yield* post("/v1/traces", `{"resourceSpans":[]}`), 200)
      assert.strictEqual(yield* post("/v1/traces", `{"resourceSpans":7}`), 400)
      assert.strictEqual(yield* post("/v1/traces", "\x0a\x01"), 400)
    }).pipe(Effect.provide([TraceCollector.layer, NodeHttpClient.layerUndici]))
  )
})
