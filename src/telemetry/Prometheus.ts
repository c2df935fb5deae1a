/** The text format of metrics, as one module that is loaded on demand. */
export { format } from "effect/observability/PrometheusMetrics"
