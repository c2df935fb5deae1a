import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { Duration, Effect, Fiber, FileSystem, Layer, Option } from "effect"
import { HttpClientRequest } from "effect/http"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeNet from "node:net"
import { fileURLToPath } from "node:url"
import { parse } from "yaml"
import { readFileSync } from "node:fs"
import * as Names from "../../src/api/Names.ts"
import { parseAddress } from "../../src/commands/controller.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { nodeProblem, version } from "../../src/Version.ts"
import { retrying, root, start } from "./ControllerProcess.ts"

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

  it.live("waits for an API server that is away, alive but not ready, says why, and puts webhooks off", () =>
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
      // Nobody is told anything yet, with credentials or without; and nobody's webhook is lost.
      for (const token of ["token", "wrong"]) {
        for (const path of ["/webhook/plant/site", "/webhook/plant", "/webhook"]) {
          const answer = yield* controller.send(path, { ref: "v1", repoURL: "https://git.example.com/a" }, token)
          assert.strictEqual(answer.status, 503)
          assert.strictEqual(answer.headers["retry-after"], "2")
          assert.deepStrictEqual(yield* answer.json, {
            error: "the receiver is starting; send it again",
            synced: false
          })
        }
      }
      assert.include((yield* controller.get("probes", "/readyz")).text, "process: starting")
      yield* controller.signal("SIGTERM")
      assert.strictEqual(yield* controller.exit, 0)
    }).pipe(Effect.provide(services))
  )

  it("says which Node it needs where this one is too old", () => {
    assert.match(nodeProblem("20.20.2") ?? "", /needs Node 22\.19\.0 or newer, and this is 20\.20\.2\. Install/)
    assert.match(nodeProblem("22.2.0") ?? "", /needs Node/)
    for (const recent of ["22.19.0", "22.20.0", "26.10.0"]) assert.isUndefined(nodeProblem(recent))
  })

  it.live("ends with one line that names file, cause and way out where it cannot be configured", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const folder = yield* fs.makeTempDirectoryScoped()
      const broken = `${folder}/broken`
      yield* fs.writeFileString(broken, 'token: "the-secret\nusers: [')
      const way = "Set KUBECONFIG to one, or run in a Pod with a ServiceAccount"
      for (const [kubeconfig, cause] of [
        ["/nowhere/at/all", "the kubeconfig /nowhere/at/all cannot be used: ENOENT: no such file or directory"],
        [broken, `the kubeconfig ${broken} cannot be used: `],
        ["", `there is no kubeconfig: KUBECONFIG names none, and ${folder}/.kube/config is not there. `]
      ] as const) {
        const controller = yield* start(kubeconfig, [], { HOME: folder })
        assert.strictEqual(yield* controller.exit, 1)
        const lines = (yield* controller.lines).filter(({ level }) => level === "fatal")
        assert.lengthOf(lines, 1)
        const message = String(lines[0]?.message)
        assert.isTrue(message.startsWith(cause) && message.endsWith(way), message)
        assert.notMatch(message, /\n|the-secret/)
      }
    }).pipe(Effect.scoped, Effect.provide(services))
  )

  it.live("is kept from ending by no request that never comes to its end", () =>
    Effect.gen(function* () {
      const nowhere = fileURLToPath(new URL("nowhere.kubeconfig.json", import.meta.url))
      const controller = yield* start(nowhere)
      const silent = yield* Effect.forEach(["metrics", "probes"], (what) =>
        Effect.flatMap(controller.portOf(what), (port) =>
          Effect.acquireRelease(
            Effect.callback<NodeNet.Socket>((resume) => {
              const socket = NodeNet.connect(port, "127.0.0.1", () =>
                socket.write("GET /metrics HTTP/1.1\r\n", () => resume(Effect.succeed(socket)))
              )
            }),
            (socket) => Effect.sync(() => socket.destroy())
          )
        )
      )
      const closed = Effect.forEach(
        silent,
        (socket) =>
          Effect.callback<void>((resume) => {
            socket.once("close", () => resume(Effect.void)).resume()
          }),
        { concurrency: "unbounded" }
      )
      const ended = yield* Effect.forkScoped(closed, { startImmediately: true })
      // Accepted by now.
      assert.strictEqual((yield* controller.get("metrics", "/metrics")).status, 200)
      yield* controller.until("probes", "/healthz", 200)
      yield* controller.signal("SIGTERM")
      yield* Fiber.join(ended)
      assert.strictEqual(yield* controller.exit, 0)
    }).pipe(Effect.scoped, Effect.provide(services))
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
