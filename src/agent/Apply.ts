/**
 * Brings changes to the disk, all or none of them.
 *
 * `stage` writes the new contents beside (below `.stoker/staging`, on the same file system, where no scan looks) and
 * journals what is to happen; `commit` renames and deletes, and is quick; `finish` makes that durable and the inventory
 * say so. Killed before the journal is there, nothing has happened; killed later, `recover` completes it.
 */
import { Duration, Effect, Fiber, Option, Random, Stream } from "effect"
import type { GitError } from "../git/GitError.ts"
import type { Blob } from "../git/Mirror.ts"
import type { ScanKind } from "../ignition/GatewayClient.ts"
import * as Changes from "./Changes.ts"
import * as Inventory from "./Inventory.ts"
import * as Journal from "./Journal.ts"
import * as Plan from "./Plan.ts"
import { blobId, Volume, type VolumeError } from "./Volume.ts"

const staging = ".stoker/staging"
/** Writing many small files is waiting for the disk, which takes several at a time. */
const concurrency = 16
/** So many files are renamed in a row. */
const turn = 64

/** Changes that are ready: from here on they happen as a whole. */
export interface Staged {
  readonly journal: Journal.Apply
  /** Where the contents are: for `discard`. */
  readonly staging: string
  readonly inventory: Inventory.Inventory
}

export interface Input<E> {
  readonly origin: Inventory.Origin
  readonly changes: Changes.Changes
  readonly readBlobs: (ids: ReadonlyArray<string>) => Stream.Stream<Blob, GitError>
  /** Scans that are owed from before. */
  readonly owed: ReadonlyArray<ScanKind>
  /** Whether the volume is still ours, when all is staged: the journal may be another's by then. */
  readonly confirm: Effect.Effect<void, E>
}

/**
 * Refuses, with nothing changed, contents that are only pointers to the files that were meant, and folders that would
 * refuse the change.
 */
export const stage = Effect.fnUntraced(function* <E>(input: Input<E>) {
  const folder = `${staging}/${(yield* Random.nextInt).toString(36)}`
  return yield* Effect.onError(stageIn(folder, input), () => Effect.ignore(discard(folder, input.owed)))
})

const stageIn = Effect.fnUntraced(function* <E>(
  folder: string,
  { changes, confirm, origin, owed, readBlobs }: Input<E>
) {
  const volume = yield* Volume
  yield* volume.checkFolders([".stoker", ...foldersOf(changes)])
  const shelves = Array.from({ length: Math.min(concurrency, changes.writes.length) }, (_, n) => `${folder}/${n}`)
  for (const shelf of shelves) yield* volume.makeFolder(shelf)

  const byId = pathsById(changes)
  const staged = new Map<string, Journal.Apply["writes"][number]>()
  const pointers: Array<string> = []
  let count = 0
  yield* readBlobs([...byId.keys()]).pipe(
    Stream.mapEffect(
      ({ content, id }) =>
        Effect.gen(function* () {
          const paths = byId.get(id) ?? []
          if (Plan.isLfsPointer(content)) return void pointers.push(...paths)
          for (const path of paths) {
            // Files come into several folders faster than into one.
            const name = `${shelves[count % shelves.length]}/${count++}`
            const { modified } = yield* volume.create(name, content)
            staged.set(path, { path, staged: name, file: { id, size: content.length, modified } })
          }
        }),
      { concurrency, unordered: true }
    ),
    Stream.runDrain
  )
  yield* refuse(pointers)

  const journal = Journal.Apply.make({
    origin,
    staging: folder,
    clear: changes.clear,
    writes: changes.writes.map(({ path }) => staged.get(path)!),
    deletes: changes.deletes,
    seen: yield* look([...changes.clear, ...changes.deletes]),
    scans: Plan.scanKinds.filter((kind) => owed.includes(kind) || Plan.scansFor(Changes.paths(changes)).includes(kind))
  })
  const files = { ...changes.unchanged }
  for (const { file, path } of journal.writes) files[path] = file
  // A content that is synced is found again only if its folders are.
  yield* volume.sync([...journal.writes.map(({ staged }) => staged), ...shelves, folder, staging])
  yield* confirm
  yield* Journal.save(journal)
  return { journal, staging: folder, inventory: { version: 1, origin, files } } satisfies Staged
})

/** Fails where `stage` would, for what the new files are or for where they come. Writes nothing. */
export const rehearse = Effect.fnUntraced(function* ({
  changes,
  readBlobs
}: Pick<Input<never>, "changes" | "readBlobs">) {
  yield* Effect.flatMap(Volume, (volume) => volume.checkFolders(foldersOf(changes)))
  const byId = pathsById(changes)
  const pointers: Array<string> = []
  yield* Stream.runForEach(readBlobs([...byId.keys()]), ({ content, id }) =>
    Effect.sync(() => Plan.isLfsPointer(content) && pointers.push(...(byId.get(id) ?? [])))
  )
  yield* refuse(pointers)
})

const refuse = (pointers: ReadonlyArray<string>) =>
  Effect.fromResult(Plan.settle(pointers.map(Plan.lfsProblem), undefined))

/** Several files may have one content. */
const pathsById = ({ writes }: Changes.Changes): ReadonlyMap<string, ReadonlyArray<string>> => {
  const byId = new Map<string, Array<string>>()
  for (const { id, path } of writes) {
    const paths = byId.get(id)
    if (paths === undefined) byId.set(id, [path])
    else paths.push(path)
  }
  return byId
}

/** Folders whose entries an apply changes. */
const foldersOf = ({ clear, deletes, writes }: Changes.Changes): ReadonlyArray<string> => [
  ...new Set([
    ...writes.map(({ path }) => parent(path)),
    ...deletes.map(parent),
    // Folders that are in the way go with their files.
    ...clear.flatMap(Changes.ancestors)
  ])
]

/** The files that lie there. */
const look = Effect.fnUntraced(function* (paths: ReadonlyArray<string>) {
  const sights = yield* Effect.flatMap(Volume, (volume) => volume.look(paths))
  const files: Record<string, { readonly size: number; readonly modified: number }> = {}
  for (const [index, sight] of sights.entries()) {
    if (sight._tag === "File") files[paths[index]!] = { size: sight.size, modified: sight.modified }
  }
  return files
})

/** What was staged there is not to happen after all. @param owed scans that are owed without it */
export const discard = Effect.fnUntraced(function* (folder: string, owed: ReadonlyArray<ScanKind>) {
  const volume = yield* Volume
  const journal = yield* Journal.load
  if (Option.exists(journal, (found) => found._tag === "Apply" && found.staging === folder)) {
    const withdraw = owed.length === 0 ? Journal.clear : Journal.save(Journal.Scan.make({ scans: owed }))
    const aside = `${folder}.aside`
    // A journal without its contents cannot be completed, so it goes first; a full disk needs their room for that.
    yield* withdraw.pipe(
      Effect.catch(() =>
        Effect.andThen(Effect.andThen(volume.rename(folder, aside), volume.removeTree(aside)), withdraw)
      )
    )
  }
  yield* volume.removeTree(folder)
  yield* volume.removeFolder(staging)
})

/** How long a change may go on after SIGTERM. What it has not done by then, the next start does. */
export const grace = Duration.seconds(15)

/** The change itself. Interruption cuts it short after `grace` only; when it fails, `recover` completes it later. */
export const commit = ({ journal }: Staged): Effect.Effect<void, VolumeError, Volume> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const change = yield* Effect.forkChild(restore(perform(journal)))
      yield* Effect.onInterrupt(restore(Fiber.join(change)), () =>
        Effect.andThen(Effect.timeoutOption(Fiber.await(change), grace), Fiber.interrupt(change))
      )
    })
  )

const perform = Effect.fnUntraced(function* (journal: Pick<Journal.Apply, "clear" | "writes" | "deletes">) {
  const volume = yield* Volume
  for (const path of journal.clear) yield* removeWithFolders(path)
  // All of them first: a disk without room for a folder refuses before a file has changed.
  for (const folder of new Set(journal.writes.map(({ path }) => parent(path)))) yield* volume.makeFolder(folder)
  const emptied = new Set(journal.clear.flatMap(Changes.ancestors))
  for (const [index, { path, staged }] of journal.writes.entries()) {
    // Others get their turn: probes are answered, also on a slow network volume.
    if (index % turn === turn - 1) yield* Effect.yieldNow
    if (emptied.has(path)) yield* volume.removeFolder(path)
    yield* volume.rename(staged, path)
  }
  for (const path of journal.deletes) yield* removeWithFolders(path)
})

/** A file, and the folders above that are empty without it; the top ones belong to Ignition and stay. */
const removeWithFolders = Effect.fnUntraced(function* (path: string) {
  const volume = yield* Volume
  // When an apply is completed later, something new may stand there already.
  const [sight] = yield* volume.look([path])
  if (sight?._tag === "File") yield* volume.remove(path)
  for (const folder of Changes.ancestors(path).toReversed()) {
    if (!folder.includes("/") || !(yield* volume.removeFolder(folder))) return
  }
})

const parent = (path: string): string => (path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : ".")

/** Durable, in the inventory, and nothing owed any more but the scans. */
export const finish = Effect.fnUntraced(function* ({ inventory, journal }: Pick<Staged, "inventory" | "journal">) {
  const volume = yield* Volume
  const paths = [...journal.clear, ...journal.writes.map(({ path }) => path), ...journal.deletes]
  yield* volume.sync([...new Set([".", ...paths.flatMap(Changes.ancestors)])])
  yield* Inventory.save(inventory)
  yield* Journal.save(Journal.Scan.make({ scans: journal.scans }))
  yield* volume.removeTree(staging)
})

/** An apply that began and did not end: `recover` is going to change files. */
export const interrupted: Effect.Effect<Option.Option<Journal.Apply>, VolumeError, Volume> = Effect.map(
  Journal.load,
  Option.filter((found) => found._tag === "Apply")
)

/** What a start found: the scans that are owed, and whether files may be in any state. */
export interface Recovery {
  readonly owed: ReadonlyArray<ScanKind>
  /** An apply was under way; now it is complete, or taken back. */
  readonly interrupted: boolean
}

/**
 * Completes what was under way when the former process ended, if nothing of it is lost. Where it cannot, or where a file
 * is not as it was renamed, the inventory names no origin until the disk was compared.
 */
export const recover: Effect.Effect<Recovery, VolumeError, Volume> = Effect.uninterruptible(
  Effect.gen(function* () {
    const volume = yield* Volume
    yield* volume.makeFolder(".stoker")
    const journal = Option.getOrElse(yield* Journal.load, () => Journal.Scan.make({ scans: [] }))
    if (journal._tag === "Scan") {
      yield* volume.removeTree(staging)
      return { owed: journal.scans, interrupted: false }
    }
    const held = yield* Inventory.load
    const files = { ...Inventory.filesOf(held) }
    if (journal._tag === "Unreadable") {
      yield* Effect.logWarning("the journal cannot be read; everything is scanned, and the disk is compared anew")
      if (Option.isSome(held)) yield* Inventory.save({ version: 1, files })
      yield* Journal.save(Journal.Scan.make({ scans: Plan.scanKinds }))
      yield* volume.removeTree(staging)
      return { owed: Plan.scanKinds, interrupted: true }
    }
    const { changed, done, lost, staged } = yield* progressOf(journal)
    // Where names that differ in case are one, the former name of what is in place is the new file.
    const inPlace = new Set([...done, ...changed].map(({ path }) => Plan.fold(path)))
    const clear = journal.clear.filter((path) => !inPlace.has(Plan.fold(path)))
    const isForeign = yield* foreignOf(journal)
    const list = (writes: Journal.Apply["writes"]) => {
      for (const { file, path } of writes) files[path] = file
    }
    if (lost.length > 0 || clear.some(isForeign)) {
      yield* Effect.logWarning(
        "an interrupted sync cannot be completed, since part of its new files is lost, or another file is in their way; the disk is compared anew"
      )
      list([...done, ...changed])
      for (const path of [...journal.clear, ...journal.deletes]) if (isForeign(path)) delete files[path]
      yield* finish({ journal, inventory: { version: 1, files } })
    } else {
      yield* Effect.logInfo("an interrupted sync is completed").pipe(
        Effect.annotateLogs({ commit: journal.origin?.commit ?? "unknown" })
      )
      yield* perform({ clear, writes: staged, deletes: journal.deletes.filter((path) => !isForeign(path)) })
      for (const path of [...journal.clear, ...journal.deletes]) delete files[path]
      list(journal.writes)
      const origin = changed.length === 0 && journal.origin !== undefined ? { origin: journal.origin } : {}
      yield* finish({ journal, inventory: { version: 1, ...origin, files } })
    }
    return { owed: journal.scans, interrupted: true }
  })
)

/** Whether another file lies there than the one that the apply was to delete. */
const foreignOf = Effect.fnUntraced(function* ({ clear, deletes, seen }: Journal.Apply) {
  if (seen === undefined) return () => false
  const now = yield* look([...clear, ...deletes])
  return (path: string) =>
    now[path] !== undefined && (now[path].size !== seen[path]?.size || now[path].modified !== seen[path].modified)
})

/** How far an apply came: `staged` files are still to be renamed. */
type Progress = "staged" | "done" | "changed" | "lost"

/**
 * Contents are synced before the journal speaks of them, and each is renamed or not. So what is no longer staged was
 * renamed, unless the whole folder is gone; when it is not what lies there, somebody changed or removed it since, as a
 * gateway does that signs what it loads.
 */
const progressOf = Effect.fnUntraced(function* (journal: Journal.Apply) {
  const volume = yield* Volume
  const [shelves] = yield* volume.look([journal.staging ?? staging])
  const contentOf = Effect.fnUntraced(function* (path: string, file: Inventory.File) {
    const [sight] = yield* volume.look([path])
    if (sight?._tag !== "File") return "missing"
    if (sight.size !== file.size) return "other"
    return blobId(yield* volume.read(path), file.id) === file.id ? "same" : "other"
  })
  const progress: Record<Progress, Array<Journal.Apply["writes"][number]>> = {
    staged: [],
    done: [],
    changed: [],
    lost: []
  }
  for (const write of journal.writes) {
    const beside = yield* contentOf(write.staged, write.file)
    const there = beside === "missing" ? yield* contentOf(write.path, write.file) : beside
    if (beside === "same") progress.staged.push(write)
    else if (there === "same") progress.done.push(write)
    else if (beside === "missing" && shelves?._tag === "Folder") progress.changed.push(write)
    else progress.lost.push(write)
  }
  return progress
})
