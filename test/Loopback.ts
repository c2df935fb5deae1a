/** Servers that tests and benchmarks put up by themselves. */
import { Effect } from "effect"
import type * as Net from "node:net"

/** Listens on a free port of loopback until the scope ends. */
export const listen = Effect.fnUntraced(function* (server: Net.Server) {
  const sockets = new Set<Net.Socket>()
  server.on("connection", (socket) => sockets.add(socket.on("error", () => {})))
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )
  return (server.address() as Net.AddressInfo).port
})
