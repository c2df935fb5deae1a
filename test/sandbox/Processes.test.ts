import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer, Path, Schedule, Scope } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { freePort, Processes, type Command } from "../../src/sandbox/Processes.ts"

const Everything = Layer.provideMerge(Processes.layerNoDeps, NodeServices.layer)

layer(Everything, { excludeTestServices: true })("Processes", (it) => {
  /** A shell script as a program of the sandbox, in a folder of its own. */
  const start = Effect.fnUntraced(function* (script: string, options: Partial<Command> = {}) {
    const { folder, start } = yield* Processes
    const logFolder = yield* folder("stoker-test-")
    return yield* start({ name: "program", command: "sh", args: ["-c", script], logFolder, ...options })
  })
  const logOf = Effect.fnUntraced(function* (file: string) {
    return yield* Effect.flatMap(FileSystem.FileSystem, (fileSystem) => fileSystem.readFileString(file))
  })
  const untilLogged = (file: string, text: string) =>
    logOf(file).pipe(
      Effect.filterOrFail(
        (log) => log.includes(text),
        () => "not yet"
      ),
      Effect.retry(Schedule.spaced("10 millis"))
    )
  /** Members of a process group that are not mere zombies. */
  const membersOf = Effect.fnUntraced(function* (group: number) {
    const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
    const all = yield* spawner.lines(ChildProcess.make("ps", ["-A", "-o", "pgid=,stat="]))
    return all.filter((line) => new RegExp(`^\\s*${group}\\s+[^Z]`).test(line)).length
  })

  it.effect("writes both outputs to the log, and tells how the program ended", () =>
    Effect.gen(function* () {
      const program = yield* start("echo out; echo err >&2; exit 3")
      assert.deepStrictEqual(yield* program.ended, { success: false, how: "ended with exit code 3" })
      assert.strictEqual(yield* logOf(program.logFile), "out\nerr\n")
    })
  )

  it.effect("gives our environment and the program's own, without what is removed", () =>
    Effect.gen(function* () {
      const program = yield* start('echo "$OWN:${HOME:-none}:${PATH:+path}"', { env: { OWN: "a b", HOME: undefined } })
      yield* program.ended
      assert.strictEqual(yield* logOf(program.logFile), "a b:none:path\n")
    })
  )

  it.effect("fails with the end of the log when the program ends before it is ready", () =>
    Effect.gen(function* () {
      const program = yield* start("echo no such port; exit 1")
      const error = yield* Effect.flip(program.awaitReady(Effect.fail("not yet"), "1 minute"))
      assert.include(error.message, "program ended with exit code 1 before it was ready")
      assert.include(error.message, "no such port")
    })
  )

  it.effect("fails when the program is not ready in time", () =>
    Effect.gen(function* () {
      const program = yield* start("exec sleep 60")
      const error = yield* Effect.flip(program.awaitReady(Effect.fail("not yet"), "50 millis"))
      assert.include(error.message, "was not ready within 50ms")
    })
  )

  it.effect("ends the whole process group with the scope, also what ignores SIGTERM", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const program = yield* start("trap '' TERM; sleep 60 & echo up; wait; sleep 60", { grace: "100 millis" }).pipe(
        Scope.provide(scope)
      )
      yield* untilLogged(program.logFile, "up")
      assert.isAbove(yield* membersOf(program.pid), 1)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* membersOf(program.pid), 0)
      assert.isFalse(yield* program.isRunning)
    })
  )

  it.effect("makes folders for us only, and removes them with the scope", () =>
    Effect.gen(function* () {
      const { folder } = yield* Processes
      const fileSystem = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const made = yield* Effect.scoped(
        Effect.gen(function* () {
          const made = yield* folder("stoker test-")
          assert.strictEqual(Number((yield* fileSystem.stat(made)).mode) & 0o777, 0o700)
          yield* fileSystem.writeFileString(path.join(made, "file"), "content")
          return made
        })
      )
      assert.isFalse(yield* fileSystem.exists(made))
    })
  )

  it.effect("finds free ports", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      assert.isAbove(port, 1023)
    })
  )
})
