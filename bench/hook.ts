/**
 * One hook for a thousand GatewaySyncs, and what strangers cost: rejected requests a second, and ten thousand
 * connections that say nothing. Receiver, API server and this program share the machine's cores.
 */
import { Effect, Redacted, Schedule, Schema } from "effect"
import { HttpClientRequest } from "effect/http"
import * as Http from "node:http"
import * as Net from "node:net"
import * as Names from "../src/api/Names.ts"
import * as Resource from "../src/kubernetes/Resource.ts"
import { ControlPlane } from "../src/sandbox/ControlPlane.ts"
import { GitServer } from "../src/sandbox/GitServer.ts"
import { namespace, Plant } from "../src/sandbox/Plant.ts"
import { cpuSeconds, quiet, rss } from "./Process.ts"
import { spread, type Figure } from "./Sample.ts"

interface Answer {
  readonly status: number
  readonly text: string
}

/** A POST over connections that are kept. */
const poster = (url: string, agent: Http.Agent) => (authorization: string, body: object, event?: string) =>
  Effect.callback<Answer, Error>((resume) => {
    const text = JSON.stringify(body)
    const headers = {
      authorization,
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
      ...(event === undefined ? {} : { "x-github-event": event })
    }
    const request = Http.request(url, { method: "POST", agent, headers }, (response) => {
      let text = ""
      response.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk
      })
      response.on("end", () => resume(Effect.succeed({ status: response.statusCode ?? 0, text })))
    })
    request.on("error", (error) => resume(Effect.fail(error)))
    request.end(text)
  })

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const began = performance.now()
    const value = yield* effect
    return { ms: performance.now() - began, value }
  })

const connections = 10_000

/** Silent connections, for as long as the scope lives. */
const silent = (port: number) =>
  Effect.forEach(
    Array.from({ length: connections }, () => port),
    (port) =>
      Effect.acquireRelease(
        Effect.callback<Net.Socket, Error>((resume) => {
          const socket = Net.connect({ port, host: "127.0.0.1" }, () => resume(Effect.succeed(socket)))
          socket.on("error", (error) => resume(Effect.fail(error)))
        }),
        (socket) => Effect.sync(() => socket.destroy())
      ),
    { concurrency: 128 }
  )

const GatewaySyncs = Schema.fromJsonString(
  Schema.Struct({
    items: Schema.Array(
      Schema.Struct({ status: Schema.optionalKey(Schema.Struct({ lastSyncRef: Schema.optionalKey(Schema.String) })) })
    )
  })
)
const decodeGatewaySyncs = Schema.decodeUnknownEffect(GatewaySyncs)

/** Needs a plant of 1 000 GatewaySyncs and no gateways. */
export const hook = Effect.gen(function* () {
  const plant = yield* Plant
  const git = yield* GitServer
  const { admin } = yield* ControlPlane
  const agent = yield* Effect.acquireRelease(
    Effect.sync(() => new Http.Agent({ keepAlive: true, maxSockets: 64 })),
    (agent) => Effect.sync(() => agent.destroy())
  )
  const post = poster(plant.webhookUrl, agent)
  const right = `Bearer ${Redacted.value(plant.bearer)}`
  const repository = { clone_url: plant.repository.url }
  const release = (tag: string) => ({ action: "published", release: { tag_name: tag }, repository })

  yield* quiet(plant.controller.pid)
  // What one core does that has nothing else to do: this program, which sends, takes as much again. Who attacks goes on,
  // so the last round counts; in the first one code is still being compiled.
  const guesses = 10_000
  yield* Effect.replicateEffect(post("Bearer guess", { ref: "v1" }), 500, { concurrency: 64 })
  const refusals = yield* Effect.forEach([1, 2, 3, 4], () =>
    Effect.gen(function* () {
      const cpuBefore = cpuSeconds(plant.controller.pid)
      const { ms, value } = yield* timed(
        Effect.replicateEffect(post("Bearer guess", { ref: "v1" }), guesses, { concurrency: 64 })
      )
      return {
        perSecond: Math.round(guesses / (cpuSeconds(plant.controller.pid) - cpuBefore)),
        byTheClock: Math.round((guesses / ms) * 1000),
        strange: value.filter(({ status }) => status !== 401 && status !== 429).length
      }
    })
  )
  const { byTheClock, perSecond } = refusals.at(-1)!
  const strange = refusals.reduce((sum, round) => sum + round.strange, 0)

  const before = rss(plant.controller.pid)
  const held = yield* Effect.scoped(
    Effect.gen(function* () {
      yield* silent(Number(new URL(plant.webhookUrl).port))
      const after = rss(plant.controller.pid)
      const honest = yield* timed(plant.post(plant.gatewaySyncs[0]!, { ref: "v1.3.0" }))
      return { after, honest }
    })
  )
  const following = (tag: string) =>
    admin.get(Resource.path(Names.gatewaySyncs, { namespace })).pipe(
      Effect.flatMap((response) => response.text),
      Effect.flatMap(decodeGatewaySyncs),
      Effect.map(({ items }) => items.filter(({ status }) => status?.lastSyncRef === tag).length)
    )
  const tags = ["v1.0.0", "v1.1.0", "v1.2.0"]
  const commit = yield* plant.commit(1)
  for (const tag of tags) yield* plant.repository.setRef(`refs/tags/${tag}`, commit)
  const rounds = yield* Effect.forEach(tags, (tag) =>
    Effect.gen(function* () {
      const before = (yield* git.exchanges).length
      const posted = yield* timed(post(right, release(tag), "release"))
      const { ms } = yield* timed(
        Effect.repeat(following(tag), {
          until: (count) => count === plant.gatewaySyncs.length,
          schedule: Schedule.spaced("250 millis")
        }).pipe(Effect.timeout("2 minutes"))
      )
      yield* quiet(plant.controller.pid)
      return { ...posted, all: posted.ms + ms, asked: (yield* git.exchanges).length - before }
    })
  )
  // What the API server alone takes for as many patches of one annotation that nobody looks at, by a client that does
  // nothing else.
  const byHand = (round: number) =>
    timed(
      Effect.forEach(
        plant.gatewaySyncs,
        (name) =>
          admin
            .execute(
              HttpClientRequest.patch(Resource.path(Names.gatewaySyncs, { namespace, name })).pipe(
                HttpClientRequest.bodyText(
                  JSON.stringify({ metadata: { annotations: { bench: `${round}` } } }),
                  "application/merge-patch+json"
                )
              )
            )
            .pipe(Effect.flatMap((response) => response.text)),
        { concurrency: 48, discard: true }
      )
    )
  const floor = spread((yield* Effect.forEach([1, 2, 3], byHand)).map(({ ms }) => ms))
  const fanOut = spread(rounds.map(({ ms }) => ms))
  const failed = rounds.filter(({ value }) => value.status !== 202).length
  const resolved = spread(rounds.map(({ all }) => all))
  const asked = Math.max(...rounds.map(({ asked }) => asked))

  return [
    {
      what: `one hook for ${plant.gatewaySyncs.length} GatewaySyncs, all patched`,
      value: `p50 ${(fanOut.p50 / 1000).toFixed(2)} s (${(fanOut.min / 1000).toFixed(2)}–${(fanOut.max / 1000).toFixed(2)}), ${failed} failed; as many patches by hand: ${(floor.p50 / 1000).toFixed(2)} s`,
      aim: "≤ 3 s",
      met: fanOut.p50 <= 3000 && failed === 0,
      data: { ms: fanOut, failed, floor }
    },
    {
      what: "… until the status of each says the new commit, and requests to the remote for all of them",
      value: `p50 ${(resolved.p50 / 1000).toFixed(2)} s, ${asked} requests at most`,
      aim: "a look-up for all of them (≤ 4 requests)",
      met: asked <= 4,
      data: { ms: resolved, asked }
    },
    {
      what: "requests with wrong credentials, refused in a second of one core's time, of the fourth 10 000",
      value: `${perSecond} (${byTheClock} by the clock, beside the program that sends), ${refusals[0]!.perSecond} of the first ${guesses}; ${strange} answered otherwise`,
      aim: "≥ 5 000",
      met: perSecond >= 5000 && strange === 0,
      data: { perSecond, rounds: refusals, strange }
    },
    {
      what: `memory of the controller under ${connections} silent connections`,
      value: `${before.toFixed(0)} → ${held.after.toFixed(0)} MiB; a delivery meanwhile: ${held.honest.value.status} in ${held.honest.ms.toFixed(0)} ms`,
      data: { before, after: held.after, status: held.honest.value.status, ms: held.honest.ms }
    }
  ] satisfies ReadonlyArray<Figure>
})
