/**
 * What Stoker does for one GatewaySync: ordered small steps, each says what it found, one summary, one apply of the status.
 *
 * Level-based: a key says only "look again"; everything is read from the stores. What a reconcile writes is compared with
 * what the stores show, so a plant that does not change costs no write.
 */
import { Cause, Clock, Config, Context, DateTime, Duration, Effect, Equal, Exit, Layer, Option, Schema } from "effect"
import { SecureRandom } from "effect/crypto"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as Names from "../api/Names.ts"
import * as Profile from "../api/Profile.ts"
import * as RequestedRef from "../api/RequestedRef.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import { ApiError } from "../kubernetes/ApiError.ts"
import * as Controller from "../kubernetes/Controller.ts"
import { EventRecorder } from "../kubernetes/EventRecorder.ts"
import * as Precedence from "../kubernetes/Precedence.ts"
import * as Resource from "../kubernetes/Resource.ts"
import * as TakeOver from "../kubernetes/TakeOver.ts"
import type { StoreNotReady } from "../kubernetes/Store.ts"
import type { Job } from "../kubernetes/WorkQueue.ts"
import * as Traceparent from "../telemetry/Traceparent.ts"
import { Definition } from "./Definition.ts"
import { InstallationTokens } from "./InstallationTokens.ts"
import { Memory } from "./Memory.ts"
import { Metrics } from "./Metrics.ts"
import { SharedRefs } from "./SharedRefs.ts"
import { byGatewaySync, byNamespace, Stores } from "./Stores.ts"
import * as AgentAccess from "./steps/AgentAccess.ts"
import * as Deletion from "./steps/Deletion.ts"
import * as Discovery from "./steps/Discovery.ts"
import * as Events from "./steps/Events.ts"
import * as Finalizer from "./steps/Finalizer.ts"
import * as GitHubToken from "./steps/GitHubToken.ts"
import * as Maps from "./steps/Maps.ts"
import * as Owned from "./steps/Owned.ts"
import * as Request from "./steps/Request.ts"
import * as Resolve from "./steps/Resolve.ts"
import * as Summary from "./steps/Summary.ts"
import * as Time from "./Time.ts"

/**
 * Reconciles at once, but for those that wait for a git server or for GitHub. Each object has at most one write in
 * flight, because a key runs only once at a time.
 */
export const concurrency = 8
/** How long running reconciles may take to finish when the controller stops. */
export const drain = Duration.seconds(30)

type Needs =
  | ApiClient
  | Definition
  | EventRecorder
  | InstallationTokens
  | Memory
  | Metrics
  | SecureRandom.SecureRandom
  | SharedRefs
  | Stores

export class GatewaySyncController extends Context.Service<
  GatewaySyncController,
  {
    /** Looks at one GatewaySync, and says when to look again unless something changes. */
    readonly reconcile: (
      job: Pick<Job<string>, "key" | "reason">
    ) => Effect.Effect<Duration.Duration | undefined, ApiError | StoreNotReady>
    /** Works the queue until interrupted. Only one process of a cluster may. */
    readonly run: Effect.Effect<never>
  }
>()("stoker/controller/GatewaySyncController") {
  static readonly layer = Layer.effect(
    GatewaySyncController,
    Effect.gen(function* () {
      const context = yield* Effect.context<Needs>()
      const bindsAgents = yield* Config.Boolean("AUTO_BIND_AGENT_RBAC").pipe(Config.withDefault(true))
      const { queue, ready } = yield* Stores
      const { takesStatus } = yield* Definition
      // Senders of webhooks wait for their answer.
      const { after } = yield* Precedence.Current
      const reconcile = (job: Pick<Job<string>, "key" | "reason">) =>
        Effect.provide(look(job.key, job.reason, bindsAgents), context)
      return {
        reconcile,
        run: Effect.gen(function* () {
          yield* ready
          // Says what is lacking before anybody wonders.
          yield* takesStatus
          const isFresh = yield* Effect.provide(freshness, context)
          return yield* Controller.run({
            queue,
            reconcile: (job) =>
              Effect.andThen(after, isFresh(job.key)).pipe(
                Effect.flatMap((fresh) => (fresh ? reconcile(job) : Effect.succeed(staleDelay)))
              ),
            retry,
            concurrency,
            drain
          })
        })
      }
    })
  )
}

/** When to look again at what the mirror does not know yet. */
const staleDelay = Duration.seconds(1)

/**
 * Whether the mirror shows a GatewaySync as it is, asked at the first look in a term: the watch of a new leader may have
 * been deaf for two minutes, and it must not undo what the former one did since. Later on there is no other leader.
 */
const freshness = Effect.gen(function* () {
  const { get } = yield* ApiClient
  const { gatewaySyncs } = yield* Stores
  const seen = new Set<string>()
  return Effect.fnUntraced(function* (key: string) {
    if (seen.has(key)) return true
    const ref = Resource.refOf(key)
    const live = yield* get(Names.gatewaySyncs, ref).pipe(
      Effect.flatMap((raw) => Effect.orDie(decodeVersion(raw))),
      Effect.map(({ metadata }) => metadata.resourceVersion),
      Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(undefined))
    )
    const known = Option.getOrUndefined(yield* gatewaySyncs.store.get(ref))?.metadata.resourceVersion
    if (live === known) seen.add(key)
    return live === known
  })
})

const Version = Schema.Struct({ metadata: Schema.Struct({ resourceVersion: Schema.String }) })
const decodeVersion = Schema.decodeUnknownEffect(Version)

/** The delay after a failure; the same write again helps only against what passes by itself. */
export const retry = (error: ApiError | StoreNotReady | Cause.Cause<never>, attempt: number): Duration.Duration => {
  const soon = Duration.millis(Math.min(30_000, 500 * 2 ** Math.min(attempt - 1, 10)))
  if (!(error instanceof ApiError)) return soon
  switch (error.reason._tag) {
    case "UnknownField":
      // Until somebody applies the newer CRD.
      return Duration.minutes(5)
    case "TooManyRequests":
      return Duration.millis(error.reason.retryAfterMillis)
    case "Forbidden":
      return Duration.seconds(30)
    default:
      return soon
  }
}

const look = Effect.fnUntraced(function* (key: string, reason: string, bindsAgents: boolean) {
  const { gatewaySyncs } = yield* Stores
  const metrics = yield* Metrics
  const ref = Resource.refOf(key)
  const { name, namespace } = ref
  const found = yield* gatewaySyncs.store.get(ref)
  if (Option.isNone(found)) {
    yield* metrics.forget(ref)
    yield* (yield* InstallationTokens).forget(key)
    return undefined
  }
  const cr = found.value
  const requested = !RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest)
  const [took, exit] = yield* reconcile(cr, bindsAgents).pipe(
    Effect.withSpan("reconcile", { attributes: { namespace, name, reason } }),
    requested ? Traceparent.continueFrom(cr.metadata.annotations[Names.request.traceparent]) : (effect) => effect,
    Effect.annotateLogs({ namespace, name }),
    Effect.exit,
    Effect.timed
  )
  yield* metrics.reconciled(ref, Exit.isSuccess(exit) ? "success" : "failure", took)
  return yield* exit
})

const reconcile = Effect.fnUntraced(function* (found: GatewaySync.GatewaySync, bindsAgents: boolean) {
  if (found.metadata.deletionTimestamp !== undefined) {
    yield* Deletion.run(found)
    return undefined
  }
  const unusable = GatewaySync.nameProblem(found.metadata.name)
  if (unusable !== undefined) {
    yield* applyStatus(found, Summary.refused(found, unusable, Time.format(yield* DateTime.now)))
    return undefined
  }
  if (!Finalizer.isThere(found)) {
    yield* lookAgainOnConflict(Finalizer.add(found))
    return undefined
  }

  const requested = RequestedRef.inForce(found.metadata.annotations, found.spec.git.ref)
  if (requested.fate === "adopt" && requested.request !== undefined) {
    const { uuidV4 } = yield* SecureRandom.SecureRandom
    yield* lookAgainOnConflict(Request.adopt(found, requested.request, yield* uuidV4()))
    return undefined
  }
  if (requested.fate === "ended") {
    yield* Effect.logInfo("spec.git.ref was edited, which ends the requested override")
    yield* lookAgainOnConflict(Request.remove(found))
  }
  const cr = requested.fate === "ended" ? Request.withoutOverride(found) : found
  const inForce = RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref)

  yield* tellOfDelivery(cr)

  const problems = Profile.problems(cr.spec.sync.defaults, cr.spec.sync.profiles)
  const { maps, pods } = yield* belongings(cr)
  const prepared = yield* attempt(Maps.ensureStatus(cr, maps.status))
  const granted = bindsAgents ? yield* attempt(AgentAccess.apply(cr, pods)) : nothing

  const told = Maps.told(cr, maps.metadata)
  // Before the agents are told of a commit that they fetch with it.
  const token = yield* attempt(GitHubToken.keep(cr))
  // With profiles that no agent could follow a request stays open until they are mended.
  const asks = !cr.spec.paused && problems.length === 0
  const resolution = asks ? yield* Resolve.resolve(cr, inForce, told) : Resolve.unasked(cr, told)

  const { commit } = resolution
  // Written or not: a gateway counts as synced when it has this.
  const wanted = commit === undefined ? undefined : Maps.desired(cr, commit)
  const toTell =
    wanted !== undefined && problems.length === 0
      ? wanted
      : cr.spec.paused && maps.metadata !== undefined
        ? Maps.paused(cr, maps.metadata)
        : undefined
  const telling = toTell === undefined ? nothing : yield* attempt(Maps.applyMetadata(cr, maps.metadata, toTell))
  // Decided on what is no more: nothing else of it is true either.
  if (telling.error?.reason._tag === "Conflict") return yield* telling.error
  const failures = [prepared, granted, token, telling].flatMap(({ error }) => error ?? [])

  const reports = maps.status?.data ?? {}
  const gateways = Discovery.discover({
    pods,
    reports,
    wanted: commit === undefined || wanted === undefined ? undefined : { ...commit, revision: wanted.revision }
  })
  const now = yield* DateTime.now
  const status = Summary.status({
    cr,
    inForce,
    // What was resolved is not answered before the agents are told.
    resolution: { ...resolution, handled: resolution.handled && telling.error === undefined },
    problems,
    gateways,
    failures: failures.map(({ message }) => message),
    now: Time.format(now)
  })
  yield* applyStatus(cr, status)
  yield* record(cr, Events.between({ cr, pods, reports, status, refusedRights: granted.error?.message }))
  yield* (yield* Metrics).show(cr, status)
  if (failures[0] !== undefined) return yield* failures[0]

  if (inForce.fate === "caughtUp" && commit?.ref === cr.spec.git.ref) yield* lookAgainOnConflict(Request.remove(cr))
  if (maps.status !== undefined) yield* Maps.tidyStatus(cr, maps.status, pods)

  const never = Number.POSITIVE_INFINITY
  const nextLook = Math.min(resolution.nextLook, granted.value ?? never, token.value ?? never)
  return Number.isFinite(nextLook)
    ? Duration.millis(Math.max(0, nextLook - (yield* Clock.currentTimeMillis)))
    : undefined
})

/** After a restart a delivery may be told once more, and is never left out. */
const tellOfDelivery = Effect.fnUntraced(function* (cr: GatewaySync.GatewaySync) {
  const memory = yield* Memory
  const { told } = yield* memory.saw(cr)
  const { happenings, now } = Events.received(cr, told)
  yield* record(cr, happenings)
  yield* memory.update(cr, { told: now })
})

const record = Effect.fnUntraced(function* (cr: GatewaySync.GatewaySync, happenings: ReadonlyArray<Events.Happening>) {
  const recorder = yield* EventRecorder
  for (const happening of happenings) yield* recorder.record({ ...happening, regarding: Events.regarding(cr) })
})

/** What a step that writes came to. A refusal keeps nobody from resolving, and the status says it. */
interface Attempt<A> {
  readonly value: A | undefined
  readonly error: ApiError | undefined
}

const nothing: Attempt<never> = { value: undefined, error: undefined }

const attempt = <A, R>(step: Effect.Effect<A, ApiError, R>): Effect.Effect<Attempt<A>, never, R> =>
  Effect.match(step, {
    onSuccess: (value) => ({ value, error: undefined }),
    onFailure: (error) => ({ value: undefined, error })
  })

/** The pods and maps of a GatewaySync. A pod that names none belongs to the only one of its namespace. */
const belongings = Effect.fnUntraced(function* (cr: GatewaySync.GatewaySync) {
  const stores = yield* Stores
  const { name, namespace } = cr.metadata
  const named = yield* stores.pods.store.by(byGatewaySync, Resource.key(cr.metadata))
  const neighbours = yield* stores.gatewaySyncs.store.by(byNamespace, namespace)
  const unnamed = neighbours.length === 1 ? yield* stores.pods.store.by(byNamespace, namespace) : []
  const maps = stores.maps.store
  return {
    pods: [...named, ...unnamed],
    maps: {
      metadata: Option.getOrUndefined(yield* maps.get({ namespace, name: Names.metadataMap(name) })),
      status: Option.getOrUndefined(yield* maps.get({ namespace, name: Names.statusMap(name) }))
    }
  }
})

/** Somebody wrote meanwhile, or it is gone: the change that comes brings us back. */
const lookAgainOnConflict = <A, R>(patch: Effect.Effect<A, ApiError, R>) =>
  patch.pipe(
    Effect.asVoid,
    Effect.catchReason("ApiError", "NotFound", () => Effect.void),
    Effect.catchReason("ApiError", "Invalid", (reason, error) =>
      reason.isFailedTest ? Effect.void : Effect.fail(error)
    )
  )

const decodeWritten = Schema.decodeUnknownOption(GatewaySync.GatewaySync)

/** The whole status, where it differs from what is there. */
const applyStatus = Effect.fnUntraced(function* (cr: GatewaySync.GatewaySync, status: GatewaySync.Status) {
  if (Equal.equals(status, cr.status)) return
  const client = yield* ApiClient
  const definition = yield* Definition
  const stores = yield* Stores
  const write = { ...Owned.write, subresource: "status" } as const
  // An apply with a field that an old definition lacks is refused as a whole; of a merge patch only that field is dropped.
  const merge = client.mergePatch(Names.gatewaySyncs, cr.metadata, { status: merging(cr.status, status) }, write)
  const isWhole = (answer: unknown) =>
    Option.exists(decodeWritten(answer, { disableChecks: true }), (written) => Equal.equals(written.status, status))
  const apply = TakeOver.apply(Names.gatewaySyncs, cr.metadata, { status }, { ...write, part: "status", isWhole })
  const answer = yield* ((yield* definition.takesStatus) ? apply : merge).pipe(
    Effect.catchReason("ApiError", "UnknownField", () => Effect.andThen(definition.lookAgain, merge)),
    Effect.withSpan("status"),
    // Deleted a moment ago.
    Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(undefined))
  )
  const written = decodeWritten(answer, { disableChecks: true })
  if (Option.isSome(written)) yield* stores.gatewaySyncs.acknowledge(written.value.metadata, written.value)
})

/** The merge patch that leads from one status to another: null removes. */
const merging = (from: GatewaySync.Status, to: GatewaySync.Status): object => ({
  ...Object.fromEntries(Object.keys(from).map((key) => [key, null])),
  ...to
})
