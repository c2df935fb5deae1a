/**
 * Watcher → Store: keeps a store equal to a collection, and tells what changed.
 */
import { Duration, Effect } from "effect"
import type { ApiError } from "./ApiError.ts"
import type * as Store from "./Store.ts"
import * as Watcher from "./Watcher.ts"

/**
 * Runs for ever. `onChange` is told every change after the store has it; what it does must be quick (put a key into a
 * queue), since the watch waits for it.
 *
 * A change of an initial list comes too: a controller looks at everything once.
 */
export const run = <A, R>(
  writer: Store.Writer<A>,
  options: Watcher.Options<A>,
  onChange: (change: Store.Change<A>) => Effect.Effect<void, never, R>
) => {
  /** Objects that do not decode, said once each. */
  const said = new Set<string>()
  /** What was refused last, since something worked: a person must see to it, and needs telling once. */
  let refused: string | undefined
  const levelOf = ({ isTransient, message, reason }: ApiError) => {
    if (reason._tag !== "Unauthorized" && reason._tag !== "Forbidden") {
      return isTransient ? Effect.logInfo : Effect.logWarning
    }
    const isNew = refused !== message
    refused = message
    return isNew ? Effect.logWarning : Effect.logDebug
  }
  const report = (event: Watcher.Event<A>) => {
    if (event._tag === "Failed") {
      return levelOf(event.error)(event.error.message).pipe(
        Effect.annotateLogs({ retryInMillis: Math.round(Duration.toMillis(event.retryIn)) })
      )
    }
    if (event._tag !== "Invalid") return Effect.void
    const mark = event.id._tag === "Some" ? `${event.id.value.uid} ${event.id.value.resourceVersion}` : event.message
    if (said.has(mark)) return Effect.void
    if (said.size >= 1000) said.clear()
    said.add(mark)
    return Effect.logError(
      `an object of ${options.resource.plural} cannot be read and is left out: ${event.message}`
    ).pipe(
      Effect.annotateLogs(
        event.id._tag === "Some" ? { namespace: event.id.value.namespace, name: event.id.value.name } : {}
      )
    )
  }
  return Watcher.run(options, (events) =>
    Effect.gen(function* () {
      for (const event of events) {
        if (event._tag === "Failed" || event._tag === "Invalid") yield* report(event)
        else if (event._tag !== "Init") refused = undefined
      }
      const changes = yield* writer.write(events)
      for (const change of changes) yield* onChange(change)
    })
  )
}
