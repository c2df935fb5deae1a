/**
 * One ls-refs for all who ask the same remote with the same credential, whichever refs they follow.
 *
 * Who asks says how fresh the answer must be: an ls-refs that began before the question arose answers nothing, one that
 * began after it is shared, running or done. Each asks for all branches and tags that were asked for lately, so that
 * whoever is next to poll finds the answer there; and for commits that somebody waits for, which are a request each.
 */
import { Clock, Context, Duration, Effect, Layer, RcMap, type Result, Semaphore } from "effect"
import type { Remote } from "../git/GitCommand.ts"
import type { GitError } from "../git/GitError.ts"
import * as ObjectId from "../git/ObjectId.ts"
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

/** For so long a ref is asked for with the others, and an answer kept for who polls later. Longer intervals share less. */
export const lifetime = Duration.hours(1)

/** ls-refs at once of one host: each may be a process, and whoever asks hosts that answer waits for none that do not. */
export const perHost = 16

interface Found {
  readonly beganAt: number
  readonly refs: ReadonlyMap<string, Result.Result<Resolved, GitError>>
}

export class SharedRefs extends Context.Service<
  SharedRefs,
  { readonly ask: (question: Question) => Effect.Effect<Answer> }
>()("stoker/controller/SharedRefs") {
  static readonly layerNoDeps = Layer.effect(
    SharedRefs,
    Effect.gen(function* () {
      const remoteRefs = yield* RemoteRefs
      /** Refs by remote and credential, and when each was last asked for. */
      const followed = new Map<string, Map<string, number>>()
      const places = yield* RcMap.make({ lookup: (_host: string) => Semaphore.make(perHost) })
      /** One of the host's places, as long as it takes. */
      const inPlace = <A, E, R>({ url }: Question, asking: Effect.Effect<A, E, R>) =>
        RcMap.get(places, url._tag === "Http" ? url.origin : url.host).pipe(
          Effect.flatMap(({ withPermit }) => withPermit(asking)),
          Effect.scoped
        )
      const keyOf = ({ credential, url }: Question) => JSON.stringify([url.href, credential])

      const follow = (question: Question, now: number) => {
        const key = keyOf(question)
        const refs = followed.get(key) ?? new Map<string, number>()
        followed.set(key, refs.set(question.ref, now))
        const old = now - Duration.toMillis(lifetime)
        for (const [ref, at] of refs) if (at < old) refs.delete(ref)
      }

      /** Remotes that nobody asks any more, and credentials that were renewed. */
      const forget = (now: number) => {
        const old = now - Duration.toMillis(lifetime)
        for (const [key, refs] of followed) if (refs.values().every((at) => at < old)) followed.delete(key)
      }

      const shared = yield* SharedLookup.make({
        key: keyOf,
        remember: lifetime,
        lookup: Effect.fnUntraced(function* (question: Question): Effect.fn.Return<Found> {
          const beganAt = yield* Clock.currentTimeMillis
          forget(beganAt)
          const known = followed.get(keyOf(question)) ?? new Map([[question.ref, beganAt]])
          const refs = Array.from(known.keys())
          for (const ref of refs) if (ObjectId.is(ref.toLowerCase())) known.delete(ref)
          return { beganAt, refs: yield* inPlace(question, remoteRefs.resolveAll({ ...question, refs })) }
        })
      })

      const ask = Effect.fnUntraced(function* (question: Question): Effect.fn.Return<Answer> {
        let since = Math.floor(question.after) + 1
        while (true) {
          follow(question, yield* Clock.currentTimeMillis)
          const { beganAt, refs } = yield* shared.ask(question, since)
          const resolved = refs.get(question.ref)
          if (resolved !== undefined) return { beganAt, resolved }
          // It began before anybody asked for this ref.
          since = yield* Clock.currentTimeMillis
        }
      })
      return { ask }
    })
  )
  static readonly layer = this.layerNoDeps.pipe(Layer.provide(RemoteRefs.layer))
}
