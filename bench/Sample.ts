/** Figures of a benchmark: medians and spread, never a single number, and always with what they were measured against. */

export interface Spread {
  readonly n: number
  readonly min: number
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

const round = (value: number) => Math.round(value * 100) / 100

/** The value below which a share of the sample lies (nearest rank). */
export const quantile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
}

export const spread = (values: ReadonlyArray<number>): Spread => ({
  n: values.length,
  min: round(quantile(values, 0)),
  p50: round(quantile(values, 0.5)),
  p95: round(quantile(values, 0.95)),
  p99: round(quantile(values, 0.99)),
  max: round(quantile(values, 1))
})

/** One line of the report. `aim`: what the project wants, and whether this run met it. */
export interface Figure {
  readonly what: string
  readonly value: string
  readonly aim?: string
  readonly met?: boolean
  readonly data: Readonly<Record<string, unknown>>
}
