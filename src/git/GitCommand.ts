import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as ChildProcess from "effect/process/ChildProcess"
import { type ChildProcessHandle, ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Credentials from "./Credentials.ts"
import { GitError, type Reason } from "./GitError.ts"
import type * as RepositoryUrl from "./RepositoryUrl.ts"

/** The server a command talks to, and what it is shown. */
export interface Remote {
  readonly url: RepositoryUrl.RepositoryUrl
  readonly credentials: Credentials.Credentials
}

export interface Options<E = never> {
  /** The repository, absolute. Without: none, as for `ls-remote` of a URL. */
  readonly gitDir?: string | undefined
  /** Without: no protocol is allowed at all, so nothing can reach out. */
  readonly remote?: Remote | undefined
  /** Configuration for this one command; goes by environment. */
  readonly config?: Readonly<Record<string, string>> | undefined
  /** When the stream fails, the command is ended and fails with the same. */
  readonly stdin?: string | Stream.Stream<Uint8Array, E> | undefined
  /** The command and all it started are ended after it. Default 60 s. */
  readonly deadline?: Duration.Input | undefined
  /** Longest standard output taken, in bytes. Default 64 MiB. */
  readonly maxOutput?: number | undefined
}

/**
 * Runs `git`, cut off from the machine: no system or user configuration, no prompts, no hooks, only the protocols we
 * take. Secrets go by environment or a private file that is gone afterwards; never by argv.
 */
export class GitCommand extends Context.Service<
  GitCommand,
  {
    /** Runs to the end and gives the standard output. Interruption and deadline end the whole process group. */
    readonly run: <E = never>(
      args: ReadonlyArray<string>,
      options?: Options<E>
    ) => Effect.Effect<Uint8Array<ArrayBuffer>, GitError | E>
    /** Starts a local command that lives as long as the scope. */
    readonly spawn: (
      args: ReadonlyArray<string>,
      options: Pick<Options, "gitDir" | "config">
    ) => Effect.Effect<ChildProcessHandle, GitError, Scope.Scope>
  }
>()("stoker/git/GitCommand") {
  static readonly layer: Layer.Layer<GitCommand, never, ChildProcessSpawner | FileSystem.FileSystem | Path.Path> =
    Layer.effect(
      GitCommand,
      Effect.gen(function* () {
        const spawner = yield* ChildProcessSpawner
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const owner = yield* Effect.scope
        const inherited = yield* Effect.orDie(inheritedEnvironment)

        /** Writes a secret where only we can read it, and removes it with the scope. */
        const privateFile = Effect.fnUntraced(
          function* (name: string, content: string) {
            const folder = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-git-" })
            const file = path.join(folder, name)
            yield* fs.writeFileString(file, content, { mode: 0o600 })
            return file
          },
          // A full or read-only temporary folder: its path says all that helps, and the error names it.
          Effect.mapError((error) => commandError(`no private temporary file: ${error.message}`))
        )

        const remoteEnvironment = Effect.fnUntraced(function* (remote: Remote) {
          const { credentials, url } = remote
          switch (credentials._tag) {
            case "Ssh": {
              const key = `${Redacted.value(credentials.privateKey).replaceAll("\r\n", "\n").trimEnd()}\n`
              const keyFile = yield* privateFile("key", key)
              const knownHosts =
                credentials.knownHosts === undefined
                  ? undefined
                  : yield* privateFile("known_hosts", `${credentials.knownHosts.trimEnd()}\n`)
              return { config: {}, env: { GIT_SSH_COMMAND: sshCommand(keyFile, knownHosts) } }
            }
            case "Basic":
            case "None": {
              const ca = credentials.ca === undefined ? undefined : yield* privateFile("ca.crt", credentials.ca)
              const header = url._tag === "Http" ? Credentials.authorization(credentials) : undefined
              return {
                config: {
                  ...(ca === undefined ? {} : { "http.sslCAInfo": ca }),
                  // git would show the header to whatever host a redirect names.
                  ...(header === undefined
                    ? {}
                    : {
                        "http.extraHeader": Redacted.make(`Authorization: ${Redacted.value(header)}`),
                        "http.followRedirects": "false"
                      })
                },
                env: { GIT_SSH_COMMAND: sshCommand(undefined, undefined) }
              }
            }
          }
        })

        const command = Effect.fnUntraced(function* (args: ReadonlyArray<string>, options: Options<unknown>) {
          const remote =
            options.remote === undefined ? { config: {}, env: {} } : yield* remoteEnvironment(options.remote)
          return ChildProcess.make("git", args, {
            // Not our own folder: git would take a repository around it, and its configuration, for the one meant.
            cwd: "/",
            env: {
              ...inherited,
              ...baseEnvironment,
              ...remote.env,
              ...(options.gitDir === undefined ? {} : { GIT_DIR: options.gitDir }),
              ...configEnvironment({
                ...baseConfig,
                ...(options.remote === undefined ? {} : allowedProtocols),
                ...options.config,
                ...remote.config
              })
            },
            forceKillAfter: killAfter
          })
        })

        const spawnOrFail = (repository: string, command: ChildProcess.Command) =>
          Effect.mapError(
            spawner.spawn(command),
            (error) =>
              new GitError({ repository, reason: { _tag: "Command", detail: `it does not start: ${error.message}` } })
          )

        const run = Effect.fnUntraced(function* <E = never>(args: ReadonlyArray<string>, options: Options<E> = {}) {
          const repository = options.remote?.url.display ?? options.gitDir ?? "git"
          const fail = (reason: Reason) => new GitError({ repository, reason })
          const deadline = Duration.fromInputUnsafe(options.deadline ?? "60 seconds")
          const { stdin } = options
          const inputFailed = yield* Deferred.make<never, E>()
          const input =
            typeof stdin === "string"
              ? Stream.encodeText(Stream.succeed(stdin))
              : stdin?.pipe(
                  Stream.tapError((error) => Deferred.fail(inputFailed, error)),
                  // The end of the input would look like a whole one.
                  Stream.catch(() => Stream.never)
                )
          const base = yield* command(args, options)
          const processScope = yield* Scope.fork(owner)
          const output = Effect.gen(function* () {
            const handle = yield* spawnOrFail(
              repository,
              ChildProcess.make(base.command, base.args, {
                ...base.options,
                stdin: input ?? "ignore"
              })
            )
            const [stdout, stderr, code] = yield* Effect.all(
              [
                collect(handle.stdout, options.maxOutput ?? 64 * 1024 * 1024),
                collectTail(handle.stderr),
                handle.exitCode
              ],
              { concurrency: "unbounded" }
            ).pipe(
              Effect.mapError((error) =>
                fail({ _tag: "Command", detail: typeof error === "string" ? error : error.message })
              )
            )
            return { stdout, stderr, code }
          }).pipe(
            Effect.raceFirst(Deferred.await(inputFailed)),
            Scope.provide(processScope),
            // After git's own end its helpers end by themselves, some as zombies until PID 1 looks: nobody waits for
            // those. An interrupted git is waited for: it may hold locks.
            Effect.onExit((exit) => {
              const close = Scope.close(processScope, exit)
              return Exit.isSuccess(exit) ? Effect.asVoid(Effect.forkIn(close, owner)) : close
            }),
            Effect.timeoutOrElse({
              duration: deadline,
              orElse: () => Effect.fail(fail({ _tag: "Timeout", seconds: Duration.toSeconds(deadline) }))
            })
          )
          const { code, stderr, stdout } = yield* output
          return code === 0 ? stdout : yield* fail(classify(stderr, options.remote))
        }, Effect.scoped)

        const spawn = Effect.fnUntraced(function* (
          args: ReadonlyArray<string>,
          options: Pick<Options, "gitDir" | "config">
        ) {
          return yield* spawnOrFail(options.gitDir ?? "git", yield* command(args, options))
        })

        return GitCommand.of({ run, spawn })
      })
    )
}

/** From SIGTERM to SIGKILL, for the whole process group. */
const killAfter = Duration.seconds(1)

/** Those of the variables that are set. */
const variables = (...names: ReadonlyArray<string>): Config.Config<Readonly<Record<string, string>>> =>
  Config.map(Config.all(names.map((name) => Config.option(Config.String(name)))), (values) =>
    Object.fromEntries(
      values.flatMap((value, index) => (Option.isSome(value) ? [[names[index]!, value.value] as const] : []))
    )
  )

/** The proxies of our own environment, by the names that git knows. */
export const proxyVariables = variables(
  "HTTPS_PROXY",
  "https_proxy",
  "http_proxy",
  "ALL_PROXY",
  "all_proxy",
  "NO_PROXY",
  "no_proxy"
)

/** What git and its helpers may see of our own environment: where programs, proxies and authorities are. */
const inheritedEnvironment = Config.map(
  Config.all([
    proxyVariables,
    variables(
      "PATH",
      "SSL_CERT_FILE",
      "SSL_CERT_DIR",
      "TMPDIR",
      // nss_wrapper: ssh wants a passwd entry, which an arbitrary uid has not got.
      "LD_PRELOAD",
      "NSS_WRAPPER_PASSWD",
      "NSS_WRAPPER_GROUP"
    )
  ]),
  ([proxies, others]) => ({ ...proxies, ...others })
)

const baseEnvironment = {
  GIT_TERMINAL_PROMPT: "0",
  GIT_ASKPASS: "",
  GIT_CONFIG_NOSYSTEM: "1",
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_PROTOCOL_FROM_USER: "0",
  GIT_OPTIONAL_LOCKS: "0",
  LC_ALL: "C"
}

const baseConfig = {
  "protocol.allow": "never",
  // The folder may belong to another uid: volumes do.
  "safe.directory": "*",
  "core.hooksPath": "/dev/null",
  "credential.helper": "",
  "gc.auto": "0",
  "maintenance.auto": "false"
}

const allowedProtocols = {
  "protocol.https.allow": "always",
  "protocol.http.allow": "always",
  "protocol.ssh.allow": "always",
  "protocol.git.allow": "always"
}

const configEnvironment = (config: Readonly<Record<string, string | Redacted.Redacted>>) => {
  const entries = Object.entries(config)
  return Object.fromEntries([
    ["GIT_CONFIG_COUNT", String(entries.length)] as const,
    ...entries.flatMap(([key, value], index) => [
      [`GIT_CONFIG_KEY_${index}`, key] as const,
      [`GIT_CONFIG_VALUE_${index}`, value] as const
    ])
  ])
}

const sshCommand = (keyFile: string | undefined, knownHosts: string | undefined): string =>
  [
    "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=15 -o GlobalKnownHostsFile=/dev/null",
    keyFile === undefined ? "" : `-i '${keyFile}' -o IdentitiesOnly=yes -o IdentityAgent=none`,
    knownHosts === undefined
      ? "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"
      : `-o UserKnownHostsFile='${knownHosts}' -o StrictHostKeyChecking=yes`
  ].join(" ")

const commandError = (detail: string) => new GitError({ repository: "git", reason: { _tag: "Command", detail } })

const collect = <E>(stream: Stream.Stream<Uint8Array, E>, limit: number) =>
  Stream.runFoldEffect(
    stream,
    () => ({ chunks: [] as Array<Uint8Array>, size: 0 }),
    (state, chunk) => {
      if (state.size + chunk.length > limit) return Effect.fail(`more than ${limit} bytes of output`)
      state.chunks.push(chunk)
      state.size += chunk.length
      return Effect.succeed(state)
    }
  ).pipe(Effect.map(({ chunks }) => Buffer.concat(chunks)))

/** The last 8 KiB: git says what was wrong at the end. */
export const collectTail = <E>(stream: Stream.Stream<Uint8Array, E>) =>
  stream.pipe(
    Stream.decodeText,
    Stream.runFold(
      () => "",
      (tail, text) => (tail + text).slice(-8192)
    )
  )

const patterns: ReadonlyArray<readonly [RegExp, (match: RegExpExecArray, remote: Remote | undefined) => Reason]> = [
  [/Could not resolve (?:host|hostname|proxy):? "?([^\s":;]+)/i, ([, host = "?"]) => ({ _tag: "NoSuchHost", host })],
  [/unable to look up ([^\s:]+)/i, ([, host = "?"]) => ({ _tag: "NoSuchHost", host })],
  [/Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED/, () => ({ _tag: "HostKey" })],
  [
    /SSL certificate problem[^\n]*|certificate verif[^\n]*|SSL:[^\n]*|gnutls_handshake[^\n]*|TLS connect error[^\n]*/i,
    ([detail]) => ({ _tag: "Tls", detail })
  ],
  [
    /Connection refused|Couldn't connect to server/i,
    (_, remote) => ({ _tag: "Refused", host: remote?.url.host ?? "?" })
  ],
  [
    /Authentication failed|could not read (?:Username|Password)|returned error: 401|Permission denied \(|Load key /i,
    (_, remote) => ({ _tag: "Unauthorized", sent: sentTo(remote) })
  ],
  [/returned error: 403/, () => ({ _tag: "Forbidden" })],
  [
    /returned error: 404|repository '[^\n]*' not found|Repository not found|does not appear to be a git repository|not exported/i,
    () => ({ _tag: "RepositoryNotFound" })
  ],
  [/returned error: 429/, () => ({ _tag: "RateLimited" })],
  [/returned error: 30\d/, () => ({ _tag: "Moved", to: "another address" })],
  [
    /unable to update url base from redirection/,
    () => ({ _tag: "NotAGitServer", detail: "a redirect to another page" })
  ],
  [
    /not our ref ([0-9a-f]+)|unadvertised object ([0-9a-f]+)/,
    ([detail, a, b]) => ({ _tag: "CommitNotFound", commit: a ?? b ?? "?", detail })
  ],
  [/couldn't find remote ref (?:refs\/(?:heads|tags)\/)?(\S+)/i, ([, ref = "?"]) => ({ _tag: "RefNotFound", ref })],
  [
    /not valid: is this a git repository|invalid server response|bad line length|protocol error[^\n]*|dumb http transport/,
    ([detail]) => ({ _tag: "NotAGitServer", detail })
  ],
  [/timed out|Operation too slow/i, () => ({ _tag: "Timeout" })],
  [
    /[^\n]*(?:No space left on device|Read-only file system|quota exceeded|Too many open files|Permission denied)[^\n]*/i,
    ([detail]) => ({ _tag: "Command", detail: shorten(detail) })
  ],
  [
    /[^\n]*(?:RPC failed|hung up|early EOF|disconnect|Connection reset|returned error: \d+|invalid index-pack output|unable to access)[^\n]*/i,
    ([detail]) => ({ _tag: "Transport", detail: shorten(detail) })
  ],
  [
    /[^\n]*(?:bad object|corrupt|not a git repository|unable to read|is damaged|did not send all necessary objects|packfile|index file|loose object|bad revision|bad shallow|shallow file|reference broken|bad config|object file|missing (?:blob|tree|commit))[^\n]*/i,
    ([detail]) => ({ _tag: "Damaged", detail: shorten(detail) })
  ]
]

const sentTo = (remote: Remote | undefined): "nothing" | "token" | "key" => {
  switch (remote?.credentials._tag) {
    case "Basic":
      return "token"
    case "Ssh":
      return "key"
    default:
      return "nothing"
  }
}

const shorten = (text: string): string =>
  text
    .replace(/:\/\/[^/@\s]*@/g, "://")
    .trim()
    .slice(0, 300)

/** Reads git's and ssh's messages (`LC_ALL=C`). */
export const classify = (stderr: string, remote: Remote | undefined): Reason => {
  for (const [pattern, reason] of patterns) {
    const match = pattern.exec(stderr)
    if (match !== null) return reason(match, remote)
  }
  return { _tag: "Command", detail: shorten(stderr.trim().split("\n").slice(-3).join(" ")) || "no message" }
}
