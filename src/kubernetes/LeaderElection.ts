/**
 * Leader election by Lease: of all processes that ask for one name, one leads.
 *
 * *Guarantees.* The leader renews every two seconds; when it could not for ten it says so at once ({@link Options.lost}),
 * before the lease of fifteen seconds ends for the others. Whether another's lease has ended is judged by the local clock
 * since its record last changed, never by the times in it, so clocks need not agree.
 *
 * *Assumptions.* The ApiClient has connections of its own, or a busy process loses its lease to its own requests.
 *
 * *Recovery.* On interruption the work ends first, renewed meanwhile; then the Lease is given back, and the next one
 * leads within a retry.
 */
import { Cause, Clock, DateTime, Duration, Effect, Option, Random, Schema } from "effect"
import { ApiClient } from "./ApiClient.ts"
import type { ApiError } from "./ApiError.ts"
import * as MicroTime from "./MicroTime.ts"
import * as Resource from "./Resource.ts"

export interface Options {
  readonly namespace: string
  readonly name: string
  /** Unique in the cluster: the pod's name and something random. */
  readonly identity: string
  /** Run when the lease is lost. Nothing may be done as leader from then on: end the process. */
  readonly lost: Effect.Effect<void>
}

export const leaseDuration = Duration.seconds(15)
export const renewDeadline = Duration.seconds(10)
export const retryPeriod = Duration.seconds(2)

const Lease = Schema.Struct({
  metadata: Schema.Struct({ resourceVersion: Schema.String }),
  spec: Schema.Struct({
    holderIdentity: Schema.optionalKey(Schema.String),
    leaseDurationSeconds: Schema.optionalKey(Schema.Int),
    acquireTime: Schema.optionalKey(Schema.String),
    leaseTransitions: Schema.optionalKey(Schema.Int)
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
})
type Lease = typeof Lease.Type
const decodeLease = Schema.decodeUnknownEffect(Lease)

/** Waits to become the leader, then runs the work. Ends as the work ends. */
export const lead = Effect.fnUntraced(function* <A, E, R>(options: Options, work: Effect.Effect<A, E, R>) {
  const client = yield* ApiClient
  const ref = { namespace: options.namespace, name: options.name }
  /** The record as last seen, and since when it is unchanged by our clock. */
  let seen: { readonly version: string; readonly at: number } | undefined

  const read = client.get(Resource.leases, ref).pipe(
    Effect.flatMap((raw) => Effect.orDie(decodeLease(raw))),
    Effect.map(Option.some),
    Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(Option.none<Lease>()))
  )

  const write = (current: Option.Option<Lease>, spec: object) => {
    const body = {
      apiVersion: Resource.apiVersion(Resource.leases),
      kind: Resource.leases.kind,
      metadata: {
        ...ref,
        ...(Option.isSome(current) ? { resourceVersion: current.value.metadata.resourceVersion } : {})
      },
      spec
    }
    return Option.isSome(current)
      ? client.request("PUT", Resource.path(Resource.leases, ref), body)
      : client.create(Resource.leases, ref.namespace, body, { fieldManager: options.identity })
  }

  /** Takes or renews the lease; false while another holds it, or was faster. */
  const hold = Effect.gen(function* () {
    const current = yield* read
    const now = yield* Clock.currentTimeMillis
    const spec = Option.getOrUndefined(current)?.spec
    const mine = spec?.holderIdentity === options.identity
    const version = Option.match(current, { onNone: () => "", onSome: ({ metadata }) => metadata.resourceVersion })
    if (seen?.version !== version) seen = { version, at: now }
    const isFree =
      spec?.holderIdentity === undefined ||
      spec.holderIdentity === "" ||
      now - seen.at >= (spec.leaseDurationSeconds ?? Duration.toSeconds(leaseDuration)) * 1000
    if (!mine && !isFree) return false
    const time = MicroTime.format(yield* DateTime.now)
    yield* write(current, {
      holderIdentity: options.identity,
      leaseDurationSeconds: Duration.toSeconds(leaseDuration),
      acquireTime: mine ? (spec.acquireTime ?? time) : time,
      renewTime: time,
      leaseTransitions: (spec?.leaseTransitions ?? 0) + (mine || spec === undefined ? 0 : 1)
    })
    return true
  }).pipe(
    Effect.catchReason("ApiError", "Conflict", () => Effect.succeed(false)),
    Effect.catchReason("ApiError", "AlreadyExists", () => Effect.succeed(false)),
    Effect.timeoutOrElse({ duration: Duration.divideUnsafe(renewDeadline, 2), orElse: () => Effect.succeed(false) })
  )

  /** Faults while waiting are told once each, not every two seconds. */
  let said = ""
  const tell = (error: ApiError) => {
    const isNew = said !== error.message
    said = error.message
    return Effect.as(
      isNew ? Effect.logWarning(`the lease ${ref.name} cannot be taken or renewed: ${error.message}`) : Effect.void,
      false
    )
  }
  const tryToHold = Effect.catchTag(hold, "ApiError", tell)

  const pause = Effect.flatMap(Random.next, (random) => Effect.sleep(Duration.times(retryPeriod, 1 + random * 0.2)))

  /** Tries until the lease is ours. Succeeds with the time (by our clock) from which it counts. */
  const acquire = Effect.gen(function* () {
    while (true) {
      const asked = yield* Clock.currentTimeMillis
      if (yield* tryToHold) return asked
      yield* pause
    }
  })

  const renew = Effect.fnUntraced(function* (acquired: number) {
    let last = acquired
    while (true) {
      const left = last + Duration.toMillis(renewDeadline) - (yield* Clock.currentTimeMillis)
      // The tries as well as the pauses between them: an API server may leave us without an answer.
      const renewed = yield* Effect.timeoutOption(
        Effect.delay(acquire, retryPeriod),
        Duration.millis(Math.max(0, left))
      )
      if (Option.isNone(renewed)) return yield* options.lost
      last = renewed.value
    }
  })

  const release = Effect.gen(function* () {
    const current = yield* read
    if (Option.getOrUndefined(current)?.spec.holderIdentity !== options.identity) return
    const time = MicroTime.format(yield* DateTime.now)
    yield* write(current, {
      holderIdentity: "",
      leaseDurationSeconds: 1,
      acquireTime: time,
      renewTime: time,
      leaseTransitions: Option.getOrUndefined(current)?.spec.leaseTransitions ?? 0
    })
  }).pipe(
    Effect.retry({ times: 3, while: (error) => error.reason._tag === "Conflict" }),
    Effect.timeoutOption(Duration.seconds(3)),
    Effect.catchTag("ApiError", tell)
  )

  return yield* Effect.scoped(
    Effect.gen(function* () {
      const acquired = yield* acquire
      yield* Effect.addFinalizer(() => release)
      yield* Effect.logInfo("leading")
      // A leader that does not renew is none, whatever kept it from that.
      yield* Effect.forkScoped(
        Effect.catchCause(renew(acquired), (cause) =>
          Cause.hasInterruptsOnly(cause)
            ? Effect.failCause(cause)
            : Effect.andThen(Effect.logError("the lease is not renewed any more", cause), options.lost)
        )
      )
      // Not raced with the renewal: while the work drains, the lease must still be ours.
      return yield* work
    })
  )
})
