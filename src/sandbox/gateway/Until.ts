import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"

/** The value of `ref`, now or as soon as it is one of which `test` is true. */
export const until = <A>(ref: SubscriptionRef.SubscriptionRef<A>, test: (value: A) => boolean): Effect.Effect<A> =>
  SubscriptionRef.changes(ref).pipe(Stream.filter(test), Stream.runHead, Effect.map(Option.getOrThrow))
