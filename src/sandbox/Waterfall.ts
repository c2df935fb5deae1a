/**
 * A trace as a person reads it: where the time of one webhook went, from the POST to the gateway's scan.
 */
import type { Span } from "./TraceCollector.ts"

/** A line of the waterfall; times in milliseconds from the start of the trace. */
export interface Row {
  readonly name: string
  readonly start: number
  readonly duration: number
}

/** Spans of the line by their names, in its order; what lies between two of them is a watch's way. */
const line: ReadonlyArray<
  { readonly span: string; readonly as: string } | { readonly from: string; readonly to: string }
> = [
  { span: "accept", as: "accept" },
  { span: "patch", as: "patch" },
  { from: "patch", to: "reconcile" },
  { span: "reconcile", as: "reconcile" },
  { span: "ls-refs", as: "ls-refs" },
  { span: "apply", as: "apply" },
  { from: "apply", to: "sync" },
  { span: "fetch", as: "fetch" },
  { span: "write", as: "write" },
  { span: "scan", as: "scan" }
]

/**
 * The rows of one gateway's way, or undefined while spans of it are missing. Where several gateways synced in one trace,
 * it is the one whose scan began first.
 */
export const rows = (spans: ReadonlyArray<Span>): ReadonlyArray<Row> | undefined => {
  const first = (name: string, below?: string) =>
    spans
      .filter((span) => span.name === name && (below === undefined || ancestors(spans, span).has(below)))
      .sort((a, b) => a.startMs - b.startMs)[0]
  const scan = first("scan")
  if (scan === undefined) return undefined
  const sync = spans.find((span) => span.name === "sync" && ancestors(spans, scan).has(span.spanId))
  if (sync === undefined) return undefined
  const inSync = new Set(["fetch", "write", "scan"])
  const find = (name: string) => (name === "sync" ? sync : inSync.has(name) ? first(name, sync.spanId) : first(name))
  const accept = find("accept")
  if (accept === undefined) return undefined
  const found: Array<Row> = []
  for (const step of line) {
    if ("span" in step) {
      const span = find(step.span)
      if (span === undefined) return undefined
      found.push({ name: step.as, start: span.startMs - accept.startMs, duration: span.endMs - span.startMs })
    } else {
      const from = find(step.from)
      const to = find(step.to)
      if (from === undefined || to === undefined) return undefined
      found.push({ name: "watch", start: from.endMs - accept.startMs, duration: Math.max(0, to.startMs - from.endMs) })
    }
  }
  return found
}

const ancestors = (spans: ReadonlyArray<Span>, span: Span): ReadonlySet<string> => {
  const byId = new Map(spans.map((one) => [one.spanId, one]))
  const found = new Set<string>()
  let at: Span | undefined = span
  while (at !== undefined && !found.has(at.spanId)) {
    found.add(at.spanId)
    at = at.parentSpanId === undefined ? undefined : byId.get(at.parentSpanId)
  }
  return found
}

/** Rows as text, a bar each. @param width characters of the longest bar */
export const render = (found: ReadonlyArray<Row>, width = 48): string => {
  const end = Math.max(...found.map((row) => row.start + row.duration), 1)
  return found
    .map((row) => {
      const from = Math.round((row.start / end) * width)
      const length = Math.max(1, Math.round((row.duration / end) * width))
      const bar = " ".repeat(Math.min(from, width - 1)) + "█".repeat(Math.min(length, width + 1 - from))
      return `  ${row.name.padEnd(10)} ${row.start.toFixed(0).padStart(5)} ms ${bar.padEnd(width + 1)} ${row.duration.toFixed(1)} ms`
    })
    .join("\n")
}
