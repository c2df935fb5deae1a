/**
 * Native programs and temporary folders of a sandbox, none of which outlive it.
 *
 * **Guarantees**
 *
 * - Closing a scope ends what was started in it: SIGTERM to the program's process group, SIGKILL after a grace.
 * - When *this* process is gone without a chance to clean up (SIGKILL), a guard does it: a small shell script in a
 *   session of its own that reads the process groups and folders to remember from a pipe, and cleans up when the pipe
 *   ends. A program starts to run only after the guard knows of it.
 *
 * **Caveats**
 *
 * Needs a POSIX `/bin/sh`. A program that leaves its process group is not followed.
 */
import { Array, Context, Deferred, Duration, Effect, FileSystem, Layer, Path, Schedule, Schema } from "effect"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import type { Scope } from "effect/Scope"
import * as Stream from "effect/Stream"
import { createServer, type AddressInfo } from "node:net"

/** A program of the sandbox did not do what it is there for; the message carries the end of its log. Not retried. */
export class ProcessError extends Schema.TaggedError<ProcessError>()("ProcessError", {
  name: Schema.String,
  problem: Schema.String,
  logFile: Schema.String,
  logTail: Schema.String
}) {
  override get message(): string {
    const tail = this.logTail === "" ? "It logged nothing." : `The end of its log:\n${this.logTail}`
    return `${this.name} ${this.problem}. ${tail}\n(whole log, while the sandbox stands: ${this.logFile})`
  }
}

export interface Command {
  /** What people call it; also the name of its log file. */
  readonly name: string
  readonly command: string
  readonly args: ReadonlyArray<string>
  /** Where `<name>.log` is appended to. */
  readonly logFolder: string
  /** Added to our own environment; `undefined` removes a variable. */
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  /** From SIGTERM to SIGKILL when the scope closes. Default: 3 seconds. */
  readonly grace?: Duration.Input
}

export interface Ending {
  /** Exit code 0. */
  readonly success: boolean
  /** For people: `ended with exit code 1`. */
  readonly how: string
}

export interface Process {
  readonly name: string
  /** Also the id of its process group. */
  readonly pid: number
  readonly logFile: string
  /** Waits for its end. */
  readonly ended: Effect.Effect<Ending>
  readonly isRunning: Effect.Effect<boolean>
  /** Sends a signal to the whole process group, and does not wait. Nothing happens when it has ended. */
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** An error about this process, with the end of its log. */
  readonly fail: (problem: string) => Effect.Effect<never, ProcessError>
  /** Tries `ready` every 20 ms until it succeeds; fails when the process ends before, or when `within` is over. */
  readonly awaitReady: <A, E, R>(
    ready: Effect.Effect<A, E, R>,
    within: Duration.Input
  ) => Effect.Effect<A, ProcessError, R>
}

export class Processes extends Context.Service<
  Processes,
  {
    /** Starts a program that ends with the scope. Its standard input is empty; both outputs go to its log file. */
    readonly start: (command: Command) => Effect.Effect<Process, PlatformError, Scope>
    /** A new folder, only for us (0700), that goes with the scope; in the system's temporary folder unless told. */
    readonly folder: (prefix: string, parent?: string) => Effect.Effect<string, PlatformError, Scope>
  }
>()("stoker/sandbox/Processes") {
  static readonly layerNoDeps = Layer.effect(
    Processes,
    Effect.gen(function* () {
      const fileSystem = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const guard = yield* makeGuard

      const start = Effect.fnUntraced(function* (command: Command) {
        const logFile = path.join(command.logFolder, `${command.name}.log`)
        const started = yield* Deferred.make<number>()
        // Added first, so run last: the guard forgets a process group only after it is gone.
        yield* Effect.addFinalizer(() =>
          Effect.flatMap(Deferred.isDone(started), (known) =>
            known ? Effect.flatMap(Deferred.await(started), guard.forget) : Effect.void
          )
        )
        const handle = yield* spawner.spawn(
          ChildProcess.make("/bin/sh", ["-c", gate, logFile, command.command, ...command.args], {
            stdout: "ignore",
            stderr: "ignore",
            env: { ...command.env },
            extendEnv: true,
            cwd: command.cwd,
            forceKillAfter: command.grace ?? "3 seconds"
          })
        )
        yield* guard.remember(handle.pid)
        yield* Deferred.succeed(started, handle.pid)
        yield* Effect.ignore(Stream.run(Stream.make(encoder.encode("\n")), handle.stdin))

        const ended = handle.exitCode.pipe(
          Effect.map((code): Ending => ({ success: code === 0, how: `ended with exit code ${code}` })),
          // The only failure left here is an end by a signal.
          Effect.orElseSucceed((): Ending => ({ success: false, how: "was ended by a signal" }))
        )
        yield* Effect.forkScoped(Effect.andThen(ended, guard.forget(handle.pid)))

        const isRunning = Effect.orElseSucceed(handle.isRunning, () => false)
        const fail = Effect.fnUntraced(function* (problem: string) {
          const log = yield* Effect.orElseSucceed(fileSystem.readFileString(logFile), () => "")
          const logTail = Array.takeRight(log.trimEnd().split("\n"), 20).join("\n")
          return yield* new ProcessError({ name: command.name, problem, logFile, logTail })
        })
        return {
          name: command.name,
          pid: handle.pid,
          logFile,
          ended,
          isRunning,
          signal: (signal) =>
            Effect.flatMap(isRunning, (running) =>
              running ? Effect.ignore(Effect.try(() => process.kill(-handle.pid, signal))) : Effect.void
            ),
          fail,
          awaitReady: (ready, within) =>
            ready.pipe(
              Effect.retry(Schedule.spaced("20 millis")),
              Effect.catch(() => Effect.never),
              Effect.timeoutOrElse({
                duration: within,
                orElse: () => fail(`was not ready within ${Duration.format(Duration.fromInputUnsafe(within))}`)
              }),
              Effect.raceFirst(Effect.flatMap(ended, ({ how }) => fail(`${how} before it was ready`)))
            )
        } satisfies Process
      })

      const folder = (prefix: string, parent?: string) =>
        Effect.acquireRelease(
          Effect.tap(fileSystem.makeTempDirectory({ prefix, directory: parent }), guard.removeLater),
          (made) => Effect.ignore(fileSystem.remove(made, { recursive: true, force: true }))
        )

      return Processes.of({ start, folder })
    })
  )
}

/** A TCP port of 127.0.0.1 that is free now. Another program may take it before it is used: retry with a new one. */
export const freePort: Effect.Effect<number> = Effect.callback<number>((resume) => {
  const server = createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

const encoder = new TextEncoder()

/** Waits for a line, then becomes the program. When we are gone before, the line never comes and it ends. */
const gate = `read -r line && exec "$@" >>"$0" 2>&1 </dev/null`

/** Reads `+group`, `-group` and `/folder` lines; after `end`, or the end of input, ends the groups and removes the folders. */
const guardScript = `
trap '' HUP INT TERM
groups=' '
while IFS= read -r line; do
  case $line in
    +*) groups="$groups\${line#+} " ;;
    -*)
      group=\${line#-}
      case $groups in *" $group "*) groups="\${groups%% $group *} \${groups#* $group }" ;; esac ;;
    /*) set -- "$@" "$line" ;;
    end) break ;;
  esac
done
signal() { for group in $groups; do kill -s "$1" -- "-$group"; done }
alive() { for group in $groups; do kill -s 0 -- "-$group" && return 0; done; return 1; }
signal TERM
tries=0
while [ $tries -lt 20 ] && alive; do sleep 0.1; tries=$((tries + 1)); done
signal KILL
[ $# -eq 0 ] || rm -rf -- "$@" || { sleep 1; rm -rf -- "$@"; }
`

const makeGuard = Effect.gen(function* () {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const handle = yield* spawner.spawn(
    ChildProcess.make("/bin/sh", ["-c", guardScript], {
      stdin: { stream: "pipe", endOnDone: false },
      stdout: "ignore",
      stderr: "ignore",
      cwd: "/"
    })
  )
  const tell = (line: string) => Effect.ignore(Stream.run(Stream.make(encoder.encode(`${line}\n`)), handle.stdin))
  yield* Effect.addFinalizer(() => Effect.andThen(tell("end"), Effect.ignore(handle.exitCode)))
  return {
    remember: (group: number) => tell(`+${group}`),
    forget: (group: number) => tell(`-${group}`),
    removeLater: (folder: string) => tell(folder)
  }
})
