import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

/**
 * One lookup for all who ask the same question, and never an answer from before the question.
 *
 * Whoever asks takes part in a lookup that has not begun, or in one that began after `since`. So there is at most one
 * running and one waiting a key, however many ask.
 */
export interface SharedLookup<in Request, out A, out E> {
  /**
   * `since`: milliseconds since the epoch; the answer is from a lookup that began later. Default: now. Somebody who was
   * told of a change at an earlier time (a watch event, a due poll) says that time, and shares more.
   */
  readonly ask: (request: Request, since?: number) => Effect.Effect<A, E>
}

interface Lookup<Request, A, E> {
  readonly request: Request
  readonly answer: Deferred.Deferred<A, E>
  /** The asker's trace and services, for the lookup to run under. */
  readonly run: Effect.Effect<A, E>
  began: number | undefined
}

interface Line<Request, A, E> {
  waiting: Lookup<Request, A, E> | undefined
  /** Running or done. */
  latest: Lookup<Request, A, E> | undefined
  running: boolean
}

/**
 * `key` must tell apart whatever may lead to another answer: for a git server the URL, the ref, and the credential's
 * Secret with its resourceVersion. A lookup belongs to the scope, not to who asked first: it ends for all or for none.
 */
export const make = Effect.fnUntraced(function* <Request, A, E, R>(options: {
  readonly key: (request: Request) => string
  readonly lookup: (request: Request) => Effect.Effect<A, E, R>
  /** How long an answer is remembered for those who ask about an earlier time. Default: a minute. */
  readonly remember?: Duration.Input | undefined
}) {
  const remembered = Duration.toMillis(options.remember ?? "1 minute")
  const scope = yield* Effect.scope
  const services = yield* Effect.context<R>()
  const lines = new Map<string, Line<Request, A, E>>()

  const forget = (now: number) => {
    for (const [key, line] of lines) {
      const began = line.latest?.began ?? now
      if (!line.running && now - began > remembered) lines.delete(key)
    }
  }

  /** Runs what waits, until nothing does. When the scope ends, nobody is left waiting. */
  const work = Effect.fnUntraced(
    function* (line: Line<Request, A, E>) {
      while (line.waiting !== undefined) {
        const lookup = line.waiting
        lookup.began = yield* Clock.currentTimeMillis
        line.waiting = undefined
        line.latest = lookup
        yield* Deferred.done(lookup.answer, yield* Effect.exit(lookup.run))
      }
      line.running = false
      forget(yield* Clock.currentTimeMillis)
    },
    (effect, line) =>
      Effect.onInterrupt(effect, () =>
        Effect.forEach([line.latest, line.waiting], (lookup) =>
          lookup === undefined ? Effect.void : Deferred.interrupt(lookup.answer)
        )
      )
  )

  /** Joins or opens the line: all of it or, when interrupted, nothing. */
  const join = Effect.fnUntraced(function* (request: Request, since: number) {
    const context = yield* Effect.context<never>()
    const key = options.key(request)
    const line = lines.get(key) ?? { waiting: undefined, latest: undefined, running: false }
    lines.set(key, line)
    if (line.latest?.began !== undefined && line.latest.began > since) return line.latest.answer
    line.waiting ??= {
      request,
      answer: Deferred.makeUnsafe(),
      run: options.lookup(request).pipe(Effect.provideContext(context), Effect.provideContext(services)),
      began: undefined
    }
    const { answer } = line.waiting
    if (!line.running) {
      line.running = true
      yield* Effect.forkIn(work(line), scope)
    }
    return answer
  }, Effect.uninterruptible)

  const ask = Effect.fnUntraced(function* (request: Request, since?: number) {
    const answer = yield* join(request, since ?? (yield* Clock.currentTimeMillis))
    return yield* Deferred.await(answer)
  })

  const shared: SharedLookup<Request, A, E> = { ask }
  return shared
})
