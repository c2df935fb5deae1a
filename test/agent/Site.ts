/**
 * A repository in memory and a data directory on disk, and what a pass does between the two. The disk can be made to
 * fail, or the process to be killed, at any step.
 */
import { Effect, FileSystem, Layer, Option, Path, Result, Stream } from "effect"
import * as Apply from "../../src/agent/Apply.ts"
import * as Changes from "../../src/agent/Changes.ts"
import * as Inventory from "../../src/agent/Inventory.ts"
import * as Plan from "../../src/agent/Plan.ts"
import type { Variables } from "../../src/agent/Template.ts"
import { blobId, Volume, VolumeError } from "../../src/agent/Volume.ts"
import type { ScanKind } from "../../src/ignition/GatewayClient.ts"
import { GitError } from "../../src/git/GitError.ts"
import type { Mapping } from "../../src/api/Profile.ts"

/** Content by path. */
export type Tree = Readonly<Record<string, string>>

export interface Commit {
  readonly id: string
  readonly tree: Tree
  readonly mappings: ReadonlyArray<Pick<Mapping, "source" | "destination">>
  readonly excludePatterns?: ReadonlyArray<string>
}

const noVariables: Variables = {
  GatewayName: "",
  PodName: "",
  PodOrdinal: 0,
  Namespace: "",
  Ref: "",
  Commit: "",
  CRName: "",
  Labels: {},
  Vars: {}
}

const originOf = ({ id }: Commit): Inventory.Origin => ({
  commit: id,
  namespace: "plant",
  cr: "site",
  profile: "default"
})

const bytes = (text: string) => Buffer.from(text)
const idOf = (text: string) => blobId(bytes(text), "")

export const readBlobs = (tree: Tree) => {
  const contents = new Map(Object.values(tree).map((text) => [idOf(text), bytes(text)]))
  return (ids: ReadonlyArray<string>) =>
    Stream.fromIterable(ids).pipe(
      Stream.mapEffect((id) => {
        const content = contents.get(id)
        return content === undefined
          ? Effect.fail(new GitError({ repository: "test", reason: { _tag: "Damaged", detail: `no ${id}` } }))
          : Effect.succeed({ id, content })
      })
    )
}

/** What the commit makes of the data directory. */
export const plan = (
  commit: Commit,
  inventory: Inventory.Files,
  options: { readonly allowMassDeletion?: boolean } = {}
): Result.Result<Plan.Plan, Plan.PlanRefused> =>
  Result.flatMap(
    Plan.mappings(
      { mappings: commit.mappings, syncPeriod: 30, dryRun: false, designerSessionPolicy: "proceed", paused: false },
      noVariables
    ),
    (mappings) =>
      Plan.make({
        mappings,
        excludePatterns: commit.excludePatterns ?? [],
        tree: Object.entries(commit.tree)
          .map(([path, text]) => ({ mode: "100644", path, id: idOf(text) }))
          .sort((a, b) => (a.path < b.path ? -1 : 1)),
        inventory,
        allowMassDeletion: options.allowMassDeletion ?? true
      })
  )

/** A pass as far as the journal. */
export const stage = Effect.fnUntraced(function* (
  commit: Commit,
  { owed = [], trust = "disk" }: { readonly owed?: ReadonlyArray<ScanKind>; readonly trust?: Changes.Trust } = {}
) {
  const held = yield* Inventory.load
  const inventory = Inventory.filesOf(held)
  const changes = yield* Changes.compare({
    plan: yield* Effect.fromResult(plan(commit, inventory)),
    inventory,
    trust: Option.isNone(held) ? "disk" : trust,
    readBlobs: readBlobs(commit.tree)
  })
  const origin = originOf(commit)
  if (Changes.isEmpty(changes)) {
    yield* Inventory.save({ version: 1, origin, files: changes.unchanged })
    return { changes }
  }
  return {
    changes,
    staged: yield* Apply.stage({ origin, changes, readBlobs: readBlobs(commit.tree), owed, confirm: Effect.void })
  }
})

/** One whole pass, as the agent makes it, but for the gateway. */
export const sync = Effect.fnUntraced(function* (commit: Commit, trust: Changes.Trust = "disk") {
  const { changes, staged } = yield* stage(commit, { trust })
  if (staged !== undefined) {
    yield* Apply.commit(staged)
    yield* Apply.finish(staged)
  }
  return changes
})

/** A process that starts: mends, then makes a pass. */
export const start = (commit: Commit) => Effect.andThen(Apply.recover, sync(commit))

/** Files and their contents, and empty folders with a slash, without the agent's own folder. */
export const read = Effect.fnUntraced(function* (root: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const found: Record<string, string> = {}
  const walk = (folder: string): Effect.Effect<void, Effect.Error<ReturnType<typeof fs.readDirectory>>> =>
    Effect.gen(function* () {
      const names = yield* fs.readDirectory(path.join(root, folder))
      if (names.length === 0 && folder.includes("/")) found[`${folder}/`] = ""
      for (const name of names) {
        if (folder === "" && name === ".stoker") continue
        const inner = folder === "" ? name : `${folder}/${name}`
        const { type } = yield* fs.lstat(path.join(root, inner))
        if (type === "Directory") yield* walk(inner)
        else found[inner] = type === "File" ? yield* fs.readFileString(path.join(root, inner)) : `(${type})`
      }
    })
  yield* walk("")
  return found as Readonly<Record<string, string>>
})

/** Puts files there that are not the agent's; a name with a slash at its end is an empty folder. */
export const plant = Effect.fnUntraced(function* (root: string, files: Tree) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  for (const [name, content] of Object.entries(files)) {
    yield* fs.makeDirectory(path.join(root, name.slice(0, name.lastIndexOf("/"))), { recursive: true })
    if (!name.endsWith("/")) yield* fs.writeFileString(path.join(root, name), content)
  }
})

type Disk = (typeof Volume)["Service"]

/** The disk, but for some of what it does. */
export const disk = (root: string, other: (real: Disk) => Partial<Disk>): Layer.Layer<Volume> =>
  Layer.effect(
    Volume,
    Effect.map(Volume, (real) => Volume.of({ ...real, ...other(real) }))
  ).pipe(Layer.provide(Volume.layer(root)))

export const refusal = (path: string, code: string) =>
  Effect.fail(new VolumeError({ operation: "write into", path, code }))

/** A disk to which names are one that differ only in letter case or composition. */
export const folding = (root: string): Layer.Layer<Volume> =>
  disk(root, (real) => ({
    look: (paths) => real.look(paths.map(Plan.fold)),
    read: (path) => real.read(Plan.fold(path)),
    list: (path) => real.list(Plan.fold(path)),
    checkFolders: (paths) => real.checkFolders(paths.map(Plan.fold)),
    create: (path, content) => real.create(Plan.fold(path), content),
    rename: (from, to) => real.rename(Plan.fold(from), Plan.fold(to)),
    remove: (path) => real.remove(Plan.fold(path)),
    makeFolder: (path) => real.makeFolder(Plan.fold(path)),
    removeFolder: (path) => real.removeFolder(Plan.fold(path)),
    removeTree: (path) => real.removeTree(Plan.fold(path)),
    sync: (paths) => real.sync(paths.map(Plan.fold))
  }))

/** Counts the changes that are made to the disk, and does something else than the one of this number. */
export const faulty = (
  root: string,
  options: { readonly at: number; readonly how: "kill" | "tear" | "full" },
  real: Layer.Layer<Volume> = Volume.layer(root)
): { readonly layer: Layer.Layer<Volume>; readonly steps: () => number } => {
  let steps = 0
  const layer = Layer.effect(
    Volume,
    Effect.gen(function* () {
      const disk = yield* Volume
      const killed = Effect.die("killed")
      const step =
        <Args extends Array<unknown>, A>(
          operation: (...args: Args) => Effect.Effect<A, VolumeError>,
          half?: (...args: Args) => Effect.Effect<unknown, VolumeError>
        ) =>
        (...args: Args): Effect.Effect<A, VolumeError> =>
          Effect.suspend(() => {
            const now = ++steps
            if (now < options.at) return operation(...args)
            if (options.how === "full") {
              return now === options.at
                ? Effect.fail(new VolumeError({ operation: "write", path: String(args[0]), code: "ENOSPC" }))
                : operation(...args)
            }
            // Whoever is killed does nothing any more, but may have done half of the last thing.
            return now === options.at && options.how === "tear" && half !== undefined
              ? Effect.andThen(half(...args), killed)
              : killed
          })
      return Volume.of({
        ...disk,
        create: step(disk.create, (path, content) => disk.create(path, content.subarray(0, content.length / 2))),
        replace: step(disk.replace, (path, content) => disk.create(`${path}.new`, bytes(content.slice(0, 5)))),
        rename: step(disk.rename),
        remove: step(disk.remove),
        makeFolder: step(disk.makeFolder),
        removeFolder: step(disk.removeFolder),
        removeTree: step(disk.removeTree)
      })
    })
  ).pipe(Layer.provide(real))
  return { layer, steps: () => steps }
}
