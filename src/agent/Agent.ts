/**
 * The agent of one gateway: what the controller wants → files on the volume → scans → report, again and again.
 *
 * *Start.* Where nobody listens on the gateway's port, the files come before the gateway does: `/startupz` passes when
 * they are in place, and until the gateway runs they are compared and put back (charts seed volumes, commissioning
 * rewrites files); then everything is scanned. Where something answers, this sidecar was restarted beside a running
 * gateway, and the normal way with locks is taken.
 *
 * *Then.* On every change of the metadata. What fails is tried again, sooner first; newer metadata ends the waiting.
 */
import { Clock, Context, DateTime, Duration, Effect, Layer, Option, Random, Ref, Schedule, Schema } from "effect"
import * as GatewayStatus from "../api/GatewayStatus.ts"
import type * as Metadata from "../api/Metadata.ts"
import type * as Profile from "../api/Profile.ts"
import { GitError } from "../git/GitError.ts"
import { GatewayClient } from "../ignition/GatewayClient.ts"
import { GatewayError } from "../ignition/GatewayError.ts"
import * as GatewayState from "../ignition/GatewayState.ts"
import { Health } from "../telemetry/Health.ts"
import { Supervisor } from "../telemetry/Supervisor.ts"
import * as Traceparent from "../telemetry/Traceparent.ts"
import { Heartbeat } from "./Heartbeat.ts"
import * as Metrics from "./Metrics.ts"
import { Owner } from "./Owner.ts"
import { Settings } from "./Settings.ts"
import { StatusReporter } from "./StatusReporter.ts"
import { type GatewayStarting, type SettleError, Sync, type SyncError } from "./Sync.ts"
import * as Wanted from "./Wanted.ts"

/** Pauses before a failed sync is tried again: 1 s, doubling to a minute, each with up to a quarter of jitter. */
export const backoff = (failures: number, random: number): Duration.Duration =>
  Duration.millis(Math.min(60_000, 1000 * 2 ** Math.min(failures, 10)) * (1 + random / 4))
/** How often a gateway that does not run yet is looked at, and its files with it. */
export const bootPoll = Duration.seconds(1)
/** The longest that an apply which was refused in its middle is left: within that time its lock is renewed. */
export const halfwayPause = Duration.seconds(5)
/** How long another commit is held back beside a gateway that starts: one that goes on starting may wait for just that. */
export const startPatience = Duration.minutes(5)
/** How long a start waits for the API server before it takes what the volume keeps. */
export const patience = Duration.seconds(5)
/**
 * A pass may take so long before newer metadata cuts its fetch or its scan short: 5 s, doubling with each that was cut in
 * a row to 10 minutes, so that commits that come faster than a fetch ends do not starve it.
 */
export const superseding = (inARow: number): Duration.Duration =>
  Duration.seconds(Math.min(600, 5 * 2 ** Math.min(inARow, 7)))
/** The longest that a healthy loop is silent: a fetch may take 10 minutes, and so may a scan that joined another. */
export const heartbeat = Duration.minutes(12)

/** The metadata has no profile of this name. Files stay as they are until it has, or the pod names another. */
export class ProfileMissing extends Schema.TaggedError<ProfileMissing>()("ProfileMissing", {
  profile: Schema.String,
  cr: Schema.String
}) {
  override get message(): string {
    return `GatewaySync ${this.cr} has no profile "${this.profile}"; files stay as they are. Add it, or correct the pod's annotation stoker.io/profile`
  }
}

/** Nothing is known of what the controller wants. Wait for it. */
export class MetadataUnknown extends Schema.TaggedError<MetadataUnknown>()("MetadataUnknown", {
  detail: Schema.String
}) {
  override get message(): string {
    return this.detail
  }
}

/** How a pass ended, and with that, what the next one waits for besides newer metadata. */
type Outcome =
  /** All is as it should be, on the disk and in the gateway; the next look is a fall-back. */
  | { readonly _tag: "Settled"; readonly period: Duration.Duration }
  /** There is nothing to do, and nothing was compared. */
  | { readonly _tag: "Idle"; readonly period: Duration.Duration }
  /** The files are in place; the gateway does not run yet. */
  | { readonly _tag: "Waiting" }
  | { readonly _tag: "Failed" }
  /** The gateway starts, and does not get to see another commit before it runs. */
  | { readonly _tag: "Held" }
  /** Newer metadata cut it short. */
  | { readonly _tag: "Superseded" }

/** How a pass goes about it. */
interface Mode {
  /** What a gateway says of itself that does not read the files yet: scans come later. Undefined once it runs. */
  readonly boots: GatewayState.GatewayState | undefined
  /** The same as the pass before: neither traced nor, when it finds nothing to do, reported. */
  readonly again: boolean
  readonly starting: "hold" | "write"
}

const defaultPeriod = Duration.seconds(30)

export class Agent extends Context.Service<Agent, { readonly version: string }>()("stoker/agent/Agent") {
  /** Runs as long as its scope. @param version of the build, for reports */
  static readonly layer = (version: string) => Layer.effect(Agent, Effect.as(make(version), { version }))
}

const make = Effect.fnUntraced(function* (version: string) {
  const settings = yield* Settings
  const supervisor = yield* Supervisor
  const wanted = yield* Wanted.Wanted
  const reporter = yield* StatusReporter
  const sync = yield* Sync
  const gateway = yield* GatewayClient
  const owner = yield* Owner
  const health = yield* Health
  const probes = yield* makeProbes(health)

  /** What is told of the last sync that ended well, until the next one does. */
  const lastGood = yield* Ref.make<Partial<GatewayStatus.Report>>({})

  const report = Effect.fnUntraced(function* (
    syncStatus: GatewayStatus.Report["syncStatus"],
    data: Metadata.Data | undefined,
    fields: Partial<GatewayStatus.Report> = {}
  ) {
    const { syncedCommit: former, syncedRef, ...good } = yield* Ref.get(lastGood)
    // Until its scans are made, a gateway works with the commit before; halfway between the two, with neither.
    const before = Option.isSome(yield* sync.holds) ? former : undefined
    const syncedCommit = Option.getOrElse(yield* sync.synced, () => before)
    yield* reporter.report({
      ...good,
      ...(syncedCommit === undefined ? {} : { syncedCommit }),
      ...(syncedRef === undefined || syncedCommit !== former ? {} : { syncedRef }),
      syncStatus,
      agentVersion: version,
      profileName: settings.profile,
      ...(Option.isSome(settings.podUid) ? { podUID: settings.podUid.value } : {}),
      ...(data?.revision === undefined ? {} : { observedRevision: data.revision }),
      ...fields
    })
  })

  /** The trouble that was logged last: what lasts is said once. */
  const said = yield* Ref.make("")
  const isNews = (trouble: string) => Effect.map(Ref.getAndSet(said, trouble), (former) => former !== trouble)

  /**
   * Says what is wrong. A gateway whose volume holds an earlier sync starts with that.
   * @param besides what is wrong too
   */
  const failed = Effect.fnUntraced(function* (
    error: Failure,
    data: Metadata.Data | undefined,
    besides: SettleError | undefined = undefined
  ) {
    const message = besides === undefined ? error.message : `${error.message}. Besides, ${besides.message}`
    if (yield* isNews(message)) yield* Effect.logWarning(message)
    yield* Metrics.failed
    const trouble = besides ?? error
    const waits = error instanceof GatewayError && error.next === "wait"
    const holds = yield* sync.holds
    const stale = Option.match(yield* sync.synced, {
      onNone: () => "",
      onSome: (commit) => (commit === data?.commit ? "" : ` (until then the gateway has the files of ${short(commit)})`)
    })
    yield* report(waits ? "Pending" : "Error", data, {
      errorMessage: message.slice(0, longestMessage) + stale,
      ...(trouble instanceof GatewayError ? { lastScanResult: trouble.reason._tag } : {}),
      ...(error instanceof GitError ? { errorReason: GatewayStatus.cloneFailed } : {})
    })
    if (Option.isSome(holds)) yield* probes.pass
    else yield* probes.wait(message)
    return error._tag === "MetadataUnknown" && besides === undefined
      ? ({ _tag: "Idle", period: defaultPeriod } satisfies Outcome)
      : ({ _tag: "Failed" } satisfies Outcome)
  })

  /** The volume holds files, and it is the gateway's turn. */
  const waits = Effect.fnUntraced(function* (errorMessage: string, data: Metadata.Data) {
    yield* probes.pass
    if (yield* isNews(errorMessage)) yield* Effect.logInfo(errorMessage)
    yield* report("Pending", data, { errorMessage })
  })

  /** Where no commit comes, what is begun and what is owed is done all the same. */
  const settle = (mode: Mode) => (mode.boots === undefined ? sync.settle : sync.complete)
  const unwanted = (error: ProfileMissing | MetadataUnknown, data: Metadata.Data | undefined, mode: Mode) =>
    Effect.matchEffect(settle(mode), {
      onSuccess: () => failed(error, data),
      onFailure: (besides) => failed(error, data, besides)
    })

  const paused = Effect.fnUntraced(function* (data: Metadata.Data, period: Duration.Duration) {
    yield* sync.pause
    yield* Metrics.paused
    yield* report("Synced", data, { paused: true })
    if (Option.isSome(yield* sync.holds)) yield* probes.pass
    else yield* probes.wait("paused before its first sync")
    return { _tag: "Idle", period } satisfies Outcome
  })

  const dryRun = Effect.fnUntraced(function* (
    data: Metadata.Data,
    profile: Profile.Effective,
    period: Duration.Duration
  ) {
    yield* sync.pause
    const counts = yield* sync.count({ data, profile })
    yield* report("Synced", data, {
      dryRun: true,
      dryRunDiffAdded: counts.added,
      dryRunDiffModified: counts.modified,
      dryRunDiffDeleted: counts.deleted
    })
    yield* probes.pass
    return { _tag: "Idle", period } satisfies Outcome
  })

  const synced = Effect.fnUntraced(function* (heard: Wanted.Heard, mode: Mode) {
    const { data } = heard
    const profile = Object.hasOwn(data.profiles, settings.profile) ? data.profiles[settings.profile] : undefined
    if (profile === undefined) {
      return yield* unwanted(new ProfileMissing({ profile: settings.profile, cr: settings.crName }), data, mode)
    }
    const period = Duration.seconds(profile.syncPeriod)
    if (data.paused === "true" || profile.paused) return yield* paused(data, period)
    // What it counts it can count, whatever the gateway says to a scan that is owed.
    if (profile.dryRun) return yield* Effect.tap(dryRun(data, profile, period), () => Effect.ignore(settle(mode)))

    const begun = yield* uptime
    const applied = yield* sync
      .apply({ ...heard, profile, gateway: mode.boots === undefined ? "up" : "down", starting: mode.starting })
      .pipe(mode.again ? (same) => same : Metrics.sync(settings.profile))
    const unmanaged = Option.match(applied.unmanaged, {
      onNone: () => ({}),
      onSome: (unmanagedFiles) => ({ unmanagedFiles })
    })
    yield* Ref.update(lastGood, (former) => ({ ...former, ...unmanaged }))
    if (mode.boots !== undefined) {
      const why = GatewayState.whatItWaitsFor(mode.boots)
      yield* waits(`the files of ${short(data.commit)} are in place; waits until the gateway runs: ${why}`, data)
      return { _tag: "Waiting" } satisfies Outcome
    }
    yield* probes.pass
    const { added, deleted, modified, projects, scanned } = applied
    const changed = added + modified + deleted
    if (mode.again && changed === 0 && scanned.length === 0) return { _tag: "Settled", period } satisfies Outcome

    const took = (yield* uptime) - begun
    const now = yield* DateTime.now
    yield* Ref.update(lastGood, (former) => ({
      ...former,
      syncedCommit: data.commit,
      syncedRef: data.ref,
      lastSyncTime: DateTime.formatIso(now),
      lastSyncDuration: `${took}ms`,
      filesChanged: changed,
      projectsSynced: projects,
      ...(scanned.length === 0 ? {} : { lastScanResult: "ok" })
    }))
    yield* report("Synced", data, notDone(profile))
    yield* Metrics.synced(settings.profile, applied)
    yield* Ref.set(said, "")
    yield* Effect.logInfo(changed === 0 ? "nothing of this gateway changed" : "synced").pipe(
      Effect.annotateLogs({ added, modified, deleted, commit: data.commit, ref: data.ref, millis: took })
    )
    return { _tag: "Settled", period } satisfies Outcome
  })

  /** One pass over what is wanted now. */
  const pass = (state: Wanted.State, mode: Mode): Effect.Effect<Outcome> => {
    switch (state._tag) {
      case "Unheard":
      case "Missing":
      case "Invalid":
        return unwanted(new MetadataUnknown({ detail: detailOf(state, settings) }), undefined, mode)
      case "Known":
      case "Kept": {
        const { data } = state
        const once = synced(state, mode).pipe(
          Effect.catchTag("GatewayStarting", ({ message }) =>
            Effect.as(waits(message, data), { _tag: "Held" } satisfies Outcome)
          ),
          Effect.catch((error) => failed(error, data))
        )
        return mode.again
          ? Effect.withTracerEnabled(once, false)
          : once.pipe(
              Effect.withSpan("sync", {
                attributes: { "stoker.commit": data.commit, "stoker.gateway": settings.gatewayName }
              }),
              Traceparent.continueFrom(data.traceparent)
            )
      }
    }
  }

  /** Looks again and again, until the gateway is not starting any more, or has been for too long. */
  const started = (look: Effect.Effect<void>, deadline: number) =>
    Effect.repeat(Effect.andThen(look, Effect.all([gateway.state, uptime])), {
      until: ([{ _tag }, now]) => _tag !== "Starting" || now >= deadline
    })

  const loop = Effect.gen(function* () {
    // First of all, since the gateway's port stands there too.
    const first = yield* wanted.current
    if (first._tag === "Unheard") {
      yield* Effect.raceFirst(wanted.changedFrom(first), Effect.sleep(patience))
      yield* wanted.useKept
    }
    const open = Effect.gen(function* () {
      const down = (yield* gateway.state)._tag === "Down"
      yield* sync.complete
      return down
    })
    let cold = yield* open.pipe(
      Effect.tapError((error) =>
        Effect.flatMap(wanted.current, (state) => failed(error, Option.getOrUndefined(Wanted.dataOf(state))))
      ),
      Effect.tapError(() => probes.beat(Duration.zero)),
      Effect.retry({ schedule: openRetries })
    )
    const began = yield* uptime
    let failures = 0
    let superseded = 0
    let former: Wanted.State | undefined
    /** Until when another commit is held back. */
    let deadline: number | undefined
    while (true) {
      const state = yield* wanted.current
      const wasCold = cold
      const now = cold ? yield* gateway.state : undefined
      const boots = now?._tag === "Running" ? undefined : now
      cold = boots !== undefined
      if (wasCold && !cold) yield* Metrics.started(Duration.millis((yield* uptime) - began))
      const again = state === former && wasCold === cold && failures === 0
      const starting = deadline !== undefined && (yield* uptime) >= deadline ? "write" : "hold"
      yield* probes.beat(Duration.zero)
      const outcome = yield* Effect.raceFirst(
        Effect.provideService(pass(state, { boots, again, starting }), Heartbeat, probes.beat(Duration.zero)),
        Effect.as(Effect.delay(wanted.changedFrom(state), superseding(superseded)), { _tag: "Superseded" } as Outcome)
      )
      // The same pass after a wait is another, and to be traced.
      former = outcome._tag === "Held" ? undefined : state
      failures = outcome._tag === "Failed" ? failures + 1 : 0
      superseded = outcome._tag === "Superseded" ? superseded + 1 : 0
      if (outcome._tag === "Superseded") continue
      const isHeld = outcome._tag === "Held"
      if (isHeld) deadline ??= (yield* uptime) + Duration.toMillis(startPatience)
      else if (outcome._tag !== "Failed") deadline = undefined
      const longest = (yield* sync.isHalfway) ? halfwayPause : Duration.infinity
      const delay = Duration.min(yield* pause(outcome, failures, cold), longest)
      yield* probes.beat(delay)
      const look = Effect.delay(wanted.refresh, delay)
      yield* Effect.raceFirst(
        wanted.changedFrom(state),
        isHeld && deadline !== undefined ? started(look, deadline) : look
      )
    }
  })

  yield* supervisor.supervise("owner", owner.renew)
  yield* supervisor.supervise("metadata", wanted.watch)
  yield* supervisor.supervise("report", reporter.deliver)
  yield* supervisor.supervise("sync", loop)
  // The last one is the first to be run: not ready while what is under way ends.
  yield* Effect.addFinalizer(() => health.stopping)
})

type Failure = Exclude<SyncError, GatewayStarting> | ProfileMissing | MetadataUnknown

const longestMessage = 2000
const short = (commit: string): string => commit.slice(0, 7)
/** Milliseconds, by a clock that nobody sets: a jump of the other one must not look like a hung or an endless sync. */
const uptime = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos / 1_000_000n))
const openRetries = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced(halfwayPause)])

const pause = (outcome: Outcome, failures: number, cold: boolean): Effect.Effect<Duration.Duration> => {
  switch (outcome._tag) {
    case "Settled":
    case "Idle":
      // A gateway that starts while there is nothing to do is still waited for.
      return Effect.succeed(cold ? Duration.min(outcome.period, bootPoll) : outcome.period)
    case "Waiting":
    case "Held":
    case "Superseded":
      return Effect.succeed(bootPoll)
    case "Failed":
      return Effect.map(Random.next, (random) => backoff(failures - 1, random))
  }
}

/** What the profile asks for that this agent does not do, beside what it refuses altogether. */
const notDone = ({ designerSessionPolicy }: Profile.Effective): Partial<GatewayStatus.Report> =>
  designerSessionPolicy === "proceed"
    ? {}
    : {
        errorMessage: `designerSessionPolicy "${designerSessionPolicy}" is not supported yet: files change under open Designers, as with "proceed"`
      }

const detailOf = (
  state: Exclude<Wanted.State, { readonly data: unknown }>,
  { crName, crNamespace }: { readonly crName: string; readonly crNamespace: string }
): string => {
  switch (state._tag) {
    case "Unheard":
      return "the API server has not answered yet; files stay as they are"
    case "Missing":
      return `there is no metadata for GatewaySync ${crNamespace}/${crName}: does it exist, and is Stoker's controller running? Files stay as they are`
    case "Invalid":
      return state.message
  }
}

/** Startup and readiness: files are on the volume, from now or from before. Liveness: the loop is heard of. */
const makeProbes = Effect.fnUntraced(function* (health: (typeof Health)["Service"]) {
  const missing = yield* Ref.make(Option.some("waits for the first sync"))
  const heardBy = yield* Ref.make((yield* uptime) + Duration.toMillis(heartbeat))
  const files = Effect.flatMap(
    Ref.get(missing),
    Option.match({ onNone: () => Effect.void, onSome: (why) => Effect.fail(why) })
  )
  const alive = Effect.gen(function* () {
    const late = (yield* uptime) - (yield* Ref.get(heardBy))
    if (late > 0) return yield* Effect.fail(`nothing heard, ${Math.round(late / 1000)} s over time`)
  })
  yield* health.register("startup", "files", files)
  yield* health.register("ready", "files", files)
  yield* health.register("live", "sync", alive)
  yield* health.started
  return {
    pass: Ref.set(missing, Option.none<string>()),
    wait: (why: string) =>
      Ref.update(
        missing,
        Option.map(() => why)
      ),
    /** @param pause how long the loop means to be silent */
    beat: (pause: Duration.Duration) =>
      Effect.flatMap(uptime, (now) => Ref.set(heardBy, now + Duration.toMillis(pause) + Duration.toMillis(heartbeat)))
  }
})
