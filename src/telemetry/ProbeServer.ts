/**
 * Probes over HTTP: `/healthz` (liveness), `/readyz` (readiness), `/startupz` (startup). 200 `ok`, or 503 with a line for
 * each check that fails: its name and what it waits for.
 *
 * On Node's own server, because this is all that an agent serves: Effect's brings routers, uploads and websockets along,
 * a tenth of an agent's memory.
 */
import { Effect } from "effect"
import { createServer } from "node:http"
import { Health, type Probe } from "./Health.ts"
import * as PortListener from "./PortListener.ts"

const probes: Readonly<Record<string, Probe>> = { "/healthz": "live", "/readyz": "ready", "/startupz": "startup" }

/**
 * Serves as long as the scope lives, and logs the port (`listening`), which port 0 leaves to the system.
 */
export const serve = Effect.fnUntraced(function* (address: PortListener.Address) {
  const { failing } = yield* Health
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const server = createServer({ keepAliveTimeout: 5_000, requestTimeout: 5_000 }, (request, response) => {
    const answer = (status: number, text: string) =>
      response.writeHead(status, { "content-type": "text/plain" }).end(text)
    const probe = probes[request.url?.split("?", 1)[0] ?? ""]
    if (probe === undefined) return void answer(404, "only /healthz, /readyz and /startupz are here\n")
    fork(
      failing(probe).pipe(
        Effect.map((found) => (found.length === 0 ? answer(200, "ok") : answer(503, `${found.join("\n")}\n`))),
        Effect.catchCause((cause) =>
          Effect.andThen(
            Effect.logError("a probe could not be answered", cause),
            Effect.sync(() => answer(503, "a check is broken\n"))
          )
        )
      )
    )
  })
  yield* PortListener.listen(server, address, "probes")
})
