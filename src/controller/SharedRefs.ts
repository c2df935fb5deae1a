/**
 * One ls-refs for all who ask the same remote, with the same credential, for the same ref.
 *
 * Who asks says how fresh the answer must be: an ls-refs that began before the question arose answers nothing, one that
 * began after it is shared, running or done.
 */
import { Clock, Context, Deferred, Effect, Layer, type Result } from "effect"
import type { Remote } from "../git/GitCommand.ts"
import type { GitError } from "../git/GitError.ts"
import { RemoteRefs, type Resolved } from "../git/RemoteRefs.ts"

export interface Question extends Remote {
  readonly ref: string
  /** Names the credential and its version; questions are shared only where it is equal. */
  readonly credential: string
  /** Only an ls-refs that begins after this (milliseconds since the epoch) is an answer. */
  readonly after: number
}

export interface Answer {
  /** When its ls-refs began. */
  readonly beganAt: number
  readonly resolved: Result.Result<Resolved, GitError>
}

interface Running {
  readonly beganAt: number
  readonly answer: Deferred.Deferred<Resolved, GitError>
}

/** Answers that are kept; beyond, the oldest go. */
export const most = 4096

export class SharedRefs extends Context.Service<
  SharedRefs,
  { readonly ask: (question: Question) => Effect.Effect<Answer> }
>()("stoker/controller/SharedRefs") {
  static readonly layerNoDeps = Layer.effect(
    SharedRefs,
    Effect.gen(function* () {
      const refs = yield* RemoteRefs
      const scope = yield* Effect.scope
      const asked = new Map<string, Running>()

      const result = ({ answer, beganAt }: Running): Effect.Effect<Answer> =>
        Effect.map(Effect.result(Deferred.await(answer)), (resolved) => ({ beganAt, resolved }))

      const ask = Effect.fnUntraced(function* (question: Question) {
        const key = JSON.stringify([question.url.href, question.credential, question.ref])
        const known = asked.get(key)
        if (known !== undefined && known.beganAt > question.after) return yield* result(known)
        const answer = yield* Deferred.make<Resolved, GitError>()
        const running = { beganAt: yield* Clock.currentTimeMillis, answer }
        // Moved to the end: the first key is the oldest.
        asked.delete(key)
        asked.set(key, running)
        for (const oldest of asked.keys()) {
          if (asked.size <= most) break
          asked.delete(oldest)
        }
        // In a fiber of its own: whoever asked first may be interrupted, the others still wait.
        yield* refs.resolve(question).pipe(Deferred.into(answer), Effect.forkIn(scope, { startImmediately: true }))
        return yield* result(running)
      })
      return { ask }
    })
  )
  static readonly layer = this.layerNoDeps.pipe(Layer.provide(RemoteRefs.layer))
}
