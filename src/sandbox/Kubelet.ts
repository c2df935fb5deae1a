/**
 * What a kubelet does for the pods of the sandbox: runs the *built* product as processes, with the arguments, the
 * environment, the Secrets and the ServiceAccount's token that the pod would have. Nothing runs as administrator.
 */
import { type Duration, Effect, FileSystem, Option, Path, Redacted, Schedule, Schema } from "effect"
import { HttpClient } from "effect/http"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Names from "../api/Names.ts"
import * as Checkout from "./Checkout.ts"
import { ControlPlane } from "./ControlPlane.ts"
import { freePort, Processes } from "./Processes.ts"

/** The part of a container that a kubelet of ours understands. */
export const Container = Schema.Struct({
  args: Schema.optionalKey(Schema.Array(Schema.String)),
  env: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        name: Schema.String,
        value: Schema.optionalKey(Schema.String),
        valueFrom: Schema.optionalKey(
          Schema.Struct({
            fieldRef: Schema.optionalKey(Schema.Struct({ fieldPath: Schema.String }))
          })
        )
      })
    )
  ),
  volumeMounts: Schema.optionalKey(Schema.Array(Schema.Struct({ name: Schema.String, mountPath: Schema.String })))
})

/** The part of a Deployment that is run. */
export const Deployment = Schema.Struct({
  metadata: Schema.Struct({ name: Schema.String }),
  spec: Schema.Struct({
    template: Schema.Struct({
      spec: Schema.Struct({
        serviceAccountName: Schema.String,
        containers: Schema.NonEmptyArray(Container),
        volumes: Schema.optionalKey(
          Schema.Array(
            Schema.Struct({
              name: Schema.String,
              secret: Schema.optionalKey(
                Schema.Struct({
                  secretName: Schema.String,
                  /** Which keys, and under which names; all under their own when absent. */
                  items: Schema.optionalKey(Schema.Array(Schema.Struct({ key: Schema.String, path: Schema.String })))
                })
              )
            })
          )
        )
      })
    })
  })
})
export const decodeDeployment = Schema.decodeUnknownEffect(Deployment)

/** How long a program may take from its start to its readiness. */
const patience: Duration.Input = "20 seconds"

/** A running pod of ours. */
export interface Running {
  readonly pid: number
  readonly logFile: string
  /** Where its probes answer, e.g. `http://127.0.0.1:40123`. */
  readonly probes: string
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  readonly ended: Effect.Effect<{ readonly how: string }>
  /** Waits until a probe answers 200. */
  readonly await: (
    probe: "healthz" | "readyz" | "startupz",
    within?: Duration.Input
  ) => Effect.Effect<void, KubeletError>
}

/** A program of the product did not come up. Not retried. */
export class KubeletError extends Schema.TaggedError<KubeletError>()("KubeletError", { message: Schema.String }) {}

/** The status of a gateway pod whose agent, a native sidecar, has started. */
export const sidecarStatus = (phase: "Pending" | "Running", ready: boolean) => ({
  phase,
  initContainerStatuses: [
    {
      name: Names.agentContainer,
      image: "stoker-agent",
      imageID: "",
      started: true,
      ready,
      restartCount: 0,
      state: { running: {} }
    }
  ]
})

/** A folder as the kubelet projects it: `token` (renewed long before it expires), `ca.crt`, `namespace`. */
export const serviceAccount = Effect.fnUntraced(function* (namespace: string, name: string) {
  const controlPlane = yield* ControlPlane
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* (yield* Processes).folder("stoker-service-account-")
  const renew = Effect.gen(function* () {
    const { token } = yield* controlPlane.issueServiceAccountToken(namespace, name, { lifetime: "1 hour" })
    yield* fileSystem.writeFileString(path.join(folder, "token.new"), Redacted.value(token), { mode: 0o600 })
    yield* fileSystem.rename(path.join(folder, "token.new"), path.join(folder, "token"))
  })
  yield* renew
  yield* fileSystem.writeFileString(path.join(folder, "ca.crt"), controlPlane.caData)
  yield* fileSystem.writeFileString(path.join(folder, "namespace"), namespace)
  yield* renew.pipe(
    Effect.catch((error) =>
      Effect.logWarning(`the token of ServiceAccount ${namespace}/${name} is not renewed yet: ${error}`)
    ),
    Effect.repeat(Schedule.spaced("20 minutes")),
    Effect.delay("20 minutes"),
    Effect.forkScoped
  )
  return folder
})

interface Pod {
  readonly name: string
  readonly args: ReadonlyArray<string>
  readonly env: Readonly<Record<string, string>>
  readonly serviceAccountFolder: string
  readonly logFolder: string
  readonly probePort: number
}

/** Starts `dist/stoker.js` in a pod's shoes. */
export const run = Effect.fnUntraced(function* (pod: Pod) {
  const controlPlane = yield* ControlPlane
  const processes = yield* Processes
  const path = yield* Path.Path
  const entry = path.join(yield* Checkout.root, "dist", "stoker.js")
  const http = yield* NodeHttpClient.makeNodeHttp.pipe(
    Effect.provideServiceEffect(NodeHttpClient.HttpAgent, NodeHttpClient.makeAgent())
  )
  const server = new URL(controlPlane.url)
  const process_ = yield* processes.start({
    name: pod.name,
    command: process.execPath,
    args: [entry, ...pod.args],
    logFolder: pod.logFolder,
    grace: "10 seconds",
    env: {
      // Nothing of the sandbox's own surroundings may help the product along.
      KUBECONFIG: undefined,
      NODE_OPTIONS: undefined,
      NODE_EXTRA_CA_CERTS: undefined,
      ...pod.env,
      KUBERNETES_SERVICE_HOST: server.hostname,
      KUBERNETES_SERVICE_PORT: server.port,
      SERVICE_ACCOUNT_DIR: pod.serviceAccountFolder
    }
  })
  const probes = `http://127.0.0.1:${pod.probePort}`
  const running: Running = {
    pid: process_.pid,
    logFile: process_.logFile,
    probes,
    signal: process_.signal,
    ended: process_.ended,
    await: (probe, within = patience) =>
      process_
        .awaitReady(isOk(http, `${probes}/${probe}`), within)
        .pipe(Effect.mapError((error) => new KubeletError({ message: error.message })))
  }
  return running
})

const isOk = Effect.fnUntraced(
  function* (http: HttpClient.HttpClient, url: string) {
    const response = yield* http.get(url)
    yield* response.text
    if (response.status !== 200) return yield* new KubeletError({ message: `${url} answers ${response.status}` })
  },
  Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
)

/** The controller of a Deployment, each of its ports a free one of this machine. */
export const runController = Effect.fnUntraced(function* (options: {
  readonly deployment: typeof Deployment.Type
  readonly namespace: string
  /** Secret name → key → value, for what is mounted. */
  readonly secrets: Readonly<Record<string, Readonly<Record<string, string>>>>
  readonly webhookPort: number
  readonly env: Readonly<Record<string, string>>
  readonly logFolder: string
  readonly name?: string
}) {
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { spec } = options.deployment.spec.template
  const container = spec.containers[0]
  const name = options.name ?? "controller"
  const [probePort, metricsPort] = yield* Effect.all([freePort, freePort])
  const receiverPort = options.webhookPort === 0 ? yield* freePort : options.webhookPort

  // Secret volumes become folders; what points to a mount path is pointed there.
  const mounts = new Map<string, string>()
  for (const mount of container.volumeMounts ?? []) {
    const secret = spec.volumes?.find((volume) => volume.name === mount.name)?.secret
    if (secret === undefined) continue
    const folder = yield* (yield* Processes).folder("stoker-secret-")
    const content = options.secrets[secret.secretName] ?? {}
    const items = secret.items ?? Object.keys(content).map((key) => ({ key, path: key }))
    for (const item of items) {
      yield* fileSystem.writeFileString(path.join(folder, item.path), content[item.key] ?? "", { mode: 0o600 })
    }
    mounts.set(mount.mountPath, folder)
  }
  const relocate = (value: string) => {
    for (const [from, to] of mounts)
      if (value === from || value.startsWith(`${from}/`)) return to + value.slice(from.length)
    return value
  }
  const fields: Readonly<Record<string, string>> = {
    "metadata.name": `${options.deployment.metadata.name}-${name}`,
    "metadata.namespace": options.namespace
  }
  const env = Object.fromEntries(
    (container.env ?? []).map((variable) => [
      variable.name,
      relocate(variable.value ?? fields[variable.valueFrom?.fieldRef?.fieldPath ?? ""] ?? "")
    ])
  )
  const ports: Readonly<Record<string, string>> = {
    "--health-probe-bind-address": `127.0.0.1:${probePort}`,
    "--metrics-bind-address": `127.0.0.1:${metricsPort}`,
    "--webhook-receiver-port": String(receiverPort)
  }
  const args = (container.args ?? []).map((argument) => {
    const [flag, value] = argument.split("=", 2)
    return ports[flag!] === undefined || value === "0" ? relocate(argument) : `${flag}=${ports[flag!]}`
  })
  const running = yield* run({
    name,
    args: args[0] === "controller" ? args : ["controller", ...args],
    env: { ...env, ...options.env },
    serviceAccountFolder: yield* serviceAccount(options.namespace, spec.serviceAccountName),
    logFolder: options.logFolder,
    probePort
  })
  return { ...running, webhookPort: receiverPort, metricsUrl: `http://127.0.0.1:${metricsPort}/metrics` }
})

/** The agent of a gateway pod, with the environment that injection gives it. */
export const runAgent = Effect.fnUntraced(function* (options: {
  readonly namespace: string
  readonly podName: string
  readonly podUID: string
  readonly crName: string
  readonly gatewayName: string
  readonly profile: string
  readonly serviceAccountName: string
  readonly dataDir: string
  readonly gatewayPort: number
  readonly apiKey: Redacted.Redacted
  readonly gitToken?: Redacted.Redacted
  readonly env: Readonly<Record<string, string>>
  readonly logFolder: string
}) {
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const processes = yield* Processes
  const probePort = yield* freePort
  const secrets = yield* processes.folder("stoker-secret-")
  const apiKeyFile = path.join(secrets, "api-key")
  yield* fileSystem.writeFileString(apiKeyFile, Redacted.value(options.apiKey), { mode: 0o600 })
  const gitTokenFile = path.join(secrets, "git-token")
  const gitToken = Option.fromNullishOr(options.gitToken)
  if (Option.isSome(gitToken)) {
    yield* fileSystem.writeFileString(gitTokenFile, Redacted.value(gitToken.value), { mode: 0o600 })
  }
  return yield* run({
    name: `agent-${options.podName}`,
    args: ["agent"],
    env: {
      POD_NAME: options.podName,
      POD_NAMESPACE: options.namespace,
      POD_UID: options.podUID,
      CR_NAME: options.crName,
      CR_NAMESPACE: options.namespace,
      GATEWAY_NAME: options.gatewayName,
      PROFILE: options.profile,
      REPO_PATH: yield* processes.folder("stoker-agent-repo-"),
      DATA_PATH: options.dataDir,
      GATEWAY_PORT: String(options.gatewayPort),
      GATEWAY_TLS: "false",
      // Gateways of one GatewaySync have one port; here they share a machine, so each has its own.
      GATEWAY_URL: `http://localhost:${options.gatewayPort}`,
      API_KEY_FILE: apiKeyFile,
      SYNC_PERIOD: "30",
      PROBE_PORT: String(probePort),
      METRICS_PORT: "0",
      // As an image has them, and the chart gives them to the controller: little garbage is kept, one arena serves all threads.
      NODE_OPTIONS: "--max-semi-space-size=1",
      MALLOC_ARENA_MAX: "1",
      ...(Option.isSome(gitToken) ? { GIT_TOKEN_FILE: gitTokenFile } : {}),
      ...options.env
    },
    serviceAccountFolder: yield* serviceAccount(options.namespace, options.serviceAccountName),
    logFolder: options.logFolder,
    probePort
  })
})
