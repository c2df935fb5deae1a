import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FileSystem from "effect/FileSystem"
import * as HttpClient from "effect/http/HttpClient"
import type * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { readFileSync } from "node:fs"
import { inspect } from "node:util"
import * as ApiToken from "../../src/ignition/ApiToken.ts"
import { type Deadlines, GatewayClient, ScanLock, scanPolling } from "../../src/ignition/GatewayClient.ts"
import type { Failure } from "../../src/sandbox/gateway/Faults.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"

const secret = "MARKED-7f3a"
const key = `stoker:${secret}`
const token = ApiToken.parse(Redacted.make(key))

const start = Effect.fnUntraced(function* (options: Omit<SimulatedGateway.Options, "dataDir"> = {}) {
  const dataDir = yield* FileSystem.FileSystem.pipe(Effect.flatMap((_) => _.makeTempDirectoryScoped()))
  const gateway = yield* SimulatedGateway.make({ tokens: [key], ...options, dataDir })
  if (options.boots !== false && options.commissioning === undefined) yield* gateway.awaitPhase("running")
  return gateway
})

const clientOf = (
  gateway: { readonly url: string },
  options: { deadlines?: Partial<Deadlines>; token?: typeof token } = {}
) =>
  Effect.map(Layer.build(GatewayClient.layer({ url: Effect.succeed(gateway.url), token, ...options })), (context) =>
    Context.get(context, GatewayClient)
  )

const live = <E>(name: string, test: () => Effect.Effect<unknown, E, NodeServices.NodeServices | Scope.Scope>) =>
  it.live(name, () => test().pipe(Effect.scoped, Effect.provide(NodeServices.layer)))

const write = Effect.fnUntraced(function* (dataDir: string, name: string, content: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const file = path.join(dataDir, name)
  yield* fs.makeDirectory(path.dirname(file), { recursive: true })
  yield* fs.writeFileString(file, content)
})

const lockTimes = { acquireTimeout: "1 second", holdTimeout: "20 seconds" } as const

describe("state", () => {
  live("follows the life of a gateway", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ boots: false, commissioning: "manual" })
      const client = yield* clientOf(gateway)
      const tag = Effect.map(client.state, (_) => _._tag)
      assert.strictEqual(yield* tag, "Down")
      yield* gateway.setPhase("running")
      yield* gateway.awaitPhase("commissioning")
      assert.strictEqual(yield* tag, "Commissioning")
      yield* gateway.commission
      yield* gateway.awaitPhase("running")
      assert.strictEqual(yield* tag, "Running")
      yield* gateway.setPhase("starting")
      assert.strictEqual(yield* tag, "Starting")
      yield* gateway.setPhase("stopping")
      assert.strictEqual(yield* tag, "Stopping")
      yield* gateway.setPhase("faulted")
      assert.strictEqual(yield* tag, "Faulted")
      yield* gateway.setPhase("down")
      assert.strictEqual(yield* tag, "Down")
    })
  )

  const oddities: ReadonlyArray<readonly [string, Failure]> = [
    ["a login page", { _tag: "Html" }],
    ["an error page", { _tag: "Status", status: 503 }],
    ["a redirect", { _tag: "Redirect", location: "https://elsewhere.invalid/StatusPing" }],
    ["silence", { _tag: "Silence" }],
    ["a body that stops", { _tag: "HangAfterHeaders" }],
    ["a body that is cut", { _tag: "CutMidBody" }],
    ["RUNNING with other details", { _tag: "Status", status: 200, body: '{"state":"RUNNING","details":"TRIAL"}' }],
    ["a state nobody knows", { _tag: "Status", status: 200, body: '{"state":"DREAMING"}' }]
  ]
  for (const [name, failure] of oddities) {
    live(`is unknown, and neither running nor down, for ${name}`, () =>
      Effect.gen(function* () {
        const gateway = yield* start()
        const client = yield* clientOf(gateway, { deadlines: { request: "50 millis" } })
        yield* gateway.faults.inject({ route: "GET /StatusPing", failure })
        assert.strictEqual((yield* client.state)._tag, "Unknown")
      })
    )
  }
})

describe("a request", () => {
  const scanRoute = "POST /data/api/v1/scan/projects"

  const status = (status: number, body?: string): Failure =>
    body === undefined ? { _tag: "Status", status } : { _tag: "Status", status, body }
  const scanState = '{"scanActive":true,"lastScanTimestamp":1,"lastScanDuration":1}'

  const failures: ReadonlyArray<readonly [string, Failure, string, string]> = [
    ["401", status(401), "Unauthorized", "stall"],
    ["403", status(403), "Forbidden", "stall"],
    ["404", status(404), "NotFound", "stall"],
    ["503", status(503), "NotRunning", "wait"],
    ["500", status(500), "UnexpectedAnswer", "retry"],
    ["402", status(402), "UnexpectedAnswer", "retry"],
    ["204", status(204), "UnexpectedAnswer", "retry"],
    ["the right JSON, but 201", status(201, scanState), "UnexpectedAnswer", "retry"],
    ["JSON of another shape", status(200, '{"scanActive":"yes"}'), "UnexpectedAnswer", "retry"],
    ["an empty body", status(200, ""), "UnexpectedAnswer", "retry"],
    ["a login page", { _tag: "Html" }, "UnexpectedAnswer", "retry"],
    ["a redirect", { _tag: "Redirect", location: "https://u:p@elsewhere.invalid/path?q=1" }, "Redirect", "stall"],
    ["the set-up page", { _tag: "Redirect", location: "/welcome" }, "Commissioning", "wait"],
    ["a cut body", { _tag: "CutMidBody" }, "ConnectionLost", "retry"],
    ["a body that stops", { _tag: "HangAfterHeaders" }, "Timeout", "retry"],
    ["silence", { _tag: "Silence" }, "Timeout", "retry"]
  ]
  for (const [name, failure, reason, next] of failures) {
    live(`that meets ${name} fails by ${reason} (${next}), without a secret in it`, () =>
      Effect.gen(function* () {
        const gateway = yield* start()
        const client = yield* clientOf(gateway, { deadlines: { request: "200 millis" } })
        yield* gateway.faults.inject({ route: scanRoute, failure })
        const error = yield* Effect.flip(client.requestScan("projects"))
        assert.strictEqual(error.reason._tag, reason)
        assert.strictEqual(error.next, next)
        assert.isTrue(error.message.startsWith(`POST /data/api/v1/scan/projects at ${gateway.url}: `))
        assert.notInclude(inspect(error, { depth: 20 }) + JSON.stringify(error) + error.message, secret)
        assert.notInclude(error.message, "path?q")
      })
    )
  }

  live("reads no more of an answer than any could be long", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      yield* gateway.faults.inject({ route: scanRoute, failure: status(200, "x".repeat(5_000_000)) })
      assert.include((yield* Effect.flip(client.requestScan("projects"))).message, "larger than any answer")
    })
  )

  live("to nobody is refused", () =>
    Effect.gen(function* () {
      const client = yield* clientOf(yield* start({ boots: false }))
      const error = yield* Effect.flip(client.designers)
      assert.strictEqual(error.reason._tag, "Refused")
      assert.strictEqual(error.next, "wait")
    })
  )

  live("is never sent on to where a redirect points", () =>
    Effect.gen(function* () {
      const [gateway, other] = [yield* start(), yield* start()]
      const client = yield* clientOf(gateway)
      yield* gateway.forceSecure(other.url)
      const error = yield* Effect.flip(client.scan("projects"))
      assert.include(error.message, new URL(other.url).host)
      assert.deepStrictEqual((yield* other.counters).requests, {})
    })
  )

  live("names the token, and what to do, when the gateway does not know it", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ tokens: [] })
      const error = yield* Effect.flip((yield* clientOf(gateway)).gatewayInfo)
      assert.include(error.message, '"stoker"')
      assert.include(error.message, "restart the gateway")
    })
  )

  live("tells commissioning from other redirects", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ commissioning: "manual" })
      yield* gateway.awaitPhase("commissioning")
      const error = yield* Effect.flip((yield* clientOf(gateway)).scan("config"))
      assert.strictEqual(error.reason._tag, "Commissioning")
    })
  )

  live("tells commissioning from other requests that are bad, where it is answered by 400", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ commissioning: "manual" })
      yield* gateway.awaitPhase("commissioning")
      yield* gateway.faults.inject({ route: "POST /data/api/v1/scan-lock/config", failure: status(400) })
      const client = yield* clientOf(gateway)
      const reason = Effect.map(Effect.flip(client.acquireScanLock("config", lockTimes)), (error) => error.reason._tag)
      assert.strictEqual(yield* reason, "Commissioning")
      yield* gateway.commission
      yield* gateway.awaitPhase("running")
      assert.strictEqual(yield* reason, "UnexpectedAnswer")
    })
  )

  live("reads the key file for every use", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const file = `${yield* fs.makeTempDirectoryScoped()}/apiKey`
      const gateway = yield* start()
      const context = yield* Effect.context<FileSystem.FileSystem>()
      const fromFile = Effect.provide(ApiToken.fromFile(file), context)
      const client = yield* clientOf(gateway, { token: fromFile })
      const missing = yield* Effect.flip(client.designers)
      assert.strictEqual(missing.reason._tag, "TokenUnusable")
      assert.include(missing.message, file)
      yield* fs.writeFileString(file, secret)
      assert.strictEqual((yield* Effect.flip(client.designers)).reason._tag, "TokenUnusable")
      assert.deepStrictEqual((yield* gateway.counters).requests, {})
      yield* fs.writeFileString(file, `${key}\n`)
      assert.deepStrictEqual(yield* client.designers, [])
      yield* fs.writeFileString(file, "stoker:rotated\n")
      assert.strictEqual((yield* Effect.flip(client.designers)).reason._tag, "Unauthorized")
    })
  )

  live("carries the token to the API, and not to StatusPing", () =>
    Effect.gen(function* () {
      const seen: Array<HttpClientRequest.HttpClientRequest> = []
      const http = HttpClient.make((request) => {
        seen.push(request)
        return Effect.succeed(HttpClientResponse.fromWeb(request, new Response('{"items":[]}')))
      })
      const context = yield* Layer.build(
        GatewayClient.layerNoDeps({ url: Effect.succeed("http://localhost:1"), token }).pipe(
          Layer.provide(Layer.succeed(HttpClient.HttpClient, http))
        )
      )
      const client = Context.get(context, GatewayClient)
      yield* client.state
      yield* client.designers
      assert.deepStrictEqual(
        seen.map((_) => _.headers[ApiToken.headerName]),
        [undefined, key]
      )
    })
  )

  live("takes a self-signed gateway on localhost", () =>
    Effect.gen(function* () {
      const pem = (name: string) => readFileSync(new URL(`localhost-tls/${name}.pem`, import.meta.url), "utf8")
      const gateway = yield* start({ tls: { key: pem("key"), cert: pem("cert") } })
      const client = yield* clientOf(gateway)
      assert.strictEqual((yield* client.state)._tag, "Running")
      assert.strictEqual((yield* client.gatewayInfo).name, "gateway")
    })
  )
})

describe("a scan", () => {
  live("is over when one has ended that began after it was asked for", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ scanDuration: "20 millis" })
      const client = yield* clientOf(gateway)
      const before = yield* client.scanState("config")
      const state = yield* client.scan("config")
      assert.isFalse(state.scanActive)
      assert.isAbove(state.lastScanTimestamp, before.lastScanTimestamp)
      assert.deepStrictEqual(
        (yield* gateway.history).map((_) => _.cause),
        ["boot", "boot", "scan"]
      )
    })
  )

  live("is asked for again when the first request joined a running one", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      yield* write(gateway.dataDir, "projects/bad/project.json", "{")
      yield* client.requestScan("projects")
      yield* gateway.awaitLog((_) => _.message.includes("bad"))
      yield* write(gateway.dataDir, "projects/ours/project.json", "{}")
      const scanning = yield* Effect.forkChild(client.scan("projects"))
      yield* gateway.awaitScan(1)
      yield* gateway.setScanBehaviour({ _tag: "Normal" })
      yield* Fiber.join(scanning)
      assert.deepStrictEqual(Object.keys((yield* gateway.model).projects), ["ours"])
    })
  )

  live("that does not end fails, and a later one works", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway, { deadlines: { scan: "50 millis" } })
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      const error = yield* Effect.flip(client.scan("projects"))
      assert.strictEqual(error.reason._tag, "ScanUnfinished")
      yield* gateway.setScanBehaviour({ _tag: "Normal" })
      yield* gateway.awaitIdle("projects")
      yield* client.scan("projects")
    })
  )

  live("does not count when the gateway's clock went back, and the next one does", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway, { deadlines: { scan: "100 millis" } })
      yield* client.scan("projects")
      yield* gateway.setScanBehaviour({ _tag: "ClockBack", millis: 3_600_000 })
      assert.strictEqual((yield* Effect.flip(client.scan("projects"))).reason._tag, "ScanUnfinished")
      yield* client.scan("projects")
    })
  )

  live("carries the trace of its span", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      const traceId = yield* Effect.andThen(
        client.scan("config"),
        Effect.map(Effect.currentSpan, (_) => _.traceId)
      ).pipe(Effect.withSpan("test"))
      const [request] = yield* gateway.scans
      assert.match(request?.traceparent ?? "", new RegExp(`^00-${traceId}-[0-9a-f]{16}-01$`))
    })
  )

  it.effect("is looked at after 10 ms at first, then ever less often, to twice a second", () =>
    Effect.gen(function* () {
      const step = yield* Schedule.toStep(scanPolling)
      const delays: Array<number> = []
      for (let i = 0; i < 12; i++) delays.push(Duration.toMillis((yield* step(0, undefined))[1]))
      assert.deepStrictEqual(delays.map(Math.round), [10, 15, 23, 34, 51, 76, 114, 171, 256, 384, 500, 500])
    })
  )
})

describe("the scan lock", () => {
  live("is held, and freed by the scan", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      const lock = yield* client.acquireScanLock("config", lockTimes)
      assert.deepStrictEqual(lock, ScanLock.Held({ actor: "stoker", remaining: Duration.seconds(20) }))
      yield* client.scan("config")
      assert.strictEqual((yield* client.acquireScanLock("config", lockTimes))._tag, "Held")
    })
  )

  live("that runs out just when it is asked whose it is, is taken", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      const failure: Failure = { _tag: "Status", status: 409 }
      const refused = { route: "POST /data/api/v1/scan-lock/config", failure }
      yield* gateway.faults.inject({ ...refused, times: 1 })
      assert.strictEqual((yield* client.acquireScanLock("config", lockTimes))._tag, "Held")
      yield* gateway.faults.inject(refused)
      yield* client.scan("config")
      assert.strictEqual((yield* Effect.flip(client.acquireScanLock("config", lockTimes))).reason._tag, "LockHeld")
    })
  )

  live("of somebody else is told with who and how long", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ tokens: [key, "somebody:else"] })
      const client = yield* clientOf(gateway)
      const other = yield* clientOf(gateway, { token: ApiToken.parse(Redacted.make("somebody:else")) })
      yield* other.acquireScanLock("projects", lockTimes)
      const error = yield* Effect.flip(client.acquireScanLock("projects", lockTimes))
      assert.strictEqual(error.reason._tag, "LockHeld")
      assert.include(error.message, "held by somebody (409), for 20 s more at most")
    })
  )

  live("that we hold already is as good while enough is left of it, then waited for and taken again", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      const lock = (seconds: number) =>
        client.acquireScanLock("projects", { acquireTimeout: "1 second", holdTimeout: Duration.seconds(seconds) })
      yield* lock(2)
      assert.deepStrictEqual(yield* lock(5), ScanLock.Held({ actor: "stoker", remaining: Duration.seconds(2) }))
      assert.strictEqual((yield* gateway.counters).lockExpiries.projects, 0)
      assert.deepStrictEqual(yield* lock(60), ScanLock.Held({ actor: "stoker", remaining: Duration.seconds(60) }))
      assert.strictEqual((yield* gateway.counters).lockExpiries.projects, 1)
    })
  )

  live("that does not come free in time is 408", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      yield* client.requestScan("projects")
      const error = yield* Effect.flip(client.acquireScanLock("projects", { ...lockTimes, acquireTimeout: "1 milli" }))
      assert.strictEqual(error.reason._tag, "LockTimeout")
    })
  )

  live("is not needed where the gateway has none", () =>
    Effect.gen(function* () {
      const client = yield* clientOf(yield* start({ locks: false }))
      assert.strictEqual((yield* client.acquireScanLock("config", lockTimes))._tag, "Unsupported")
    })
  )
})

describe("designers", () => {
  live("are those with a session", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const client = yield* clientOf(gateway)
      yield* gateway.designers.add({ id: "d-1", user: "eve", project: "site" })
      assert.deepStrictEqual(yield* client.designers, [{ id: "d-1", user: "eve", project: "site" }])
    })
  )
})
