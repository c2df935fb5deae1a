/**
 * How a Node server ends without losing a request on a connection that is kept.
 *
 * Closing a server by itself leaves two gaps. A connection that is closed while its client sends the next request loses
 * it, and the client cannot know whether it was taken; few send a POST again. And one that is busy, or that never said
 * anything, is never closed, and the server never ends.
 *
 * So clients are told first: for a while the server goes on, and every answer says `Connection: close`, which HTTP/1.1
 * keeps free of that race. Then it closes, finishes what it has, and cuts what is left.
 */
import { Duration, Effect, Latch, Layer } from "effect"
import { HttpServerResponse } from "effect/http"
import type { Server } from "node:http"

/** Clients that send at least so often on one connection lose nothing; nobody is waited for who has none. */
export const notice = Duration.seconds(3)

/** From the close of the server to the cut: longer than any request takes that is not dragged out. */
export const longestFinish = Duration.seconds(20)

export interface Goodbye {
  /** For the server's app. */
  readonly middleware: <E, R>(
    app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
  ) => Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
  /** Its end is the first that happens: build it last, over the layer that serves. */
  readonly notice: Layer.Layer<never>
  /** Its end comes when {@link longestFinish} is over: build it between the server and what serves. */
  readonly cut: Layer.Layer<never>
}

/** Of a server that does not listen yet. */
export const make = (server: Server): Goodbye => {
  let isLeaving = false
  let open = 0
  const nobody = Latch.makeUnsafe(true)
  server.on("connection", (socket) => {
    open++
    nobody.closeUnsafe()
    socket.once("close", () => {
      open--
      if (open === 0) nobody.openUnsafe()
    })
  })
  return {
    middleware: Effect.map((response) =>
      isLeaving ? HttpServerResponse.setHeader(response, "connection", "close") : response
    ),
    notice: Layer.effectDiscard(
      Effect.addFinalizer(() =>
        Effect.suspend(() => {
          isLeaving = true
          return Effect.timeoutOption(nobody.await, notice)
        })
      )
    ),
    cut: Layer.effectDiscard(Effect.addFinalizer(() => Effect.sync(() => server.closeAllConnections())))
  }
}
