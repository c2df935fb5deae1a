/** What must hold for whatever is sent. */
import { assert } from "@effect/vitest"
import { Effect, Result } from "effect"
import type { HttpServer } from "effect/http"
import * as fc from "fast-check"
import * as GitRef from "../../src/api/GitRef.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as Body from "../../src/receiver/Body.ts"
import * as Payload from "../../src/receiver/Payload.ts"
import { MemoryApi } from "../receiver/MemoryApi.ts"
import { bearer, both, run, signature, silent } from "../receiver/running.ts"
import { send } from "../receiver/send.ts"
import { type Input, input } from "./Inputs.ts"

export interface Options {
  readonly runs: number
  readonly seed: number
}

const parameters = ({ runs, seed }: Options) => ({ numRuns: runs, seed, endOnFailure: true })

const target: RequestedRef.Target = {
  annotations: {},
  repository: "https://github.com/acme/plant.git",
  specRef: "main",
  prereleases: true,
  synced: true
}

/** Never throws; what it understands is legal and small enough for an annotation; what it does not, it says why. */
const readsWell = ({ body, headers }: Input): void => {
  const reading = Payload.read(Body.received(headers, body))
  switch (reading._tag) {
    case "Invalid":
      assert.isNotEmpty(reading.message)
      assert.isBelow(reading.message.length, 500)
      return
    case "Ignored":
      assert.isNotEmpty(reading.reason)
      assert.isBelow(reading.reason.length, 500)
      return
    case "Request": {
      for (const { id, ref } of reading.deliveries) {
        assert.isTrue(Result.isSuccess(GitRef.validate(ref)), ref)
        if (id !== undefined) assert.match(id, /^[!-~]{1,128}$/)
      }
      const decision = RequestedRef.decide(reading.deliveries, target, { at: "2026-01-01T00:00:00Z", freshId: "x" })
      if (decision._tag !== "Write") return
      const size = JSON.stringify(decision.annotations).length
      assert.isBelow(size, 8 * 1024)
      assert.isTrue(JSON.stringify(decision.annotations).isWellFormed())
    }
  }
}

export const decoders = (options: Options): void => fc.assert(fc.property(input, readsWell), parameters(options))

/** Ways to prove oneself, or to fail to: the forged one has the form of a proof, so the body is digested for it. */
const proofs = {
  guess: () => ({ authorization: "Bearer guess" }),
  forged: () => ({ "x-hub-signature-256": `sha256=${"0".repeat(64)}`, "x-gitea-signature": "0".repeat(64) }),
  bearer: () => bearer,
  own: () => ({ authorization: "Bearer own-s3cret" }),
  signed: (body: Uint8Array) => signature(body)
} as const

type Proof = keyof typeof proofs

const strangers: ReadonlySet<Proof> = new Set(["guess", "forged"])

const expected: ReadonlySet<number> = new Set([200, 202, 400, 401, 404, 405, 413, 415, 422])

/** Against a receiver that runs: no 5xx, JSON, no secret, and not one write without credentials. */
export const receiver = (options: Options) =>
  run(
    Effect.gen(function* () {
      const api = yield* MemoryApi
      const context = yield* Effect.context<MemoryApi | HttpServer.HttpServer>()
      yield* api.putSecret("hook", { token: "own-s3cret" })
      const token = { secretRef: { name: "hook", key: "token" } }
      yield* api.put("own", { spec: { webhook: { token } } })
      const one = Effect.fnUntraced(function* ({ body, headers, method, path }: Input, proof: Proof) {
        const answer = yield* send({ method, path, body, headers: { ...headers, ...proofs[proof](body) } })
        assert.isTrue(expected.has(answer.status), `${answer.status} ${answer.text}`)
        if (method !== "HEAD") assert.strictEqual(answer.headers["content-type"], "application/json")
        assert.notInclude(answer.text, "s3cret")
        const calls = yield* api.calls
        if (!strangers.has(proof)) return
        // A path that is none, or a method, is told to anybody.
        assert.include([401, 404, 405, 413, 400], answer.status)
        assert.deepStrictEqual(calls, [])
      })
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(input, fc.constantFrom(...(Object.keys(proofs) as Array<Proof>)), (input, proof) =>
            Effect.runPromiseWith(context)(one(input, proof))
          ),
          parameters(options)
        )
      )
      // It still works.
      const answer = yield* send({ body: '{"ref":"v2"}', headers: bearer })
      assert.strictEqual(answer.status, 202)
    }),
    { credentials: both, logger: silent, limits: { failuresPerMinute: 0, deliveriesPerMinute: 0 } }
  )
