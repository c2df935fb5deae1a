/**
 * Work that somebody waits for goes before work that nobody waits for, where both ask the same API server.
 *
 * A hook for a thousand GatewaySyncs is a thousand patches, and each of them makes the leader, which may be the same
 * process, write three times more: its sender, who does not come again, would wait four times as long.
 */
import { Clock, Context, Duration, Effect, Latch, Layer } from "effect"

/** So many that are waited for leave room for the others. */
export const most = 48
/** The others stand back for so long, counted from when there came to be more. */
export const longest = Duration.seconds(5)

export interface Precedence {
  /** Counts as waited for until it ends. */
  readonly first: <A, E, R>(work: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Stands back while more than {@link most} are waited for, and no longer than {@link longest}. */
  readonly after: Effect.Effect<void>
}

export const make: Effect.Effect<Precedence> = Effect.gen(function* () {
  const room = yield* Latch.make(true)
  let count = 0
  let since = 0
  const begin = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    if (++count !== most + 1) return Effect.void
    since = now
    return room.close
  })
  const end = Effect.suspend(() => (--count === most ? room.open : Effect.void))
  return {
    first: (work) =>
      Effect.acquireUseRelease(
        begin,
        () => work,
        () => end
      ),
    after: Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.asVoid(
        Effect.timeoutOption(room.await, Duration.millis(Math.max(0, since + Duration.toMillis(longest) - now)))
      )
    )
  }
})

/** Without a layer all work is equal. */
export const Current = Context.Reference<Precedence>("stoker/kubernetes/Precedence", {
  defaultValue: () => ({ first: (work) => work, after: Effect.void })
})

export const layer = Layer.effect(Current, make)
