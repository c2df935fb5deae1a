/** A Node server on a port for as long as a scope lives. */
import { Effect, Schema } from "effect"
import type { Server } from "node:http"
import type { AddressInfo } from "node:net"

export interface Address {
  readonly host?: string
  /** 0 is any free one. */
  readonly port: number
}

/** The port cannot be listened on. End the process: whoever asks there would wait for ever. */
export class PortNotServed extends Schema.TaggedError<PortNotServed>()("PortNotServed", {
  what: Schema.String,
  port: Schema.Int,
  problem: Schema.String
}) {
  override get message(): string {
    return `the ${this.what} cannot be served on port ${this.port}: ${this.problem}. Choose another port, or 0 for any free one`
  }
}

/** Listens, and logs the port with `what` is served there. At the end connections are cut. */
export const listen = Effect.fnUntraced(function* (server: Server, address: Address, what: string) {
  yield* Effect.acquireRelease(
    Effect.callback<void, PortNotServed>((resume) => {
      server.once("error", (error) =>
        resume(Effect.fail(new PortNotServed({ what, port: address.port, problem: error.message })))
      )
      server.listen(address, () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )
  const { port } = server.address() as AddressInfo
  yield* Effect.annotateLogs(Effect.logInfo("listening"), { what, port })
})
