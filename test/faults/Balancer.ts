/**
 * A TCP balancer as a Service is one: new connections go round robin to the backends that are ready, and those that are
 * open stay where they are, whatever becomes of their backend.
 */
import { Effect, Schedule } from "effect"
import * as Net from "node:net"

export interface Backend {
  readonly port: number
  /** Asked again and again, as a kubelet asks `/readyz`. */
  readonly isReady: Effect.Effect<boolean>
}

export interface Balancer {
  readonly port: number
  /** It gets connections whenever it is ready, from the first time on when it is; waits for that. Ends with the scope. */
  readonly add: (backend: Backend) => Effect.Effect<void>
  /** It gets no more, as a pod that is being deleted; its connections are left alone. */
  readonly withdraw: (backend: Backend) => Effect.Effect<void>
  /** Connections that are open now to a backend. */
  readonly open: (backend: Backend) => number
}

/** Ends with the scope, and all connections with it. */
export const make = Effect.gen(function* () {
  const scope = yield* Effect.scope
  const isReady = new Map<Backend, boolean>()
  const connections = new Map<Net.Socket, Backend>()
  let turn = 0

  const server = Net.createServer({ allowHalfOpen: true }, (client) => {
    const ready = Array.from(isReady).flatMap(([backend, yes]) => (yes ? [backend] : []))
    const backend = ready[turn++ % ready.length]
    if (backend === undefined) {
      client.destroy()
      return
    }
    const server = Net.connect({ host: "127.0.0.1", port: backend.port, allowHalfOpen: true })
    connections.set(client, backend)
    client.pipe(server).pipe(client)
    client.on("error", () => server.resetAndDestroy())
    server.on("error", () => client.resetAndDestroy())
    client.on("close", () => {
      connections.delete(client)
      server.destroy()
    })
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.sync(() => {
        for (const client of connections.keys()) client.destroy()
        server.close()
      })
  )
  const address = server.address()
  const look = (backend: Backend) =>
    Effect.map(backend.isReady, (yes) => {
      // Not of one that was withdrawn while it was asked.
      if (isReady.has(backend)) isReady.set(backend, yes)
      return yes
    })
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    add: Effect.fnUntraced(function* (backend) {
      isReady.set(backend, false)
      yield* look(backend).pipe(
        Effect.repeat({ until: (yes) => yes, schedule: Schedule.spaced("100 millis") }),
        Effect.andThen(
          Effect.forkIn(
            Effect.repeat(look(backend), {
              while: () => isReady.has(backend),
              schedule: Schedule.spaced("100 millis")
            }),
            scope
          )
        )
      )
    }),
    withdraw: (backend) => Effect.sync(() => isReady.delete(backend)),
    open: (backend) => Array.from(connections.values()).filter((one) => one === backend).length
  } satisfies Balancer as Balancer
})
