/**
 * Durations as Go prints and reads them (`90s`, `1h30m`, `1.5h`): the format of every duration in a GatewaySync.
 */
import { Duration, Option } from "effect"

const units: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000
}

/** The text as a duration; none when Go's `time.ParseDuration` would refuse it, or when it is negative. */
export const parse = (text: string): Option.Option<Duration.Duration> => {
  if (text === "0" || text === "+0") return Option.some(Duration.zero)
  if (!/^\+?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(text)) return Option.none()
  let millis = 0
  for (const [, value, unit] of text.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g)) {
    millis += Number(value) * units[unit!]!
  }
  return Option.some(Duration.millis(millis))
}
