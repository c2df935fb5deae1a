import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import type * as Credentials from "./Credentials.ts"
import { GitCommand } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import * as ObjectReader from "./ObjectReader.ts"
import type * as RepositoryUrl from "./RepositoryUrl.ts"

export interface Options {
  /** Only for this mirror: what is in it can be removed at any time. */
  readonly folder: string
  readonly url: RepositoryUrl.RepositoryUrl
  /** Read before each fetch: tokens are renewed. */
  readonly credentials: Effect.Effect<Credentials.Credentials, GitError>
  /** For one fetch. Default 10 minutes; a stalled connection ends after 30 s anyway. */
  readonly deadline?: Duration.Input | undefined
  /** Every fetch leaves a pack; when there are more, they are packed into one. Default 32. */
  readonly maxPacks?: number | undefined
}

export interface Target {
  readonly commit: string
  /** Where the commit was found: for servers that hand out refs only. */
  readonly ref?: string | undefined
}

export interface TreeEntry {
  /** `100644`, `100755`, `120000` (symlink), `160000` (submodule). */
  readonly mode: string
  readonly id: string
  /** From the root of the repository. */
  readonly path: string
}

export interface Blob {
  readonly id: string
  readonly content: Buffer
}

/**
 * A bare partial clone of one repository: trees of the commits asked for, and only those blobs that are read. No work
 * tree. The folder heals itself: what a killed git left behind is removed, a damaged clone is replaced.
 *
 * Nothing of the remote is stored in it, neither URL nor credentials; both go by environment with each fetch.
 */
export class Mirror extends Context.Service<
  Mirror,
  {
    /** Fetches the commit and its trees unless they are here. Concurrent calls take turns. */
    readonly ensure: (target: Target) => Effect.Effect<void, GitError>
    /**
     * All files at and below the paths (`""` is the root), sorted by path, each once. A path that does not exist has
     * none. A symlink on the way to a path is given instead of what is behind it. The commit has been ensured.
     */
    readonly listTree: (
      commit: string,
      paths: ReadonlyArray<string>
    ) => Effect.Effect<ReadonlyArray<TreeEntry>, GitError>
    /** Fetches those of the blobs that are not here, in one request. */
    readonly prefetch: (ids: ReadonlyArray<string>) => Effect.Effect<void, GitError>
    /** The blobs in this order, one at a time, whole; what is not here is fetched first, in one request. */
    readonly readBlobs: (ids: ReadonlyArray<string>) => Stream.Stream<Blob, GitError>
    /** Keeps this commit as the base of the next fetch, so that only what changed is sent. */
    readonly setApplied: (commit: string) => Effect.Effect<void, GitError>
  }
>()("stoker/git/Mirror") {
  static readonly layer = (options: Options) => Layer.effect(Mirror, make(options))
}

const appliedRef = "refs/stoker/applied"
/** Written by the fetch itself: one process less, and the next fetch has a base even before anything is applied. */
const fetchedRef = "refs/stoker/fetched"
/** Whose objects these are: a base of another repository saves nothing, and would ask for every blob. */
const sourceFile = "stoker-source"

/** A replica may lag behind the one that told us of the commit. */
const lagging = Schedule.exponential("500 millis", 1.6).pipe(Schedule.upTo({ duration: "4 seconds" }))

export const make = Effect.fnUntraced(function* (options: Options) {
  const { url } = options
  const git = yield* GitCommand
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = path.resolve(options.folder)
  const fetching = yield* Semaphore.make(1)
  const ensured = yield* Ref.make<ReadonlySet<string>>(new Set())
  const trees = yield* Ref.make<ReadonlyMap<string, Buffer>>(new Map())
  const fail = (reason: Reason) => new GitError({ repository: url.display, reason })
  const onDisk = Effect.mapError((error: { readonly message: string }) =>
    fail({ _tag: "Command", detail: `the clone in ${folder}: ${error.message}` })
  )
  const at = (...names: ReadonlyArray<string>) => path.join(folder, ...names)

  /** The empty repository, HEAD last: without it git sees none. */
  const create = Effect.gen(function* () {
    yield* fs.makeDirectory(at("objects", "pack"), { recursive: true })
    yield* fs.makeDirectory(at("refs"), { recursive: true })
    yield* fs.writeFileString(at("config"), "[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    yield* fs.writeFileString(at("HEAD"), "ref: refs/heads/none\n")
  })

  /** A folder that cannot even be looked into is none. */
  const isRepository = Effect.all(
    ["HEAD", "config", "objects/pack", "refs"].map((name) => fs.exists(at(name))),
    { concurrency: "unbounded" }
  ).pipe(
    Effect.map((found) => found.every(Boolean)),
    Effect.orElseSucceed(() => false)
  )

  /** We are its only user: a lock or a half-written pack is left over from a git that was killed. */
  const removeLeftovers = Effect.gen(function* () {
    const names = yield* fs.readDirectory(folder, { recursive: true })
    const leftover = names.filter((name) => name.endsWith(".lock") || /(^|\/)tmp_[^/]*$/.test(name))
    yield* Effect.forEach(leftover, (name) => fs.remove(at(name), { force: true, recursive: true }), { discard: true })
  })

  /** Out of the way first, which is at once; removing takes its time. */
  const replace = Effect.gen(function* () {
    const aside = `${folder}.damaged`
    yield* fs.remove(aside, { recursive: true, force: true })
    if (yield* fs.exists(folder)) {
      yield* fs.rename(folder, aside)
      yield* fs.remove(aside, { recursive: true, force: true })
    }
    yield* create
    yield* Ref.set(ensured, new Set())
    yield* Ref.set(trees, new Map())
  })

  const readRef = (ref: string) =>
    fs.readFileString(at(ref)).pipe(
      Effect.map((text) => text.trim()),
      Effect.orElseSucceed(() => undefined)
    )

  const writeFile = Effect.fnUntraced(function* (name: string, content: string) {
    yield* fs.makeDirectory(path.dirname(at(name)), { recursive: true })
    // Ends in .lock so that a half-written one is swept away like git's own.
    yield* fs.writeFileString(at(`${name}.lock`), content)
    yield* fs.rename(at(`${name}.lock`), at(name))
  })

  yield* onDisk(Effect.flatMap(isRepository, (healthy) => (healthy ? removeLeftovers : replace)))
  const kept = yield* Effect.all([readRef(appliedRef), readRef(fetchedRef)])
  const source = yield* readRef(sourceFile)
  yield* Ref.set(ensured, new Set(kept.flatMap((commit) => (commit === undefined ? [] : [commit]))))
  const based = yield* Ref.make(source === url.display && kept.some((commit) => commit !== undefined))
  const reader = yield* ObjectReader.make(folder)
  const scope = yield* Effect.scope
  const location = yield* Ref.make(url.href)

  /** Makes every git of this clone take missing objects for ones that the server still has. */
  const promisor = { "remote.origin.promisor": "true", "remote.origin.partialclonefilter": "blob:none" }

  /** Runs one `git fetch`; whatever it left behind when it failed or was ended is removed. */
  const fetchFrom = Effect.fnUntraced(
    function* (href: string, args: ReadonlyArray<string>, config: Record<string, string>, stdin?: string) {
      yield* git.run(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", ...args], {
        gitDir: folder,
        remote: { url, credentials: yield* options.credentials },
        deadline: options.deadline ?? "10 minutes",
        config: {
          ...promisor,
          "remote.origin.url": href,
          "http.lowSpeedLimit": "1",
          "http.lowSpeedTime": "30",
          ...config
        },
        ...(stdin === undefined ? {} : { stdin })
      })
    },
    Effect.onExit((exit) => (Exit.isSuccess(exit) ? Effect.void : Effect.ignore(removeLeftovers)))
  )

  /**
   * The same, and where the server has moved the repository (renamed at the forge), at its new place: git itself would
   * show the credentials to wherever a redirect leads, so it follows none.
   */
  const fetch = (args: ReadonlyArray<string>, config: Record<string, string>, stdin?: string) =>
    Effect.flatMap(Ref.get(location), (href) => fetchFrom(href, args, config, stdin)).pipe(
      Effect.catchIf(
        (error) => error.reason._tag === "Moved",
        Effect.fnUntraced(function* () {
          const href = yield* GitHttp.locate({ url, credentials: yield* options.credentials })
          yield* Ref.set(location, href)
          yield* fetchFrom(href, args, config, stdin)
        })
      )
    )

  const fetchInto = Effect.fnUntraced(function* (wanted: string) {
    // Everything new against the base comes with one request; without a base only trees come.
    const filter = (yield* Ref.get(based)) ? "--no-filter" : "--filter=blob:none"
    yield* fetch(["--depth=1", filter, "origin", `+${wanted}:${fetchedRef}`], {})
  })

  const fetchByRef = Effect.fnUntraced(function* ({ commit, ref }: Target, refused: GitError) {
    if (ref === undefined || ref === commit) return yield* refused
    const isMissing = (error: GitError) => error.reason._tag === "RefNotFound"
    yield* fetchInto(`refs/tags/${ref}`).pipe(
      Effect.catchIf(isMissing, () => fetchInto(`refs/heads/${ref}`)),
      Effect.catchIf(isMissing, () => refused)
    )
    const [object] = yield* Stream.runCollect(reader.look([`${fetchedRef}^{commit}`]))
    const found = object?._tag === "Found" ? object.id : "nothing"
    if (found !== commit) {
      return yield* fail({ _tag: "CommitNotFound", commit, detail: `"${ref}" is at ${found}` })
    }
  })

  const fetchCommit = (target: Target) =>
    fetchInto(target.commit).pipe(
      Effect.retry({
        schedule: lagging,
        while: (error) => error.reason._tag === "CommitNotFound" && !isPolicy(error.reason)
      }),
      Effect.catchIf(
        (error) => error.reason._tag === "CommitNotFound",
        (error) => fetchByRef(target, error)
      )
    )

  /** Fetches, looks that it is all there, and starts over once with a fresh clone where it is damaged. */
  const fetchWhole = Effect.fnUntraced(function* (target: Target) {
    const { commit } = target
    const attempt = Effect.gen(function* () {
      yield* fetchCommit(target)
      const [tree] = yield* Stream.runCollect(reader.look([`${commit}^{tree}`]))
      if (tree?._tag !== "Found") return yield* fail({ _tag: "Damaged", detail: `no tree of commit ${commit}` })
    })
    yield* Effect.catchIf(
      attempt,
      (error) => error.reason._tag === "Damaged",
      () => Effect.andThen(onDisk(Effect.andThen(replace, Ref.set(based, false))), attempt)
    )
    if (!(yield* Ref.getAndSet(based, true))) yield* onDisk(writeFile(sourceFile, url.display))
    yield* Ref.update(ensured, (commits) => new Set([...commits, commit]))
  })

  const ensure = Effect.fn("Mirror.ensure")(function* (target: Target) {
    const isHere = Effect.map(Ref.get(ensured), (commits) => commits.has(target.commit))
    if (yield* isHere) return
    yield* fetching.withPermit(Effect.flatMap(isHere, (here) => (here ? Effect.void : fetchWhole(target))))
  })

  /** Trees by id, from the last listing or the store. */
  const readTrees = Effect.fnUntraced(function* (ids: ReadonlyArray<string>, seen: Map<string, Buffer>) {
    const former = yield* Ref.get(trees)
    const wanted = new Set(ids.filter((id) => !seen.has(id)))
    for (const id of wanted) {
      const content = former.get(id)
      if (content !== undefined) seen.set(id, content)
    }
    yield* Stream.runForEach(reader.read([...wanted].filter((id) => !seen.has(id))), (object) => {
      if (object._tag === "Missing") return fail({ _tag: "Damaged", detail: `tree ${object.name} is missing` })
      seen.set(object.id, object.content)
      return Effect.void
    })
  })

  const listTree = Effect.fn("Mirror.listTree")(function* (commit: string, paths: ReadonlyArray<string>) {
    const [root] = yield* Stream.runCollect(reader.look([`${commit}^{tree}`]))
    if (root?._tag !== "Found") return yield* fail({ _tag: "Damaged", detail: `no tree of commit ${commit}` })
    const seen = new Map<string, Buffer>()
    const found = new Map<string, TreeEntry>()
    // A level at a time: one question for all folders of the same depth.
    let level: ReadonlyArray<Folder> = [{ id: root.id, path: "", wanted: paths.map(segmentsOf) }]
    while (level.length > 0) {
      yield* readTrees(
        level.map(({ id }) => id),
        seen
      )
      const next: Array<Folder> = []
      for (const folder of level) {
        const entries = parseTree(seen.get(folder.id) ?? Buffer.alloc(0))
        if (entries === undefined) {
          return yield* fail({ _tag: "Command", detail: `a file name in "${folder.path}" is not UTF-8` })
        }
        for (const entry of entries) {
          const wanted = below(folder.wanted, entry.name)
          if (wanted.length === 0) continue
          const path = folder.path === "" ? entry.name : `${folder.path}/${entry.name}`
          if (entry.mode === "40000") next.push({ id: entry.id, path, wanted })
          // A file where a folder is wanted is no match; a link is, so that it can be refused.
          else if (entry.mode === "120000" || wanted.some((rest) => rest.length === 0)) {
            found.set(path, { mode: entry.mode, id: entry.id, path })
          }
        }
      }
      level = next
    }
    yield* Ref.set(trees, seen)
    return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
  })

  const fetchBlobs = (ids: ReadonlyArray<string>) =>
    ids.length === 0
      ? Effect.void
      : fetching.withPermit(
          fetch(
            ["--filter=blob:none", "--stdin", "origin"],
            // No base: what is wanted is not there, and there is nothing to negotiate.
            { "fetch.negotiationAlgorithm": "noop" },
            `${ids.join("\n")}\n`
          )
        )

  const prefetch = Effect.fn("Mirror.prefetch")(function* (ids: ReadonlyArray<string>) {
    const looked = yield* Stream.runCollect(reader.look([...new Set(ids)]))
    yield* fetchBlobs(looked.flatMap((object) => (object._tag === "Missing" ? [object.name] : [])))
  })

  const readBlobs = (ids: ReadonlyArray<string>) =>
    Stream.unwrap(
      Effect.as(
        prefetch(ids),
        Stream.mapEffect(reader.read(ids), (object) =>
          object._tag === "Found"
            ? Effect.succeed({ id: object.id, content: object.content })
            : fail({ _tag: "Damaged", detail: `blob ${object.name} is missing after its fetch` })
        )
      )
    )

  /** One pack instead of many. In the background: nobody waits for it but the next fetch. */
  const pack = git.run(["repack", "-a", "-d", "-q"], { gitDir: folder, config: promisor, deadline: "10 minutes" }).pipe(
    Effect.onExit((exit) => (Exit.isSuccess(exit) ? Effect.void : Effect.ignore(removeLeftovers))),
    fetching.withPermit,
    Effect.catch((error) => Effect.logWarning("packing the clone failed, it goes on unpacked", error.message)),
    Effect.forkIn(scope)
  )

  const setApplied = Effect.fnUntraced(function* (commit: string) {
    yield* onDisk(writeFile(appliedRef, `${commit}\n`))
    const packs = yield* onDisk(fs.readDirectory(at("objects", "pack")))
    if (packs.filter((name) => name.endsWith(".pack")).length > (options.maxPacks ?? 32)) yield* pack
  })

  return Mirror.of({ ensure, listTree, prefetch, readBlobs, setApplied })
})

/** Servers of protocol v0 refuse ids by policy: waiting does not help. */
const isPolicy = (reason: Reason): boolean =>
  reason._tag === "CommitNotFound" && reason.detail.includes("unadvertised object")

interface Folder {
  readonly id: string
  readonly path: string
  /** The rest of each wanted path below this folder; an empty one wants everything. */
  readonly wanted: ReadonlyArray<ReadonlyArray<string>>
}

const segmentsOf = (path: string): ReadonlyArray<string> =>
  path.split("/").filter((part) => part !== "" && part !== ".")

/** What of the wanted paths lies at or below the entry of this name. */
const below = (wanted: ReadonlyArray<ReadonlyArray<string>>, name: string): ReadonlyArray<ReadonlyArray<string>> =>
  wanted.flatMap((segments) => {
    if (segments.length === 0) return [segments]
    return segments[0] === name ? [segments.slice(1)] : []
  })

const utf8 = new TextDecoder("utf-8", { fatal: true })

/** `<mode> <name>\0<20 bytes id>`, repeated. Undefined where a name is not UTF-8. */
const parseTree = (
  content: Buffer
): ReadonlyArray<{ readonly mode: string; readonly name: string; readonly id: string }> | undefined => {
  const entries: Array<{ mode: string; name: string; id: string }> = []
  let offset = 0
  while (offset < content.length) {
    const space = content.indexOf(32, offset)
    const end = content.indexOf(0, space)
    const name = Result.try(() => utf8.decode(content.subarray(space + 1, end)))
    if (Result.isFailure(name)) return undefined
    entries.push({
      mode: content.toString("latin1", offset, space),
      name: name.success,
      id: content.toString("hex", end + 1, end + 21)
    })
    offset = end + 21
  }
  return entries
}
