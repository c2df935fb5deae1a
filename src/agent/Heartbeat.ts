/**
 * What a long pass says between its steps, so that liveness can tell it from one that hangs. Silent where nobody listens.
 */
import { Context, Effect } from "effect"

export const Heartbeat = Context.Reference<Effect.Effect<void>>("stoker/agent/Heartbeat", {
  defaultValue: () => Effect.void
})

/** One step more has ended, to whoever listens to this fiber. */
export const beat: Effect.Effect<void> = Effect.flatten(Heartbeat)
