/** The controller as a process of its own, started from the sources. */
import { Effect } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { freePort } from "../../src/sandbox/Processes.ts"
import * as Product from "./Product.ts"

export { retrying, root } from "./Product.ts"

/** Ends with the scope. Callers send the bearer token `token`. */
export const start = Effect.fnUntraced(function* (
  kubeconfig: string,
  args: ReadonlyArray<string> = [],
  env: Readonly<Record<string, string>> = {}
) {
  const http = yield* HttpClient.HttpClient
  const receiverPort = yield* freePort
  const controller = yield* Product.run(
    [
      "controller",
      "--health-probe-bind-address=127.0.0.1:0",
      "--metrics-bind-address=127.0.0.1:0",
      "--metrics-secure=false",
      `--webhook-receiver-port=${receiverPort}`,
      ...args
    ],
    { KUBECONFIG: kubeconfig, WEBHOOK_BEARER_TOKEN: "token", ...env }
  )
  const send = (path: string, body: object, token = "token") =>
    Effect.gen(function* () {
      const request = HttpClientRequest.post(
        `http://127.0.0.1:${yield* controller.portOf("webhook-receiver")}${path}`
      ).pipe(HttpClientRequest.bearerToken(token), HttpClientRequest.bodyJsonUnsafe(body))
      return yield* http.execute(request)
    })
  return {
    ...controller,
    /** To the receiver. */
    send,
    post: (path: string, body: object) => Effect.map(send(path, body), ({ status }) => status),
    receiverPort
  }
})
