/**
 * One pass from a commit to the gateway: fetch → plan → stage → lock → write → scan. Knows what the volume holds and what
 * is still owed; when a pass is made, and what is reported, is the Agent's business.
 */
import { Context, Duration, Effect, Equal, Layer, Option, Record, Ref, Schema } from "effect"
import type * as Metadata from "../api/Metadata.ts"
import type * as Profile from "../api/Profile.ts"
import { GitError } from "../git/GitError.ts"
import { GatewayClient, type ScanKind } from "../ignition/GatewayClient.ts"
import type { GatewayError } from "../ignition/GatewayError.ts"
import * as Apply from "./Apply.ts"
import * as Changes from "./Changes.ts"
import * as Heartbeat from "./Heartbeat.ts"
import * as Inventory from "./Inventory.ts"
import * as Journal from "./Journal.ts"
import * as Metrics from "./Metrics.ts"
import { Owner, type VolumeOwned } from "./Owner.ts"
import * as Plan from "./Plan.ts"
import { Repository } from "./Repository.ts"
import * as SettingsModule from "./Settings.ts"
import { Settings } from "./Settings.ts"
import { Volume, type VolumeError } from "./Volume.ts"
import type * as Wanted from "./Wanted.ts"

export interface Request extends Wanted.Heard {
  readonly profile: Profile.Effective
  /** While it is down, everything that a scan would show it is owed. */
  readonly gateway: "down" | "up"
  /** Beside a gateway that starts, other files than the volume's are held back, or written all the same. */
  readonly starting: "hold" | "write"
}

/** What a pass changed, or would change, on the disk. */
export interface Counts {
  readonly added: number
  readonly modified: number
  readonly deleted: number
}

export interface Applied extends Counts {
  /** Names of the projects that the profile brings. */
  readonly projects: ReadonlyArray<string>
  readonly scanned: ReadonlyArray<ScanKind>
  /** On a volume without an inventory: files below the mapped folders that no mapping produces. They stay. */
  readonly unmanaged: Option.Option<number>
}

/** A gateway that starts reads its files, and no scan lock keeps it from that. Try again once it runs. */
export class GatewayStarting extends Schema.TaggedError<GatewayStarting>()("GatewayStarting", {
  commit: Schema.String
}) {
  override get message(): string {
    return `the gateway is starting, and would read files of two commits: ${this.commit.slice(0, 7)} waits until it runs, 5 minutes at most`
  }
}

export type SettleError = VolumeOwned | VolumeError | GatewayError
export type SyncError = SettleError | GatewayStarting | GitError | Plan.PlanRefused

export class Sync extends Context.Service<
  Sync,
  {
    /** Completes what was begun, out of a gateway's sight, and knows then what the volume holds. First of all. */
    readonly complete: Effect.Effect<void, SettleError>
    /** The same, and then makes the scans that are owed: for a pass that brings no commit. */
    readonly settle: Effect.Effect<void, SettleError>
    /** Completes what was begun. A start without an API server knows then that nothing is to be put back. */
    readonly pause: Effect.Effect<void, SettleError>
    /**
     * Completes what was begun, then brings the commit; scans are locked out while files change, wherever a gateway
     * answers. The files are as the commit has them when this succeeds, and a gateway that is up has scanned them.
     * Whatever keeps the commit from coming, a gateway that is up is asked for the scans that were owed before. Scans that
     * fail stay owed, over restarts too.
     */
    readonly apply: (request: Request) => Effect.Effect<Applied, SyncError>
    /** What `apply` would change, or why it would be refused. Writes nothing to the data directory. */
    readonly count: (request: Pick<Request, "data" | "profile">) => Effect.Effect<Counts, SyncError>
    /** The commit whose files the volume holds, all of them: none while an apply is under way, or after one that was lost. */
    readonly holds: Effect.Effect<Option.Option<string>>
    /** The same, once no scan is owed and it is known who brought them: the commit that the gateway works with. */
    readonly synced: Effect.Effect<Option.Option<string>>
    /**
     * Files are of two commits, and the gateway is kept from reading them only for as long as its lock lasts; or another's
     * agent has the volume.
     */
    readonly isHalfway: Effect.Effect<boolean>
  }
>()("stoker/agent/Sync") {
  static readonly layer = Layer.effect(
    Sync,
    Effect.suspend(() => make)
  )
}

/** So quickly are locks taken that nobody holds. */
const atOnce = Duration.seconds(1)

/** A slow network volume renames a few hundred files a second. */
const lockTimes = ({ clear, deletes, writes }: Journal.Apply) =>
  ({
    acquireTimeout: "10 seconds",
    holdTimeout: Duration.sum(
      Duration.minutes(1),
      Duration.millis(10 * (clear.length + deletes.length + writes.length))
    )
  }) as const

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const repository = yield* Repository
  const volume = yield* Volume
  const owner = yield* Owner
  const gateway = yield* GatewayClient
  const inventory = yield* Ref.make(Option.none<Inventory.Inventory>())
  const owedScans = yield* Ref.make<ReadonlySet<ScanKind>>(new Set())
  /** The commit that was found last to have the same files as that of the inventory. */
  const same = yield* Ref.make(Option.none<string>())
  /**
   * The claim under which `inventory` was read; none while an apply is under way, which only the journal knows, and once
   * the volume was found to be another's.
   */
  const opened = yield* Ref.make(Option.none<number>())
  /** Until everything was compared since then, and a gateway that may have changed it runs. */
  const trusted = yield* Ref.make<Changes.Trust>("disk")

  const ours = <A, E>(asked: Effect.Effect<A, E | VolumeOwned>) =>
    Effect.tapErrorTag(asked, "VolumeOwned", () => Ref.set(opened, Option.none()))
  const confirm = (claim: number) => ours(owner.confirm(claim))

  const origin = ({ data, raw }: Wanted.Heard): Inventory.Origin => ({
    commit: data.commit,
    namespace: settings.crNamespace,
    cr: settings.crName,
    profile: settings.profile,
    metadata: raw
  })
  /** What all files are of, if it was this GatewaySync that brought them. */
  const originOf = (held: Option.Option<Inventory.Inventory>) =>
    held.pipe(
      Option.flatMapNullishOr((inventory) => inventory.origin),
      Option.filter((origin) => Inventory.isOf(origin, settings))
    )
  const commitOf = (held: Option.Option<Inventory.Inventory>) => Option.map(originOf(held), ({ commit }) => commit)

  /** Of no apply under way. */
  const atRest = (
    commit: (held: Option.Option<Inventory.Inventory>, same: Option.Option<string>) => Option.Option<string>
  ) =>
    Effect.gen(function* () {
      return Option.isNone(yield* Ref.get(opened))
        ? Option.none()
        : commit(yield* Ref.get(inventory), yield* Ref.get(same))
    })
  const known = atRest((held, same) => Option.orElse(same, () => commitOf(held)))
  const holds = atRest((held, same) =>
    same.pipe(
      Option.orElse(() => commitOf(held)),
      Option.orElse(() => Option.flatMapNullishOr(held, ({ commit }) => commit))
    )
  )

  const owe = (kinds: ReadonlyArray<ScanKind>) => Ref.update(owedScans, (owed) => new Set([...owed, ...kinds]))
  const owed = Effect.map(Ref.get(owedScans), (kinds) => Plan.scanKinds.filter((kind) => kinds.has(kind)))

  const variables = Effect.fnUntraced(function* (data: Metadata.Data, profile: Profile.Effective) {
    const labels = yield* settings.labels
    return {
      GatewayName: settings.gatewayName,
      PodName: settings.podName,
      PodOrdinal: SettingsModule.podOrdinal(settings.podName, labels),
      Namespace: settings.podNamespace,
      Ref: data.ref,
      Commit: data.commit,
      CRName: settings.crName,
      Labels: labels,
      Vars: profile.vars ?? {}
    }
  })

  /** From the metadata to what has to change. */
  const prepare = Effect.fnUntraced(function* (
    { data, profile }: Pick<Request, "data" | "profile">,
    trust: Changes.Trust
  ) {
    const mappings = yield* Effect.fromResult(Plan.mappings(profile, yield* variables(data, profile)))
    const mirror = yield* repository.open(data)
    const tree = yield* mirror
      .ensure({ commit: data.commit, ref: data.ref })
      .pipe(
        Metrics.fetch,
        Effect.andThen(mirror.listTree(data.commit, Plan.sources(mappings))),
        Effect.withSpan("fetch")
      )
    const held = yield* Ref.get(inventory)
    return yield* Effect.gen(function* () {
      const files = Inventory.filesOf(held)
      const plan = yield* Effect.fromResult(
        Plan.make({
          mappings,
          excludePatterns: profile.excludePatterns ?? [],
          tree,
          inventory: files,
          allowMassDeletion: data.allowMassDeletion === data.commit
        })
      )
      const changes = yield* Changes.compare({
        plan,
        inventory: files,
        trust: Option.isSome(commitOf(held)) ? trust : "disk",
        readBlobs: mirror.readBlobs
      })
      const unmanaged = yield* Effect.transposeOption(
        Option.isSome(held)
          ? Option.none()
          : Option.some(
              Changes.countBelow(
                mappings.map(({ destination }) => destination),
                Plan.isUnmanaged(plan, profile.excludePatterns ?? [])
              )
            )
      )
      return { mirror, plan, changes, held, unmanaged }
    }).pipe(Effect.withSpan("plan"))
  })

  const counts = (changes: Changes.Changes): Counts => ({
    added: changes.writes.filter(({ isNew }) => isNew).length,
    modified: changes.writes.filter(({ isNew }) => !isNew).length,
    deleted: changes.clear.length + changes.deletes.length
  })

  /**
   * Locks out the scans that would see the change, while a gateway is there to make them.
   * @param files `halfway` when some have changed already
   * @param noApi what to do beside a gateway whose API does not answer
   */
  const lock = Effect.fnUntraced(function* <E>(
    journal: Journal.Apply,
    files: "untouched" | "halfway",
    noApi: Effect.Effect<void, E>
  ) {
    const held = new Set<ScanKind>()
    const take = Effect.forEach(
      journal.scans,
      (kind) =>
        Effect.tap(gateway.acquireScanLock(kind, lockTimes(journal)), ({ _tag }) =>
          Effect.sync(() => _tag === "Held" && held.add(kind))
        ),
      { discard: true }
    )
    // The first may run out while the last is waited for. Taken again, it is what is left, or a new one.
    yield* Effect.timed(take).pipe(
      Effect.repeat({
        until: ([took]) => journal.scans.length < 2 || Duration.isLessThan(took, atOnce),
        times: 2
      }),
      // There is no API, and no scan either.
      Effect.catchReasons("GatewayError", {
        Refused: () => Effect.void,
        NotRunning: () => noApi,
        Commissioning: () => Effect.void
      }),
      // Only a scan gives a lock back, which is none to be made halfway.
      Effect.onError(() =>
        Effect.forEach(files === "untouched" ? held : [], (kind) => Effect.ignore(gateway.requestScan(kind)), {
          discard: true
        })
      )
    )
  })

  const open = Effect.fnUntraced(
    function* (claim: number) {
      const interrupted = yield* Apply.interrupted
      if (Option.isSome(interrupted)) {
        yield* lock(interrupted.value, "halfway", Effect.void)
        yield* confirm(claim)
        yield* Ref.set(opened, Option.none())
      }
      const recovery = yield* Apply.recover
      yield* owe(recovery.owed)
      yield* Ref.set(inventory, yield* Inventory.load)
      yield* Ref.set(same, Option.none())
      yield* Ref.set(opened, Option.some(claim))
      yield* Ref.set(trusted, "disk")
      // What the Go agent leaves behind when it is killed.
      yield* volume.removeTree(Plan.formerStaging)
      // Of the version before: its mappings and its commit need not be of one map.
      yield* volume.remove(formerMetadata)
    },
    Effect.provideService(Volume, volume)
  )

  /** The claim to a volume on which nothing is half done, and of which all is known that it says. */
  const enter = Effect.gen(function* () {
    const claim = yield* ours(owner.claim)
    // Nor is it known where something could not be taken back.
    const isOpen = Option.contains(yield* Ref.get(opened), claim) && Option.isNone(yield* Apply.interrupted)
    if (!isOpen) yield* open(claim)
    return claim
  })

  const scan = Effect.fnUntraced(function* (kinds: ReadonlyArray<ScanKind>) {
    for (const kind of kinds) {
      yield* Heartbeat.beat
      yield* Metrics.scan(gateway.scan(kind))
      yield* Ref.update(owedScans, (owed) => new Set([...owed].filter((other) => other !== kind)))
    }
    return kinds
  })
  /** To ask for a scan frees its lock. What somebody else has locked waits: he may be in the middle of his files. */
  const scanUnlocked = Effect.gen(function* () {
    const [free, [held]] = yield* Effect.partition(yield* owed, (kind) => Effect.as(gateway.checkScanLock(kind), kind))
    const scanned = yield* scan(free)
    return held === undefined ? scanned : yield* held
  })
  /** A gateway takes its time to scan: if we stood still, the journal may be another's by now. */
  const noteScanned = (claim: number, scanned: ReadonlyArray<ScanKind>) =>
    scanned.length === 0 ? Effect.void : Effect.andThen(confirm(claim), Journal.clear)
  /** Those of the files that are there, if they are of one commit. */
  const scanOwed = Effect.fnUntraced(function* (claim: number) {
    if (Option.isSome(yield* holds)) yield* noteScanned(claim, yield* scanUnlocked)
  })

  /** Puts the changes in place; what is left is to make them last, which a scan need not wait for. */
  const write = Effect.fnUntraced(function* (
    claim: number,
    request: Request,
    { changes, held, mirror, plan }: Effect.Success<ReturnType<typeof prepare>>
  ) {
    const { commit } = request.data
    const owedBefore = yield* owed
    const staged = yield* Apply.stage({
      origin: origin(request),
      changes,
      readBlobs: mirror.readBlobs,
      owed: owedBefore,
      confirm: confirm(claim)
    })
    const holdBack = Effect.flatMap(gateway.state, ({ _tag }) =>
      _tag === "Starting" ? new GatewayStarting({ commit }) : Effect.void
    )
    const isNew = Option.isSome(yield* holds) && !putsBack(changes, Inventory.filesOf(held))
    const noApi = isNew && request.starting === "hold" ? holdBack : Effect.void
    // The lock takes its time: if we stood still, the volume may be another's by now.
    yield* Effect.onError(Effect.andThen(lock(staged.journal, "untouched", noApi), confirm(claim)), () =>
      Effect.ignore(Apply.discard(staged.staging, owedBefore))
    )
    yield* Ref.set(opened, Option.none())
    yield* owe(staged.journal.scans)
    yield* Apply.commit(staged)
    return Effect.uninterruptible(
      Effect.gen(function* () {
        yield* Apply.finish(staged)
        yield* Ref.set(inventory, Option.some(staged.inventory))
        yield* Ref.set(same, Option.none())
        yield* Ref.set(opened, Option.some(claim))
        yield* Effect.ignore(mirror.setApplied(commit, Plan.blobs(plan)))
      })
    )
  }, Effect.withSpan("write"))

  const save = Effect.fnUntraced(function* (claim: number, next: Inventory.Inventory) {
    yield* confirm(claim)
    yield* Inventory.save(next)
    yield* Ref.set(inventory, Option.some(next))
  })

  /** Nothing to write: the inventory learns what it did not know. */
  const adopt = Effect.fnUntraced(function* (
    claim: number,
    request: Request,
    { changes, held, mirror, plan }: Effect.Success<ReturnType<typeof prepare>>
  ) {
    const { commit } = request.data
    const isInClone = Equal.equals(yield* mirror.applied, commitOf(held))
    if (isInClone && isKept(held, request) && sameFiles(Inventory.filesOf(held), changes.unchanged)) {
      yield* Ref.set(same, Option.some(commit))
      return yield* Effect.ignore(mirror.tidy(Plan.blobs(plan)))
    }
    yield* save(claim, { version: 1, origin: origin(request), files: changes.unchanged })
    yield* Ref.set(same, Option.none())
    yield* Effect.ignore(mirror.setApplied(commit, Plan.blobs(plan)))
  })

  /** Brings the files to where the commit has them; what is left then is to make that last. */
  const bring = Effect.fnUntraced(function* (claim: number, request: Request) {
    const prepared = yield* prepare(request, yield* Ref.get(trusted))
    const last = yield* Changes.isEmpty(prepared.changes)
      ? Effect.as(adopt(claim, request, prepared), Effect.void)
      : write(claim, request, prepared)
    return { ...prepared, last }
  })

  const apply = Effect.fnUntraced(
    function* (request: Request) {
      const claim = yield* enter
      const isUp = request.gateway === "up"
      const { changes, last, plan, unmanaged } = yield* bring(claim, request).pipe(
        Effect.tapError(() => (isUp ? Effect.ignore(scanOwed(claim)) : Effect.void))
      )
      if (!isUp) yield* owe(Plan.scansFor(plan.files.keys()))
      const scans = Changes.isEmpty(changes) ? scanUnlocked : Effect.flatMap(owed, scan)
      const [, scanned] = yield* Effect.all([last, isUp ? scans : Effect.succeed([])], { concurrency: 2 })
      yield* noteScanned(claim, scanned)
      if (isUp) yield* Ref.set(trusted, "inventory")
      return { ...counts(changes), projects: projectsOf(plan.files.keys()), scanned, unmanaged } satisfies Applied
    },
    Effect.provideService(Volume, volume)
  )

  const settle = Effect.flatMap(enter, scanOwed).pipe(Effect.provideService(Volume, volume))

  const pause = Effect.gen(function* () {
    const claim = yield* enter
    const held = yield* Ref.get(inventory)
    const origin = Option.getOrUndefined(originOf(held))
    if (Option.isNone(held) || origin?.metadata === undefined || origin.metadata["paused"] === "true") return
    const metadata = { ...origin.metadata, paused: "true" }
    yield* save(claim, { ...held.value, origin: { ...origin, metadata } })
  }).pipe(Effect.provideService(Volume, volume))

  const count = Effect.fnUntraced(
    function* (request: Pick<Request, "data" | "profile">) {
      const { changes, mirror } = yield* prepare(request, "disk")
      yield* Apply.rehearse({ changes, readBlobs: mirror.readBlobs })
      return counts(changes)
    },
    Effect.provideService(Volume, volume)
  )

  const synced = Effect.flatMap(owed, (kinds) => (kinds.length === 0 ? known : Effect.succeedNone))

  return Sync.of({
    complete: Effect.asVoid(Effect.provideService(enter, Volume, volume)),
    settle,
    pause,
    apply,
    count,
    holds,
    synced,
    isHalfway: Effect.map(Ref.get(opened), Option.isNone)
  })
})

const formerMetadata = ".stoker/metadata.json"

/** Whether this only brings back what the volume is known to have. */
const putsBack = ({ clear, deletes, writes }: Changes.Changes, files: Inventory.Files): boolean =>
  clear.length === 0 && deletes.length === 0 && writes.every(({ id, path }) => files[path]?.id === id)

/** But for what comes anew with each commit. */
const lasting = (data: Readonly<Record<string, string>>) =>
  Record.filter(data, (_, key) => !["commit", "ref", "revision", "traceparent"].includes(key))

/** Whether the files came by the same metadata, whatever the commit. */
const isKept = (held: Option.Option<Inventory.Inventory>, { raw }: Wanted.Heard): boolean =>
  Option.exists(
    held,
    ({ origin }) => origin?.metadata !== undefined && Equal.equals(lasting(origin.metadata), lasting(raw))
  )

const projectsOf = (paths: Iterable<string>): ReadonlyArray<string> => {
  const names = new Set<string>()
  for (const path of paths) {
    const [top, name, inside] = path.split("/", 3)
    if (top === "projects" && name !== undefined && inside !== undefined) names.add(name)
  }
  return [...names].sort()
}

const sameFiles = (a: Inventory.Files, b: Inventory.Files): boolean => {
  const paths = Object.keys(a)
  return paths.length === Object.keys(b).length && paths.every((path) => a[path] === b[path])
}
