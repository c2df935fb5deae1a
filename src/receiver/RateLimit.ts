/**
 * So many in a minute for a key, as a bucket of tokens that fills up evenly. Effect's own limiter keeps every key that
 * it ever saw; here a caller chooses the key, so the ones that were not used for longest are forgotten.
 */
import { Clock, Effect, Option } from "effect"

export interface RateLimit {
  /** Takes a token; when there is none, the seconds until there is one. */
  readonly take: (key: string) => Effect.Effect<Option.Option<number>>
}

const most = 10_000

/** @param perMinute 0: without limit */
export const make = (perMinute: number): Effect.Effect<RateLimit> =>
  Effect.sync(() => {
    // In the order of their last use.
    const buckets = new Map<string, { readonly tokens: number; readonly at: number }>()
    const perMilli = perMinute / 60_000
    return {
      take: (key) =>
        Effect.map(Clock.currentTimeMillis, (now) => {
          if (perMinute === 0) return Option.none()
          const bucket = buckets.get(key) ?? { tokens: perMinute, at: now }
          const tokens = Math.min(perMinute, bucket.tokens + (now - bucket.at) * perMilli)
          buckets.delete(key)
          buckets.set(key, { tokens: tokens < 1 ? tokens : tokens - 1, at: now })
          if (buckets.size > most) buckets.delete(buckets.keys().next().value ?? key)
          return tokens < 1 ? Option.some(Math.ceil((1 - tokens) / perMilli / 1000)) : Option.none()
        })
    }
  })
