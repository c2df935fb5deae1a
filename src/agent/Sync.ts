/**
 * One pass from a commit to the gateway: fetch → plan → stage → lock → write → scan. Knows what the volume holds and what
 * is still owed; when a pass is made, and what is reported, is the Agent's business.
 */
import { Context, Duration, Effect, Equal, Layer, Option, Ref } from "effect"
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

export interface Request {
  readonly data: Metadata.Data
  readonly profile: Profile.Effective
  readonly trust: Changes.Trust
  /** While it is down, everything that a scan would show it is owed. */
  readonly gateway: "down" | "up"
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

export type SyncError = VolumeOwned | GitError | Plan.PlanRefused | VolumeError | GatewayError

export class Sync extends Context.Service<
  Sync,
  {
    /**
     * Mends what an earlier process left half done, out of a gateway's sight, and reads what the volume holds. First of
     * all, once.
     */
    readonly open: Effect.Effect<void, VolumeError | VolumeOwned | GatewayError>
    /**
     * Scans are locked out while files change, wherever a gateway answers. The files are as the commit has them when this
     * succeeds, and a gateway that is up has scanned them. Scans that fail stay owed, over restarts too, and are made by
     * the next pass, also by one that gets no further than to a commit that it cannot have.
     */
    readonly apply: (request: Request) => Effect.Effect<Applied, SyncError>
    /** What `apply` would change, or why it would be refused. Writes nothing to the data directory. */
    readonly count: (request: Request) => Effect.Effect<Counts, SyncError>
    /** The commit whose files the volume holds, all of them: none while an apply is under way, or after one that was lost. */
    readonly holds: Effect.Effect<Option.Option<string>>
    /** The same, once no scan is owed and it is known who brought them: the commit that the gateway works with. */
    readonly synced: Effect.Effect<Option.Option<string>>
    /** The commit for which the volume says so: later ones that change nothing of the files are not written down. */
    readonly kept: Effect.Effect<Option.Option<string>>
    /** Files are of two commits, and the gateway is kept from reading them only for as long as its lock lasts. */
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
  /** The claim under which `inventory` was read; none while an apply is under way, which only the journal knows. */
  const opened = yield* Ref.make(Option.none<number>())

  const origin = (commit: string): Inventory.Origin => ({
    commit,
    namespace: settings.crNamespace,
    cr: settings.crName,
    profile: settings.profile
  })
  /** The commit that all files are of, if it was this GatewaySync that brought them. */
  const commitOf = (held: Option.Option<Inventory.Inventory>) =>
    held.pipe(
      Option.flatMapNullishOr((inventory) => inventory.origin),
      Option.filter((found) => Equal.equals(found, origin(found.commit))),
      Option.map(({ commit }) => commit)
    )

  /** Of no apply under way. */
  const atRest = (
    commit: (held: Option.Option<Inventory.Inventory>, same: Option.Option<string>) => Option.Option<string>
  ) =>
    Effect.gen(function* () {
      return Option.isNone(yield* Ref.get(opened))
        ? Option.none()
        : commit(yield* Ref.get(inventory), yield* Ref.get(same))
    })
  const kept = atRest(commitOf)
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
  const prepare = Effect.fnUntraced(function* ({ data, profile, trust }: Request) {
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
   */
  const lock = Effect.fnUntraced(function* (journal: Journal.Apply, files: "untouched" | "halfway") {
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
      Effect.repeat({ until: ([took]) => Duration.isLessThan(took, atOnce), times: 2 }),
      // Nobody reads the files; the gateway will when it starts.
      Effect.catchReasons("GatewayError", {
        Refused: () => Effect.void,
        NotRunning: () => Effect.void,
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
        yield* lock(interrupted.value, "halfway")
        yield* owner.confirm(claim)
        yield* Ref.set(opened, Option.none())
      }
      const recovery = yield* Apply.recover
      yield* owe(recovery.owed)
      yield* Ref.set(inventory, yield* Inventory.load)
      yield* Ref.set(same, Option.none())
      yield* Ref.set(opened, Option.some(claim))
      // What the Go agent leaves behind when it is killed.
      yield* volume.removeTree(Plan.formerStaging)
    },
    Effect.provideService(Volume, volume)
  )

  /** Puts the changes in place; what is left is to make them last, which a scan need not wait for. */
  const write = Effect.fnUntraced(function* (
    claim: number,
    { data }: Request,
    { changes, mirror, plan }: Effect.Success<ReturnType<typeof prepare>>
  ) {
    const owedBefore = yield* owed
    const staged = yield* Apply.stage({
      origin: origin(data.commit),
      changes,
      readBlobs: mirror.readBlobs,
      owed: owedBefore,
      confirm: owner.confirm(claim)
    })
    // The lock takes its time: if we stood still, the volume may be another's by now.
    yield* Effect.onError(Effect.andThen(lock(staged.journal, "untouched"), owner.confirm(claim)), () =>
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
        yield* Effect.ignore(mirror.setApplied(data.commit, Plan.blobs(plan)))
      })
    )
  }, Effect.withSpan("write"))

  /** Nothing to write: the inventory learns what it did not know. */
  const adopt = Effect.fnUntraced(function* (
    { data }: Request,
    { changes, held, mirror, plan }: Effect.Success<ReturnType<typeof prepare>>
  ) {
    const next: Inventory.Inventory = { version: 1, origin: origin(data.commit), files: changes.unchanged }
    const commit = commitOf(held)
    const isInClone = Option.isSome(commit) && Equal.equals(yield* mirror.applied, commit)
    if (isInClone && sameFiles(Inventory.filesOf(held), next.files)) {
      yield* Ref.set(same, Option.some(data.commit))
      return yield* Effect.ignore(mirror.tidy(Plan.blobs(plan)))
    }
    yield* Inventory.save(next)
    yield* Ref.set(inventory, Option.some(next))
    yield* Ref.set(same, Option.none())
    yield* Effect.ignore(mirror.setApplied(data.commit, Plan.blobs(plan)))
  })

  const scan = Effect.gen(function* () {
    const kinds = yield* owed
    for (const kind of kinds) {
      yield* Heartbeat.beat
      yield* Metrics.scan(gateway.scan(kind))
      yield* Ref.update(owedScans, (owed) => new Set([...owed].filter((other) => other !== kind)))
    }
    return kinds
  })

  /** A pass that does not get to its scans makes those of the commit before, if the volume holds one. */
  const scanOwed = Effect.gen(function* () {
    if (Option.isSome(yield* holds) && (yield* scan).length > 0) yield* Journal.clear
  })

  const bring = Effect.fnUntraced(
    function* (claim: number, request: Request) {
      const prepared = yield* prepare(request)
      const { changes, plan, unmanaged } = prepared
      const last = Changes.isEmpty(changes) ? adopt(request, prepared) : yield* write(claim, request, prepared)
      if (request.gateway === "down") yield* owe(Plan.scansFor(plan.files.keys()))
      const [, scanned] = yield* Effect.all([last, request.gateway === "up" ? scan : Effect.succeed([])], {
        concurrency: 2
      })
      if (scanned.length > 0) yield* Journal.clear
      return { ...counts(changes), projects: projectsOf(plan.files.keys()), scanned, unmanaged } satisfies Applied
    },
    (effect, _, { gateway }) =>
      Effect.tapError(effect, ({ _tag }) =>
        // What the gateway itself refuses is asked for by the next pass, and another's volume is none to be scanned.
        gateway === "down" || _tag === "GatewayError" || _tag === "VolumeOwned" ? Effect.void : Effect.ignore(scanOwed)
      )
  )

  const apply = Effect.fnUntraced(
    function* (request: Request) {
      const claim = yield* owner.claim
      // Nor open is what could not be taken back.
      const isOpen = Option.contains(yield* Ref.get(opened), claim) && Option.isNone(yield* Apply.interrupted)
      if (!isOpen) yield* open(claim)
      return yield* bring(claim, isOpen ? request : { ...request, trust: "disk" })
    },
    Effect.provideService(Volume, volume)
  )

  const count = Effect.fnUntraced(
    function* (request: Request) {
      const { changes, mirror } = yield* prepare({ ...request, trust: "disk" })
      yield* Apply.rehearse({ changes, readBlobs: mirror.readBlobs })
      return counts(changes)
    },
    Effect.provideService(Volume, volume)
  )

  const synced = Effect.flatMap(owed, (kinds) => (kinds.length === 0 ? known : Effect.succeedNone))

  return Sync.of({
    open: Effect.flatMap(owner.claim, open),
    apply,
    count,
    holds,
    synced,
    kept,
    isHalfway: Effect.map(Ref.get(opened), Option.isNone)
  })
})

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
