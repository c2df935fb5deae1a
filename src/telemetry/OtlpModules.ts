/** The exporters, as one module that is loaded on demand. */
export { OtlpLogger, OtlpMetrics, OtlpSerialization, OtlpTracer } from "effect/observability"
