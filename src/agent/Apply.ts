/**
 * Brings changes to the disk, all or none of them.
 *
 * `stage` writes the new contents beside (below `.stoker/staging`, on the same file system, where no scan looks) and
 * journals what is to happen; `commit` renames and deletes, and is quick; `finish` makes that durable and the inventory
 * say so. Killed before the journal is there, nothing has happened; killed later, `recover` completes it.
 */
import { Effect, Option, Random, Stream } from "effect"
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
  readonly inventory: Inventory.Inventory
}

export interface Input {
  readonly commit: string
  readonly changes: Changes.Changes
  readonly readBlobs: (ids: ReadonlyArray<string>) => Stream.Stream<Blob, GitError>
  /** Scans that are owed from before. */
  readonly owed: ReadonlyArray<ScanKind>
}

/** Refuses, with nothing changed, contents that are only pointers to the files that were meant. */
export const stage = Effect.fnUntraced(
  function* ({ changes, commit, owed, readBlobs }: Input) {
    const volume = yield* Volume
    const folder = `${staging}/${(yield* Random.nextInt).toString(36)}`
    const shelves = Math.min(concurrency, changes.writes.length)
    for (let shelf = 0; shelf < shelves; shelf++) yield* volume.makeFolder(`${folder}/${shelf}`)

    const byId = new Map<string, Array<string>>()
    for (const { id, path } of changes.writes) {
      const paths = byId.get(id)
      if (paths === undefined) byId.set(id, [path])
      else paths.push(path)
    }
    const staged = new Map<string, Journal.Apply["writes"][number]>()
    const pointers: Array<string> = []
    let count = 0
    yield* readBlobs([...byId.keys()]).pipe(
      Stream.mapEffect(
        ({ content, id }) =>
          Effect.gen(function* () {
            const paths = byId.get(id) ?? []
            if (isLfsPointer(content)) return void pointers.push(...paths)
            for (const path of paths) {
              // Files come into several folders faster than into one.
              const name = `${folder}/${count % shelves}/${count++}`
              const { modified } = yield* volume.create(name, content)
              staged.set(path, { path, staged: name, file: { id, size: content.length, modified } })
            }
          }),
        { concurrency, unordered: true }
      ),
      Stream.runDrain
    )
    const [first, ...rest] = pointers.map(
      (path) =>
        `${path} is a Git LFS pointer, not the file itself; commit the file without LFS, or exclude it (excludePatterns)`
    )
    if (first !== undefined) return yield* new Plan.PlanRefused({ problems: [first, ...rest] })

    const journal = Journal.Apply.make({
      commit,
      clear: changes.clear,
      writes: changes.writes.map(({ path }) => staged.get(path)!),
      deletes: changes.deletes,
      scans: Plan.scanKinds.filter(
        (kind) => owed.includes(kind) || Plan.scansFor(Changes.paths(changes)).includes(kind)
      )
    })
    const files = { ...changes.unchanged }
    for (const { file, path } of journal.writes) files[path] = file
    yield* Journal.save(journal)
    return { journal, inventory: { version: 1, commit, files } } satisfies Staged
  },
  (effect) => Effect.onError(effect, () => Effect.ignore(discard))
)

/** What was staged is not to happen after all. */
export const discard = Effect.gen(function* () {
  const volume = yield* Volume
  const journal = yield* Journal.load
  yield* volume.removeTree(staging)
  if (Option.isSome(journal) && journal.value._tag === "Apply") yield* Journal.clear
})

/** The change itself. Not cut short by interruption; when it fails, `recover` completes it later. */
export const commit = ({ journal }: Staged): Effect.Effect<void, VolumeError, Volume> =>
  Effect.uninterruptible(perform(journal))

const perform = Effect.fnUntraced(function* (journal: Journal.Apply) {
  const volume = yield* Volume
  for (const path of journal.clear) yield* removeWithFolders(path)
  const made = new Set<string>()
  const emptied = new Set(journal.clear.flatMap(Changes.ancestors))
  for (const [index, { path, staged }] of journal.writes.entries()) {
    // Others get their turn: probes are answered, also on a slow network volume.
    if (index % turn === turn - 1) yield* Effect.yieldNow
    const folder = parent(path)
    if (!made.has(folder)) {
      yield* volume.makeFolder(folder)
      made.add(folder)
    }
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
export const finish = Effect.fnUntraced(function* ({ inventory, journal }: Staged) {
  const volume = yield* Volume
  const paths = [...journal.clear, ...journal.writes.map(({ path }) => path), ...journal.deletes]
  const folders = new Set([".", ...paths.flatMap(Changes.ancestors)])
  yield* Effect.forEach(folders, volume.syncFolder, { concurrency, discard: true })
  yield* Inventory.save(inventory)
  yield* Journal.save(Journal.Scan.make({ scans: journal.scans }))
  yield* volume.removeTree(staging)
})

/** The scans that an apply owes which began and did not end: `recover` is going to change files. */
export const interrupted: Effect.Effect<ReadonlyArray<ScanKind>, VolumeError, Volume> = Effect.map(
  Journal.load,
  Option.match({ onNone: () => [], onSome: (journal) => (journal._tag === "Apply" ? journal.scans : []) })
)

/** What a start found: the scans that are owed, and whether files may be in any state. */
export interface Recovery {
  readonly owed: ReadonlyArray<ScanKind>
  /** An apply was under way; now it is complete, or taken back. */
  readonly interrupted: boolean
}

/**
 * Completes what was under way when the former process ended, if all of it is there, else takes it back. Compare with the
 * disk afterwards.
 */
export const recover: Effect.Effect<Recovery, VolumeError, Volume> = Effect.uninterruptible(
  Effect.gen(function* () {
    const volume = yield* Volume
    yield* volume.makeFolder(".stoker")
    const found = yield* Journal.load
    if (Option.isNone(found) || found.value._tag === "Scan") {
      yield* volume.removeTree(staging)
      return { owed: Option.isNone(found) ? [] : found.value.scans, interrupted: false }
    }
    const journal = found.value
    const remaining = yield* whatRemains(journal)
    const owed = journal.scans
    if (remaining === undefined) {
      yield* Effect.logWarning(
        "an interrupted sync cannot be completed, since part of its new files is not there; the disk is compared anew"
      )
      yield* Journal.save(Journal.Scan.make({ scans: owed }))
      yield* volume.removeTree(staging)
      return { owed, interrupted: true }
    }
    yield* Effect.logInfo("an interrupted sync is completed").pipe(Effect.annotateLogs({ commit: journal.commit }))
    yield* perform({ ...journal, writes: remaining })
    const files = { ...Inventory.filesOf(yield* Inventory.load) }
    for (const path of [...journal.clear, ...journal.deletes]) delete files[path]
    for (const { file, path } of journal.writes) files[path] = file
    yield* finish({ journal, inventory: { version: 1, commit: journal.commit, files } })
    return { owed, interrupted: true }
  })
)

/** The renames that are still to be done; undefined when a content is neither staged nor in place. */
const whatRemains = Effect.fnUntraced(function* (journal: Journal.Apply) {
  const volume = yield* Volume
  const holds = Effect.fnUntraced(function* (path: string, file: Inventory.File) {
    const [sight] = yield* volume.look([path])
    if (sight?._tag !== "File" || sight.size !== file.size) return false
    return blobId(yield* volume.read(path), file.id) === file.id
  })
  const remaining: Array<Journal.Apply["writes"][number]> = []
  for (const write of journal.writes) {
    if (yield* holds(write.staged, write.file)) remaining.push(write)
    else if (!(yield* holds(write.path, write.file))) return undefined
  }
  return remaining
})

const lfs = Buffer.from("version https://git-lfs.github.com/spec/")
const isLfsPointer = (content: Uint8Array): boolean =>
  content.length < 1024 && Buffer.from(content.subarray(0, lfs.length)).equals(lfs)
