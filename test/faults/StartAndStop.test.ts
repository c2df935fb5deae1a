/** The controller as a process: it starts without what it needs, and stops with its hands full. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Schedule } from "effect"
import * as NodeHttp from "node:http"
import * as Names from "../../src/api/Names.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { TraceCollector } from "../../src/sandbox/TraceCollector.ts"
import * as ControllerProcess from "../commands/ControllerProcess.ts"
import * as Cluster from "../controller/Cluster.ts"
import * as Connection from "../kubernetes/Connection.ts"
import * as Proxy from "./Proxy.ts"

const until = <A>(look: () => A, isSo: (value: A) => boolean) =>
  Effect.sync(look).pipe(
    Effect.repeat({ until: isSo, schedule: Schedule.spaced("10 millis") }),
    Effect.timeout("20 seconds")
  )

/** A request of which the server has read the head: from then on it is in flight. Then its body is sent. */
const post = (port: number, path: string, body: string) =>
  Effect.callback<{ readonly status: Promise<number> }>((resume) => {
    const request = NodeHttp.request({
      host: "127.0.0.1",
      port,
      path,
      method: "POST",
      agent: false,
      headers: {
        authorization: "Bearer token",
        "content-type": "application/json",
        "content-length": body.length,
        expect: "100-continue"
      }
    })
    const status = new Promise<number>((resolve, reject) => {
      request.on("response", (response) => {
        response.resume()
        resolve(response.statusCode ?? 0)
      })
      request.on("error", reject)
    })
    request.on("continue", () => {
      request.end(body)
      resume(Effect.succeed({ status }))
    })
    request.flushHeaders()
  })

const services = Layer.mergeAll(
  Connection.layer,
  GitServer.layer,
  TraceCollector.layer,
  NodeServices.layer,
  NodeHttpClient.layerNodeHttp
)
const patience = 60_000

layer(Cluster.definitions.pipe(Layer.provideMerge(services)), { excludeTestServices: true, timeout: "3 minutes" })(
  "The controller",
  (it) => {
    it.effect(
      "answers all 64 requests that it has when it is told to stop, gives the Lease back, sends its traces, exits 0",
      () =>
        Effect.gen(function* () {
          const { adminToken } = yield* ControlPlane
          const collector = yield* TraceCollector
          const fileSystem = yield* FileSystem.FileSystem
          const client = yield* ApiClient
          const plant = yield* Cluster.plant("stop")
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          yield* plant.repository.setRef("refs/tags/v1", first)
          yield* plant.create("site", {})
          const proxy = yield* Proxy.make
          const folder = yield* fileSystem.makeTempDirectoryScoped()
          const config = `${folder}/kubeconfig`
          yield* fileSystem.writeFileString(config, Proxy.kubeconfig(proxy, adminToken, "stop"), { mode: 0o600 })
          const controller = yield* ControllerProcess.start(config, ["--leader-elect"], {
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector.url}/v1/traces`
          })
          yield* controller.until("probes", "/readyz", 200)
          yield* Cluster.until(plant.get("site"), ({ status }) => status.lastSyncCommit === first)

          // The API server takes its time with what the receiver writes.
          proxy.fail(({ method, path }) =>
            method === "PATCH" && path.includes("fieldManager=stoker-receiver") ? { _tag: "Stall" } : undefined
          )
          const requests = yield* Effect.forEach(
            Array.from({ length: 64 }, (_, index) => JSON.stringify({ ref: "v1", n: index })),
            (body) => post(controller.receiverPort, "/webhook/stop/site", body),
            { concurrency: "unbounded" }
          )
          yield* until(proxy.stalled, (count) => count > 0)
          yield* controller.signal("SIGTERM")
          yield* until(
            () => controller.said("stopping"),
            (said) => said
          )
          proxy.heal()
          const statuses = yield* Effect.promise(() => Promise.all(requests.map(({ status }) => status)))
          assert.deepStrictEqual(
            statuses,
            statuses.map(() => 202)
          )
          assert.strictEqual(yield* controller.exit, 0)
          const lease = (yield* client.get(Resource.leases, { namespace: "stop", name: Names.lease })) as {
            readonly spec: { readonly holderIdentity: string }
          }
          assert.strictEqual(lease.spec.holderIdentity, "")
          const spans = yield* collector.spans
          assert.isTrue(spans.some(({ name }) => name === "reconcile"))
          assert.isTrue(spans.some(({ name }) => name === "accept"))
        }),
      patience
    )

    it.effect(
      "waits for an API server that is away, and becomes ready when it comes (10 s)",
      () =>
        Effect.gen(function* () {
          const { adminKubeconfig, apiServer } = yield* ControlPlane
          yield* apiServer.kill
          const controller = yield* ControllerProcess.start(adminKubeconfig)
          yield* controller.until("probes", "/healthz", 200)
          yield* until(
            () => controller.said("did not answer"),
            (said) => said
          )
          assert.strictEqual((yield* controller.get("probes", "/readyz")).status, 503)
          yield* apiServer.start
          yield* controller.until("probes", "/readyz", 200)
          yield* controller.signal("SIGTERM")
          assert.strictEqual(yield* controller.exit, 0)
        }),
      patience
    )

    it.effect(
      "says which right it lacks, and becomes ready when it gets it",
      () =>
        Effect.gen(function* () {
          const { issueServiceAccountToken, kubeconfigFor } = yield* ControlPlane
          const client = yield* ApiClient
          yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: "no-rights" } })
          yield* client.create(
            Resource.serviceAccounts,
            "no-rights",
            { metadata: { name: "stoker" } },
            { fieldManager: "test" }
          )
          const { token } = yield* issueServiceAccountToken("no-rights", "stoker")
          const config = yield* kubeconfigFor("no-rights", { token }, "no-rights")
          const controller = yield* ControllerProcess.start(config, ["--leader-elect"])
          for (const [resource, group] of [
            ["gatewaysyncs", "stoker.io"],
            ["pods", ""],
            ["configmaps", ""]
          ]) {
            yield* until(
              () => controller.said(`cannot list resource "${resource}" in API group "${group}" at the cluster scope`),
              (said) => said
            )
          }
          const { text } = yield* controller.until("probes", "/readyz", 503)
          assert.include(text, "process: starting")
          const group = "rbac.authorization.k8s.io"
          const bind = (name: string) =>
            client.request("POST", `/apis/${group}/v1/clusterrolebindings`, {
              metadata: { name: `no-rights-${name}` },
              roleRef: { apiGroup: group, kind: "ClusterRole", name },
              subjects: [{ kind: "ServiceAccount", name: "stoker", namespace: "no-rights" }]
            })
          yield* client.request("POST", `/apis/${group}/v1/clusterroles`, {
            metadata: { name: "mirror" },
            rules: [
              { apiGroups: ["stoker.io"], resources: ["gatewaysyncs"], verbs: ["list", "watch"] },
              { apiGroups: [""], resources: ["pods", "configmaps"], verbs: ["list", "watch"] }
            ]
          })
          yield* bind("mirror")
          // Enough to receive; to lead it takes a Lease.
          yield* controller.until("probes", "/readyz", 200)
          yield* until(
            () =>
              controller.said(
                'cannot get resource "leases" in API group "coordination.k8s.io" in the namespace "no-rights"'
              ),
            (said) => said
          )
          assert.isFalse(controller.said("leading"))
          yield* bind("cluster-admin")
          yield* until(
            () => controller.said("leading"),
            (said) => said
          )
          yield* controller.signal("SIGTERM")
          assert.strictEqual(yield* controller.exit, 0)
        }),
      patience
    )
  }
)
