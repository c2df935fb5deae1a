import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { Deferred, Duration, Effect, Layer, Option, Ref, Schedule, Schema, Stream } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { fileURLToPath } from "node:url"
import { parse } from "yaml"
import { readFileSync } from "node:fs"
import * as Names from "../../src/api/Names.ts"
import { parseAddress } from "../../src/commands/controller.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { freePort } from "../../src/sandbox/Processes.ts"
import { version } from "../../src/Version.ts"

const root = new URL("../../", import.meta.url)
const entry = fileURLToPath(new URL("src/main.ts", root))

const Line = Schema.fromJsonString(
  Schema.Struct({
    level: Schema.String,
    message: Schema.Unknown,
    what: Schema.optionalKey(Schema.String),
    port: Schema.optionalKey(Schema.Int)
  })
)
const decodeLine = Schema.decodeUnknownOption(Line)

const retrying = { schedule: Schedule.spaced("20 millis"), times: 1000 }

/** The controller as a process of its own; ends with the scope. */
const start = Effect.fnUntraced(function* (kubeconfig: string, args: ReadonlyArray<string> = []) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const http = yield* HttpClient.HttpClient
  const receiverPort = yield* freePort
  const handle = yield* spawner.spawn(
    ChildProcess.make(
      process.execPath,
      [
        entry,
        "controller",
        "--health-probe-bind-address=127.0.0.1:0",
        "--metrics-bind-address=127.0.0.1:0",
        "--metrics-secure=false",
        `--webhook-receiver-port=${receiverPort}`,
        ...args
      ],
      { env: { PATH: process.env["PATH"], KUBECONFIG: kubeconfig, WEBHOOK_BEARER_TOKEN: "token" } }
    )
  )
  const lines = yield* Ref.make<ReadonlyArray<typeof Line.Type>>([])
  const ended = yield* Deferred.make<void>()
  yield* handle.stdout.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((text) =>
      Option.match(decodeLine(text), {
        onNone: () => Effect.void,
        onSome: (line) => Ref.update(lines, (all) => [...all, line])
      })
    ),
    Effect.ensuring(Deferred.succeed(ended, undefined)),
    Effect.forkScoped
  )
  const portOf = (what: string) =>
    Ref.get(lines).pipe(
      Effect.flatMap((all) =>
        Effect.fromOption(
          Option.fromNullishOr(all.find((line) => line.what === what && line.message === "listening")?.port)
        )
      ),
      Effect.retry(retrying)
    )
  const get = Effect.fnUntraced(function* (what: string, path: string) {
    const response = yield* http.get(`http://127.0.0.1:${yield* portOf(what)}${path}`)
    return { status: response.status, text: yield* response.text }
  })
  const until = (what: string, path: string, status: number) =>
    get(what, path).pipe(
      Effect.filterOrFail((answer) => answer.status === status),
      Effect.retry(retrying)
    )
  return {
    lines: Ref.get(lines),
    get,
    until,
    post: (path: string, body: object) =>
      Effect.gen(function* () {
        const request = HttpClientRequest.post(`http://127.0.0.1:${yield* portOf("webhook-receiver")}${path}`).pipe(
          HttpClientRequest.bearerToken("token"),
          HttpClientRequest.bodyJsonUnsafe(body)
        )
        return (yield* http.execute(request)).status
      }),
    signal: (signal: ChildProcess.Signal) => handle.kill({ killSignal: signal }),
    exit: Effect.andThen(Deferred.await(ended), Effect.map(handle.exitCode, Number))
  }
})

const services = Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp)

const definitions = Effect.gen(function* () {
  const { admin } = yield* ControlPlane
  const definition = parse(readFileSync(new URL("crds/stoker.io_gatewaysyncs.yaml", root), "utf8")) as object
  yield* admin.execute(
    HttpClientRequest.bodyJsonUnsafe(
      HttpClientRequest.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
      definition
    )
  )
})

describe("stoker controller", () => {
  const addresses: ReadonlyArray<readonly [string, unknown]> = [
    [":8081", { port: 8081 }],
    ["127.0.0.1:0", { host: "127.0.0.1", port: 0 }],
    ["[::1]:8081", { host: "::1", port: 8081 }],
    ["0", "off"],
    ["8081", undefined],
    ["host", undefined],
    [":65536", undefined],
    ["", undefined]
  ]
  for (const [text, expected] of addresses) {
    it(`reads the address "${text}"`, () => {
      assert.deepStrictEqual(Option.getOrUndefined(parseAddress(text)), expected)
    })
  }

  it("has the version of package.json", () => {
    const { version: said } = JSON.parse(readFileSync(new URL("package.json", root), "utf8")) as { version: string }
    assert.strictEqual(version, said)
  })

  it.live("waits for an API server that is away, alive but not ready, and says why", () =>
    Effect.gen(function* () {
      const nowhere = fileURLToPath(new URL("nowhere.kubeconfig.json", import.meta.url))
      const controller = yield* start(nowhere)
      assert.strictEqual((yield* controller.until("probes", "/healthz", 200)).text, "ok")
      const { text } = yield* controller.until("probes", "/readyz", 503)
      assert.include(text, "process: starting")
      const said = controller.lines.pipe(
        Effect.filterOrFail((lines) => lines.some(({ message }) => String(message).includes("did not answer"))),
        Effect.retry(retrying)
      )
      yield* said
      yield* controller.signal("SIGTERM")
      assert.strictEqual(yield* controller.exit, 0)
    }).pipe(Effect.provide(services))
  )

  it.live("ends with an error where it cannot be configured", () =>
    Effect.gen(function* () {
      const controller = yield* start("/nowhere/at/all")
      assert.strictEqual(yield* controller.exit, 1)
      const [line] = yield* controller.lines
      assert.strictEqual(line?.level, "fatal")
      assert.include(String(line?.message), "/nowhere/at/all")
    }).pipe(Effect.provide(services))
  )
})

layer(Layer.merge(ControlPlane.layer, services), { excludeTestServices: true, timeout: "2 minutes" })(
  "stoker controller on an API server",
  (it) => {
    it.effect("comes up, receives, leads, and stops cleanly; a second one receives meanwhile and then leads", () =>
      Effect.gen(function* () {
        yield* definitions
        const { admin, adminKubeconfig } = yield* ControlPlane
        const holder = Effect.gen(function* () {
          const response = yield* admin.get(`/apis/coordination.k8s.io/v1/namespaces/default/leases/${Names.lease}`)
          const lease = (yield* response.json) as { readonly spec?: { readonly holderIdentity?: string } }
          return lease.spec?.holderIdentity ?? ""
        })
        const heldBy = (isSo: (holder: string) => boolean) =>
          holder.pipe(Effect.filterOrFail(isSo), Effect.retry(retrying), Effect.timeout(Duration.seconds(20)))

        const first = yield* start(adminKubeconfig, ["--leader-elect"])
        yield* first.until("probes", "/readyz", 200)
        assert.strictEqual(yield* first.post("/webhook/default/nothing", { ref: "v1" }), 404)
        const leader = yield* heldBy((name) => name !== "")
        assert.include((yield* first.get("metrics", "/metrics")).text, "stoker_webhook_receiver_requests_total")

        const second = yield* start(adminKubeconfig, ["--leader-elect"])
        yield* second.until("probes", "/readyz", 200)
        assert.strictEqual(yield* second.post("/webhook/default/nothing", { ref: "v1" }), 404)
        assert.strictEqual(yield* holder, leader)

        yield* first.signal("SIGTERM")
        assert.strictEqual(yield* first.exit, 0)
        yield* heldBy((name) => name !== "" && name !== leader)
        yield* second.signal("SIGTERM")
        assert.strictEqual(yield* second.exit, 0)
        assert.strictEqual(yield* holder, "")
      }).pipe(Effect.scoped)
    )
  }
)
