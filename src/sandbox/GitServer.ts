/**
 * Real git over http on loopback: repositories behind git's own `http-backend`, so that protocol version 2, partial
 * clones and pushes are those of any git server.
 */
import { NodeHttpServer, NodeServices } from "@effect/platform-node"
import {
  Array,
  Context,
  Effect,
  FileSystem,
  Layer,
  Option,
  Path,
  PubSub,
  Redacted,
  Ref,
  Schema,
  type Scope,
  Stream
} from "effect"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { formatUrlUnsafe } from "effect/net/NetAddress"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import * as Pull from "effect/Pull"
import { createServer } from "node:http"
import { constants, gunzipSync } from "node:zlib"
import * as GitRepository from "./GitRepository.ts"
import { Processes } from "./Processes.ts"

/** HTTP basic authentication. */
export interface Login {
  readonly username: string
  readonly password: Redacted.Redacted
}

export interface HostedRepository extends GitRepository.GitRepository {
  readonly name: string
  /** `http://127.0.0.1:port/name.git` */
  readonly url: string
  /** From now on only this login may read and push; none lets everybody. */
  readonly requireLogin: (login: Option.Option<Login>) => Effect.Effect<void>
}

const Service = Schema.Literals(["git-upload-pack", "git-receive-pack"])

/** One answered request. */
export interface Exchange {
  readonly repository: string
  readonly method: string
  /** Below the repository: `/info/refs`, `/git-upload-pack`, `/git-receive-pack`. */
  readonly path: string
  /** `git-upload-pack` reads, `git-receive-pack` pushes. */
  readonly service: typeof Service.Type
  /** What a protocol-2 request asks for: `ls-refs` or `fetch`. */
  readonly command: Option.Option<string>
  readonly status: number
  /** Of the answer's body. */
  readonly bytes: number
}

export class GitServer extends Context.Service<
  GitServer,
  {
    /** `http://127.0.0.1:port` */
    readonly url: string
    /** A new, empty repository that everybody may read and push to. A name may have slashes. */
    readonly create: (name: string) => Effect.Effect<HostedRepository, GitRepository.GitFailed | PlatformError>
    /** The latest 10 000 answers, oldest first. An answer is here before its client sees the end of it. */
    readonly exchanges: Effect.Effect<ReadonlyArray<Exchange>>
    /** What is answered from now on. */
    readonly traffic: Stream.Stream<Exchange>
  }
>()("stoker/sandbox/GitServer") {
  /** Needs Processes. Port 0 takes any free one. */
  static readonly layerNoDeps = (options: { readonly port?: number } = {}) =>
    Layer.effect(
      GitServer,
      Effect.suspend(() => make(options.port ?? 0))
    ).pipe(Layer.provide(GitRepository.Git.layerNoDeps), Layer.provide(NodeServices.layer))

  static readonly layer = this.layerNoDeps().pipe(
    Layer.provide(Processes.layerNoDeps),
    Layer.provide(NodeServices.layer)
  )
}

interface Hosted {
  readonly repository: HostedRepository
  readonly login: Ref.Ref<Option.Option<Login>>
}

const make = Effect.fnUntraced(function* (port: number) {
  const path = yield* Path.Path
  const processes = yield* Processes
  const services = yield* Effect.context<GitRepository.Git | FileSystem.FileSystem | Path.Path>()
  const folder = yield* processes.folder("stoker-git-")
  const repositories = yield* Ref.make<ReadonlyMap<string, Hosted>>(new Map())
  const log = yield* Ref.make<ReadonlyArray<Exchange>>([])
  const published = yield* Effect.acquireRelease(PubSub.sliding<Exchange>(kept), PubSub.shutdown)

  const record = (exchange: Exchange) =>
    Effect.andThen(
      Ref.update(log, (all) => Array.takeRight([...all, exchange], kept)),
      PubSub.publish(published, exchange)
    )

  const server = yield* NodeHttpServer.make(() => createServer(), {
    host: "127.0.0.1",
    port,
    gracefulShutdownTimeout: "1 second"
  })
  const url = formatUrlUnsafe(server.address)
  const backend = yield* makeBackend(folder)

  yield* server.serve(
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const target = parseTarget(request.url)
      if (Option.isNone(target)) return HttpServerResponse.text("Only git's smart protocol is spoken here.\n", notFound)
      const { name, path, service } = target.value
      const hosted = (yield* Ref.get(repositories)).get(name)
      if (hosted === undefined) return HttpServerResponse.text("There is no such repository.\n", notFound)

      const command = yield* Ref.make(Option.none<string>())
      const bytes = yield* Ref.make(0)
      const answered = Effect.fnUntraced(function* (status: number) {
        yield* record({
          repository: name,
          method: request.method,
          path,
          service,
          status,
          command: yield* Ref.get(command),
          bytes: yield* Ref.get(bytes)
        })
      })
      if (!allows(yield* Ref.get(hosted.login), request)) {
        yield* answered(401)
        return HttpServerResponse.empty({ status: 401, headers: { "www-authenticate": 'Basic realm="sandbox"' } })
      }
      // A push that is cut off ends early here; git then refuses the pack.
      const input = Stream.onFirst(Stream.ignore(request.stream), (first) => Ref.set(command, parseCommand(first)))
      const { body, headers, status } = yield* backend(request, target.value, input)
      return HttpServerResponse.stream(
        body.pipe(
          Stream.tap((chunk) => Ref.update(bytes, (sum) => sum + chunk.length)),
          Stream.onEnd(answered(status))
        ),
        { status, headers, contentType: headers["content-type"] }
      )
    })
  )

  const create = Effect.fnUntraced(function* (name: string) {
    const login = yield* Ref.make(Option.none<Login>())
    const made = yield* GitRepository.make(path.join(folder, `${name}.git`))
    const repository: HostedRepository = {
      ...made,
      name,
      url: `${url}/${name}.git`,
      requireLogin: (required) => Ref.set(login, required)
    }
    yield* Ref.update(repositories, (all) => new Map(all).set(name, { repository, login }))
    return repository
  }, Effect.provide(services))

  return GitServer.of({ url, create, exchanges: Ref.get(log), traffic: Stream.fromPubSub(published) })
})

/** A sandbox stays up for days: its log must not grow with them. */
const kept = 10_000

const notFound = { status: 404 }

interface Target {
  readonly name: string
  readonly path: string
  readonly query: string
  readonly service: typeof Service.Type
}

const targetPattern =
  /^\/(?<name>.+)\.git(?<path>\/info\/refs\?service=(?<asked>git-(?:upload|receive)-pack)|\/(?<posted>git-(?:upload|receive)-pack))$/

const parseTarget = (url: string): Option.Option<Target> => {
  const { asked, name, posted } = targetPattern.exec(url)?.groups ?? {}
  if (name === undefined) return Option.none()
  if (asked !== undefined && isService(asked))
    return Option.some({ name, path: "/info/refs", query: `service=${asked}`, service: asked })
  if (posted !== undefined && isService(posted))
    return Option.some({ name, path: `/${posted}`, query: "", service: posted })
  return Option.none()
}

const isService = Schema.is(Service)

const allows = (login: Option.Option<Login>, request: HttpServerRequest.HttpServerRequest) =>
  Option.match(login, {
    onNone: () => true,
    onSome: ({ password, username }) =>
      request.headers.authorization ===
      `Basic ${Buffer.from(`${username}:${Redacted.value(password)}`).toString("base64")}`
  })

/** `0014command=ls-refs\n…`; git compresses a longer request, of which the start is enough. */
const parseCommand = (start: Uint8Array): Option.Option<string> => {
  const isGzip = start[0] === 0x1f && start[1] === 0x8b
  const bytes = isGzip ? gunzipSync(start, { finishFlush: constants.Z_SYNC_FLUSH }) : start
  const found = /^[0-9a-f]{4}command=([a-z-]+)/.exec(Buffer.from(bytes.subarray(0, 64)).toString("latin1"))
  return Option.fromNullishOr(found?.[1])
}

interface CgiAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: Stream.Stream<Uint8Array, PlatformError>
}

/** One `git http-backend` process a request, as a web server would run it (RFC 3875). */
const makeBackend = Effect.fnUntraced(function* (projectRoot: string) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const path = yield* Path.Path
  const git = yield* GitRepository.Git
  const program = path.join(yield* git.run(["--exec-path"]), "git-http-backend")

  return Effect.fnUntraced(function* (
    request: HttpServerRequest.HttpServerRequest,
    target: Target,
    input: Stream.Stream<Uint8Array>
  ): Effect.fn.Return<CgiAnswer, PlatformError | GitRepository.GitFailed, Scope.Scope> {
    const { headers } = request
    const handle = yield* spawner.spawn(
      ChildProcess.make(program, [], {
        stdin: input,
        stderr: "ignore",
        env: {
          ...git.env,
          GIT_PROJECT_ROOT: projectRoot,
          GIT_HTTP_EXPORT_ALL: "1",
          GIT_PROTOCOL: headers["git-protocol"],
          REQUEST_METHOD: request.method,
          PATH_INFO: `/${target.name}.git${target.path}`,
          QUERY_STRING: target.query,
          CONTENT_TYPE: headers["content-type"],
          CONTENT_LENGTH: headers["content-length"],
          HTTP_CONTENT_ENCODING: headers["content-encoding"],
          REMOTE_ADDR: "127.0.0.1",
          REMOTE_USER: "sandbox"
        }
      })
    )
    return yield* readAnswer(yield* Stream.toPull(handle.stdout), new Uint8Array())
  })
})

type Chunks = Pull.Pull<Array.NonEmptyReadonlyArray<Uint8Array>, PlatformError>

/** Header lines up to an empty one, then the body. */
const readAnswer = (
  pull: Chunks,
  before: Uint8Array
): Effect.Effect<CgiAnswer, PlatformError | GitRepository.GitFailed> =>
  Effect.flatMap(
    Pull.catchDone(
      pull,
      () => new GitRepository.GitFailed({ command: "http-backend", output: "it ended without an answer" })
    ),
    (chunks) => {
      const read = Buffer.concat([before, ...chunks])
      const end = read.indexOf("\r\n\r\n")
      if (end === -1) return readAnswer(pull, read)
      const headers = Object.fromEntries(
        read
          .toString("latin1", 0, end)
          .split("\r\n")
          .map((line) => {
            const colon = line.indexOf(":")
            return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const
          })
      )
      const { status = "200", ...rest } = headers
      return Effect.succeed({
        status: Number.parseInt(status, 10),
        headers: rest,
        body: Stream.concat(Stream.make(read.subarray(end + 4)), Stream.fromPull(Effect.succeed(pull)))
      })
    }
  )
