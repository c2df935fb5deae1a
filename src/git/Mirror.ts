import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as CloneFolder from "./CloneFolder.ts"
import type * as Credentials from "./Credentials.ts"
import { GitCommand } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import * as KnownServer from "./KnownServer.ts"
import * as ObjectReader from "./ObjectReader.ts"
import * as PackFetch from "./PackFetch.ts"
import type * as ProtocolV2 from "./ProtocolV2.ts"
import type * as RepositoryUrl from "./RepositoryUrl.ts"
import * as TreeListing from "./TreeListing.ts"

export interface Options {
  /** Only for this mirror: what is in it can be removed at any time. */
  readonly folder: string
  readonly url: RepositoryUrl.RepositoryUrl
  /** Read before each fetch: tokens are renewed. */
  readonly credentials: Effect.Effect<Credentials.Credentials, GitError>
  /** For one fetch. Default 10 minutes; a stalled connection ends after 30 s anyway. */
  readonly deadline?: Duration.Input | undefined
  /**
   * Every fetch leaves a pack; when there are more, they are packed into one. Fetches do not wait for that until there are
   * twice as many. Default 32.
   */
  readonly maxPacks?: number | undefined
  /**
   * Packs keep whatever was fetched once. When they hold more bytes, and four times what the first commit in this clone
   * needed, the next fetch begins with a fresh one. Default 256 MiB.
   */
  readonly maxBytes?: number | undefined
  /** So many blobs are asked for at a time: what has come is kept when the rest is cut. Default 2 000. */
  readonly maxBlobs?: number | undefined
  /** Run whenever a request has ended, well or not. */
  readonly onProgress?: Effect.Effect<void> | undefined
}

export type TreeEntry = TreeListing.TreeEntry

export interface Target {
  readonly commit: string
  /** Where the commit was found: for servers that hand out refs only. */
  readonly ref?: string | undefined
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
    /** Fetches those of the blobs that are not here, in few requests. */
    readonly prefetch: (ids: ReadonlyArray<string>) => Effect.Effect<void, GitError>
    /** The blobs in this order, one at a time, whole; what is not here is fetched first, in few requests. */
    readonly readBlobs: (ids: ReadonlyArray<string>) => Stream.Stream<Blob, GitError>
    /**
     * Keeps this commit: as a base of the next fetch, so that only what changed is sent, and for a start without git. And
     * tidies.
     * @param blobs its files: as in `tidy`
     */
    readonly setApplied: (commit: string, blobs: ReadonlyArray<string>) => Effect.Effect<void, GitError>
    /** The commit that is kept, over restarts too, until the clone is replaced. */
    readonly applied: Effect.Effect<Option.Option<string>>
    /**
     * Keeps the packs within their number and bytes. After each commit that was fetched.
     *
     * What takes long of it goes on in the background, until a fetch comes that somebody waits for; the next `tidy` takes
     * it up again.
     * @param blobs what a start without git may have to write: those that a fresh clone has not got are fetched
     */
    readonly tidy: (blobs: ReadonlyArray<string>) => Effect.Effect<void, GitError>
  }
>()("stoker/git/Mirror") {
  static readonly layer = (options: Options) => Layer.effect(Mirror, make(options))
}

/** A replica may lag behind the one that told us of the commit. */
const lagging = Schedule.exponential("500 millis", 1.6).pipe(Schedule.upTo({ duration: "4 seconds" }))

/** What nobody waits for is tried again by itself, without a hurry: the server may be away for hours. */
const unhurried = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("5 minutes")])

export const make = Effect.fnUntraced(function* (options: Options) {
  const { url } = options
  const git = yield* GitCommand
  const path = yield* Path.Path
  const folder = path.resolve(options.folder)
  const clone = yield* CloneFolder.make(folder, url.display)
  const fetching = yield* Semaphore.make(1)
  const ensured = yield* Ref.make<ReadonlySet<string>>(new Set())
  const based = yield* Ref.make(false)
  /** All but a sound one is replaced by the next fetch; one that has grown, or lacks files, not before that has come. */
  const state = yield* Ref.make<"sound" | "outdated" | "damaged">("sound")
  /** The server hands out what refs are at, and nothing by its id. */
  const refsOnly = yield* Ref.make(false)
  /** The last fetch of a commit was cut: then its files come after it, in parts that are kept. */
  const cut = yield* Ref.make(clone.wasCut)
  const fail = (reason: Reason) => new GitError({ repository: url.display, reason })
  const reader = yield* ObjectReader.make(folder)
  const listing = yield* TreeListing.make(reader, url.display)
  /** What nobody waits for, and what must be done by now; neither twice at a time. */
  const [background, overdue] = yield* Effect.all([FiberHandle.make<void>(), FiberHandle.make<void>()])
  /** What a start without git may have to write, as the last `tidy` has it. */
  const lasting = yield* Ref.make<ReadonlyArray<string>>([])
  const server = yield* KnownServer.make(yield* GitHttp.makeAgents, url)
  const deadline = options.deadline ?? "10 minutes"
  const maxPacks = options.maxPacks ?? 32

  /** Makes every git of this clone take missing objects for ones that the server still has. */
  const promisor = { "remote.origin.promisor": "true", "remote.origin.partialclonefilter": "blob:none" }

  const progress = options.onProgress ?? Effect.void

  /** One at a time, and what nobody waits for gives way. */
  const inTurn = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.andThen(FiberHandle.clear(background), fetching.withPermit(effect))

  /** Whatever a fetch left behind when it failed or was ended is removed. */
  const sweeping = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.onExit(effect, (exit) =>
      Effect.andThen(Exit.isSuccess(exit) ? Effect.void : Effect.ignore(clone.removeLeftovers), progress)
    )

  /** A question to the server, with the credentials of the moment. */
  const ask = <A, E>(question: (server: ProtocolV2.Server) => Effect.Effect<A, E | GitError>) =>
    Effect.flatMap(options.credentials, (credentials) => server.ask({ url, credentials }, question))

  /** By the `git` program, which can talk to all servers. */
  const fetchByGit = (args: ReadonlyArray<string>, config: Record<string, string>, stdin?: string) =>
    ask(({ base, remote }) =>
      git.run(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", ...args], {
        gitDir: folder,
        remote,
        deadline,
        config: {
          ...promisor,
          "remote.origin.url": base,
          "http.lowSpeedLimit": "1",
          "http.lowSpeedTime": "30",
          ...config
        },
        ...(stdin === undefined ? {} : { stdin })
      })
    ).pipe(Effect.asVoid, sweeping)

  /** By one request, and no program but the one that takes the pack in. */
  const fetchDirectly = (request: ProtocolV2.Fetch) =>
    ask((server) =>
      PackFetch.fetchPack(server, request, { gitDir: folder, deadline }).pipe(Effect.provideService(GitCommand, git))
    ).pipe(sweeping)

  /** The commits to build on. What is missing of them would be missing for ever: the server takes them for whole. */
  const readBase = Effect.gen(function* () {
    if (!(yield* Ref.get(based))) return []
    const tips = yield* clone.tips
    const looked = yield* Stream.runCollect(reader.look(tips.map((commit) => `${commit}^{tree}`)))
    const missing = looked.find((object) => object._tag === "Missing")
    return missing === undefined ? tips : yield* fail({ _tag: "Damaged", detail: `no ${missing.name}` })
  })

  const fetchInto = (wanted: string, filter: "--no-filter" | "--filter=blob:none") =>
    fetchByGit(["--depth=1", filter, "origin", `+${wanted}:${CloneFolder.fetchedRef}`], {})

  /** Everything new against the base comes with one request; without a base only trees come, if files can follow. */
  const filterOf = Effect.gen(function* () {
    const whole = (yield* Ref.get(based)) && !(yield* Ref.get(cut))
    return whole || (yield* Ref.get(refsOnly)) ? "--no-filter" : "--filter=blob:none"
  })

  /** The same for a commit's id. A ref is written last: what it names is there. */
  const fetchIdDirectly = Effect.fnUntraced(function* (commit: string) {
    const base = yield* readBase
    const known = yield* clone.shallow
    const from = (blobs: "all" | "none") => fetchDirectly({ wants: [commit], haves: base, shallow: true, blobs })
    const { shallow, unshallow } = yield* base.length === 0 || (yield* Ref.get(cut))
      ? from("none")
      : // A change of a file that is not ours comes as a delta upon what we have not got: then without files.
        Effect.catchTag(from("all"), "NotUnderstood", () => from("none"))
    yield* clone.setShallow([...new Set([...known, ...shallow])].filter((id) => !unshallow.has(id)))
    yield* clone.setTip("fetched", commit)
  })

  const fetchId = (commit: string) =>
    server
      .prefer(
        fetchIdDirectly(commit),
        Effect.flatMap(filterOf, (filter) => fetchInto(commit, filter))
      )
      .pipe(Effect.onExit((exit) => Ref.set(cut, Exit.isFailure(exit) && wasOnTheWay(exit.cause))))

  const fetchByRef = Effect.fnUntraced(function* ({ commit, ref }: Target, refused: GitError) {
    if (ref === undefined || ref === commit) return yield* refused
    const isMissing = (error: GitError) => error.reason._tag === "RefNotFound"
    if (isPolicy(refused)) yield* Ref.set(refsOnly, true)
    const filter = yield* filterOf
    yield* fetchInto(`refs/tags/${ref}`, filter).pipe(
      Effect.catchIf(isMissing, () => fetchInto(`refs/heads/${ref}`, filter)),
      Effect.catchIf(isMissing, () => refused)
    )
    const [object] = yield* Stream.runCollect(reader.look([`${CloneFolder.fetchedRef}^{commit}`]))
    const found = object?._tag === "Found" ? object.id : "nothing"
    if (found !== commit) {
      return yield* fail({ _tag: "CommitNotFound", commit, detail: `"${ref}" is at ${found}` })
    }
  })

  const fetchCommit = (target: Target) =>
    fetchId(target.commit).pipe(
      Effect.retry({
        schedule: lagging,
        while: (error) => error.reason._tag === "CommitNotFound" && !isPolicy(error)
      }),
      Effect.catchIf(
        (error) => error.reason._tag === "CommitNotFound",
        (error) => fetchByRef(target, error)
      )
    )

  /** What is known of the clone is what its folder says. */
  const recall = Effect.gen(function* () {
    yield* reader.restart
    const tips = yield* clone.tips
    yield* Ref.set(ensured, new Set(tips))
    yield* Ref.set(based, tips.length > 0 && (yield* clone.source) === url.display)
  })
  yield* recall

  const startOver = Effect.andThen(Effect.ensuring(clone.replace, recall), Ref.set(state, "sound"))

  /**
   * In a fresh clone. The former one stays aside until a commit of the fresh one is applied, because a start without git
   * needs it, and is back at once when the fetch comes to nothing.
   */
  const afresh = <A>(fetch: Effect.Effect<A, GitError>) =>
    clone.begin.pipe(
      Effect.andThen(recall),
      Effect.andThen(fetch),
      Effect.onExit(
        Exit.match({
          onSuccess: () => Ref.set(state, "sound"),
          onFailure: () => Effect.andThen(clone.putBack, recall)
        })
      )
    )

  /** The applied commit is wanted again, and the clone that has it is still there. */
  const takeBack = Effect.andThen(Effect.andThen(clone.putBack, recall), Ref.set(state, "sound"))

  /** Fetches, looks that it is all there, and starts over once with a fresh clone where it is damaged. */
  const fetchWhole = Effect.fnUntraced(function* (target: Target) {
    const { commit } = target
    if (commit === (yield* clone.aside)) return yield* takeBack
    const attempt = Effect.gen(function* () {
      yield* fetchCommit(target)
      const [tree] = yield* Stream.runCollect(reader.look([`${commit}^{tree}`]))
      if (tree?._tag !== "Found") return yield* fail({ _tag: "Damaged", detail: `no tree of commit ${commit}` })
    })
    switch (yield* Ref.get(state)) {
      case "outdated":
        yield* afresh(attempt)
        break
      case "damaged":
        yield* Effect.andThen(startOver, attempt)
        break
      case "sound":
        yield* Effect.catchIf(
          attempt,
          (error) => error.reason._tag === "Damaged",
          () => Effect.andThen(startOver, attempt)
        )
    }
    if (!(yield* Ref.getAndSet(based, true))) yield* clone.setSource
    yield* Ref.update(ensured, (commits) => new Set([...commits, commit]))
  })

  /** What turns out to be damaged while it is read, or cannot be completed, is replaced by the next `ensure`. */
  const noticing = Effect.fnUntraced(function* (error: GitError) {
    if (!isFinal(error)) return
    if (isPolicy(error)) yield* Ref.set(refsOnly, true)
    // Files are refused by their ids: what is there is sound, and stays until all of it has come.
    yield* Ref.set(state, isPolicy(error) ? "outdated" : "damaged")
    yield* Ref.set(ensured, new Set())
  })

  const ensure = Effect.fn("Mirror.ensure")(function* (target: Target) {
    const isHere = Effect.map(Ref.get(ensured), (commits) => commits.has(target.commit))
    if (yield* isHere) return
    yield* inTurn(Effect.flatMap(isHere, (here) => (here ? Effect.void : fetchWhole(target))))
  })

  const listTree = (commit: string, paths: ReadonlyArray<string>) =>
    listing.list(commit, paths).pipe(Effect.tapError(noticing), Effect.withSpan("Mirror.listTree"))

  const fetchBlobs = (ids: ReadonlyArray<string>) =>
    server.prefer(
      // No base: what is wanted is not there, and there is nothing to negotiate.
      Effect.asVoid(fetchDirectly({ wants: ids, haves: [], shallow: false, blobs: "all" })),
      fetchByGit(
        ["--filter=blob:none", "--stdin", "origin"],
        { "fetch.negotiationAlgorithm": "noop" },
        `${ids.join("\n")}\n`
      )
    )

  /** Those of the blobs that are not here, in the parts in which they are asked for. */
  const missing = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
    const looked = yield* Stream.runCollect(reader.look([...new Set(ids)]))
    const names = looked.flatMap((object) => (object._tag === "Missing" ? [object.name] : []))
    return Arr.chunksOf(names, options.maxBlobs ?? 2000)
  })

  const prefetch = Effect.fn("Mirror.prefetch")(function* (ids: ReadonlyArray<string>) {
    for (const part of yield* missing(ids)) yield* inTurn(fetchBlobs(part))
  }, Effect.tapError(noticing))

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
    ).pipe(Stream.tapError(noticing))

  const start = (handle: typeof background, what: string, effect: Effect.Effect<void, GitError>) =>
    effect.pipe(
      fetching.withPermit,
      Effect.tapError((error) =>
        Effect.flatMap(Schedule.CurrentMetadata, ({ attempt }) =>
          Effect.logWithLevel(attempt === 0 ? "Warn" : "Debug")(
            `${what} failed, it goes on without for now`,
            error.message
          )
        )
      ),
      Effect.retry({ schedule: unhurried, while: (error) => !isFinal(error) }),
      Effect.ignore,
      FiberHandle.run(handle, { onlyIfMissing: true })
    )

  /** One pack instead of many, and nothing known of commits that no ref holds. */
  const pack = Effect.gen(function* () {
    const tips = new Set(yield* clone.tips)
    yield* Ref.set(ensured, tips)
    yield* clone.setShallow((yield* clone.shallow).filter((commit) => tips.has(commit)))
    // As they came: looking for better deltas takes most of the time and memory, and saves a clone that is bounded little.
    const config = { ...promisor, "pack.window": "0" }
    yield* sweeping(git.run(["repack", "-a", "-d", "-q"], { gitDir: folder, config, deadline }))
  })

  const setNeeded = Effect.flatMap(clone.packs, ({ bytes }) => clone.setNeeded(bytes))

  const fetchLasting = Effect.gen(function* () {
    const parts = yield* missing(yield* Ref.get(lasting))
    yield* Effect.forEach(parts, fetchBlobs, { discard: true })
    yield* setNeeded
  }).pipe(Effect.tapError(noticing))

  /** A fresh clone has got of a commit what changed against the disk. */
  const complete = Effect.fnUntraced(function* (blobs: ReadonlyArray<string>) {
    yield* Ref.set(lasting, blobs)
    if ((yield* missing(blobs)).length === 0) return yield* setNeeded
    yield* start(background, "fetching the files that a start without git needs", fetchLasting)
  })

  const tidy = Effect.fnUntraced(function* (blobs: ReadonlyArray<string>) {
    const needed = yield* clone.needed
    const { bytes, count } = yield* clone.packs
    if (needed === undefined) yield* complete(blobs)
    else if (bytes > Math.max(options.maxBytes ?? 256 * 1024 * 1024, 4 * needed)) {
      yield* Effect.logInfo(`the clone has grown from ${needed} to ${bytes} bytes; the next fetch begins afresh`)
      return yield* Ref.set(state, "outdated")
    }
    // Commits that come faster than packs are packed do not put that off for ever.
    if (count > maxPacks) yield* start(count > 2 * maxPacks ? overdue : background, "packing the clone", pack)
  })

  const setApplied = (commit: string, blobs: ReadonlyArray<string>) =>
    clone.setTip("applied", commit).pipe(Effect.andThen(Effect.ignore(clone.dropFormer)), Effect.andThen(tidy(blobs)))

  const applied = Effect.map(clone.applied, Option.fromNullishOr)

  return Mirror.of({ ensure, listTree, prefetch, readBlobs, setApplied, applied, tidy })
})

/** What a fetch was ended by that something had come of: time, the connection, or us. */
const wasOnTheWay = (cause: Cause.Cause<GitError>): boolean =>
  Option.match(Cause.findErrorOption(cause), {
    onNone: () => true,
    onSome: ({ reason }) => reason._tag === "Timeout" || reason._tag === "Transport"
  })

/** Servers of protocol v0 may refuse what no ref is at: waiting does not help. */
const isPolicy = ({ reason }: GitError): boolean =>
  reason._tag === "CommitNotFound" && reason.detail.includes("unadvertised object")

/** What comes again however often it is tried with this clone. */
const isFinal = (error: GitError): boolean => isPolicy(error) || error.reason._tag === "Damaged"
