/**
 * Writes requests on GatewaySyncs: one patch in flight per GatewaySync, what arrives meanwhile merged into the next.
 *
 * **Guarantees**
 *
 * - A delivery is answered after the patch that holds it is persisted, or fails with that patch.
 * - Each patch tests what it was decided on (see `RequestedRef.operations`), so `requested-over` is the `spec.git.ref`
 *   of that very moment, and what another replica wrote meanwhile (a remembered delivery) is never overwritten: then the
 *   object is read again and everything decided anew. That makes one call of most deliveries, on the store's word.
 * - A delivery that was taken over goes on when its sender hangs up.
 * - "There is no such GatewaySync" and "not for this GatewaySync" were read live, never from the store alone.
 */
import {
  Array,
  Cause,
  Clock,
  Context,
  DateTime,
  Deferred,
  Duration,
  Effect,
  Exit,
  FiberSet,
  Option,
  Result,
  Schema,
  Semaphore,
  Stream,
  type Tracer
} from "effect"
import { randomUUID } from "node:crypto"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as Names from "../api/Names.ts"
import * as RequestedRef from "../api/RequestedRef.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import type { ApiError } from "../kubernetes/ApiError.ts"
import * as Pages from "../kubernetes/Pages.ts"
import * as Precedence from "../kubernetes/Precedence.ts"
import * as Resource from "../kubernetes/Resource.ts"
import type { Store, StoreNotReady } from "../kubernetes/Store.ts"
import * as Traceparent from "../telemetry/Traceparent.ts"

/** The API server's object is no GatewaySync that we can read: its CRD is another. The message says which field. */
export class Unreadable extends Schema.TaggedError<Unreadable>()("Unreadable", { message: Schema.String }) {}

/** It was not taken, for a cause of our own that passes. Try again. */
export class NotTaken extends Schema.TaggedError<NotTaken>()("NotTaken", { message: Schema.String }) {}

export type WriteError = ApiError | Unreadable | NotTaken | StoreNotReady

/** What became of a delivery. */
export interface Outcome {
  readonly decision: RequestedRef.Decision
  /** The GatewaySync that was decided on. */
  readonly before: GatewaySync.GatewaySync
  /** The same after the patch that held the delivery. */
  readonly after: GatewaySync.GatewaySync
}

export interface AnnotationWriter {
  /**
   * @param deliveries of one message: alternatives, see `RequestedRef.decide`
   * @param span of the request: its trace goes on in the controller
   * @param live the GatewaySync as it was just read, if it was
   */
  readonly write: (
    ref: Resource.ObjectRef,
    deliveries: ReadonlyArray<RequestedRef.Delivery>,
    span: Option.Option<Tracer.AnySpan>,
    live?: GatewaySync.GatewaySync
  ) => Effect.Effect<Outcome, WriteError>
  /**
   * Of GatewaySyncs of the store those that `write` would read before it answers, by key, where they are so many that one
   * list of all is cheaper: a push to a branch that nobody follows is for none of a thousand. Empty where they are few.
   */
  readonly readMany: (
    known: ReadonlyArray<GatewaySync.GatewaySync>,
    deliveries: ReadonlyArray<RequestedRef.Delivery>
  ) => Effect.Effect<ReadonlyMap<string, GatewaySync.GatewaySync>>
  /** Reads a GatewaySync from the API server. */
  readonly read: (ref: Resource.ObjectRef) => Effect.Effect<GatewaySync.GatewaySync, WriteError>
}

/** How long a sender waits for the API server. GitHub, GitLab and Bitbucket hang up after 10 s, Argo CD never. */
const longestWait = Duration.seconds(9)

/** When that is over, in milliseconds of the clock; none where nobody waits: then each call has it anew. */
const Deadline = Context.Reference<Option.Option<number>>("stoker/receiver/AnnotationWriter/Deadline", {
  defaultValue: Option.none
})

/** One sender waits for all of it: what is called {@link soon} in it has that time together. */
export const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    Effect.provideService(effect, Deadline, Option.some(now + Duration.toMillis(longestWait)))
  )

/** What several senders wait for, or none: it has the time anew, whoever asked first. */
export const forAll: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = Effect.provideService(
  Deadline,
  Option.none()
)

/** Gives up then. A delivery that was handed over is written all the same: its repetition is harmless. */
export const soon = Effect.fnUntraced(function* <A, E, R>(effect: Effect.Effect<A, E, R>) {
  const now = yield* Clock.currentTimeMillis
  const deadline = yield* Deadline
  return yield* Effect.timeoutOrElse(effect, {
    duration: Option.match(deadline, {
      onNone: () => longestWait,
      onSome: (at) => Duration.millis(Math.max(0, at - now))
    }),
    orElse: () =>
      Effect.fail(
        new NotTaken({ message: `the Kubernetes API server took longer than ${Duration.toSeconds(longestWait)} s` })
      )
  })
})

/** Patches in flight in all: many, since they compete with the controller's own writes, which answer each of them. */
const mostInFlight = 48
const mostWaiting = 1024
/** So many are decided on in one breath. */
const mostAtOnce = 16
/** So many are read one by one. */
const mostReads = 16
/** A list is a short cut: what it takes longer is missing for the reads one by one. */
const longestList = Duration.seconds(2)
const none = (): ReadonlyMap<string, GatewaySync.GatewaySync> => new Map()
/** Only other replicas write beside us, and each of them one patch at a time. */
const mostAttempts = 10

interface Waiting {
  readonly deliveries: ReadonlyArray<RequestedRef.Delivery>
  readonly span: Option.Option<Tracer.AnySpan>
  readonly stamp: RequestedRef.Stamp
  readonly done: Deferred.Deferred<Outcome, WriteError>
}

/** A GatewaySync, and whether it was just read from the API server. */
interface Basis {
  readonly cr: GatewaySync.GatewaySync
  readonly live: boolean
}

const decode = Schema.decodeUnknownEffect(GatewaySync.GatewaySync)

const target = (cr: GatewaySync.GatewaySync): RequestedRef.Target => ({
  annotations: cr.metadata.annotations,
  repository: cr.spec.git.repo,
  specRef: cr.spec.git.ref,
  prereleases: cr.spec.webhook?.prereleases ?? false,
  synced: GatewaySync.progress(cr).synced,
  ...(cr.spec.webhook?.refs === undefined ? {} : { refs: cr.spec.webhook.refs }),
  ...(cr.status.lastHandledRequest === undefined ? {} : { lastHandledRequest: cr.status.lastHandledRequest }),
  ...(cr.status.lastSyncRef === undefined ? {} : { lastSyncRef: cr.status.lastSyncRef }),
  ...(cr.status.lastSyncRefKind === undefined ? {} : { lastSyncRefKind: cr.status.lastSyncRefKind }),
  ...(cr.status.lastSyncCommit === undefined ? {} : { lastSyncCommit: cr.status.lastSyncCommit })
})

const annotated = (cr: GatewaySync.GatewaySync, annotations: RequestedRef.Annotations): GatewaySync.GatewaySync => ({
  ...cr,
  metadata: { ...cr.metadata, annotations }
})

/** Others are served between every few. */
const forEachFew = <A>(all: ReadonlyArray<A>, each: (one: A) => void): Effect.Effect<void> =>
  Effect.forEach(
    Array.chunksOf(all, mostAtOnce),
    (few) =>
      Effect.andThen(
        Effect.yieldNow,
        Effect.sync(() => few.forEach(each))
      ),
    { discard: true }
  )

/** Each delivery decided after the former, and the one patch that holds them all. */
const decideAll = Effect.fnUntraced(function* (cr: GatewaySync.GatewaySync, batch: ReadonlyArray<Waiting>) {
  const decided: Array<{ readonly waiting: Waiting; readonly outcome: Outcome }> = []
  let patch: Readonly<Record<string, string | null>> = {}
  let at = cr
  yield* forEachFew(batch, (waiting) => {
    const decision = RequestedRef.decide(waiting.deliveries, target(at), waiting.stamp)
    const before = at
    if (decision._tag === "Write") {
      patch = { ...patch, ...decision.annotations }
      at = annotated(at, RequestedRef.after(at.metadata.annotations, decision.annotations))
    }
    decided.push({ waiting, outcome: { decision, before, after: at } })
  })
  return { decided, patch }
})

/**
 * Nobody is told "no" on the word of a store that may lag behind: a person takes it for final, and a forge never asks
 * again. Only of another repository a store knows enough.
 */
const needsLive = (decision: RequestedRef.Decision, deliveries: ReadonlyArray<RequestedRef.Delivery>): boolean =>
  (decision._tag === "NotForUs" && decision.isElsewhere !== true) ||
  (decision._tag === "AlreadyHandled" && deliveries.some(({ _tag }) => _tag === "Promotion"))

/** In the trace of the newest delivery, which the patch hands on; the others are linked. */
const traced = (ref: Resource.ObjectRef, writers: ReadonlyArray<{ readonly waiting: Waiting }>) => {
  const spans = writers.flatMap(({ waiting }) => Option.toArray(waiting.span))
  const parent = spans.at(-1)
  return Effect.withSpan("patch", {
    attributes: { namespace: ref.namespace, name: ref.name, deliveries: writers.length },
    links: spans.slice(0, -1).map((span) => ({ span, attributes: {} })),
    ...(parent === undefined ? {} : { parent })
  })
}

const stopping = new NotTaken({ message: "the receiver is stopping" })

const causeOf = (cause: Cause.Cause<WriteError>): Cause.Cause<WriteError> =>
  Cause.hasInterruptsOnly(cause) ? Cause.fail(stopping) : cause

/** A failed `test` is a 422 like any other. */
const mayBeTest = ({ reason }: ApiError): boolean => reason._tag === "Invalid" && reason.status === 422

/** Lives as long as the scope: deliveries that still wait when it ends are not taken. */
export const make = Effect.fnUntraced(function* (store: Store<GatewaySync.GatewaySync>) {
  const client = yield* ApiClient
  const { first } = yield* Precedence.Current
  const inFlight = yield* Semaphore.make(mostInFlight)
  // Not a child of the request: it outlives a sender that hangs up.
  const start = yield* FiberSet.makeRuntime()
  /** Deliveries by GatewaySync; there is a key exactly while a fiber works it off. */
  const queues = new Map<string, Array<Waiting>>()

  const readable = (object: unknown) =>
    Effect.mapError(
      // Without the bounds: the API server has checked them, maybe by an older CRD.
      decode(object, { disableChecks: true }),
      (error) => new Unreadable({ message: `this GatewaySync cannot be read: ${error.message.slice(0, 500)}` })
    )
  const read = (ref: Resource.ObjectRef) => Effect.flatMap(client.get(Names.gatewaySyncs, ref), readable)
  const readLive = (ref: Resource.ObjectRef) => Effect.map(read(ref), (cr): Basis => ({ cr, live: true }))

  const patched = Effect.fnUntraced(function* (
    ref: Resource.ObjectRef,
    start: Basis,
    batch: ReadonlyArray<Waiting>
  ): Effect.fn.Return<Basis, WriteError> {
    let basis = start
    let refused: string | undefined
    for (let attempt = 1; ; attempt++) {
      const { decided, patch } = yield* decideAll(basis.cr, batch)
      const isDoubtful = decided.some(({ outcome, waiting }) => needsLive(outcome.decision, waiting.deliveries))
      if (!basis.live && isDoubtful) {
        basis = yield* readLive(ref)
        continue
      }
      const answerAll = Effect.forEach(decided, ({ outcome, waiting }) => Deferred.succeed(waiting.done, outcome))
      if (Object.keys(patch).length === 0) return yield* Effect.as(answerAll, basis)
      const operations = RequestedRef.operations(target(basis.cr), patch)
      const writers = decided.filter(({ outcome }) => outcome.decision._tag === "Write")
      const result = yield* client
        .jsonPatch(Names.gatewaySyncs, ref, operations, { fieldManager: Names.managers.receiver })
        .pipe(traced(ref, writers), Effect.result)
      if (Result.isSuccess(result)) {
        yield* answerAll
        return { cr: yield* readable(result.success), live: true }
      }
      // The same again although nothing has changed: it is not the tests that are refused.
      const asked = JSON.stringify(operations)
      if (!mayBeTest(result.failure) || attempt === mostAttempts || asked === refused) return yield* result.failure
      refused = asked
      basis = yield* readLive(ref)
    }
  })

  /** From what the last patch answered, else from the store, which may be a moment behind. */
  const basisOf = (ref: Resource.ObjectRef, last: Basis | undefined): Effect.Effect<Basis, WriteError> =>
    last !== undefined
      ? Effect.succeed(last)
      : Effect.flatMap(
          store.get(ref),
          Option.match({
            onNone: () => readLive(ref),
            onSome: (cr) => Effect.succeed<Basis>({ cr, live: false })
          })
        )

  const workOff = Effect.fnUntraced(function* (
    ref: Resource.ObjectRef,
    queue: Array<Waiting>,
    start: Basis | undefined
  ) {
    let last = start
    while (true) {
      const step = Effect.suspend(() => {
        // Taken only when it is our turn, so that all that came until then is in it.
        const batch = queue.splice(0)
        return basisOf(ref, last).pipe(
          Effect.flatMap((basis) => patched(ref, basis, batch)),
          Effect.onExit((exit) =>
            Exit.isSuccess(exit)
              ? Effect.void
              : Effect.forEach(batch, ({ done }) => Deferred.failCause(done, causeOf(exit.cause)), { discard: true })
          )
        )
      })
      const exit = yield* Effect.exit(inFlight.withPermits(1)(step))
      last = Exit.isSuccess(exit) ? exit.value : undefined
      // Looked at and given up in one breath, so that nothing is put into a queue that nobody works off any more.
      if (queue.length === 0) {
        queues.delete(Resource.key(ref))
        return
      }
    }
  })

  const stampOf = (span: Option.Option<Tracer.AnySpan>): Effect.Effect<RequestedRef.Stamp> =>
    Effect.map(DateTime.now, (now) => ({
      at: DateTime.formatIso(now),
      freshId: randomUUID(),
      ...(Option.isSome(span) ? { traceparent: Traceparent.format(span.value) } : {})
    }))

  /** @param namespace all when undefined */
  const listed = Effect.fnUntraced(function* (namespace: string | undefined) {
    const all = new Map<string, GatewaySync.GatewaySync>()
    yield* Stream.runForEach(Pages.of(client, Names.gatewaySyncs, { namespace }), ({ items }) =>
      Effect.forEach(
        items,
        (item) => Effect.ignore(Effect.map(readable(item), (cr) => all.set(Resource.key(cr.metadata), cr))),
        { discard: true }
      )
    )
    return all
  })

  return {
    read: (ref) => soon(read(ref)),
    readMany: Effect.fnUntraced(function* (known, deliveries) {
      const stamp = yield* stampOf(Option.none())
      const doubtful: Array<GatewaySync.GatewaySync> = []
      yield* forEachFew(known, (cr) => {
        if (needsLive(RequestedRef.decide(deliveries, target(cr), stamp), deliveries)) doubtful.push(cr)
      })
      if (doubtful.length <= mostReads) return none()
      const [namespace, ...others] = new Set(doubtful.map(({ metadata }) => metadata.namespace))
      // What cannot be listed is read one by one, and fails there.
      return yield* listed(others.length === 0 ? namespace : undefined).pipe(
        Effect.timeout(longestList),
        soon,
        Effect.orElseSucceed(none)
      )
    }),
    write: Effect.fnUntraced(function* (ref, deliveries, span, live) {
      const done = yield* Deferred.make<Outcome, WriteError>()
      const key = Resource.key(ref)
      const waiting: Waiting = {
        deliveries,
        span,
        done,
        stamp: yield* stampOf(span)
      }
      const queue = queues.get(key)
      if (queue === undefined) {
        const fresh = [waiting]
        queues.set(key, fresh)
        const giveUp = Effect.suspend(() => Effect.forEach(fresh, ({ done }) => Deferred.fail(done, stopping)))
        start(
          Effect.onInterrupt(
            first(workOff(ref, fresh, live === undefined ? undefined : { cr: live, live: true })),
            () => giveUp
          )
        )
      } else {
        if (queue.length >= mostWaiting) {
          return yield* new NotTaken({ message: `${mostWaiting} deliveries wait for this GatewaySync already` })
        }
        queue.push(waiting)
      }
      return yield* Deferred.await(done)
    }, soon)
  } satisfies AnnotationWriter as AnnotationWriter
})
