/**
 * Log lines: one JSON object each in a cluster, coloured text in a terminal. Both carry the trace, so that a line and
 * its spans find each other.
 *
 * Secrets are `Redacted` values throughout and print as such; what people may have written into a URL is masked here.
 */
import { Cause, Context, Layer, Logger, Option, References, Tracer } from "effect"

const mask = (text: string): string => text.replace(/(\b[a-z][a-z0-9+.-]*:\/\/)[^/\s"'@]*@/gi, "$1***@")

const plain = (value: unknown): unknown => {
  if (typeof value === "string") return mask(value)
  if (value instanceof Error) return mask(value.message)
  if (typeof value === "bigint") return String(value)
  return value
}

/** Keys of a line: `time level message trace_id span_id cause` and the annotations (`namespace`, `name`, …). */
export const formatJson = Logger.make<unknown, string>(({ cause, date, fiber, logLevel, message }) => {
  const parts = (Array.isArray(message) ? message : [message]).map(plain)
  const span = Option.getOrUndefined(Context.getOption(fiber.context, Tracer.ParentSpan))
  const annotations = Object.entries(fiber.getRef(References.CurrentLogAnnotations))
  return JSON.stringify({
    time: date.toISOString(),
    level: logLevel.toLowerCase(),
    message: parts.length === 1 ? parts[0] : parts,
    ...Object.fromEntries(annotations.map(([key, value]) => [key, plain(value)])),
    ...(span === undefined ? {} : { trace_id: span.traceId, span_id: span.spanId }),
    ...(cause.reasons.length === 0 ? {} : { cause: mask(Cause.pretty(cause)) })
  })
})

/** @param terminal whether a person reads along */
export const layer = (terminal: boolean): Layer.Layer<never> =>
  Logger.layer([terminal ? Logger.consolePretty() : Logger.withConsoleLog(formatJson)])
