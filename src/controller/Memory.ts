/**
 * What a controller remembers of a GatewaySync between two reconciles. None of it must survive: a restart only means that
 * an open question is asked at once and that a poll comes an interval later.
 */
import { Clock, Context, Effect, Layer } from "effect"
import * as RequestedRef from "../api/RequestedRef.ts"
import type { GatewaySync } from "../api/GatewaySync.ts"

/** Tries of one question. */
export interface Attempts {
  readonly mark: string
  readonly count: number
  readonly retryAt: number
}

/** An object that is not watched: what it held when we last looked, or wrote it, and when that was. */
export interface Seen {
  readonly digest: string
  readonly at: number
}

/** Times are milliseconds since the epoch. */
export interface Remembered {
  /** The spec and the requests that were last seen, and since when: what asks the remote anew when it changes. */
  readonly question: { readonly mark: string; readonly since: number }
  /**
   * When the ls-refs began that was last used (before the first: when the GatewaySync was first seen), for which
   * question, and how far the next poll is shifted (−0.05 to 0.05 of the interval).
   */
  readonly asked: { readonly at: number; readonly mark?: string; readonly shift: number }
  /**
   * The question has no answer yet: how often it was tried at this pace, and when it is tried again (infinity: never).
   * The pace is another while a request is fresh.
   */
  readonly failed?: (Attempts & { readonly fresh: boolean }) | undefined
  /** The remote still serves what was there before a push. */
  readonly lag?: Attempts | undefined
  /** What the annotations requested when people were last told of it: a ref, and the id of a push. */
  readonly told?: { readonly ref?: string; readonly push?: string }
  /** The GitHub App's token that the agents were last given. */
  readonly githubToken?: Seen
  /** Role and binding as they were last seen to be. */
  readonly access?: Seen
}

/** What makes a question a new one: an edit of the spec, or a request. */
export const mark = (cr: GatewaySync): string =>
  `${cr.metadata.generation} ${RequestedRef.fingerprint(cr.metadata.annotations)}`

export class Memory extends Context.Service<
  Memory,
  {
    /** Notes when a question was first seen; an ls-refs that begins after that answers it. */
    readonly saw: (cr: GatewaySync) => Effect.Effect<Remembered>
    readonly update: (cr: GatewaySync, change: Partial<Remembered>) => Effect.Effect<Remembered>
    readonly forget: (cr: GatewaySync) => Effect.Effect<void>
  }
>()("stoker/controller/Memory") {
  static readonly layer = Layer.sync(Memory, () => {
    const all = new Map<string, Remembered>()
    const saw = (cr: GatewaySync) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const known = all.get(cr.metadata.uid)
        const current = mark(cr)
        if (known?.question.mark === current) return known
        const question = { mark: current, since: now }
        const next = known === undefined ? { question, asked: { at: now, shift: 0 } } : { ...known, question }
        all.set(cr.metadata.uid, next)
        return next
      })
    return {
      saw,
      update: (cr, change) =>
        Effect.map(saw(cr), (known) => {
          const next = { ...known, ...change }
          all.set(cr.metadata.uid, next)
          return next
        }),
      forget: (cr) =>
        Effect.sync(() => {
          all.delete(cr.metadata.uid)
        })
    }
  })
}
