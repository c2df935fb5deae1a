import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { GitCommand, type Remote } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import * as KnownServer from "./KnownServer.ts"
import * as LibraryRefs from "./LibraryRefs.ts"
import * as ObjectId from "./ObjectId.ts"
import * as ProtocolV2 from "./ProtocolV2.ts"
import type * as RepositoryUrl from "./RepositoryUrl.ts"

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

/** Asks git servers what a ref means: `ls-refs` of protocol v2 with just the names in question. */
export class RemoteRefs extends Context.Service<
  RemoteRefs,
  {
    /**
     * A tag wins over a branch of the same name. A full commit id stands for itself, unless the server says that it has
     * no such commit; over ssh and git:// and from older servers that cannot be known, and the agent's fetch finds out.
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

      const known = new Map<string, KnownServer.KnownServer>()

      const serverOf = Effect.fnUntraced(function* (url: RepositoryUrl.RepositoryUrl) {
        const server = known.get(url.href) ?? (yield* KnownServer.make(agents, url))
        // Only a saving: whoever is forgotten is asked anew.
        if (known.size >= maxKnown) known.clear()
        known.set(url.href, server)
        return server
      })

      const list = Effect.fnUntraced(function* (remote: Remote, prefixes: ReadonlyArray<string>) {
        if (remote.url._tag !== "Http") return yield* byCommand(git, remote, prefixes)
        const server = yield* serverOf(remote.url)
        return yield* server.prefer(
          server.ask(remote, (place) => ProtocolV2.lsRefs(place, prefixes)),
          LibraryRefs.lsRefs(agents, remote, prefixes)
        )
      })

      /** Fails where the server says that it has not got the commit. */
      const check = Effect.fnUntraced(function* (remote: Remote, commit: string) {
        if (remote.url._tag !== "Http") return
        const server = yield* serverOf(remote.url)
        yield* Effect.catchTag(
          server.ask(remote, (place) => ProtocolV2.checkCommit(place, commit)),
          "NotUnderstood",
          () => Effect.void
        )
      })

      const resolveAll = Effect.fnUntraced(function* (request: Remote & Pick<Request, "deadline"> & Refs) {
        const { refs, url } = request
        const fail = (reason: Reason): Answer => Result.fail(new GitError({ repository: url.display, reason }))
        const answers = new Map<string, Answer>()
        const deadline = Duration.fromInputUnsafe(request.deadline ?? "30 seconds")
        const names: Array<string> = []
        const commits: Array<string> = []
        for (const ref of refs) {
          if (!isRefName(ref)) answers.set(ref, fail({ _tag: "InvalidRef", ref: ref.slice(0, 100) }))
          else (ObjectId.is(ref.toLowerCase()) ? commits : names).push(ref)
        }

        const resolveCommit = Effect.fnUntraced(function* (ref: string) {
          const commit = ref.toLowerCase()
          const checked = yield* Effect.result(check(request, commit))
          answers.set(
            ref,
            Result.map(checked, () => ({ ref, kind: "commit", commit }))
          )
        })

        const resolveNames = Effect.gen(function* () {
          const listed = yield* list(
            request,
            names.flatMap((ref) => [`refs/heads/${ref}`, `refs/tags/${ref}`])
          )
          // HEAD first: a full list can be megabytes.
          const isEmpty =
            listed.length === 0 &&
            (yield* list(request, ["HEAD"])).length === 0 &&
            (yield* list(request, ["refs/"])).length === 0
          const byName = new Map(listed.map((server) => [server.ref, server]))
          return (ref: string): Answer => {
            const tag = byName.get(`refs/tags/${ref}`)
            if (tag !== undefined) return Result.succeed({ ref, kind: "tag", commit: tag.peeled ?? tag.oid })
            const branch = byName.get(`refs/heads/${ref}`)
            if (branch !== undefined) return Result.succeed({ ref, kind: "branch", commit: branch.oid })
            return fail(isEmpty ? { _tag: "EmptyRepository" } : { _tag: "RefNotFound", ref })
          }
        }).pipe(
          Effect.catch((failure) => Effect.succeed((): Answer => Result.fail(failure))),
          Effect.map((found) => names.forEach((ref) => answers.set(ref, found(ref))))
        )

        yield* Effect.all([names.length === 0 ? Effect.void : resolveNames, ...commits.map(resolveCommit)], {
          concurrency: 4
        }).pipe(Effect.timeoutOption(deadline))
        const late = fail({ _tag: "Timeout", seconds: Duration.toSeconds(deadline) })
        for (const ref of refs) if (!answers.has(ref)) answers.set(ref, late)
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

/** Servers that something was found out about, at most. */
const maxKnown = 1000

/** git's own rules (`git check-ref-format`), for a name without `refs/heads/`. */
export const isRefName = (ref: string): boolean =>
  ref.length > 0 &&
  ref.length <= 255 &&
  ref !== "@" &&
  !/[\u0000-\u0020\u007f~^:?*[\\]|\.\.|@\{|\/\/|^[/.-]|\/\.|[/.]$|\.lock(?:\/|$)/.test(ref) &&
  ref.isWellFormed()

/** ssh and git://: the `git` binary. Its patterns are globs that match the end of a name; the caller compares. */
const byCommand = (git: GitCommand["Service"], remote: Remote, prefixes: ReadonlyArray<string>) =>
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
const parseLsRemote = (text: string): ReadonlyArray<ProtocolV2.ServerRef> => {
  const lines = text.split("\n").flatMap((line) => {
    const [oid, ref] = line.split("\t")
    return oid === undefined || ref === undefined ? [] : [{ oid, ref }]
  })
  const peeled = new Map(lines.filter(({ ref }) => ref.endsWith("^{}")).map(({ oid, ref }) => [ref.slice(0, -3), oid]))
  return lines.filter(({ ref }) => !ref.endsWith("^{}")).map(({ oid, ref }) => ({ oid, ref, peeled: peeled.get(ref) }))
}
