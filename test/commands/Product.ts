/** The product as a process of its own, started from the sources. */
import { Deferred, Effect, Option, Ref, Schedule, Schema, Stream } from "effect"
import { HttpClient } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { fileURLToPath } from "node:url"

export const root = new URL("../../", import.meta.url)
const entry = fileURLToPath(new URL("src/main.ts", root))

const Line = Schema.fromJsonString(
  Schema.Struct({
    time: Schema.DateTimeUtcFromString,
    level: Schema.String,
    message: Schema.Unknown,
    what: Schema.optionalKey(Schema.String),
    port: Schema.optionalKey(Schema.Int)
  })
)
const decodeLine = Schema.decodeUnknownOption(Line)

export const retrying = { schedule: Schedule.spaced("20 millis"), times: 1000 }

/** Ends with the scope. @param args the command and its flags */
export const run = Effect.fnUntraced(function* (args: ReadonlyArray<string>, env: Readonly<Record<string, string>>) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const http = yield* HttpClient.HttpClient
  const handle = yield* spawner.spawn(
    ChildProcess.make(process.execPath, [entry, ...args], { env: { PATH: process.env["PATH"], ...env } })
  )
  const lines = yield* Ref.make<ReadonlyArray<typeof Line.Type>>([])
  const ended = yield* Deferred.make<void>()
  yield* handle.stdout.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((text) =>
      Option.match(decodeLine(text), {
        onNone: () => Effect.void,
        onSome: (line) => Ref.update(lines, (all) => [...all, line])
      })
    ),
    Effect.ensuring(Deferred.succeed(ended, undefined)),
    Effect.forkScoped
  )
  const portOf = (what: string) =>
    Ref.get(lines).pipe(
      Effect.flatMap((all) =>
        Effect.fromOption(
          Option.fromNullishOr(all.find((line) => line.what === what && line.message === "listening")?.port)
        )
      ),
      Effect.retry(retrying)
    )
  const get = Effect.fnUntraced(function* (what: string, path: string) {
    const response = yield* http.get(`http://127.0.0.1:${yield* portOf(what)}${path}`)
    return { status: response.status, text: yield* response.text }
  })
  const until = (what: string, path: string, status: number) =>
    get(what, path).pipe(
      Effect.filterOrFail((answer) => answer.status === status),
      Effect.retry(retrying)
    )
  return {
    lines: Ref.get(lines),
    /** Whether a line so far has this text. */
    said: (text: string) => Ref.getUnsafe(lines).some(({ message }) => String(message).includes(text)),
    get,
    until,
    portOf,
    /** Does not wait: a process that is stopped does not end. */
    signal: (signal: NodeJS.Signals) => Effect.sync(() => process.kill(handle.pid, signal)),
    ended: Deferred.await(ended),
    exit: Effect.andThen(Deferred.await(ended), Effect.map(handle.exitCode, Number))
  }
})
