/**
 * A plan against what lies on disk: what has to be written and deleted to get there, or why that is impossible.
 */
import { Effect, Option, Predicate, Schema, Stream, Struct } from "effect"
import type { Blob } from "../git/Mirror.ts"
import type * as Inventory from "./Inventory.ts"
import * as Plan from "./Plan.ts"
import { blobId, type Sight, Volume } from "./Volume.ts"

export interface Write {
  readonly path: string
  /** Blob id. */
  readonly id: string
  /** Nothing lies there yet. */
  readonly isNew: boolean
}

export interface Changes {
  /** Deleted before anything is written: a file where a folder comes, or one that differs from a new one in case only. */
  readonly clear: ReadonlyArray<string>
  /** In the order of writing. */
  readonly writes: ReadonlyArray<Write>
  /** In the order of deletion. */
  readonly deletes: ReadonlyArray<string>
  /** What the inventory lists besides `writes`. */
  readonly unchanged: Inventory.Files
}

/**
 * How far the inventory is believed.
 *
 * - `inventory`: a file that it lists with the right content is as we left it. Costs nothing.
 * - `disk`: every file is looked at, and read where size or time differ.
 */
export type Trust = "inventory" | "disk"

export interface Input<E> {
  readonly plan: Plan.Plan
  readonly inventory: Inventory.Files
  readonly trust: Trust
  /** For files that the gateway may have signed anew since we wrote them. */
  readonly readBlobs: (ids: ReadonlyArray<string>) => Stream.Stream<Blob, E>
}

export const compare = Effect.fnUntraced(function* <E>({ inventory, plan, readBlobs, trust }: Input<E>) {
  const volume = yield* Volume
  const unchanged: Record<string, Inventory.File> = {}
  for (const path of plan.kept) unchanged[path] = inventory[path]!

  const deleted = new Set(plan.deletes)
  const folded = new Set(plan.deletes.map(Plan.fold))
  /** On some disks it is the file of the former name that is found under the new one, and goes with it. */
  const isRespelled = (path: string) => folded.size > 0 && folded.has(Plan.fold(path))

  const suspects: Array<string> = []
  for (const [path, { id }] of plan.files) {
    const listed = inventory[path]
    if (trust === "inventory" && listed?.id === id && !isRespelled(path)) unchanged[path] = listed
    else suspects.push(path)
  }
  const sights = yield* volume.look(suspects)

  const writes: Array<Write> = []
  const unsigned: Array<Candidate> = []
  const problems: Array<string> = []
  const check = Effect.fnUntraced(function* (path: string, sight: Sight) {
    const { id } = plan.files.get(path)!
    switch (sight._tag) {
      case "Missing":
        return void writes.push({ path, id, isNew: true })
      case "Other":
        return void problems.push(`${path} is a symbolic link or a special file in the data directory; remove it`)
      case "Folder": {
        const foreign = yield* findForeign(path, deleted)
        return void (Option.isSome(foreign)
          ? problems.push(
              `${path} is a folder in the data directory with a file that Stoker did not write (${foreign.value}); move it away`
            )
          : writes.push({ path, id, isNew: true }))
      }
      case "File": {
        if (isRespelled(path)) return void writes.push({ path, id, isNew: true })
        const listed = inventory[path]
        const file = { id, size: sight.size, modified: sight.modified }
        if (listed?.id === id && listed.size === sight.size && listed.modified === sight.modified) {
          unchanged[path] = listed
          return
        }
        const content = yield* volume.read(path)
        if (blobId(content, id) === id) {
          // The Go agent wrote them.
          if (Plan.isLfsPointer(content)) problems.push(Plan.lfsProblem(path))
          unchanged[path] = file
        } else if (isSignable(path)) unsigned.push({ path, file, content })
        else writes.push({ path, id, isNew: false })
      }
    }
  })
  yield* Effect.forEach(suspects, (path, index) => check(path, sights[index]!), { concurrency: 8, discard: true })

  for (const { file, path, same } of yield* compareUnsigned(unsigned, readBlobs)) {
    if (same) unchanged[path] = file
    else writes.push({ path, id: file.id, isNew: false })
  }

  const folders = yield* lookAtFolders([...writes.map(({ path }) => path), ...plan.deletes])
  for (const { path } of writes) {
    const obstacle = ancestors(path).find((folder) => {
      const { _tag } = folders.get(folder)!
      return _tag === "Other" || (_tag === "File" && !deleted.has(folder))
    })
    if (obstacle !== undefined) {
      problems.push(`${path} cannot be written: ${obstacle} is no folder in the data directory; move it away`)
    }
  }
  const [first, ...rest] = [...new Set(problems)]
  if (first !== undefined) return yield* new Plan.PlanRefused({ problems: [first, ...rest] })

  // Through a link that somebody put in place of one of our folders, a stranger's file would be deleted.
  const reachable = plan.deletes.filter((path) =>
    ancestors(path).every((folder) => folders.get(folder)?._tag !== "Other")
  )
  const [deletes, clear] = splitBy(reachable, inTheWayOf(writes))
  return {
    clear,
    writes: writes.sort(({ path: a }, { path: b }) => rank(a) - rank(b) || (a < b ? -1 : 1)),
    deletes: deletes.sort((a, b) => rank(b) - rank(a) || (a < b ? 1 : -1)),
    unchanged
  } satisfies Changes
})

/** Whether there is nothing to do on the disk. */
export const isEmpty = (changes: Changes): boolean =>
  changes.writes.length === 0 && changes.deletes.length === 0 && changes.clear.length === 0

/** Every path that changes. */
export const paths = (changes: Changes): ReadonlyArray<string> => [
  ...changes.clear,
  ...changes.writes.map(({ path }) => path),
  ...changes.deletes
]

/** A resource is described after its data is there, a project or collection after its resources. */
const rank = (path: string): number => {
  switch (path.slice(path.lastIndexOf("/") + 1)) {
    case "project.json":
    case "config-mode.json":
      return 2
    case "resource.json":
      return 1
    default:
      return 0
  }
}

/** `a/b/c` → `a`, `a/b`. */
export const ancestors = (path: string): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (let end = path.indexOf("/"); end !== -1; end = path.indexOf("/", end + 1)) found.push(path.slice(0, end))
  return found
}

/** How many files below these folders of the data directory pass the test. */
export const countBelow = Effect.fnUntraced(function* (
  folders: ReadonlyArray<string>,
  test: (path: string) => boolean
) {
  const volume = yield* Volume
  const ahead = [...folders]
  const seen = new Set<string>()
  let count = 0
  for (let folder = ahead.pop(); folder !== undefined; folder = ahead.pop()) {
    if (seen.has(folder)) continue
    seen.add(folder)
    const names = yield* volume.list(folder === "" ? "." : folder)
    const paths = names.map((name) => (folder === "" ? name : `${folder}/${name}`))
    for (const [index, sight] of (yield* volume.look(paths)).entries()) {
      const path = paths[index]!
      if (sight._tag === "Folder") ahead.push(path)
      else if (test(path)) count++
    }
  }
  return count
})

const lookAtFolders = Effect.fnUntraced(function* (paths: ReadonlyArray<string>) {
  const volume = yield* Volume
  const folders = [...new Set(paths.flatMap(ancestors))]
  const sights = yield* volume.look(folders)
  return new Map(folders.map((folder, index) => [folder, sights[index]!]))
})

/** A file below the folder that is not ours to delete, or an empty folder. */
const findForeign = (
  folder: string,
  deleted: ReadonlySet<string>
): Effect.Effect<Option.Option<string>, Effect.Error<ReturnType<(typeof Volume)["Service"]["list"]>>, Volume> =>
  Effect.gen(function* () {
    const volume = yield* Volume
    const names = (yield* volume.list(folder)).map((name) => `${folder}/${name}`)
    if (names.length === 0) return Option.some(folder)
    const sights = yield* volume.look(names)
    for (const [index, path] of names.entries()) {
      if (sights[index]?._tag === "Folder") {
        const found = yield* findForeign(path, deleted)
        if (Option.isSome(found)) return found
      } else if (!deleted.has(path)) return Option.some(path)
    }
    return Option.none()
  })

const inTheWayOf = (writes: ReadonlyArray<Write>) => {
  const folded = new Set(writes.flatMap(({ path }) => [...ancestors(path), path].map(Plan.fold)))
  const targets = new Set(writes.map(({ path }) => Plan.fold(path)))
  return (path: string) =>
    // It stands where a folder comes, or is the new file under another spelling, or lies where a file comes.
    folded.has(Plan.fold(path)) || ancestors(path).some((folder) => targets.has(Plan.fold(folder)))
}

const splitBy = <A>(items: ReadonlyArray<A>, test: (item: A) => boolean): readonly [Array<A>, Array<A>] => [
  items.filter((item) => !test(item)),
  items.filter(test)
]

interface Candidate {
  readonly path: string
  readonly file: Inventory.File
  readonly content: Uint8Array
}

/** The gateway signs and stamps its resources when it loads them; that alone is no difference. */
const isSignable = (path: string): boolean => path.endsWith("/resource.json")

const compareUnsigned = Effect.fnUntraced(function* <E>(
  candidates: ReadonlyArray<Candidate>,
  readBlobs: Input<E>["readBlobs"]
) {
  if (candidates.length === 0) return []
  const wanted = new Map<string, string>()
  yield* Stream.runForEach(readBlobs([...new Set(candidates.map(({ file }) => file.id))]), ({ content, id }) =>
    Effect.sync(() => wanted.set(id, withoutSignature(content)))
  )
  return candidates.map(({ content, file, path }) => ({
    path,
    file,
    same: withoutSignature(content) === wanted.get(file.id)
  }))
})

/** The text without what the gateway stamps; what is no JSON object stands for itself. */
const withoutSignature = (content: Uint8Array): string => {
  const text = Buffer.from(content).toString()
  return Option.match(decodeResource(text), {
    onNone: () => text,
    onSome: (resource) => {
      const attributes = Struct.omit(resource.attributes ?? {}, ["lastModification", "lastModificationSignature"])
      return JSON.stringify(sorted({ ...resource, attributes }))
    }
  })
}

const AnyRecord = Schema.Record(Schema.String, Schema.Unknown)
const decodeResource = Schema.decodeUnknownOption(
  Schema.fromJsonString(
    Schema.StructWithRest(Schema.Struct({ attributes: Schema.optionalKey(AnyRecord) }), [AnyRecord])
  )
)

/** Keys in one order, at every depth. */
const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(sorted)
  if (!Predicate.isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)])
  )
}
