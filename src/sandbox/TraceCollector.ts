/**
 * Where the sandbox's processes send their telemetry: an OTLP/HTTP collector (JSON) on loopback that keeps the latest
 * spans, so that a delivery can be shown as one waterfall. Logs and metrics are accepted and dropped.
 */
import { NodeHttpServer, NodeServices } from "@effect/platform-node"
import { Array, Context, Effect, Layer, Option, Schema, Stream, SubscriptionRef } from "effect"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"

export type Attributes = Readonly<Record<string, unknown>>

/** A finished span. Times are milliseconds since 1970, exact to about a microsecond. */
export interface Span {
  readonly traceId: string
  readonly spanId: string
  /** Absent on the first span of a trace. */
  readonly parentSpanId?: string
  readonly name: string
  /** `service.name` of the process. */
  readonly service: string
  readonly startMs: number
  readonly endMs: number
  readonly attributes: Attributes
  readonly events: ReadonlyArray<{ readonly name: string; readonly timeMs: number; readonly attributes: Attributes }>
  readonly status: "unset" | "ok" | "error"
}

export class TraceCollector extends Context.Service<
  TraceCollector,
  {
    /** For `OTEL_EXPORTER_OTLP_ENDPOINT`: `http://127.0.0.1:port` */
    readonly url: string
    /** What is kept, in the order of arrival. */
    readonly spans: Effect.Effect<ReadonlyArray<Span>>
    /** The spans of a trace that have arrived, in the order of their start. */
    readonly trace: (traceId: string) => Effect.Effect<ReadonlyArray<Span>>
    /** Waits until what has arrived of a trace is enough; processes send their spans late, each by its own schedule. */
    readonly awaitTrace: (
      traceId: string,
      enough: (spans: ReadonlyArray<Span>) => boolean
    ) => Effect.Effect<ReadonlyArray<Span>>
    /** The first span that arrives, or has arrived, of this kind. */
    readonly awaitSpan: (matches: (span: Span) => boolean) => Effect.Effect<Span>
  }
>()("stoker/sandbox/TraceCollector") {
  /** Keeps the latest `keep` spans (default 20 000). Port 0 takes any free one. */
  static readonly layerWith = (options: { readonly port?: number; readonly keep?: number } = {}) =>
    Layer.effect(
      TraceCollector,
      Effect.suspend(() => make(options.keep ?? 20_000))
    ).pipe(
      Layer.provide(
        NodeHttpServer.layer(() => createServer(), {
          host: "127.0.0.1",
          port: options.port ?? 0,
          gracefulShutdownTimeout: "1 second"
        })
      ),
      Layer.provide(NodeServices.layer)
    )

  static readonly layer = this.layerWith()
}

const make = Effect.fnUntraced(function* (keep: number) {
  const kept = yield* SubscriptionRef.make<ReadonlyArray<Span>>([])

  const receiveTraces = HttpServerRequest.schemaBodyJson(TraceData).pipe(
    Effect.tap((data) => SubscriptionRef.update(kept, (spans) => Array.takeRight([...spans, ...toSpans(data)], keep))),
    Effect.as(accepted),
    Effect.catchTag("SchemaError", (error) =>
      Effect.succeed(
        HttpServerResponse.text(`This collector takes OTLP as JSON only: ${error.message}\n`, { status: 400 })
      )
    )
  )
  const drop = Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
    Effect.as(Stream.runDrain(request.stream), accepted)
  )
  const app = yield* HttpRouter.toHttpEffect(
    Layer.mergeAll(
      HttpRouter.add("POST", "/v1/traces", receiveTraces),
      HttpRouter.add("POST", "/v1/logs", drop),
      HttpRouter.add("POST", "/v1/metrics", drop)
    )
  )
  yield* HttpServer.serveEffect(app)
  const url = yield* HttpServer.addressFormattedWith(Effect.succeed)

  const ofTrace = (spans: ReadonlyArray<Span>, traceId: string) =>
    spans.filter((span) => span.traceId === traceId).toSorted((a, b) => a.startMs - b.startMs)
  /** The first defined answer to what is kept, now or after a change. */
  const firstOf = <A>(look: (spans: ReadonlyArray<Span>) => Option.Option<A>): Effect.Effect<A> =>
    SubscriptionRef.changes(kept).pipe(
      Stream.map(look),
      Stream.filter(Option.isSome),
      Stream.runHead,
      Effect.flatMap(Option.match({ onNone: () => Effect.never, onSome: ({ value }) => Effect.succeed(value) }))
    )

  return TraceCollector.of({
    url,
    spans: SubscriptionRef.get(kept),
    trace: (traceId) => Effect.map(SubscriptionRef.get(kept), (spans) => ofTrace(spans, traceId)),
    awaitTrace: (traceId, enough) => firstOf((spans) => Option.liftPredicate(ofTrace(spans, traceId), enough)),
    awaitSpan: (matches) => firstOf((spans) => Array.findFirst(spans, matches))
  })
})

/** OTLP's `AnyValue`, as the values that it stands for. */
interface AnyValue {
  readonly stringValue?: string | null
  readonly boolValue?: boolean | null
  readonly intValue?: string | number | null
  readonly doubleValue?: number | string | null
  readonly arrayValue?: { readonly values?: ReadonlyArray<AnyValue> }
  readonly kvlistValue?: { readonly values?: ReadonlyArray<KeyValue> }
  readonly bytesValue?: unknown
}
interface KeyValue {
  readonly key: string
  readonly value?: AnyValue
}
const AnyValue = Schema.Struct({
  stringValue: Schema.optionalKey(Schema.NullOr(Schema.String)),
  boolValue: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  intValue: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.String, Schema.Number]))),
  doubleValue: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Number, Schema.String]))),
  arrayValue: Schema.optionalKey(
    Schema.Struct({
      values: Schema.optionalKey(Schema.Array(Schema.suspend((): Schema.Codec<AnyValue> => AnyValue)))
    })
  ),
  kvlistValue: Schema.optionalKey(
    Schema.Struct({
      values: Schema.optionalKey(Schema.Array(Schema.suspend((): Schema.Codec<KeyValue> => KeyValue)))
    })
  ),
  bytesValue: Schema.optionalKey(Schema.Unknown)
})
const KeyValue = Schema.Struct({ key: Schema.String, value: Schema.optionalKey(AnyValue) })
const KeyValues = Schema.optionalKey(Schema.Array(KeyValue))

/** A 64-bit number of nanoseconds, which JSON carries as text. */
const UnixNano = Schema.Union([Schema.String, Schema.Number])

const TraceData = Schema.Struct({
  resourceSpans: Schema.Array(
    Schema.Struct({
      resource: Schema.optionalKey(Schema.Struct({ attributes: KeyValues })),
      scopeSpans: Schema.Array(
        Schema.Struct({
          spans: Schema.Array(
            Schema.Struct({
              traceId: Schema.String,
              spanId: Schema.String,
              parentSpanId: Schema.optionalKey(Schema.String),
              name: Schema.String,
              startTimeUnixNano: UnixNano,
              endTimeUnixNano: UnixNano,
              attributes: KeyValues,
              events: Schema.optionalKey(
                Schema.Array(Schema.Struct({ name: Schema.String, timeUnixNano: UnixNano, attributes: KeyValues }))
              ),
              status: Schema.optionalKey(Schema.Struct({ code: Schema.optionalKey(Schema.Int) }))
            })
          )
        })
      )
    })
  )
})

const toValue = (value: AnyValue | undefined): unknown => {
  if (value?.arrayValue !== undefined) return (value.arrayValue.values ?? []).map(toValue)
  if (value?.kvlistValue !== undefined) return toAttributes(value.kvlistValue.values)
  if (typeof value?.intValue === "string") return Number(value.intValue)
  return value?.stringValue ?? value?.boolValue ?? value?.intValue ?? value?.doubleValue ?? value?.bytesValue
}
const toAttributes = (pairs: ReadonlyArray<KeyValue> = []): Attributes =>
  Object.fromEntries(pairs.map(({ key, value }) => [key, toValue(value)]))

const toMillis = (nanos: string | number) => Number(nanos) / 1e6

const statuses = ["unset", "ok", "error"] as const

const toSpans = ({ resourceSpans }: typeof TraceData.Type): ReadonlyArray<Span> =>
  resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const service = String(toAttributes(resource?.attributes)["service.name"] ?? "unknown")
    return scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({
        traceId: span.traceId,
        spanId: span.spanId,
        ...(span.parentSpanId === undefined || span.parentSpanId === "" ? {} : { parentSpanId: span.parentSpanId }),
        name: span.name,
        service,
        startMs: toMillis(span.startTimeUnixNano),
        endMs: toMillis(span.endTimeUnixNano),
        attributes: toAttributes(span.attributes),
        events: (span.events ?? []).map(({ attributes, name, timeUnixNano }) => ({
          name,
          timeMs: toMillis(timeUnixNano),
          attributes: toAttributes(attributes)
        })),
        status: statuses[span.status?.code ?? 0] ?? "unset"
      }))
    )
  })

const accepted = HttpServerResponse.jsonUnsafe({})
