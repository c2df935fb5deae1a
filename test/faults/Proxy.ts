/**
 * A way to the API server that fails on demand. Clients speak plain HTTP to it, so that it can put answers of its own in
 * between; behind it is the real API server.
 */
import { Effect, Redacted } from "effect"
import * as NodeHttp from "node:http"
import * as NodeHttps from "node:https"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"

export interface Asked {
  readonly method: string
  /** With its query. */
  readonly path: string
}

export type Fault =
  /** Answered here; the API server never hears of it. */
  | { readonly _tag: "Answer"; readonly status: number; readonly headers?: object; readonly body: object }
  /** Nothing is answered as long as the fault lasts; then it goes on, as after a stalled network. */
  | { readonly _tag: "Stall" }
  /** The next bytes of the answer arrive by half, and the connection is reset. */
  | { readonly _tag: "Cut" }

export interface Proxy {
  readonly url: string
  /** Every request, in order. */
  readonly asked: ReadonlyArray<Asked>
  /** The fault of each request, open answers included, from now on; none for those that pass. */
  readonly fail: (fault: (asked: Asked) => Fault | undefined) => void
  readonly heal: () => void
  /** Requests that are stalled now. */
  readonly stalled: () => number
}

export const isWatch = ({ path }: Asked): boolean => path.includes("watch=true")

/** A kubeconfig (JSON is YAML) of who goes this way. */
export const kubeconfig = (proxy: Proxy, token: Redacted.Redacted, namespace: string): string =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    // The client library wants this said where a server speaks plain HTTP.
    clusters: [{ name: "proxy", cluster: { server: proxy.url, "insecure-skip-tls-verify": true } }],
    users: [{ name: "proxy", user: { token: Redacted.value(token) } }],
    contexts: [{ name: "proxy", context: { cluster: "proxy", user: "proxy", namespace } }],
    "current-context": "proxy"
  })

export const make = Effect.gen(function* () {
  const { caData, url } = yield* ControlPlane
  const target = new URL(url)
  const agent = new NodeHttps.Agent({ ca: caData, keepAlive: true })
  const asked: Array<Asked> = []
  const waiting = new Set<() => void>()
  let faultOf: (asked: Asked) => Fault | undefined = () => undefined

  const heal = () => {
    faultOf = () => undefined
    const all = Array.from(waiting)
    waiting.clear()
    for (const goOn of all) goOn()
  }
  const whenHealed = () => new Promise<void>((resolve) => waiting.add(resolve))

  const server = NodeHttp.createServer((request, response) => {
    const one: Asked = { method: request.method ?? "", path: request.url ?? "" }
    asked.push(one)
    const chunks: Array<Buffer> = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("end", async () => {
      const fault = faultOf(one)
      if (fault?._tag === "Answer") {
        response.writeHead(fault.status, { "content-type": "application/json", ...fault.headers })
        response.end(JSON.stringify(fault.body))
        return
      }
      if (fault?._tag === "Stall") await whenHealed()
      if (response.destroyed) return
      const outgoing = NodeHttps.request(
        {
          agent,
          host: target.hostname,
          port: target.port,
          method: request.method,
          path: request.url,
          headers: { ...request.headers, host: target.host }
        },
        async (incoming) => {
          response.writeHead(incoming.statusCode ?? 502, incoming.headers)
          // Without this a watch without events shows nothing, not even its head.
          response.flushHeaders()
          try {
            for await (const chunk of incoming as AsyncIterable<Buffer>) {
              const now = faultOf(one)
              if (now?._tag === "Stall") await whenHealed()
              if (now?._tag === "Cut") {
                response.write(chunk.subarray(0, chunk.length >> 1), () => response.destroy())
                incoming.destroy()
                return
              }
              response.write(chunk)
            }
            response.end()
          } catch {
            response.destroy()
          }
        }
      )
      outgoing.on("error", () => response.destroy())
      response.on("close", () => outgoing.destroy())
      outgoing.end(Buffer.concat(chunks))
    })
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.sync(() => {
        heal()
        server.closeAllConnections()
        server.close()
        agent.destroy()
      })
  )
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  const proxy: Proxy = {
    url: `http://127.0.0.1:${port}`,
    asked,
    fail: (fault) => {
      faultOf = fault
    },
    heal,
    stalled: () => waiting.size
  }
  return proxy
})
