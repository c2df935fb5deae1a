import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Pull from "effect/Pull"
import * as Queue from "effect/Queue"
import * as RcRef from "effect/RcRef"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { classify, collectTail, GitCommand } from "./GitCommand.ts"
import { GitError } from "./GitError.ts"

export interface Found {
  readonly _tag: "Found"
  readonly id: string
  readonly type: string
  /** Empty where only the presence was asked for. */
  readonly content: Buffer
}

/** An object of the store, or that it is not there. `name` is what was asked for. */
export type GitObject = { readonly name: string } & (Found | { readonly _tag: "Missing" })

/**
 * One long-lived `git cat-file` of a repository: no process a read. It starts with the first question, sees packs that
 * arrive later (git looks again when it misses an object), never fetches, and ends with the scope.
 */
export interface ObjectReader {
  /**
   * Answers in the order asked, each object whole in memory, the next read when the former is taken. A reader that
   * stops early costs the process, because the rest of its answers would be in the pipe.
   */
  readonly read: (names: ReadonlyArray<string>) => Stream.Stream<GitObject, GitError>
  /** The same without contents. */
  readonly look: (names: ReadonlyArray<string>) => Stream.Stream<GitObject, GitError>
  /** The repository was replaced: what the process has open is of the former one. */
  readonly restart: Effect.Effect<void>
}

/** Longest object taken, in bytes: it is held in memory. */
const maxObject = 256 * 1024 * 1024

export const make = Effect.fnUntraced(function* (gitDir: string) {
  const git = yield* GitCommand
  const turn = yield* Semaphore.make(1)
  const fail = (detail: string) => new GitError({ repository: gitDir, reason: { _tag: "Command", detail } })

  const process = yield* RcRef.make({
    idleTimeToLive: Duration.infinity,
    acquire: Effect.gen(function* () {
      const handle = yield* git.spawn(["cat-file", "--batch-command"], { gitDir })
      const questions = yield* Queue.unbounded<Uint8Array>()
      yield* Effect.forkScoped(Effect.ignore(Stream.run(Stream.fromQueue(questions), handle.stdin)))
      const stderr = yield* Effect.forkScoped(Effect.orElseSucceed(collectTail(handle.stderr), () => ""))
      const pull = yield* Stream.toPull(handle.stdout)
      const ended = Effect.flatMap(Fiber.join(stderr), (said) =>
        said.trim() === ""
          ? fail("git cat-file ended")
          : new GitError({ repository: gitDir, reason: classify(said, undefined) })
      )
      return {
        ask: (lines: string) => Queue.offer(questions, Buffer.from(lines)),
        /** More bytes; the end of the output is a failure, because a question is open. */
        pull: pull.pipe(Effect.catch(() => ended))
      }
    })
  })

  const answers = (command: "contents" | "info", names: ReadonlyArray<string>) =>
    Stream.unwrap(
      Effect.gen(function* () {
        yield* Semaphore.takeScoped(turn, 1)
        const { ask, pull } = yield* RcRef.get(process)
        let answered = 0
        yield* Effect.addFinalizer(() => (answered < names.length ? RcRef.invalidate(process) : Effect.void))
        const parser = makeParser(command === "contents")
        yield* ask(names.map((name) => `${command} ${name}\n`).join(""))

        const next: Pull.Pull<Arr.NonEmptyReadonlyArray<GitObject>, GitError> = Effect.suspend(() => {
          if (answered === names.length) return Cause.done()
          const objects = parser.take(names.slice(answered))
          if (typeof objects === "string") return fail(objects)
          answered += objects.length
          return Arr.isReadonlyArrayNonEmpty(objects)
            ? Effect.succeed(objects)
            : Effect.flatMap(pull, (chunks) => {
                for (const chunk of chunks) parser.push(chunk)
                return next
              })
        })
        return Stream.fromPull(Effect.succeed(next))
      })
    )

  const reader: ObjectReader = {
    read: (names) => (names.length === 0 ? Stream.empty : answers("contents", names)),
    look: (names) => (names.length === 0 ? Stream.empty : answers("info", names)),
    restart: RcRef.invalidate(process)
  }
  return reader
})

/**
 * Reads `<id> <type> <size>\n<content>\n` (without content for `info`) and `<name> missing\n`. Chunks are joined only
 * when an answer is complete: a large object would otherwise be copied once a chunk.
 */
const makeParser = (withContent: boolean) => {
  let chunks: Array<Uint8Array> = []
  let size = 0
  let needed = 1

  return {
    push: (chunk: Uint8Array) => {
      chunks.push(chunk)
      size += chunk.length
    },
    /** The complete answers so far, for these names in this order; a string is a failure. */
    take: (names: ReadonlyArray<string>): ReadonlyArray<GitObject> | string => {
      if (size < needed) return []
      const buffer = Buffer.concat(chunks)
      const objects: Array<GitObject> = []
      let offset = 0
      needed = 1
      for (const name of names) {
        const end = buffer.indexOf(10, offset)
        if (end < 0) break
        const header = buffer.toString("utf8", offset, end)
        if (header === `${name} missing` || header === `${name} ambiguous`) {
          objects.push({ _tag: "Missing", name })
          offset = end + 1
          continue
        }
        const [, id, type, length] = /^([0-9a-f]{40,64}) (\w+) (\d+)$/.exec(header) ?? []
        if (id === undefined || type === undefined || length === undefined) {
          return `git cat-file says ${JSON.stringify(header.slice(0, 200))}`
        }
        const bytes = withContent ? Number(length) : 0
        if (bytes > maxObject) return `object ${id} has ${bytes} bytes, more than ${maxObject}`
        const next = end + 1 + (withContent ? bytes + 1 : 0)
        if (next > buffer.length) {
          needed = next - offset
          break
        }
        // A copy: a view would keep the whole buffer alive.
        const content = Buffer.from(buffer.subarray(end + 1, end + 1 + bytes))
        objects.push({ _tag: "Found", name, id, type, content })
        offset = next
      }
      chunks = offset === buffer.length ? [] : [buffer.subarray(offset)]
      size = buffer.length - offset
      if (objects.length === 0 && size >= needed) needed = size + 1
      return objects
    }
  }
}
