/** HTTP as senders speak it, byte for byte: also what a well-behaved client would never send. */
import { Effect } from "effect"
import { HttpServer } from "effect/http"
import * as Http from "node:http"

export interface Answer {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  readonly text: string
  /** The decoded body; every answer must have one. */
  readonly body: Readonly<Record<string, unknown>>
}

export interface Request {
  readonly method?: string
  readonly path?: string
  readonly headers?: Http.OutgoingHttpHeaders
  readonly body?: string | Uint8Array
}

export const port = Effect.map(HttpServer.HttpServer, ({ address }) => {
  if (address._tag === "UnixPathAddress") throw new Error("the server listens on no port")
  return address.port
})

export const send = Effect.fnUntraced(function* (request: Request) {
  const to = yield* port
  return yield* Effect.callback<Answer, Error>((resume) => {
    const outgoing = Http.request(
      {
        host: "127.0.0.1",
        port: to,
        method: request.method ?? "POST",
        path: request.path ?? "/webhook/plant/site",
        headers: {
          "content-length": request.body === undefined ? 0 : Buffer.byteLength(request.body),
          ...request.headers
        },
        agent: false
      },
      (response) => {
        const chunks: Array<Buffer> = []
        response.on("data", (chunk: Buffer) => chunks.push(chunk))
        response.on("error", (error) => resume(Effect.fail(error)))
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString()
          resume(
            Effect.try({
              try: () => ({
                status: response.statusCode ?? 0,
                headers: response.headers,
                text,
                body: text === "" ? {} : (JSON.parse(text) as Answer["body"])
              }),
              catch: () => new Error(`no JSON: ${text}`)
            })
          )
        })
      }
    )
    outgoing.on("error", (error) => resume(Effect.fail(error)))
    outgoing.end(request.body)
    return Effect.sync(() => outgoing.destroy())
  })
})

/** A JSON body, sent as most senders do. */
export const post = (body: unknown, request: Request = {}) =>
  send({ ...request, headers: { "content-type": "application/json", ...request.headers }, body: JSON.stringify(body) })
