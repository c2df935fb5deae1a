/**
 * Metrics over HTTP at `/metrics`, for Prometheus. On Node's own server and with the format loaded at the first scrape,
 * because an agent's memory counts.
 */
import { Effect } from "effect"
import { createServer } from "node:http"
import * as PortListener from "./PortListener.ts"

/** Serves as long as the scope lives, and logs the port (`listening`), which port 0 leaves to the system. */
export const serve = Effect.fnUntraced(function* (address: PortListener.Address) {
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const server = createServer({ keepAliveTimeout: 5_000, requestTimeout: 5_000 }, (request, response) => {
    const answer = (status: number, text: string) =>
      response.writeHead(status, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(text)
    if (request.url?.split("?", 1)[0] !== "/metrics") return void answer(404, "only /metrics is here\n")
    fork(
      Effect.promise(() => import("./Prometheus.ts")).pipe(
        Effect.flatMap(({ format }) => format()),
        Effect.map((text) => answer(200, text)),
        Effect.catchCause((cause) =>
          Effect.andThen(
            Effect.logError("the metrics could not be given", cause),
            Effect.sync(() => answer(500, "a metric is broken\n"))
          )
        )
      )
    )
  })
  yield* PortListener.listen(server, address, "metrics")
})
