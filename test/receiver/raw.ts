/** A connection, byte for byte. */
import { Effect } from "effect"
import * as Net from "node:net"
import { port } from "./send.ts"

export interface Connection {
  readonly write: (text: string | Uint8Array) => Effect.Effect<void>
  readonly end: Effect.Effect<void>
  /** All that came, once the other side has closed. */
  readonly closed: Effect.Effect<string>
  /** Waits until that much of an answer is there. */
  readonly answered: (pattern: RegExp) => Effect.Effect<string>
}

/** Ends with the scope. */
export const connect = Effect.gen(function* () {
  const to = yield* port
  let text = ""
  let isClosed = false
  const waiting = new Set<() => void>()
  const socket = yield* Effect.acquireRelease(
    Effect.callback<Net.Socket, Error>((resume) => {
      const socket = Net.connect({ host: "127.0.0.1", port: to }, () => resume(Effect.succeed(socket)))
      socket.on("error", (error) => resume(Effect.fail(error)))
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )
  const told = () => waiting.forEach((look) => look())
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1")
    told()
  })
  socket.on("close", () => {
    isClosed = true
    told()
  })
  const until = (reached: () => boolean) =>
    Effect.callback<string>((resume) => {
      const look = () => {
        if (!reached()) return
        waiting.delete(look)
        resume(Effect.succeed(text))
      }
      waiting.add(look)
      look()
      return Effect.sync(() => waiting.delete(look))
    })
  return {
    write: (bytes) => Effect.sync(() => socket.write(bytes)),
    end: Effect.sync(() => socket.end()),
    closed: until(() => isClosed),
    answered: (pattern) => until(() => pattern.test(text) || isClosed)
  } satisfies Connection as Connection
})
