/**
 * So many in a minute for a key, as a bucket of tokens that fills up evenly. Effect's own limiter keeps every key that
 * it ever saw; here a caller chooses the key, so the ones that were not used for longest are forgotten.
 */
import { Clock, Effect, Result } from "effect"

export interface RateLimit {
  /** Takes a token, and says how many found none since the last that did; when there is none, the seconds until one is. */
  readonly take: (key: string) => Effect.Effect<Result.Result<number, number>>
}

const most = 10_000

/** @param perMinute 0: without limit */
export const make = (perMinute: number): Effect.Effect<RateLimit> =>
  Effect.sync(() => {
    // In the order of their last use.
    const buckets = new Map<string, { readonly tokens: number; readonly at: number; readonly refused: number }>()
    const perMilli = perMinute / 60_000
    return {
      take: (key) =>
        Effect.map(Clock.currentTimeMillis, (now) => {
          if (perMinute === 0) return Result.succeed(0)
          const bucket = buckets.get(key) ?? { tokens: perMinute, at: now, refused: 0 }
          const tokens = Math.min(perMinute, bucket.tokens + (now - bucket.at) * perMilli)
          buckets.delete(key)
          buckets.set(
            key,
            tokens < 1 ? { tokens, at: now, refused: bucket.refused + 1 } : { tokens: tokens - 1, at: now, refused: 0 }
          )
          if (buckets.size > most) buckets.delete(buckets.keys().next().value ?? key)
          return tokens < 1 ? Result.fail(Math.ceil((1 - tokens) / perMilli / 1000)) : Result.succeed(bucket.refused)
        })
    }
  })
