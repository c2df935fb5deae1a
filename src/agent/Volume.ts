/**
 * The data directory of the gateway: the one place that touches its files. Paths are relative to it and stay below it.
 */
import { Context, Effect, Layer, Schema } from "effect"
import { execFile } from "node:child_process"
import { createHash, randomUUID } from "node:crypto"
import { accessSync, constants, lstatSync, mkdirSync, renameSync, type Stats } from "node:fs"
import * as NodeFs from "node:fs/promises"
import * as NodePath from "node:path"

/** The file system refused. Retried; `message` says what to look at. */
export class VolumeError extends Schema.TaggedError<VolumeError>()("VolumeError", {
  operation: Schema.String,
  path: Schema.String,
  /** Node's, as in `ENOSPC`. */
  code: Schema.String
}) {
  override get message(): string {
    return `cannot ${this.operation} ${this.path} in the data directory (${this.code})${wayOut[this.code] ?? ""}; Stoker tries again`
  }
}

const wayOut: Readonly<Record<string, string>> = {
  ENOSPC: ": the volume is full, make it larger or remove old files",
  EDQUOT: ": the volume's quota is used up, raise it or remove old files",
  EACCES:
    ": the agent may not write there; it runs as the pod's user, so give the gateway's files to that user (securityContext runAsUser, fsGroup)",
  EPERM: ": the file is protected, or belongs to another user",
  EROFS: ": the volume is mounted read-only",
  ENOENT: ": it vanished, is something else changing this folder?",
  EXDEV:
    ": another volume is mounted there, and two cannot be changed as one; mount one volume for the whole data directory, or exclude this folder (excludePatterns)"
}

export type Sight =
  | { readonly _tag: "Missing" }
  /** `modified` in epoch milliseconds. */
  | { readonly _tag: "File"; readonly size: number; readonly modified: number }
  | { readonly _tag: "Folder" }
  /** A symbolic link, a socket, … */
  | { readonly _tag: "Other" }

export class Volume extends Context.Service<
  Volume,
  {
    /** The absolute path of the data directory. */
    readonly root: string
    /** What lies there; links are not followed. */
    readonly look: (paths: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Sight>, VolumeError>
    readonly read: (path: string) => Effect.Effect<Uint8Array, VolumeError>
    /** Names in a folder; none where there is no folder. */
    readonly list: (folder: string) => Effect.Effect<ReadonlyArray<string>, VolumeError>
    /**
     * Fails where these folders would refuse files: no permission, read-only, another file system. For a folder that is
     * not there yet, the one that it will be made in counts. Changes nothing.
     */
    readonly checkFolders: (folders: ReadonlyArray<string>) => Effect.Effect<void, VolumeError>
    /** A file that is not there yet, in a folder that is; nothing is left of it when it fails. `sync` makes it last. */
    readonly create: (path: string, content: Uint8Array) => Effect.Effect<{ readonly modified: number }, VolumeError>
    /** Swaps a file as a whole: it is the former or this one, whatever happens, and this one when it returns. */
    readonly replace: (path: string, content: string) => Effect.Effect<void, VolumeError>
    readonly rename: (from: string, to: string) => Effect.Effect<void, VolumeError>
    /** A file, if it is there. */
    readonly remove: (path: string) => Effect.Effect<void, VolumeError>
    readonly makeFolder: (path: string) => Effect.Effect<void, VolumeError>
    /** Whether the folder is gone now: one that is not empty stays. */
    readonly removeFolder: (path: string) => Effect.Effect<boolean, VolumeError>
    /** With all that is in it. */
    readonly removeTree: (path: string) => Effect.Effect<void, VolumeError>
    /**
     * The contents of files, and what happened to the names in folders, are on the disk when this returns. What is not
     * there any more needs nothing.
     */
    readonly sync: (paths: ReadonlyArray<string>) => Effect.Effect<void, VolumeError>
  }
>()("stoker/agent/Volume") {
  static readonly layer = (root: string) => Layer.sync(Volume, () => make(root))
}

/** Where more than so many are to be synced, the file system is synced as a whole: a tenth of the time. */
const many = 200
/** So many files are looked at before other fibers get their turn. */
const slice = 256

const make = (folder: string): (typeof Volume)["Service"] => {
  const root = NodePath.resolve(folder)
  const at = (path: string) => NodePath.join(root, path)

  /** Refuses what is not below the data directory: a last line of defence, plans have no such paths. */
  const guarded = <A>(operation: string, path: string, effect: Effect.Effect<A, VolumeError>) =>
    isBelow(path) ? effect : Effect.fail(new VolumeError({ operation, path, code: "outside" }))

  const run = <A>(operation: string, path: string, use: (absolute: string) => Promise<A>) =>
    guarded(
      operation,
      path,
      // Never cut short: what runs on behind an interruption could meet the clean-up that follows it.
      Effect.uninterruptible(Effect.tryPromise({ try: () => use(at(path)), catch: failure(operation, path) }))
    )

  /** What only touches names takes microseconds, a fifth of what a promise does; and scans are locked out meanwhile. */
  const atOnce = (operation: string, path: string, use: (absolute: string) => void) =>
    guarded(operation, path, Effect.try({ try: () => use(at(path)), catch: failure(operation, path) }))

  return {
    root,
    look: Effect.fnUntraced(function* (paths) {
      const sights: Array<Sight> = []
      for (let from = 0; from < paths.length; from += slice) {
        if (from > 0) yield* Effect.yieldNow
        const part = paths.slice(from, from + slice)
        // Synchronous: a few microseconds each, a tenth of what a promise each would cost.
        sights.push(
          ...(yield* Effect.forEach(part, (path) =>
            Effect.try({ try: () => sight(at(path)), catch: failure("look at", path) })
          ))
        )
      }
      return sights
    }),
    read: (path) => run("read", path, (absolute) => NodeFs.readFile(absolute)),
    list: (path) => run("list", path, (absolute) => unless(["ENOENT", "ENOTDIR"], NodeFs.readdir(absolute), [])),
    checkFolders: Effect.fnUntraced(function* (folders) {
      for (const [index, folder] of folders.entries()) {
        if (index % slice === slice - 1) yield* Effect.yieldNow
        const path = nearestFolder(root, folder)
        yield* atOnce("write into", path, (absolute) => checkFolder(root, absolute))
      }
    }),
    create: (path, content) =>
      run("write", path, async (absolute) => {
        const file = await NodeFs.open(absolute, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o644)
        try {
          return await fill(file, content)
        } catch (cause) {
          await NodeFs.unlink(absolute).catch(() => undefined)
          throw cause
        }
      }),
    replace: (path, content) =>
      run("write", path, async (absolute) => {
        await NodeFs.writeFile(`${absolute}.new`, content, { mode: 0o644, flush: true })
        await NodeFs.rename(`${absolute}.new`, absolute)
        await sync(NodePath.dirname(absolute))
      }),
    rename: (from, to) => atOnce("rename to", to, (absolute) => renameSync(at(from), absolute)),
    remove: (path) => run("delete", path, (absolute) => unless(["ENOENT"], NodeFs.unlink(absolute), undefined)),
    makeFolder: (path) => atOnce("make folder", path, (absolute) => mkdirSync(absolute, { recursive: true })),
    removeFolder: (path) =>
      run("delete folder", path, (absolute) =>
        unless(
          ["ENOTEMPTY", "EEXIST", "ENOTDIR"],
          unless(["ENOENT"], NodeFs.rmdir(absolute), undefined).then(() => true),
          false
        )
      ),
    removeTree: (path) => run("delete", path, (absolute) => NodeFs.rm(absolute, { recursive: true, force: true })),
    sync: Effect.fnUntraced(function* (paths) {
      if (paths.length > many && (yield* run("sync", ".", syncFileSystem))) return
      yield* Effect.forEach(
        paths,
        (path) => run("sync", path, (absolute) => unless(["ENOENT", "ENOTDIR"], sync(absolute), undefined)),
        { concurrency: 16, discard: true }
      )
    })
  }
}

/** Writes and closes. */
const fill = async (opened: NodeFs.FileHandle, content: Uint8Array) => {
  await using file = opened
  await file.writeFile(content)
  return { modified: Math.floor((await file.stat()).mtimeMs) }
}

const sync = async (absolute: string) => {
  await using opened = await NodeFs.open(absolute, constants.O_RDONLY)
  await opened.sync()
}

/** Whether there is such a command (of coreutils), and it did. */
const syncFileSystem = (folder: string) =>
  new Promise<boolean>((resolve) => execFile("sync", ["-f", folder], (error) => resolve(error === null)))

const nearestFolder = (root: string, folder: string): string => {
  let path = folder
  while (path !== "." && sight(NodePath.join(root, path))._tag !== "Folder") path = NodePath.dirname(path)
  return path
}

/** Throws why no file of `root` could be renamed into this folder. */
const checkFolder = (root: string, folder: string) => {
  accessSync(folder, constants.W_OK | constants.X_OK)
  try {
    // There is no such file, but the kernel says first when the way leads to another mount; devices alone do not tell.
    renameSync(NodePath.join(root, noSuchFile), NodePath.join(folder, noSuchFile))
  } catch (cause) {
    if (codeOf(cause) !== "ENOENT") throw cause
  }
}
const noSuchFile = `.stoker.${randomUUID()}`

const isBelow = (path: string): boolean => !NodePath.isAbsolute(path) && !path.split("/").includes("..")

const failure = (operation: string, path: string) => (cause: unknown) =>
  new VolumeError({ operation, path, code: codeOf(cause) })

const codeOf = (cause: unknown): string => (cause instanceof Error && "code" in cause ? String(cause.code) : "unknown")

const unless = <A, B>(codes: ReadonlyArray<string>, promise: Promise<A>, otherwise: B): Promise<A | B> =>
  promise.catch((cause: unknown) => (codes.includes(codeOf(cause)) ? otherwise : Promise.reject(cause)))

const sight = (absolute: string): Sight => {
  const stats = lstatOrNone(absolute)
  if (stats === undefined) return { _tag: "Missing" }
  if (stats.isFile()) return { _tag: "File", size: stats.size, modified: Math.floor(stats.mtimeMs) }
  return stats.isDirectory() ? { _tag: "Folder" } : { _tag: "Other" }
}

const lstatOrNone = (absolute: string): Stats | undefined => {
  try {
    return lstatSync(absolute, { throwIfNoEntry: false })
  } catch (cause) {
    // A file where a folder should be on the way.
    if (codeOf(cause) === "ENOTDIR") return undefined
    throw cause
  }
}

/** The id that git gives to this content as a blob; of the same kind (SHA-1 or SHA-256) as `like`. */
export const blobId = (content: Uint8Array, like: string): string =>
  createHash(like.length === 64 ? "sha256" : "sha1")
    .update(`blob ${content.length}\0`)
    .update(content)
    .digest("hex")
