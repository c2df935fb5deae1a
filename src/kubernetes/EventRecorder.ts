/**
 * Events: what `kubectl describe` shows of an object's history.
 *
 * *Guarantees.* `record` returns at once and never fails: an event is a courtesy, and nothing waits for one. What happens
 * again within six minutes is counted in the event that is there (its series) instead of adding another. At the end of
 * the scope what was recorded is still written, for five seconds at most.
 *
 * *Caveats.* A count keeps the text of the first. When the API server is slower than what is recorded, or away for long,
 * events are dropped, and the log says how many. Texts are cut to 1024 bytes. Callers keep secrets out of them.
 */
import { type Cause, Clock, Context, DateTime, Duration, Effect, Fiber, Layer, Queue, Random, Schedule } from "effect"
import { ApiClient } from "./ApiClient.ts"
import type { ApiError } from "./ApiError.ts"
import * as MicroTime from "./MicroTime.ts"
import * as Resource from "./Resource.ts"

/** The object that an event is about. */
export interface ObjectReference extends Resource.ObjectRef {
  readonly apiVersion: string
  readonly kind: string
  readonly uid: string
}

export interface Event {
  readonly type: "Normal" | "Warning"
  readonly regarding: ObjectReference
  /** Another object that takes part, e.g. a pod. */
  readonly related?: ObjectReference
  /** Why, in one CamelCase word. At most 128 bytes, as the action. */
  readonly reason: string
  /** What was done, in one CamelCase word. */
  readonly action: string
  /** The same for people. */
  readonly note: string
}

export interface Options {
  /** Who reports, e.g. `example.org/controller`. */
  readonly controller: string
  /** Which of them: the pod's name. */
  readonly instance: string
}

/** An event that comes again within this time is counted. */
export const seriesLife = Duration.minutes(6)
/** Events that wait to be written; more are dropped. */
export const capacity = 1024
/** Series that are remembered. */
const mostSeries = 4096
const flushDeadline = Duration.seconds(5)

export class EventRecorder extends Context.Service<
  EventRecorder,
  { readonly record: (event: Event) => Effect.Effect<void> }
>()("stoker/kubernetes/EventRecorder") {
  static readonly layer = (options: Options) =>
    Layer.effect(
      EventRecorder,
      Effect.suspend(() => make(options))
    )
}

interface Series {
  readonly ref: Resource.ObjectRef
  readonly count: number
  readonly at: number
}

/** What makes two events the same; the note may differ. */
const keyOf = ({ action, reason, regarding, related, type }: Event): string =>
  [regarding.uid, type, action, reason, related?.uid ?? ""].join(" ")

const make = Effect.fnUntraced(function* (options: Options) {
  const client = yield* ApiClient
  const queue = yield* Queue.dropping<Event, Cause.Done>(capacity)
  const write = { fieldManager: options.controller.split("/").at(-1)!.slice(0, 128) }
  /** In the order of their last event. */
  const known = new Map<string, Series>()
  let dropped = 0

  const create = Effect.fnUntraced(function* (event: Event) {
    const { name, namespace } = event.regarding
    const unique = Math.floor((yield* Random.next) * 2 ** 52).toString(16)
    const ref = { namespace, name: `${name.slice(0, 230)}.${unique}` }
    yield* client.create(
      Resource.events,
      namespace,
      {
        apiVersion: Resource.apiVersion(Resource.events),
        kind: Resource.events.kind,
        metadata: ref,
        eventTime: MicroTime.format(yield* DateTime.now),
        type: event.type,
        reason: event.reason,
        action: event.action,
        note: cut(event.note, 1024),
        regarding: event.regarding,
        ...(event.related === undefined ? {} : { related: event.related }),
        reportingController: options.controller,
        reportingInstance: options.instance.slice(0, 128)
      },
      write
    )
    return { ref, count: 1 }
  })

  const count = Effect.fnUntraced(function* (event: Event, series: Series) {
    const next = series.count + 1
    const lastObservedTime = MicroTime.format(yield* DateTime.now)
    return yield* client
      .mergePatch(Resource.events, series.ref, { series: { count: next, lastObservedTime } }, write)
      .pipe(
        Effect.as({ ref: series.ref, count: next }),
        // Events live for an hour, or less where an administrator says so.
        Effect.catchReason("ApiError", "NotFound", () => create(event))
      )
  })

  const send = Effect.fnUntraced(function* (event: Event) {
    const key = keyOf(event)
    const now = yield* Clock.currentTimeMillis
    const series = known.get(key)
    const goesOn = series !== undefined && now - series.at < Duration.toMillis(seriesLife)
    const written = yield* goesOn ? count(event, series) : create(event)
    known.delete(key)
    known.set(key, { ...written, at: now })
    const [oldest] = known.keys()
    if (known.size > mostSeries && oldest !== undefined) known.delete(oldest)
  })

  let said = ""
  const tell = (error: ApiError) => {
    const isNew = said !== error.message
    said = error.message
    return isNew ? Effect.logWarning(`events cannot be written: ${error.message}`) : Effect.void
  }

  const next = Effect.gen(function* () {
    const event = yield* Queue.take(queue)
    yield* send(event).pipe(
      // After 1, 2 and 4 seconds; then the event is given up.
      Effect.retry({ while: (error) => error.isTransient, schedule: Schedule.exponential("1 second"), times: 3 }),
      Effect.catchTag("ApiError", tell),
      Effect.catchDefect((defect) => Effect.logError("an event could not be written", defect))
    )
    if (dropped > 0) {
      yield* Effect.logWarning(`${dropped} events were dropped: they came faster than they could be written`)
      dropped = 0
    }
  })
  const work = Effect.catchTag(Effect.forever(next), "Done", () => Effect.void)

  const fiber = yield* Effect.forkScoped(work)
  yield* Effect.addFinalizer(() =>
    Queue.end(queue).pipe(
      Effect.andThen(Fiber.await(fiber)),
      Effect.timeoutOption(flushDeadline),
      Effect.andThen((done) =>
        done._tag === "None" ? Effect.logWarning("some events were not written before the end") : Effect.void
      )
    )
  )

  return {
    record: (event: Event) =>
      Effect.sync(() => {
        if (!Queue.offerUnsafe(queue, event)) dropped++
      })
  }
})

/** The text in at most so many bytes of UTF-8, and no half character at the end. */
export const cut = (text: string, most: number): string => {
  const bytes = Buffer.from(text)
  if (bytes.length <= most) return text
  // What a cut leaves of a character is decoded as U+FFFD.
  return `${new TextDecoder().decode(bytes.subarray(0, most - 3)).replace(/\uFFFD+$/, "")}…`
}
