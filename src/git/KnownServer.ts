import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Credentials from "./Credentials.ts"
import type { Remote } from "./GitCommand.ts"
import { GitError } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import type * as ProtocolV2 from "./ProtocolV2.ts"

/** What was found out about the server of one URL, by trying: where the repository is by now, and what is spoken there. */
export interface KnownServer {
  /**
   * Asks where the repository is. Where the server has moved it (renamed at the forge), that is asked for and remembered:
   * nothing that shows credentials follows a redirect by itself.
   */
  readonly ask: <A, E, R>(
    remote: Remote,
    question: (server: ProtocolV2.Server) => Effect.Effect<A, E | GitError, R>
  ) => Effect.Effect<A, E | GitError, R>
  /** `otherwise` where the first is not understood; remembered once that has helped. */
  readonly prefer: <A, E, R>(
    first: Effect.Effect<A, E | ProtocolV2.NotUnderstood, R>,
    otherwise: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E, R>
}

export const make = Effect.fnUntraced(function* (agents: GitHttp.Agents, url: Remote["url"]) {
  const location = yield* Ref.make(url.href)
  const understood = yield* Ref.make(url._tag === "Http")

  const known: KnownServer = {
    ask: Effect.fnUntraced(function* (remote, question) {
      const place = yield* Ref.get(location)
      // Another place may have been found without credentials, which must not leave their origin.
      const isMine =
        place === url.href ||
        Credentials.authorization(remote.credentials) === undefined ||
        isSameOrigin(place, url.href)
      const base = isMine ? place : url.href
      return yield* question({ agents, remote, base }).pipe(
        Effect.catch((error) =>
          error instanceof GitError && error.reason._tag === "Moved"
            ? Effect.gen(function* () {
                const base = yield* GitHttp.locate(agents, remote)
                yield* Ref.set(location, base)
                return yield* question({ agents, remote, base })
              })
            : Effect.fail(error)
        ),
        // Moved on, or back.
        Effect.tapError((error) =>
          error instanceof GitError && error.reason._tag === "RepositoryNotFound"
            ? Ref.set(location, url.href)
            : Effect.void
        )
      )
    }),
    prefer: (first, otherwise) =>
      Effect.flatMap(Ref.get(understood), (isUnderstood) =>
        isUnderstood
          ? Effect.catchTag(first, "NotUnderstood", () => Effect.tap(otherwise, () => Ref.set(understood, false)))
          : otherwise
      )
  }
  return known
})

const isSameOrigin = (a: string, b: string): boolean => new URL(a).origin === new URL(b).origin
