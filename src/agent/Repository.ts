/**
 * The clone of the repository that the metadata names. Another URL is another clone; credentials are read from their
 * files for each fetch, so that a rotated Secret needs no restart.
 */
import { Context, Effect, FileSystem, Layer, Option, Path, Redacted, Ref, Scope, Semaphore, Exit } from "effect"
import type * as Metadata from "../api/Metadata.ts"
import * as Credentials from "../git/Credentials.ts"
import { GitCommand } from "../git/GitCommand.ts"
import { GitError } from "../git/GitError.ts"
import * as Mirror from "../git/Mirror.ts"
import * as RepositoryUrl from "../git/RepositoryUrl.ts"
import * as Heartbeat from "./Heartbeat.ts"
import { Settings } from "./Settings.ts"

export class Repository extends Context.Service<
  Repository,
  {
    readonly open: (data: Metadata.Data) => Effect.Effect<(typeof Mirror.Mirror)["Service"], GitError>
  }
>()("stoker/agent/Repository") {
  static readonly layer = Layer.effect(
    Repository,
    Effect.suspend(() => make)
  )
}

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const services = yield* Effect.context<GitCommand | FileSystem.FileSystem | Path.Path>()
  const owner = yield* Effect.scope
  const current = yield* Ref.make<
    | { readonly url: string; readonly mirror: (typeof Mirror.Mirror)["Service"]; readonly scope: Scope.Closeable }
    | undefined
  >(undefined)
  const turn = yield* Semaphore.make(1)

  const secret = Effect.fnUntraced(function* (repository: string, file: string) {
    return yield* fs.readFileString(file).pipe(
      Effect.mapError(
        (error) =>
          new GitError({
            repository,
            reason: {
              _tag: "Command",
              detail: `the credential file ${file} cannot be read (${error.reason._tag}): is the Secret of spec.git.auth there, with that key?`
            }
          })
      )
    )
  })
  /** Optional keys of the same Secret lie beside the token. */
  const sibling = (file: string, name: string) =>
    fs.readFileString(path.join(path.dirname(file), name)).pipe(
      Effect.map((text) => text.trim() || undefined),
      Effect.orElseSucceed(() => undefined)
    )

  const credentials = Effect.fnUntraced(function* (repository: string) {
    if (Option.isSome(settings.sshKeyFile)) {
      const key = yield* secret(repository, settings.sshKeyFile.value)
      const knownHosts = Option.isSome(settings.knownHostsFile)
        ? yield* secret(repository, settings.knownHostsFile.value)
        : undefined
      return Credentials.ssh(Redacted.make(key), knownHosts)
    }
    if (Option.isSome(settings.tokenFile)) {
      const file = settings.tokenFile.value
      return Credentials.token(Redacted.make(yield* secret(repository, file)), {
        username: yield* sibling(file, "username"),
        ca: yield* sibling(file, "ca.crt")
      })
    }
    return Credentials.none
  })

  const clone = Effect.fnUntraced(function* (url: RepositoryUrl.RepositoryUrl) {
    const scope = yield* Scope.fork(owner)
    const mirror = yield* Mirror.make({
      folder: path.join(settings.repoPath, "mirror.git"),
      url,
      credentials: credentials(url.display),
      onProgress: Heartbeat.beat
    }).pipe(
      Scope.provide(scope),
      Effect.provide(services),
      Effect.tapCause((cause) => Scope.close(scope, Exit.failCause(cause)))
    )
    return { mirror, scope }
  })

  const open = Effect.fnUntraced(function* ({ gitURL }: Metadata.Data) {
    const former = yield* Ref.get(current)
    if (former?.url === gitURL) return former.mirror
    const url = yield* Effect.fromResult(RepositoryUrl.parse(gitURL))
    // Both have the same folder, so one is gone before the other is made; and gone it stays when that fails.
    yield* Ref.set(current, undefined)
    if (former !== undefined) yield* Scope.close(former.scope, Exit.void)
    const opened = Effect.tap(clone(url), (opened) => Ref.set(current, { url: gitURL, ...opened }))
    return (yield* Effect.uninterruptible(opened)).mirror
  }, turn.withPermit)

  return Repository.of({ open })
})
