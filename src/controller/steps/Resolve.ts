/**
 * From the ref in force to a commit.
 *
 * The remote is asked only when no commit is known for the ref, when there is a request that was not answered, when a
 * poll is due, or when a retry is due. Every other reconcile works with the commit that the agents were told, so neither
 * a pod nor a restart moves a branch. What cannot be resolved takes nothing hostage: the last commit stays in force, and
 * its ref is polled on.
 */
import { Clock, DateTime, Duration, Effect, Equal, Option, Random, Result } from "effect"
import * as Conditions from "../../api/Conditions.ts"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as GoDuration from "../../api/GoDuration.ts"
import type * as GitRef from "../../api/GitRef.ts"
import * as RequestedRef from "../../api/RequestedRef.ts"
import type { GitError } from "../../git/GitError.ts"
import * as RepositoryUrl from "../../git/RepositoryUrl.ts"
import type { ApiClient } from "../../kubernetes/ApiClient.ts"
import type { ApiError } from "../../kubernetes/ApiError.ts"
import * as WorkQueue from "../../kubernetes/WorkQueue.ts"
import type { InstallationTokens } from "../InstallationTokens.ts"
import { type Attempts, Memory, type Remembered } from "../Memory.ts"
import { Metrics } from "../Metrics.ts"
import { SharedRefs } from "../SharedRefs.ts"
import * as Time from "../Time.ts"
import * as Credentials from "./Credentials.ts"

/** A commit, and the ref that it belongs to. */
export interface Commit {
  readonly ref: string
  readonly kind?: GitRef.Kind
  readonly commit: string
}

export interface Resolution {
  /** What the gateways shall have; none before anything resolved. */
  readonly commit: Commit | undefined
  /** How the question was answered; undefined when nothing new is known and the former condition holds. */
  readonly finding: Conditions.Finding | undefined
  /** Every request of the annotations is answered. */
  readonly handled: boolean
  /** When to look again: milliseconds since the epoch, or infinity. */
  readonly nextLook: number
}

/** Nothing is asked: what is in force stays, and what was requested stays open. */
export const unasked = (cr: GatewaySync, told: Told | undefined): Resolution => ({
  commit: held(cr, told).commit,
  finding: undefined,
  handled: RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest),
  nextLook: Number.POSITIVE_INFINITY
})

// Delays (milliseconds) -----------------------------------------------------------------------------------------------

/** A poll's interval; what Go would refuse is taken as a minute, and less than a second as one. */
export const interval = (text: string): number =>
  Math.max(1000, Option.match(GoDuration.parse(text), { onNone: () => 60_000, onSome: Duration.toMillis }))

/** How long a request is fresh. */
const freshness = 60_000

/** While a request is fresh: 1, 2, 4, 5, 5 … s. After that, and without a request: 30, 60, 120, 240, 300 s. */
export const retryDelay = (attempt: number, fresh: boolean): number =>
  fresh
    ? Math.min(5000, 1000 * 2 ** Math.min(attempt - 1, 3))
    : Math.min(300_000, 30_000 * 2 ** Math.min(attempt - 1, 4))

/** While the remote serves what was there before a push; then it is left to the next push, poll or edit. */
export const lagDelays: ReadonlyArray<number> = [500, 1000, 2000, 4000, 8000, 15_000, 30_000]

// What is known, and what must be asked -------------------------------------------------------------------------------

/** What the metadata map tells the agents. */
export interface Told {
  readonly repository: string | undefined
  /** None where the map is not as we write it: the Go operator's, or one that somebody edited. */
  readonly commit: Commit | undefined
}

export interface Held {
  readonly commit: Commit | undefined
  /** The map and the status agree. Where not, a write between them is missing, and nobody knows what led to it. */
  readonly isSettled: boolean
}

/**
 * The commit in force: what the agents were told. The map is written before the status, so that it is the newer one when
 * a leader ends between the two. Without such a map the commit of the status counts, if it is of this repository: while
 * the spec is the one that was observed and resolved, or where the map names it.
 */
export const held = (cr: GatewaySync, told: Told | undefined): Held => {
  const { lastSyncCommit, lastSyncRef: ref, lastSyncRefKind: kind, observedGeneration } = cr.status
  const noted = lastSyncCommit === undefined || ref === undefined ? undefined : { commit: lastSyncCommit, ref }
  const full = noted === undefined || kind === undefined ? noted : { ...noted, kind }
  if (told?.commit !== undefined) {
    if (told.repository !== cr.spec.git.repo) return { commit: undefined, isSettled: true }
    return Equal.equals(told.commit, noted)
      ? { commit: full, isSettled: true }
      : { commit: told.commit, isSettled: false }
  }
  const sameRepository =
    told?.repository === undefined
      ? observedGeneration === cr.metadata.generation &&
        Conditions.get(cr.status.conditions ?? [], "RefResolved")?.status === "True"
      : told.repository === cr.spec.git.repo
  return { commit: sameRepository ? full : undefined, isSettled: true }
}

/** Whether the remote serves the commit that the last push says to have replaced. */
export const lags = (annotations: RequestedRef.Annotations, found: Commit): boolean => {
  const push = RequestedRef.pushed(annotations)
  return (
    push?.before !== undefined && push.ref === found.ref && push.before === found.commit && push.after !== found.commit
  )
}

export interface State {
  readonly cr: GatewaySync
  readonly inForce: RequestedRef.InForce
  readonly held: Commit | undefined
  /** See {@link Held}. */
  readonly isSettled: boolean
  readonly remembered: Remembered
  readonly now: number
}

const pollDueAt = ({ cr: { spec }, held, remembered: { asked } }: State): number =>
  // A commit stands for itself. Whole milliseconds: half of one can be slept for, but never seen to be over.
  spec.polling.enabled && held?.kind !== "commit"
    ? asked.at + Math.ceil(interval(spec.polling.interval) * (1 + asked.shift))
    : Number.POSITIVE_INFINITY

const currently = <A extends Attempts>(attempts: A | undefined, { remembered }: State): A | undefined =>
  attempts?.mark === remembered.question.mark ? attempts : undefined

const isHandled = ({ cr }: State): boolean =>
  RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest)

export interface Questions {
  /** Refs to ask for until one resolves, the best first; empty when nothing must be asked. */
  readonly refs: ReadonlyArray<string>
  /** The ref of the commit in force, which is polled while the wanted ref cannot be resolved. */
  readonly meanwhile: string | undefined
  /**
   * The ls-refs must begin after this: a new question, after it arose; a poll, half an interval after the last, so that
   * all who poll one remote come to share one ls-refs, and none knows anything older than its interval.
   */
  readonly after: number
}

/** What the remote must be asked now. */
export const questions = (state: State): Questions => {
  const { cr, held, inForce, isSettled, now, remembered } = state
  const { asked, question } = remembered
  const failed = currently(remembered.failed, state)
  const lag = isHandled(state) ? undefined : currently(remembered.lag, state)
  const waiting = [failed, lag].find((one) => one !== undefined && now < one.retryAt)
  const pollDue = now >= pollDueAt(state)
  const catchingUp = inForce.fate === "caughtUp" && inForce.ref !== cr.spec.git.ref
  const former = Conditions.get(cr.status.conditions ?? [], "RefResolved")
  const due =
    waiting === undefined &&
    (held?.ref !== inForce.ref ||
      !isSettled ||
      !isHandled(state) ||
      pollDue ||
      failed !== undefined ||
      // Nobody remembers when to retry (a restart), or the request that failed is gone.
      former?.status === "False" ||
      (catchingUp && asked.mark !== question.mark))
  const open = failed ?? lag
  const period = open === undefined ? interval(cr.spec.polling.interval) : open.retryAt - asked.at
  return {
    refs: due ? [...(catchingUp ? [cr.spec.git.ref] : []), inForce.ref] : [],
    meanwhile: pollDue && held !== undefined && held.ref !== inForce.ref ? held.ref : undefined,
    after: asked.mark === question.mark && asked.at >= question.since ? asked.at + period / 2 : question.since
  }
}

const nextLook = (state: State, handled: boolean): number => {
  const failed = currently(state.remembered.failed, state)
  const lag = handled ? undefined : currently(state.remembered.lag, state)
  const polls = failed === undefined || (state.held !== undefined && state.held.ref !== state.inForce.ref)
  return Math.min(
    polls ? pollDueAt(state) : Number.POSITIVE_INFINITY,
    failed?.retryAt ?? Number.POSITIVE_INFINITY,
    lag?.retryAt ?? Number.POSITIVE_INFINITY
  )
}

// The step ------------------------------------------------------------------------------------------------------------

export const resolve = Effect.fnUntraced(function* (
  cr: GatewaySync,
  inForce: RequestedRef.InForce,
  told: Told | undefined
) {
  const memory = yield* Memory
  const now = yield* Clock.currentTimeMillis
  const { commit: inUse, isSettled } = held(cr, told)
  const state: State = { cr, inForce, held: inUse, isSettled, remembered: yield* memory.saw(cr), now }
  const { mark } = state.remembered.question
  const { after, meanwhile, refs } = questions(state)
  const handled = isHandled(state)

  const done = Effect.fnUntraced(function* (
    change: Partial<Remembered>,
    result: Omit<Resolution, "nextLook">
  ): Effect.fn.Return<Resolution> {
    const remembered = yield* memory.update(cr, change)
    return { ...result, nextLook: nextLook({ ...state, held: result.commit, remembered }, result.handled) }
  })

  /** Asks for one ref; a success is the answer to everything. */
  const attempt = Effect.fnUntraced(function* (ref: string) {
    const { beganAt, resolved } = yield* ask(cr, ref, after)
    const asked = { at: beganAt, mark, shift: yield* Random.nextBetween(-0.05, 0.05) }
    return { asked, resolved }
  })

  let failure: { readonly asked: Remembered["asked"]; readonly error: Failure } | undefined
  for (const ref of refs) {
    const { asked, resolved } = yield* attempt(ref)
    if (Result.isFailure(resolved)) {
      failure = { asked, error: resolved.failure }
      continue
    }
    const commit = resolved.success
    const finding: Conditions.Finding = {
      type: "RefResolved",
      status: "True",
      reason: "RefResolved",
      message: commit.commit
    }
    const tries = (currently(state.remembered.lag, state)?.count ?? 0) + 1
    const delay = lagDelays[tries - 1]
    const waits = !handled && delay !== undefined && lags(cr.metadata.annotations, commit)
    return yield* done(
      { asked, failed: undefined, lag: waits ? { mark, count: tries, retryAt: now + delay } : undefined },
      { commit, finding, handled: !waits }
    )
  }

  const change: Partial<Remembered> = failure === undefined ? {} : yield* failed(state, failure.asked, failure.error)
  const finding = failure === undefined ? undefined : notResolved(failure.error, change.failed?.retryAt)
  if (meanwhile === undefined) return yield* done(change, { commit: state.held, finding, handled })
  const { asked, resolved } = yield* attempt(meanwhile)
  return yield* done({ ...change, asked }, { commit: Result.getOrElse(resolved, () => state.held), finding, handled })
})

type Failure = GitError | Credentials.CredentialsMissing

/** The next try: soon while a request is fresh, never when only an edit helps. */
const failed = (
  state: State,
  asked: Remembered["asked"],
  error: Failure
): Effect.Effect<Pick<Remembered, "asked"> & { readonly failed: NonNullable<Remembered["failed"]> }> =>
  Effect.map(Clock.currentTimeMillis, (now) => {
    const { mark, since } = state.remembered.question
    const former = currently(state.remembered.failed, state)
    const fresh = !isHandled(state) && now - since < freshness
    const count = former?.fresh === fresh ? former.count + 1 : 1
    const never = error._tag === "GitError" && error.next === "edit"
    const retryAt = never ? Number.POSITIVE_INFINITY : now + retryDelay(count, fresh)
    return { asked, failed: { mark, count, fresh, retryAt } }
  })

const notResolved = (error: Failure, retryAt: number | undefined): Conditions.Finding => ({
  type: "RefResolved",
  status: "False",
  reason: error._tag === "CredentialsMissing" ? error.reason : "RefResolutionFailed",
  message:
    retryAt === undefined || !Number.isFinite(retryAt)
      ? error.message
      : `${error.message} Next try at ${Time.format(DateTime.makeUnsafe(retryAt))}`
})

/** What is wrong, whenever it is tried again. */
export const withoutNextTry = (message: string): string => message.replace(/ Next try at \S+$/, "")

interface Answer {
  readonly beganAt: number
  readonly resolved: Result.Result<Commit, Failure>
}

const ask = Effect.fnUntraced(
  function* (
    cr: GatewaySync,
    ref: string,
    after: number
  ): Effect.fn.Return<Answer, ApiError, ApiClient | InstallationTokens | Metrics | SharedRefs> {
    const beganAt = yield* Clock.currentTimeMillis
    const url = RepositoryUrl.parse(cr.spec.git.repo)
    if (Result.isFailure(url)) return { beganAt, resolved: Result.fail(url.failure) }
    const found = yield* Credentials.read(cr).pipe(
      Effect.map(Result.succeed),
      Effect.catchTag("CredentialsMissing", (missing) => Effect.succeed(Result.fail(missing)))
    )
    if (Result.isFailure(found)) return { beganAt, resolved: Result.fail(found.failure) }
    const { credentials, identity } = found.success
    const shared = yield* SharedRefs
    const [took, answer] = yield* Effect.timed(
      WorkQueue.aside(shared.ask({ url: url.success, credentials, credential: identity, ref, after }))
    )
    yield* (yield* Metrics).resolved({ namespace: cr.metadata.namespace, name: cr.metadata.name }, took)
    return answer
  },
  (effect, _, ref) => Effect.withSpan(effect, "ls-refs", { attributes: { ref } })
)
