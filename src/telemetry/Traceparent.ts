/**
 * W3C trace context (`traceparent`) where it is not an HTTP header: in annotations and ConfigMaps.
 */
import { Effect, Option, type Tracer } from "effect"
import { Headers, HttpTraceContext } from "effect/http"

/** The span that a `traceparent` names, as a parent for ours; none when it is absent or malformed. */
export const parse = (text: string | undefined): Option.Option<Tracer.ExternalSpan> =>
  text === undefined ? Option.none() : HttpTraceContext.w3c(Headers.fromRecordUnsafe({ traceparent: text }))

export const format = (span: Tracer.AnySpan): string =>
  `00-${span.traceId.padStart(32, "0")}-${span.spanId}-${span.sampled ? "01" : "00"}`

/** The current span as a `traceparent`; none outside of a span. */
export const current: Effect.Effect<Option.Option<string>> = Effect.currentParentSpan.pipe(
  Effect.map((span) => Option.some(format(span))),
  Effect.catchTag("NoSuchElementError", () => Effect.succeed(Option.none()))
)

/** Runs under the span that a `traceparent` names; without one, where it is. */
export const continueFrom =
  (traceparent: string | undefined) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>> =>
    Option.match(parse(traceparent), {
      onNone: () => effect as Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>>,
      onSome: (span) => Effect.withParentSpan(effect, span)
    })
