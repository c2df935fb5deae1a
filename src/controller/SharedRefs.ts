/**
 * One ls-refs for all who ask the same remote, with the same credential, for the same ref.
 *
 * Who asks says how fresh the answer must be: an ls-refs that began before the question arose answers nothing, one that
 * began after it is shared, running or done.
 */
import { Clock, Context, Effect, Layer, type Result } from "effect"
import type { Remote } from "../git/GitCommand.ts"
import type { GitError } from "../git/GitError.ts"
import { RemoteRefs, type Resolved } from "../git/RemoteRefs.ts"
import * as SharedLookup from "../git/SharedLookup.ts"

export interface Question extends Remote {
  readonly ref: string
  /** Names the credential and its version; questions are shared only where it is equal. */
  readonly credential: string
  /** Only an ls-refs that begins after this millisecond (since the epoch) is an answer. */
  readonly after: number
}

export interface Answer {
  /** When its ls-refs began, in milliseconds since the epoch. */
  readonly beganAt: number
  readonly resolved: Result.Result<Resolved, GitError>
}

export class SharedRefs extends Context.Service<
  SharedRefs,
  { readonly ask: (question: Question) => Effect.Effect<Answer> }
>()("stoker/controller/SharedRefs") {
  static readonly layerNoDeps = Layer.effect(
    SharedRefs,
    Effect.gen(function* () {
      const refs = yield* RemoteRefs
      const { ask } = yield* SharedLookup.make({
        key: ({ credential, ref, url }: Question) => JSON.stringify([url.href, credential, ref]),
        lookup: Effect.fnUntraced(function* (question): Effect.fn.Return<Answer> {
          const beganAt = yield* Clock.currentTimeMillis
          return { beganAt, resolved: yield* Effect.result(refs.resolve(question)) }
        })
      })
      return { ask: (question) => ask(question, BigInt(Math.floor(question.after) + 1) * 1_000_000n) }
    })
  )
  static readonly layer = this.layerNoDeps.pipe(Layer.provide(RemoteRefs.layer))
}
