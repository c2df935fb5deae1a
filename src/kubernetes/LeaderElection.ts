/**
 * Leader election by Lease: of all processes that ask for one name, one leads.
 *
 * *Guarantees.* The leader renews every two seconds; when it could not for ten it says so at once ({@link Options.lost}),
 * before the lease of fifteen seconds ends for the others, and as soon as it reads there that another leads (somebody
 * deleted the Lease). Whether another's lease has ended is judged by our monotonic clock since its record last changed,
 * never by the times in it, so clocks need not agree, and may be set.
 *
 * *Caveats.* A process that stands still (a frozen node) and goes on has requests under way that nothing can call back.
 * What it has not sent by then is not sent any more, where it writes by {@link whileLeading}.
 *
 * *Assumptions.* The ApiClient has connections of its own, or a busy process loses its lease to its own requests.
 *
 * *Recovery.* On interruption the work ends first, renewed meanwhile; then the Lease is given back, and the next one
 * leads within a retry.
 */
import { Cause, Clock, Context, DateTime, Duration, Effect, Layer, Option, Random, Ref, Schema } from "effect"
import { ApiClient } from "./ApiClient.ts"
import { ApiError, NotLeading } from "./ApiError.ts"
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

/** Milliseconds of a clock that nobody sets. */
const monotonic = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1e6)

/** When the last renewal began, by the monotonic clock; `-Infinity` while we do not lead. Kept by {@link lead}. */
export class Term extends Context.Service<Term, Ref.Ref<number>>()("stoker/kubernetes/LeaderElection/Term") {
  static readonly layer = Layer.effect(Term, Ref.make(Number.NEGATIVE_INFINITY))
}

/** Milliseconds until a renewal is overdue. */
const timeLeft = (term: Ref.Ref<number>) =>
  Effect.zipWith(Ref.get(term), monotonic, (renewed, now) => renewed + Duration.toMillis(renewDeadline) - now)

/** The ApiClient for a leader's work: all writes fail with `NotLeading` once a renewal is overdue. */
export const whileLeading: Layer.Layer<ApiClient, never, ApiClient | Term> = Layer.effect(
  ApiClient,
  Effect.gen(function* () {
    const client = yield* ApiClient
    const term = yield* Term
    const check = Effect.gen(function* () {
      if ((yield* timeLeft(term)) > 0) return
      return yield* new ApiError({
        operation: "write as leader",
        reason: new NotLeading({ message: "the Lease is not renewed any more: another may lead" })
      })
    })
    const guarded =
      <Args extends ReadonlyArray<unknown>, A>(write: (...args: Args) => Effect.Effect<A, ApiError>) =>
      (...args: Args) =>
        Effect.andThen(check, write(...args))
    return ApiClient.of({
      ...client,
      create: guarded(client.create),
      mergePatch: guarded(client.mergePatch),
      jsonPatch: guarded(client.jsonPatch),
      apply: guarded(client.apply),
      delete: guarded(client.delete),
      request: (method, ...rest) => (method === "GET" ? client.request : guarded(client.request))(method, ...rest)
    })
  })
)

const unknown = Effect.succeed("unknown" as const)

/** Waits to become the leader, then runs the work. Ends as the work ends. */
export const lead = Effect.fnUntraced(function* <A, E, R>(options: Options, work: Effect.Effect<A, E, R>) {
  const client = yield* ApiClient
  const term = yield* Term
  const ref = { namespace: options.namespace, name: options.name }
  /** The record as last seen, and since when it is unchanged by our clock. */
  let seen: { readonly version: string; readonly at: number } | undefined
  /** We asked for the lease, so it may be ours, also where we never saw the answer. */
  let asked = false

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

  /** Takes or renews the lease; or tells that another holds it, or that nobody can say. */
  const hold = Effect.gen(function* (): Effect.fn.Return<"held" | "another" | "unknown", ApiError> {
    const current = yield* read
    const now = yield* monotonic
    const spec = Option.getOrUndefined(current)?.spec
    const mine = spec?.holderIdentity === options.identity
    const version = Option.match(current, { onNone: () => "", onSome: ({ metadata }) => metadata.resourceVersion })
    if (seen?.version !== version) seen = { version, at: now }
    const isFree =
      spec?.holderIdentity === undefined ||
      spec.holderIdentity === "" ||
      now - seen.at >= (spec.leaseDurationSeconds ?? Duration.toSeconds(leaseDuration)) * 1000
    if (!mine && !isFree) return "another"
    const time = MicroTime.format(yield* DateTime.now)
    asked = true
    yield* write(current, {
      holderIdentity: options.identity,
      leaseDurationSeconds: Duration.toSeconds(leaseDuration),
      acquireTime: mine ? (spec.acquireTime ?? time) : time,
      renewTime: time,
      leaseTransitions: (spec?.leaseTransitions ?? 0) + (mine || spec === undefined ? 0 : 1)
    })
    return "held"
  }).pipe(
    Effect.catchReason("ApiError", "Conflict", () => unknown),
    Effect.catchReason("ApiError", "AlreadyExists", () => unknown),
    Effect.timeoutOrElse({ duration: Duration.divideUnsafe(renewDeadline, 2), orElse: () => unknown })
  )

  /** Faults while waiting are told once each, not every two seconds. */
  let said = ""
  const tell = (error: ApiError) => {
    const isNew = said !== error.message
    said = error.message
    return Effect.andThen(
      isNew ? Effect.logWarning(`the lease ${ref.name} cannot be taken or renewed: ${error.message}`) : Effect.void,
      unknown
    )
  }
  const tryToHold = Effect.catchTag(hold, "ApiError", tell)

  const pause = Effect.flatMap(Random.next, (random) => Effect.sleep(Duration.times(retryPeriod, 1 + random * 0.2)))

  /** Tries until the lease is ours, from the moment of that try on. One that leads has lost it when it is another's. */
  const acquire = Effect.fnUntraced(function* (leads: boolean) {
    while (true) {
      const begin = yield* monotonic
      const found = yield* tryToHold
      if (found === "held") {
        yield* Ref.set(term, begin)
        return true
      }
      if (leads && found === "another") return false
      yield* pause
    }
  })

  const renew = Effect.gen(function* () {
    while (true) {
      const left = yield* timeLeft(term)
      // The tries as well as the pauses between them: an API server may leave us without an answer.
      const renewed = yield* Effect.timeoutOption(
        Effect.delay(acquire(true), retryPeriod),
        Duration.millis(Math.max(0, left))
      )
      if (!Option.contains(renewed, true)) {
        yield* Ref.set(term, Number.NEGATIVE_INFINITY)
        return yield* options.lost
      }
    }
  })

  const release = Effect.gen(function* () {
    yield* Ref.set(term, Number.NEGATIVE_INFINITY)
    if (!asked) return
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
      // Before the lease is ours: from the write on that takes it, an end must give it back.
      yield* Effect.addFinalizer(() => release)
      yield* acquire(false)
      yield* Effect.logInfo("leading")
      // A leader that does not renew is none, whatever kept it from that.
      yield* Effect.forkScoped(
        Effect.catchCause(renew, (cause) =>
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
