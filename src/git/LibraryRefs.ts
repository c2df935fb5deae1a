import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type * as IsomorphicGit from "isomorphic-git"
import type { Remote } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import type { ServerRef } from "./ProtocolV2.ts"

type Library = typeof IsomorphicGit

/**
 * Refs by isomorphic-git, which asks first what the server can do and speaks the older protocols too: one request for
 * that, then one a prefix, all at once.
 */
export const lsRefs = Effect.fnUntraced(function* (
  agents: GitHttp.Agents,
  remote: Remote,
  prefixes: ReadonlyArray<string>
) {
  // Loaded where a server needs it, which hardly any does: it costs 17 MiB of memory.
  const library = yield* Effect.promise(() => import("isomorphic-git"))
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
      try: (signal): Promise<ReadonlyArray<ServerRef>> =>
        library.listServerRefs({ http: http(signal), url: remote.url.href, prefix, peelTags: true }),
      catch: (error) =>
        error instanceof GitError
          ? error
          : new GitError({ repository: remote.url.display, reason: reasonOf(library, error, remote) })
    })
  return (yield* Effect.forEach(prefixes, listOne, { concurrency: "unbounded" })).flat()
})

const reasonOf = ({ Errors }: Library, error: unknown, remote: Remote): Reason => {
  if (error instanceof Errors.HttpError) {
    return GitHttp.reasonOfStatus(error.data.statusCode, error.data.statusMessage, remote)
  }
  if (
    error instanceof Errors.SmartHttpError ||
    error instanceof Errors.ParseError ||
    error instanceof Errors.EmptyServerResponseError
  ) {
    return { _tag: "NotAGitServer", detail: "what answers is no git protocol" }
  }
  return { _tag: "Transport", detail: Predicate.isError(error) ? error.message.slice(0, 200) : "unknown" }
}
