import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { GitCommand, type Options } from "./GitCommand.ts"
import * as ProtocolV2 from "./ProtocolV2.ts"

/** How the fetched commits stand in the clone's `shallow` file. */
export interface Fetched {
  readonly shallow: ReadonlySet<string>
  readonly unshallow: ReadonlySet<string>
}

/**
 * Fetches into a partial clone: one request, whose pack goes to `git index-pack` as it comes. Either the whole pack is
 * in the clone, or nothing of it but a temporary file; refs and the `shallow` file are not touched. A pack that git does
 * not take (rubbish, or deltas upon objects that the clone has not got) is `NotUnderstood`.
 */
export const fetchPack = Effect.fnUntraced(function* (
  server: ProtocolV2.Server,
  request: ProtocolV2.Fetch,
  options: Pick<Options, "deadline"> & { readonly gitDir: string }
) {
  const git = yield* GitCommand
  const shallow = new Set<string>()
  const unshallow = new Set<string>()
  const pack = Stream.unwrap(ProtocolV2.fetch(server, request)).pipe(
    Stream.mapAccum(
      () => undefined,
      (state, part) => {
        if (part._tag === "Pack") return [state, [part.bytes]]
        ;(part._tag === "Shallow" ? shallow : unshallow).add(part.commit)
        return [state, []]
      }
    )
  )
  const bytes = yield* Queue.bounded<Uint8Array, ProtocolV2.Failure | Cause.Done>(16)
  // The request is on its way while the process starts.
  const answer = yield* Effect.forkScoped(Stream.runIntoQueue(pack, bytes), { startImmediately: true })
  yield* git
    .run(["index-pack", "--stdin", "--fix-thin", "--promisor"], {
      ...options,
      stdin: Stream.mapError(Stream.fromQueue(bytes), (failure) => ({ _tag: "Answer" as const, failure }))
    })
    .pipe(
      Effect.mapError((error) => {
        if (error._tag === "Answer") return error.failure
        return error.reason._tag === "Timeout" ? error : new ProtocolV2.NotUnderstood({ detail: error.message })
      })
    )
  // git has enough with the last byte of the pack. What ends the answer is read too, so that its connection can be kept.
  yield* Effect.timeoutOption(Fiber.await(answer), "1 second")
  const fetched: Fetched = { shallow, unshallow }
  return fetched
}, Effect.scoped)
