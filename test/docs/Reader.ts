/**
 * The reader of a page: has installed the chart from a registry, has a gateway, and does what is written.
 */
import { Context, Effect, FileSystem, Layer, Path, Schedule, Schema, Stream } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { NodeHttpClient, NodeServices } from "@effect/platform-node"
import { createHmac } from "node:crypto"
import { parse } from "yaml"
import * as Names from "../../src/api/Names.ts"
import * as Checkout from "../../src/sandbox/Checkout.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { Processes } from "../../src/sandbox/Processes.ts"
import { Toolchain } from "../../src/sandbox/Toolchain.ts"
import * as OneGateway from "../charts/OneGateway.ts"
import { fullname, namespace, Release } from "../charts/Release.ts"
import * as Blocks from "./Blocks.ts"
import * as Registry from "./Registry.ts"

export const receiver = `${fullname}-webhook-receiver`
export const site = { namespace: "my-namespace", cr: "my-sync" }
export const path = `/webhook/${site.namespace}/${site.cr}`

type Page = Effect.Success<ReturnType<typeof Blocks.read>>
type Plant = Effect.Success<ReturnType<typeof OneGateway.make>>

export class Reader extends Context.Service<
  Reader,
  {
    readonly page: Page
    readonly plant: Plant
    /** Runs shell, as it stands but for the hosts, which are on loopback here. Answers what it printed. */
    readonly shell: (text: string, replace?: Readonly<Record<string, string>>) => Effect.Effect<string>
    /** `helm upgrade` with these values (the receiver is enabled unless they say otherwise), and the roll-out. */
    readonly configure: (values: string) => Effect.Effect<void>
  }
>()("test/docs/Reader") {
  /** @param file of the page, below `docs/` */
  static readonly layerNoDeps = (file: string) =>
    Layer.effect(
      Reader,
      Effect.gen(function* () {
        const release = yield* Release
        const { adminKubeconfig } = yield* ControlPlane
        const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
        const toolchain = yield* Toolchain
        const paths = yield* Path.Path
        const folder = yield* (yield* Processes).folder("stoker-reader-")
        const page = yield* Blocks.read(paths.join(yield* Checkout.root, "docs", file))
        const [helm, kubectl] = yield* Effect.all([toolchain.find("helm"), toolchain.find("kubectl")])

        const registry = yield* Registry.make
        const published = `oci://${registry}/ia-eknorr/charts`
        yield* release.helm(["package", release.chart, "-d", folder])
        const { version } = yield* Effect.flatMap(
          FileSystem.FileSystem.use((fileSystem) => fileSystem.readFileString(paths.join(release.chart, "Chart.yaml"))),
          (text) => Schema.decodeUnknownEffect(Schema.Struct({ version: Schema.String }))(parse(text))
        )
        yield* release.helm(["push", `${folder}/stoker-operator-${version}.tgz`, published, "--plain-http"])
        const chart = [`${published}/stoker-operator`, "--plain-http"]
        yield* release.helm(["install", "stoker", ...chart, "-n", namespace, "--create-namespace"])
        yield* release.rollOut
        const plant = yield* OneGateway.make(site)
        yield* plant.startGateway
        yield* plant.arrives("v1.0.0")
        yield* plant.publish("v2.0.0", "refs/tags/v2.0.0")

        const shell = Effect.fnUntraced(
          function* (text: string, replace: Readonly<Record<string, string>> = {}) {
            const hosts = {
              "oci://ghcr.io/ia-eknorr/charts/stoker-operator": chart.join(" "),
              ...replace
            }
            const script = Object.entries(hosts).reduce((script, [from, to]) => script.replaceAll(from, to), text)
            const child = yield* spawner.spawn(
              ChildProcess.make("sh", ["-euc", script], {
                stdin: "ignore",
                env: {
                  PATH: [helm, kubectl]
                    .map((file) => paths.dirname(file))
                    .concat(process.env["PATH"] ?? "")
                    .join(":"),
                  KUBECONFIG: adminKubeconfig,
                  HELM_CACHE_HOME: folder,
                  HELM_CONFIG_HOME: folder,
                  HELM_DATA_HOME: folder
                },
                extendEnv: true
              })
            )
            const [output, code] = yield* Effect.all([Stream.mkString(Stream.decodeText(child.all)), child.exitCode], {
              concurrency: 2
            })
            return yield* code === 0 ? Effect.succeed(output) : Effect.die(new Error(`${script}: ${output}`))
          },
          Effect.scoped,
          Effect.orDie
        )

        const configure = Effect.fnUntraced(function* (values: string) {
          const always = ["--set", "webhookReceiver.enabled=true", "--set", "metrics.secure=false"]
          yield* release.helm(["upgrade", "stoker", ...chart, "-n", namespace, "--reset-values", ...always], values)
          yield* release.rollOut
        }, Effect.orDie)

        return Reader.of({ page, plant, shell, configure })
      })
    )
}

/** With a cluster of its own. */
export const layer = (file: string) =>
  Reader.layerNoDeps(file).pipe(
    Layer.provideMerge(Layer.mergeAll(Release.layer, GitServer.layerNoDeps())),
    Layer.provideMerge(ControlPlane.layer),
    Layer.provideMerge(Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp))
  )

export const often = Schedule.spaced("20 millis")

export const sign = (body: string, secret: string) => ({
  "x-hub-signature-256": `sha256=${createHmac("sha256", secret).update(body).digest("hex")}`
})
export const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

/** Through the Service, as everyone comes. */
export const request = Effect.fnUntraced(function* (
  method: "POST" | "GET" | "PUT",
  target: string,
  body?: string,
  headers: Readonly<Record<string, string>> = {}
) {
  const { through } = yield* Release
  const response = yield* HttpClientRequest.make(method)(`${yield* through(receiver)}${target}`).pipe(
    body === undefined ? (request) => request : HttpClientRequest.bodyText(body, "application/json"),
    HttpClientRequest.setHeaders(headers),
    HttpClient.execute
  )
  const answer = (yield* response.json) as Readonly<Record<string, unknown>>
  return { status: response.status, body: answer, headers: response.headers }
})

export const post = (body: string, headers: Readonly<Record<string, string>> = {}, target = path) =>
  request("POST", target, body, headers)

export const annotations = Effect.gen(function* () {
  const { get } = yield* Release
  const { plant } = yield* Reader
  const { metadata } = (yield* get(plant.gatewaySync)) as {
    readonly metadata: { readonly annotations?: Readonly<Record<string, string>> }
  }
  return metadata.annotations ?? {}
})

/** Where a test begins: the receiver is enabled, the GatewaySync follows the tag v1.0.0, nothing is requested, and the gateway has it. */
export const settle = Effect.gen(function* () {
  const { configure, plant } = yield* Reader
  const { get } = yield* Release
  const isThere = yield* get(`/api/v1/namespaces/${namespace}/services/${receiver}`)
  if (isThere === undefined) yield* configure("")
  yield* plant.merge({
    metadata: { annotations: Object.fromEntries(Object.values(Names.request).map((name) => [name, null])) },
    spec: { git: { ref: "v1.0.0" }, polling: { enabled: false, interval: "60s" } }
  })
  yield* plant.arrives("v1.0.0")
})
