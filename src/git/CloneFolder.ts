import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import { GitError } from "./GitError.ts"
import * as ObjectId from "./ObjectId.ts"

/** The files of a bare clone that are not objects. We are its only user, so whatever a killed git left can be removed. */
export type CloneFolder = Effect.Success<ReturnType<typeof make>>

const refs = {
  /** The commit whose files are in place. */
  applied: "refs/stoker/applied",
  /** The commit that came last: the next fetch has a base even before anything is applied. */
  fetched: "refs/stoker/fetched"
} as const

export const fetchedRef = refs.fetched

/** Whose objects these are: a base of another repository saves nothing, and would ask for every blob. */
const sourceFile = "stoker-source"

/** Bytes of the packs when the first commit had come with all its files: what there has to be. */
const neededFile = "stoker-needed"

/** `folder` is absolute; what is in it can be removed at any time. Errors name it. */
export const make = Effect.fnUntraced(function* (folder: string, repository: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const at = (...names: ReadonlyArray<string>) => path.join(folder, ...names)
  const onDisk = Effect.mapError(
    (error: { readonly message: string }) =>
      new GitError({ repository, reason: { _tag: "Command", detail: `the clone in ${folder}: ${error.message}` } })
  )

  /** HEAD last: without it git sees no repository. */
  const create = Effect.gen(function* () {
    yield* fs.makeDirectory(at("objects", "pack"), { recursive: true })
    yield* fs.makeDirectory(at("refs"), { recursive: true })
    yield* fs.writeFileString(at("config"), "[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    yield* fs.writeFileString(at("HEAD"), "ref: refs/heads/none\n")
  })

  const former = `${folder}.former`
  const removeTree = (name: string) => fs.remove(name, { recursive: true, force: true })

  /** A folder that cannot even be looked into is none. */
  const isRepository = Effect.all(
    ["HEAD", "config", "objects/pack", "refs"].map((name) => fs.exists(at(name))),
    { concurrency: "unbounded" }
  ).pipe(
    Effect.map((found) => found.every(Boolean)),
    Effect.orElseSucceed(() => false)
  )

  /** Locks, and packs that are half written. Whether there were any. */
  const removeLeftovers = Effect.gen(function* () {
    const names = yield* fs.readDirectory(folder, { recursive: true })
    const leftover = names.filter((name) => name.endsWith(".lock") || /(^|\/)(tmp_|\.tmp-)[^/]*$/.test(name))
    yield* Effect.forEach(leftover, (name) => fs.remove(at(name), { force: true, recursive: true }), { discard: true })
    return leftover.length > 0
  }).pipe(onDisk)

  const readFile = (name: string) =>
    fs.readFileString(name).pipe(
      Effect.map((text) => text.trim()),
      Effect.orElseSucceed(() => undefined)
    )
  const read = (name: string) => readFile(at(name))

  const appliedIn = (clone: string) =>
    Effect.map(readFile(path.join(clone, refs.applied)), (text) => [text].find(ObjectId.is))
  const applied = appliedIn(folder)

  /** The applied commit, as long as only the former clone holds it. */
  const aside = Effect.flatMap(applied, (commit) =>
    commit === undefined ? appliedIn(former) : Effect.succeed(undefined)
  )

  /**
   * A fresh clone, with the one that was there aside until `dropFormer` or `putBack`. Where the applied commit is aside
   * already, that one stays there. All of it, or with an error: never ended in between.
   */
  const begin = Effect.gen(function* () {
    if ((yield* aside) !== undefined) yield* removeTree(folder)
    else {
      yield* removeTree(former)
      // Whatever it is: a link that leads nowhere does not "exist", and is in the way all the same.
      yield* Effect.catchIf(
        fs.rename(folder, former),
        (error) => error.reason._tag === "NotFound",
        () => Effect.void
      )
    }
    yield* create
  }).pipe(onDisk, Effect.uninterruptible)

  const dropFormer = removeTree(former).pipe(onDisk)

  /** Nothing where the applied commit is in place, or nothing aside. */
  const putBack = Effect.gen(function* () {
    if ((yield* applied) !== undefined || !(yield* fs.exists(former))) return
    yield* removeTree(folder)
    yield* fs.rename(former, folder)
  }).pipe(onDisk)

  /** A fresh clone. The old one goes out of the way first, which is at once; removing takes its time. */
  const replace = Effect.flatMap(aside, (kept) => Effect.andThen(begin, kept === undefined ? dropFormer : Effect.void))

  const write = Effect.fnUntraced(function* (name: string, content: string) {
    yield* fs.makeDirectory(path.dirname(at(name)), { recursive: true })
    // Ends in .lock so that a half-written one is swept away like git's own.
    yield* fs.writeFileString(at(`${name}.lock`), content)
    yield* fs.rename(at(`${name}.lock`), at(name))
  }, onDisk)

  /** The commits that the refs hold on to, each once. */
  const tips = Effect.map(Effect.all([applied, read(refs.fetched)]), (found) => [...new Set(found.filter(ObjectId.is))])

  /** Commits that are here without their parents. */
  const shallow = Effect.gen(function* () {
    if (!(yield* fs.exists(at("shallow")))) return []
    return (yield* fs.readFileString(at("shallow"))).trim().split("\n")
  }).pipe(
    onDisk,
    Effect.filterOrFail(
      (lines) => lines.every(ObjectId.is),
      () => new GitError({ repository, reason: { _tag: "Damaged", detail: "bad shallow file" } })
    )
  )

  // A fresh clone was begun, and has got nothing.
  if ((yield* tips).length === 0) yield* putBack
  if ((yield* aside) === undefined) yield* Effect.ignore(dropFormer)

  const wasCut = yield* Effect.flatMap(isRepository, (healthy) =>
    healthy ? removeLeftovers : Effect.as(replace, false)
  )

  return {
    /** A fetch was under way when its process ended. */
    wasCut,
    removeLeftovers,
    replace,
    begin,
    dropFormer,
    putBack,
    tips,
    applied,
    aside,
    setTip: (ref: keyof typeof refs, commit: string) => write(refs[ref], `${commit}\n`),
    shallow,
    setShallow: (commits: ReadonlyArray<string>) => write("shallow", `${commits.join("\n")}\n`),
    /** The repository that the tips are of. */
    source: read(sourceFile),
    setSource: write(sourceFile, repository),
    needed: Effect.map(read(neededFile), (text) => (text === undefined ? undefined : Number(text))),
    setNeeded: (bytes: number) => write(neededFile, String(bytes)),
    /** Their number, and their bytes together. */
    packs: Effect.gen(function* () {
      const names = yield* fs.readDirectory(at("objects", "pack"))
      const packs = names.filter((name) => name.endsWith(".pack"))
      const sizes = yield* Effect.forEach(packs, (name) => fs.stat(at("objects", "pack", name)))
      return { count: packs.length, bytes: sizes.reduce((sum, { size }) => sum + Number(size), 0) }
    }).pipe(onDisk)
  }
})
