/**
 * A whole plant on one machine: control plane, git server, trace collector, the controller, and gateways each with its
 * agent. For demo, tests and benchmarks; everything goes with the scope.
 *
 * The controller and the agents are the built product, as processes of their own, with tokens of ServiceAccounts that
 * the chart's (and the controller's) RBAC lets do what it lets them do. Gateways are simulated; all else is real.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import {
  Context,
  type Duration,
  Effect,
  FileSystem,
  Layer,
  Option,
  Path,
  Redacted,
  Schedule,
  Schema,
  Scope
} from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import { createHash, createHmac, randomBytes } from "node:crypto"
import * as Names from "../api/Names.ts"
import * as Chart from "./Chart.ts"
import { ControlPlane } from "./ControlPlane.ts"
import * as DemoRepository from "./DemoRepository.ts"
import { filesOf } from "./gateway/GatewayModel.ts"
import { GitServer, type HostedRepository } from "./GitServer.ts"
import * as Kubelet from "./Kubelet.ts"
import * as Manifests from "./Manifests.ts"
import { freePort, Processes } from "./Processes.ts"
import * as SimulatedGateway from "./SimulatedGateway.ts"
import { TraceCollector } from "./TraceCollector.ts"

export interface Options {
  /** Folders of the repository, one a site. */
  readonly sites: number
  /** Gateways in all; the n-th takes the n-th site (modulo) and the n-th GatewaySync (modulo). */
  readonly gateways: number
  /** GatewaySync objects, all of the one repository. */
  readonly crs: number
  /** Pages of a site's project (two files each). */
  readonly views: number
  /** Chart values, `key=value`. */
  readonly set: ReadonlyArray<string>
  /** Port of the webhook receiver; 0 = a free one. */
  readonly webhookPort: number
  /** Whether the processes send traces to the collector. */
  readonly traced: boolean
  /** Whether the git server asks for a token (user `x-access-token`). */
  readonly privateRepository: boolean
}

export const demo: Options = {
  sites: 2,
  gateways: 2,
  crs: 1,
  views: 4,
  set: [],
  webhookPort: 0,
  traced: true,
  privateRepository: false
}

export const namespace = "plant"
const apiKeySecret = "gateway-api-key"
const gitSecret = "git-token"
const agentServiceAccount = "ignition"

/** A gateway with its pod and agent. */
export interface PlantGateway {
  readonly name: string
  readonly podName: string
  readonly crName: string
  readonly profile: string
  readonly gateway: SimulatedGateway.SimulatedGateway
  readonly agent: Kubelet.Running
  /** What differs from the repository at a revision, on disk and in what the gateway has loaded; empty: all is well. */
  readonly differences: (revision: number) => Effect.Effect<ReadonlyArray<string>>
}

/** What a webhook was answered. */
export interface Answer {
  readonly status: number
  readonly body: Readonly<Record<string, unknown>>
}

type StartError =
  | Effect.Error<ReturnType<typeof Kubelet.runAgent>>
  | Effect.Error<ReturnType<typeof Kubelet.runController>>

export class Plant extends Context.Service<
  Plant,
  {
    readonly options: Options
    readonly shape: DemoRepository.Shape
    readonly repository: HostedRepository
    readonly gatewaySyncs: ReadonlyArray<string>
    readonly gateways: ReadonlyArray<PlantGateway>
    readonly controller: Kubelet.Running
    readonly metricsUrl: string
    readonly webhookUrl: string
    readonly bearer: Redacted.Redacted
    readonly hmacSecret: Redacted.Redacted
    /** Every secret of the plant by its name, for tests that look for them where they must not be. */
    readonly secrets: Readonly<Record<string, Redacted.Redacted>>
    readonly kubeconfigs: { readonly admin: string; readonly controller: string; readonly agent: string }
    readonly logFolder: string
    /** A second controller beside the first, for as long as the scope lives; returns at once. */
    readonly startController: (name: string) => Effect.Effect<Kubelet.Running, StartError, Scope.Scope>
    /** An agent for a pod of its own whose gateway does not run (a cold start); returns at once. */
    readonly startAgent: (podName: string) => Effect.Effect<Kubelet.Running, StartError, Scope.Scope>
    /** Commits a new revision to a branch (default `main`) and answers its commit. */
    readonly commit: (revision: number, branch?: string) => Effect.Effect<string>
    /** The GatewaySync as the API server has it. */
    readonly get: (name: string) => Effect.Effect<GatewaySyncView>
    /** JSON merge patch as administrator. */
    readonly patch: (name: string, body: object) => Effect.Effect<void>
    /** Posts to the webhook of a GatewaySync. `sign`: HMAC over the body, as GitHub does; else the bearer token. */
    readonly post: (
      cr: string,
      body: object,
      options?: { readonly event?: string; readonly sign?: boolean; readonly traceparent?: string }
    ) => Effect.Effect<Answer>
  }
>()("stoker/sandbox/Plant") {
  /** Needs ControlPlane (with Processes and Toolchain), GitServer, TraceCollector. */
  static readonly layerNoDeps = (options: Options, progress: (line: string) => Effect.Effect<void>) =>
    Layer.effect(Plant, make(options, progress))
}

/** What the sandbox reads of a GatewaySync. */
const GatewaySyncView = Schema.Struct({
  metadata: Schema.Struct({
    resourceVersion: Schema.String,
    annotations: Schema.Record(Schema.String, Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
  }),
  spec: Schema.Struct({ git: Schema.Struct({ ref: Schema.String }) }),
  status: Schema.Struct({
    lastSyncRef: Schema.optionalKey(Schema.String),
    lastSyncCommit: Schema.optionalKey(Schema.String),
    discoveredGateways: Schema.optionalKey(
      Schema.Array(
        Schema.Struct({
          name: Schema.String,
          syncStatus: Schema.String,
          syncedCommit: Schema.optionalKey(Schema.String),
          message: Schema.optionalKey(Schema.String)
        })
      )
    ),
    conditions: Schema.optionalKey(
      Schema.Array(
        Schema.Struct({ type: Schema.String, status: Schema.String, reason: Schema.String, message: Schema.String })
      )
    )
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
})
export type GatewaySyncView = typeof GatewaySyncView.Type

const AnswerBody = Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown))
const decodeAnswer = Schema.decodeUnknownEffect(AnswerBody)

const manifest = (apiVersion: string, kind: string, name: string, rest: object): Manifests.Manifest => ({
  apiVersion,
  kind,
  metadata: { name, namespace, ...(rest as { readonly metadata?: object }).metadata },
  ...Object.fromEntries(Object.entries(rest).filter(([key]) => key !== "metadata"))
})

const make = Effect.fnUntraced(function* (options: Options, progress: (line: string) => Effect.Effect<void>) {
  const controlPlane = yield* ControlPlane
  const gitServer = yield* GitServer
  const collector = yield* TraceCollector
  const processes = yield* Processes
  const path = yield* Path.Path
  const logFolder = yield* processes.folder("stoker-plant-")
  const http = yield* NodeHttpClient.makeNodeHttp.pipe(
    Effect.provideServiceEffect(NodeHttpClient.HttpAgent, NodeHttpClient.makeAgent({ keepAlive: true }))
  )
  const random = () => randomBytes(16).toString("hex")
  const [bearer, hmacSecret, apiSecret, gitToken] = [random(), random(), random(), random()]
  const telemetry = options.traced
    ? { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector.url}/v1/traces`, OTEL_BSP_SCHEDULE_DELAY: "200" }
    : {}

  const shape: DemoRepository.Shape = {
    sites: Array.from({ length: options.sites }, (_, index) => `site-${index + 1}`),
    views: options.views
  }
  const repository = yield* gitServer.create("plant")
  yield* repository.commit({ files: DemoRepository.repository(shape, 0), message: "Lay out the plant" })
  if (options.privateRepository) {
    yield* repository.requireLogin(Option.some({ username: "x-access-token", password: Redacted.make(gitToken) }))
  }

  yield* progress("rendering the chart and applying it")
  const rendered = yield* Chart.render([
    "webhookReceiver.enabled=true",
    `webhookReceiver.hmac.secret=${hmacSecret}`,
    `webhookReceiver.token.secret=${bearer}`,
    "metrics.enabled=true",
    ...options.set
  ])
  const namespaceManifest = (name: string): Manifests.Manifest => ({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name }
  })
  yield* Manifests.apply([namespaceManifest(Chart.namespace), namespaceManifest(namespace)], namespace)
  const first = (kind: string) => rendered.filter((one) => one.kind === kind)
  const late = rendered.filter((one) => one.kind !== "CustomResourceDefinition")
  yield* Manifests.apply([...first("CustomResourceDefinition"), ...late], Chart.namespace)

  const gatewaySyncs = Array.from({ length: options.crs }, (_, index) =>
    options.crs === 1 ? "plant" : `plant-${index + 1}`
  )
  yield* Manifests.apply(
    [
      manifest("v1", "ServiceAccount", agentServiceAccount, {}),
      manifest("v1", "Secret", apiKeySecret, { stringData: { apiKey: `stoker:${apiSecret}` } }),
      manifest("v1", "Secret", gitSecret, { stringData: { token: gitToken } }),
      ...gatewaySyncs.map((name) =>
        manifest(Names.apiVersion, "GatewaySync", name, {
          spec: {
            git: {
              repo: repository.url,
              ref: "main",
              ...(options.privateRepository
                ? { auth: { token: { secretRef: { name: gitSecret, key: "token" } } } }
                : {})
            },
            // Webhooks do the work; a poll of seconds would hide one that is lost.
            polling: { enabled: true, interval: "1h" },
            gateway: { api: { secretName: apiKeySecret } },
            sync: { profiles: DemoRepository.profiles }
          }
        })
      )
    ],
    namespace
  )

  yield* progress("starting the controller")
  const [deployment] = yield* Effect.forEach(first("Deployment"), (one) => Kubelet.decodeDeployment(one))
  if (deployment === undefined) return yield* new Kubelet.KubeletError({ message: "the chart renders no Deployment" })
  const secrets = Object.fromEntries(
    first("Secret").map((one) => [
      one.metadata.name,
      {
        ...(one["stringData"] as Readonly<Record<string, string>> | undefined),
        ...Object.fromEntries(
          Object.entries((one["data"] ?? {}) as Readonly<Record<string, string>>).map(([key, value]) => [
            key,
            Buffer.from(value, "base64").toString()
          ])
        )
      }
    ])
  )
  const runController = (name: string, webhookPort: number) =>
    Kubelet.runController({
      deployment,
      namespace: Chart.namespace,
      secrets,
      webhookPort,
      env: telemetry,
      logFolder,
      name
    })
  const controller = yield* runController("controller", options.webhookPort)

  const client = (url: string) =>
    HttpClientRequest.setUrl(`/apis/${Names.apiVersion}/namespaces/${namespace}/gatewaysyncs/${url}`)
  const admin = controlPlane.admin
  const get = (name: string) =>
    admin
      .execute(HttpClientRequest.make("GET")("").pipe(client(name)))
      .pipe(
        Effect.flatMap(HttpClientResponse.filterStatusOk),
        Effect.flatMap(HttpClientResponse.schemaBodyJson(GatewaySyncView)),
        Effect.orDie
      )
  const patch = (name: string, body: object) =>
    admin
      .execute(
        HttpClientRequest.make("PATCH")("").pipe(
          client(name),
          HttpClientRequest.bodyText(JSON.stringify(body), "application/merge-patch+json")
        )
      )
      .pipe(
        Effect.flatMap(HttpClientResponse.filterStatusOk),
        Effect.flatMap((response) => response.text),
        Effect.asVoid,
        Effect.orDie
      )

  const runAgent = (
    pod: Pick<
      Parameters<typeof Kubelet.runAgent>[0],
      "podName" | "podUID" | "crName" | "gatewayName" | "profile" | "dataDir" | "gatewayPort"
    >
  ) =>
    Kubelet.runAgent({
      ...pod,
      namespace,
      serviceAccountName: agentServiceAccount,
      apiKey: Redacted.make(`stoker:${apiSecret}`),
      ...(options.privateRepository ? { gitToken: Redacted.make(gitToken) } : {}),
      env: telemetry,
      logFolder
    })

  const startGateway = Effect.fnUntraced(function* (index: number) {
    const name = options.gateways <= options.sites ? shape.sites[index]! : `gateway-${index + 1}`
    const crName = gatewaySyncs[index % gatewaySyncs.length]!
    const profile = index % 2 === 0 ? "default" : "reporting"
    const podName = `${name}-0`
    const dataDir = path.join(yield* processes.folder(`stoker-gateway-`), "data")
    const gateway = yield* SimulatedGateway.make({
      name,
      dataDir,
      tokens: [`stoker:${apiSecret}`],
      boots: false,
      startupTime: "300 millis",
      scanDuration: "20 millis"
    })
    const pod = (rest: object) => manifest("v1", "Pod", podName, rest)
    const status = (phase: "Pending" | "Running", ready: boolean) =>
      Manifests.apply(
        [
          pod({
            status: Kubelet.sidecarStatus(phase, ready)
          })
        ],
        namespace,
        "/status"
      )
    yield* Manifests.apply(
      [
        pod({
          metadata: {
            annotations: {
              [Names.pod.inject]: "true",
              [Names.pod.injected]: "true",
              [Names.pod.crName]: crName,
              [Names.pod.profile]: profile,
              [Names.pod.gatewayName]: name
            },
            labels: { [Names.pod.agentLabel]: "true", [Names.pod.appName]: "ignition" }
          },
          spec: {
            serviceAccountName: agentServiceAccount,
            automountServiceAccountToken: true,
            initContainers: [{ name: Names.agentContainer, image: "stoker-agent", restartPolicy: "Always" }],
            containers: [{ name: "gateway", image: "inductiveautomation/ignition:8.3" }]
          }
        })
      ],
      namespace
    )
    yield* status("Pending", false)
    const { uid } = yield* admin.get(`/api/v1/namespaces/${namespace}/pods/${podName}`).pipe(
      Effect.flatMap(
        HttpClientResponse.schemaBodyJson(Schema.Struct({ metadata: Schema.Struct({ uid: Schema.String }) }))
      ),
      Effect.map(({ metadata }) => metadata)
    )
    const agent = yield* runAgent({
      podName,
      podUID: uid,
      crName,
      gatewayName: name,
      profile,
      dataDir,
      gatewayPort: Number(new URL(gateway.url).port)
    })
    // A native sidecar: the gateway starts once the agent has started, and the agent has once its first sync is done.
    yield* agent.await("startupz", "30 seconds")
    yield* gateway.setPhase("running")
    yield* gateway.awaitPhase("running")
    yield* agent.await("readyz", "30 seconds")
    yield* status("Running", true)
    return {
      name,
      podName,
      crName,
      profile,
      gateway,
      agent,
      differences: differences(shape, dataDir, gateway, name, profile)
    }
  })

  yield* controller.await("readyz")
  yield* progress(`starting ${options.gateways} gateways with their agents`)
  // Whoever starts a process later says by a scope of his own how long it lives.
  const context = Context.omit(Scope.Scope)(
    yield* Effect.context<ControlPlane | Processes | FileSystem.FileSystem | Path.Path | Scope.Scope>()
  )
  const gateways = yield* Effect.forEach(
    Array.from({ length: options.gateways }, (_, index) => index),
    startGateway,
    {
      concurrency: 8
    }
  )

  const webhookUrl = `http://127.0.0.1:${controller.webhookPort}/webhook/${namespace}`
  const kubeconfigs = {
    admin: controlPlane.adminKubeconfig,
    controller: yield* kubeconfig("controller", Chart.namespace, deployment.spec.template.spec.serviceAccountName),
    agent: yield* kubeconfig("agent", namespace, agentServiceAccount)
  }

  return Plant.of({
    options,
    shape,
    repository,
    gatewaySyncs,
    gateways: gateways.map((one) => ({
      ...one,
      differences: (revision: number) => Effect.provideContext(one.differences(revision), context)
    })),
    controller,
    metricsUrl: controller.metricsUrl,
    webhookUrl,
    bearer: Redacted.make(bearer),
    hmacSecret: Redacted.make(hmacSecret),
    secrets: {
      bearer: Redacted.make(bearer),
      hmac: Redacted.make(hmacSecret),
      "gateway API key": Redacted.make(apiSecret),
      "git token": Redacted.make(gitToken)
    },
    kubeconfigs,
    logFolder,
    startController: (name) => Effect.provideContext(runController(name, 0), context),
    startAgent: (podName) =>
      Effect.gen(function* () {
        return yield* runAgent({
          podName,
          podUID: podName,
          crName: gatewaySyncs[0]!,
          gatewayName: shape.sites[0]!,
          profile: "default",
          dataDir: path.join(yield* processes.folder("stoker-gateway-"), "data"),
          gatewayPort: yield* freePort
        })
      }).pipe(Effect.provideContext(context)),
    commit: (revision, branch = "main") =>
      Effect.orDie(
        repository.commit({ branch, files: DemoRepository.change(shape, revision), message: `Revision ${revision}` })
      ),
    get,
    patch,
    post: Effect.fnUntraced(
      function* (cr, body, { event, sign = false, traceparent } = {}) {
        const text = JSON.stringify(body)
        let request = HttpClientRequest.post(`${webhookUrl}/${cr}`).pipe(
          HttpClientRequest.bodyText(text, "application/json")
        )
        if (event !== undefined) {
          request = HttpClientRequest.setHeaders(request, { "x-github-event": event, "x-github-delivery": random() })
        }
        request = sign
          ? HttpClientRequest.setHeader(
              request,
              "x-hub-signature-256",
              `sha256=${createHmac("sha256", hmacSecret).update(text).digest("hex")}`
            )
          : HttpClientRequest.setHeader(request, "authorization", `Bearer ${bearer}`)
        if (traceparent !== undefined) request = HttpClientRequest.setHeader(request, "traceparent", traceparent)
        const response = yield* http.execute(request)
        return { status: response.status, body: yield* Effect.flatMap(response.text, decodeAnswer) }
      },
      Effect.provideService(HttpClient.TracerDisabledWhen, () => true),
      Effect.orDie
    )
  })
})

/** A kubeconfig of a ServiceAccount whose token is renewed in its file. */
const kubeconfig = Effect.fnUntraced(function* (user: string, ofNamespace: string, serviceAccount: string) {
  const controlPlane = yield* ControlPlane
  const folder = yield* Kubelet.serviceAccount(ofNamespace, serviceAccount)
  return yield* controlPlane.kubeconfigFor(user, { tokenFile: `${folder}/token` }, ofNamespace)
})

const sha256 = (content: string) => createHash("sha256").update(content).digest("hex")

const differences =
  (
    shape: DemoRepository.Shape,
    dataDir: string,
    gateway: SimulatedGateway.SimulatedGateway,
    name: string,
    profile: string
  ) =>
  (revision: number) =>
    Effect.gen(function* () {
      const fileSystem = yield* FileSystem.FileSystem
      const expected = DemoRepository.gateway(shape, name, profile, revision)
      const loaded = filesOf(yield* gateway.model)
      const found: Array<string> = []
      for (const [file, content] of Object.entries(expected)) {
        const onDisk = yield* Effect.orElseSucceed(fileSystem.readFileString(`${dataDir}/${file}`), () => undefined)
        if (onDisk !== content)
          found.push(`${name}: ${file} ${onDisk === undefined ? "is not on disk" : "differs on disk"}`)
        const inModel = loaded.get(file)
        if (inModel !== undefined && inModel.sha256 !== sha256(content))
          found.push(`${name}: the gateway has another ${file}`)
        else if (inModel === undefined && file.endsWith("/view.json"))
          found.push(`${name}: the gateway has not loaded ${file}`)
      }
      return found
    })

/** Tries until it holds: for what others do in their own time. */
export const eventually = <E, R>(
  check: Effect.Effect<ReadonlyArray<string>, E, R>,
  within: Duration.Input = "15 seconds"
): Effect.Effect<ReadonlyArray<string>, E, R> =>
  check.pipe(
    Effect.repeat({ until: (problems) => problems.length === 0, schedule: Schedule.spaced("20 millis") }),
    Effect.timeoutOrElse({ duration: within, orElse: () => check })
  )
