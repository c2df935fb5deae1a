import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as IsomorphicGit from "isomorphic-git"
import { GitCommand, type Remote } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import * as ObjectId from "./ObjectId.ts"

/** What a ref means at the remote at this moment. Annotated tags are peeled: `commit` is always a commit. */
export const Resolved = Schema.Struct({
  ref: Schema.String,
  kind: Schema.Literals(["tag", "branch", "commit"]),
  commit: ObjectId.ObjectId
})
export type Resolved = typeof Resolved.Type

export interface Request extends Remote {
  /** Branch, tag or full commit id, short as people write it. */
  readonly ref: string
  /** For the whole answer. Default 30 s. */
  readonly deadline?: Duration.Input | undefined
}

export interface Refs {
  readonly refs: ReadonlyArray<string>
}

export type Answer = Result.Result<Resolved, GitError>

interface ServerRef {
  readonly ref: string
  readonly oid: string
  readonly peeled?: string | undefined
}

/** Asks git servers what a ref means: `ls-refs` of protocol v2 with just the names in question. */
export class RemoteRefs extends Context.Service<
  RemoteRefs,
  {
    /**
     * A tag wins over a branch of the same name. A full commit id stands for itself: it is not asked for at the remote,
     * the agent's fetch finds out.
     */
    readonly resolve: (request: Request) => Effect.Effect<Resolved, GitError>
    /** The same for many refs of one remote, in one go: an answer for each of them. */
    readonly resolveAll: (
      request: Remote & Pick<Request, "deadline"> & Refs
    ) => Effect.Effect<ReadonlyMap<string, Answer>>
  }
>()("stoker/git/RemoteRefs") {
  static readonly layer: Layer.Layer<RemoteRefs, never, GitCommand> = Layer.effect(
    RemoteRefs,
    Effect.gen(function* () {
      const git = yield* GitCommand
      const agents = yield* GitHttp.makeAgents

      const lister = (remote: Remote) =>
        remote.url._tag === "Http" ? overHttp(agents, remote) : Effect.succeed(overCommand(git, remote))

      const resolveAll = Effect.fnUntraced(function* (request: Remote & Pick<Request, "deadline"> & Refs) {
        const { refs, url } = request
        const error = (reason: Reason) => new GitError({ repository: url.display, reason })
        const fail = (reason: Reason): Answer => Result.fail(error(reason))
        const answers = new Map<string, Answer>()
        for (const ref of refs) {
          if (!isRefName(ref)) answers.set(ref, fail({ _tag: "InvalidRef", ref: ref.slice(0, 100) }))
          else if (ObjectId.is(ref.toLowerCase())) {
            answers.set(ref, Result.succeed({ ref, kind: "commit", commit: ref.toLowerCase() }))
          }
        }
        const asked = refs.filter((ref) => !answers.has(ref))
        if (asked.length === 0) return answers
        const deadline = Duration.fromInputUnsafe(request.deadline ?? "30 seconds")
        const found = yield* Effect.gen(function* () {
          const list = yield* lister(request)
          const listed = yield* list(asked.flatMap((ref) => [`refs/heads/${ref}`, `refs/tags/${ref}`]))
          // HEAD first: a full list can be megabytes.
          const empty =
            listed.length === 0 && (yield* list(["HEAD"])).length === 0 && (yield* list(["refs/"])).length === 0
          const byName = new Map(listed.map((server) => [server.ref, server]))
          return (ref: string): Answer => {
            const tag = byName.get(`refs/tags/${ref}`)
            if (tag !== undefined) return Result.succeed({ ref, kind: "tag", commit: tag.peeled ?? tag.oid })
            const branch = byName.get(`refs/heads/${ref}`)
            if (branch !== undefined) return Result.succeed({ ref, kind: "branch", commit: branch.oid })
            return fail(empty ? { _tag: "EmptyRepository" } : { _tag: "RefNotFound", ref })
          }
        }).pipe(
          Effect.timeoutOrElse({
            duration: deadline,
            orElse: () => Effect.fail(error({ _tag: "Timeout", seconds: Duration.toSeconds(deadline) }))
          }),
          Effect.catch((failure) => Effect.succeed((): Answer => Result.fail(failure)))
        )
        for (const ref of asked) answers.set(ref, found(ref))
        return answers
      })

      const resolve = (request: Request) =>
        Effect.flatMap(resolveAll({ ...request, refs: [request.ref] }), (answers) =>
          Effect.fromResult(answers.get(request.ref)!)
        )

      return RemoteRefs.of({ resolve, resolveAll })
    })
  )
}

/** git's own rules (`git check-ref-format`), for a name without `refs/heads/`. */
export const isRefName = (ref: string): boolean =>
  ref.length > 0 &&
  ref.length <= 255 &&
  ref !== "@" &&
  !/[\u0000-\u0020\u007f~^:?*[\\]|\.\.|@\{|\/\/|^[/.-]|\/\.|[/.]$|\.lock(?:\/|$)/.test(ref) &&
  ref.isWellFormed()

type List = (prefixes: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<ServerRef>, GitError>

/** One capability request, then one `ls-refs` a prefix, all at once. */
const overHttp = Effect.fnUntraced(function* (agents: GitHttp.Agents, remote: Remote) {
  const { exchange } = yield* GitHttp.conversation(agents, remote)
  const discover = yield* Effect.cached(exchange(GitHttp.discovery(remote)))
  const http = (signal: AbortSignal): IsomorphicGit.HttpClient => ({
    request: (request) =>
      Effect.runPromise(
        Effect.map(
          request.method === "POST"
            ? exchange({
                method: "POST",
                url: request.url,
                headers: request.headers ?? {},
                body: Buffer.concat((request.body ?? []) as unknown as ReadonlyArray<Uint8Array>)
              })
            : discover,
          (response) => ({
            url: response.url,
            method: request.method ?? "GET",
            statusCode: response.status,
            statusMessage: String(response.headers["retry-after"] ?? ""),
            headers: response.headers,
            // The library reads arrays as well as async iterators.
            body: response.body as unknown as AsyncIterableIterator<Uint8Array>
          })
        ),
        { signal }
      )
  })
  const listOne = (prefix: string) =>
    Effect.tryPromise({
      try: (signal) =>
        IsomorphicGit.listServerRefs({ http: http(signal), url: remote.url.href, prefix, peelTags: true }),
      catch: (error) =>
        error instanceof GitError
          ? error
          : new GitError({ repository: remote.url.display, reason: reasonOfLibrary(error, remote) })
    })
  const list: List = (prefixes) =>
    Effect.map(Effect.forEach(prefixes, listOne, { concurrency: 8 }), (found) => found.flat())
  return list
})

const reasonOfLibrary = (error: unknown, remote: Remote): Reason => {
  if (error instanceof IsomorphicGit.Errors.HttpError) {
    return GitHttp.reasonOfStatus(error.data.statusCode, error.data.statusMessage, remote)
  }
  if (
    error instanceof IsomorphicGit.Errors.SmartHttpError ||
    error instanceof IsomorphicGit.Errors.ParseError ||
    error instanceof IsomorphicGit.Errors.EmptyServerResponseError
  ) {
    return { _tag: "NotAGitServer", detail: "what answers is no git protocol" }
  }
  return { _tag: "Transport", detail: Predicate.isError(error) ? error.message.slice(0, 200) : "unknown" }
}

/** ssh and git://: the `git` binary. Its patterns are globs that match the end of a name; the caller compares. */
const overCommand =
  (git: GitCommand["Service"], remote: Remote): List =>
  (prefixes) =>
    Effect.map(
      git.run(
        [
          "ls-remote",
          "--end-of-options",
          remote.url.href,
          ...prefixes.flatMap((prefix) => (prefix.endsWith("/") ? [] : [prefix, `${prefix}^{}`]))
        ],
        { remote, deadline: "10 minutes" }
      ),
      (output) => parseLsRemote(Buffer.from(output).toString())
    )

/** `<id>\t<ref>` lines; `<ref>^{}` is the commit behind the annotated tag of the line before. */
const parseLsRemote = (text: string): ReadonlyArray<ServerRef> => {
  const lines = text.split("\n").flatMap((line) => {
    const [oid, ref] = line.split("\t")
    return oid === undefined || ref === undefined ? [] : [{ oid, ref }]
  })
  const peeled = new Map(lines.filter(({ ref }) => ref.endsWith("^{}")).map(({ oid, ref }) => [ref.slice(0, -3), oid]))
  return lines.filter(({ ref }) => !ref.endsWith("^{}")).map(({ oid, ref }) => ({ oid, ref, peeled: peeled.get(ref) }))
}
