import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger, References } from "effect"
import { createServer, type AddressInfo } from "node:net"
import { Health } from "../../src/telemetry/Health.ts"
import * as ProbeServer from "../../src/telemetry/ProbeServer.ts"

/** Serves on a free port and answers its URL, which only the log line tells. */
const serve = Effect.gen(function* () {
  let port = 0
  const capture = Logger.make(({ fiber }) => {
    port = Number(fiber.getRef(References.CurrentLogAnnotations)["port"] ?? port)
  })
  yield* ProbeServer.serve({ host: "127.0.0.1", port: 0 }).pipe(Effect.provide(Logger.layer([capture])))
  return `http://127.0.0.1:${port}`
})

const get = (url: string) =>
  Effect.promise(async () => {
    const response = await fetch(url)
    return { status: response.status, text: await response.text() }
  })

describe("ProbeServer", () => {
  it.live("answers each probe from its checks, as they are now", () =>
    Effect.gen(function* () {
      const health = yield* Health
      const url = yield* serve
      assert.deepStrictEqual(yield* get(`${url}/healthz`), { status: 200, text: "ok" })
      assert.deepStrictEqual(yield* get(`${url}/readyz`), { status: 503, text: "process: still starting\n" })
      yield* health.started
      yield* health.register("ready", "pods", Effect.fail("not listed yet"))
      yield* health.register("startup", "files", Effect.die(new Error("a bug")))
      assert.deepStrictEqual(yield* get(`${url}/readyz?verbose`), { status: 503, text: "pods: not listed yet\n" })
      assert.strictEqual((yield* get(`${url}/startupz`)).status, 503)
      assert.strictEqual((yield* get(`${url}/`)).status, 404)
    }).pipe(Effect.scoped, Effect.provide(Health.layer))
  )

  it.live("says which port is taken", () =>
    Effect.gen(function* () {
      const taken = yield* Effect.acquireRelease(
        Effect.promise(
          () =>
            new Promise<ReturnType<typeof createServer>>((resolve) => {
              const server = createServer().listen(0, "127.0.0.1", () => resolve(server))
            })
        ),
        (server) => Effect.sync(() => server.close())
      )
      const { port } = taken.address() as AddressInfo
      const error = yield* Effect.flip(ProbeServer.serve({ host: "127.0.0.1", port }))
      assert.include(error.message, `port ${port}`)
      assert.include(error.message, "EADDRINUSE")
    }).pipe(Effect.scoped, Effect.provide(Health.layer))
  )
})
