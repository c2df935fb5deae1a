/** A gateway with its agent, in a namespace with a repository: the plant that the page's examples are about. */
import { Effect, Path, Redacted, Schema } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import * as Names from "../../src/api/Names.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as Kubelet from "../../src/sandbox/Kubelet.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import { Processes } from "../../src/sandbox/Processes.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"

/** Needs the definition of GatewaySync; `startGateway` needs a controller that runs. */
export const make = Effect.fnUntraced(function* (where: { readonly namespace: string; readonly cr: string }) {
  const { admin } = yield* ControlPlane
  const processes = yield* Processes
  const path = yield* Path.Path
  const repository = yield* (yield* GitServer).create(where.namespace)
  const apiKey = "stoker:secret"
  const object = (apiVersion: string, kind: string, name: string, rest: object): Manifests.Manifest => ({
    apiVersion,
    kind,
    metadata: { name },
    ...rest
  })
  yield* Manifests.apply(
    [
      object("v1", "Namespace", where.namespace, {}),
      object("v1", "ServiceAccount", "ignition", {}),
      object("v1", "Secret", "gateway-api-key", { stringData: { apiKey } }),
      object(Names.apiVersion, "GatewaySync", where.cr, {
        spec: {
          git: { repo: repository.url, ref: "v1.0.0" },
          polling: { enabled: false },
          gateway: { api: { secretName: "gateway-api-key" } },
          sync: { profiles: { default: { mappings: [{ source: "projects", destination: "projects" }] } } }
        }
      })
    ],
    where.namespace
  )
  /** Commits a revision of the plant, and points refs at it. */
  const publish = Effect.fnUntraced(function* (revision: string, ...refs: ReadonlyArray<string>) {
    const project = JSON.stringify({ title: revision, enabled: true, inheritable: false, parent: "" })
    const commit = yield* repository.commit({
      branch: "main",
      files: { "projects/plant/project.json": project },
      message: revision
    })
    yield* Effect.forEach(refs, (ref) => repository.setRef(ref, commit))
    return commit
  }, Effect.orDie)
  yield* publish("v1.0.0", "refs/tags/v1.0.0")

  const dataDir = path.join(yield* processes.folder("stoker-gateway-"), "data")
  const gateway = yield* SimulatedGateway.make({
    name: "gateway",
    dataDir,
    tokens: [apiKey],
    boots: false,
    startupTime: "100 millis",
    scanDuration: "10 millis"
  })
  const podName = "gateway-0"
  const pod: Manifests.Manifest = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: podName,
      annotations: { [Names.pod.inject]: "true", [Names.pod.injected]: "true", [Names.pod.crName]: where.cr },
      labels: { [Names.pod.agentLabel]: "true" }
    },
    spec: {
      serviceAccountName: "ignition",
      initContainers: [{ name: Names.agentContainer, image: "stoker-agent", restartPolicy: "Always" }],
      containers: [{ name: "gateway", image: "inductiveautomation/ignition:8.3" }]
    }
  }
  const setStatus = (phase: "Pending" | "Running", ready: boolean) => {
    const { apiVersion, kind } = pod
    return Manifests.apply(
      [{ apiVersion, kind, metadata: { name: podName }, status: Kubelet.sidecarStatus(phase, ready) }],
      where.namespace,
      "/status"
    )
  }

  const startGateway = Effect.gen(function* () {
    yield* Manifests.apply([pod], where.namespace)
    yield* setStatus("Pending", false)
    const Created = Schema.Struct({ metadata: Schema.Struct({ uid: Schema.String }) })
    const { metadata } = yield* admin
      .get(`/api/v1/namespaces/${where.namespace}/pods/${podName}`)
      .pipe(Effect.flatMap(HttpClientResponse.schemaBodyJson(Created)))
    const agent = yield* Kubelet.runAgent({
      namespace: where.namespace,
      podName,
      podUID: metadata.uid,
      crName: where.cr,
      gatewayName: "gateway",
      profile: "default",
      serviceAccountName: "ignition",
      dataDir,
      gatewayPort: Number(new URL(gateway.url).port),
      apiKey: Redacted.make(apiKey),
      env: {},
      logFolder: yield* processes.folder("stoker-agent-")
    })
    yield* agent.await("startupz", "30 seconds")
    yield* gateway.setPhase("running")
    yield* gateway.awaitPhase("running")
    yield* agent.await("readyz", "30 seconds")
    yield* setStatus("Running", true)
  })

  const url = `/apis/${Names.apiVersion}/namespaces/${where.namespace}/gatewaysyncs/${where.cr}`
  return {
    repository,
    publish,
    startGateway,
    gatewaySync: url,
    /** Waits until the gateway has loaded a revision. */
    arrives: (revision: string) =>
      gateway
        .awaitModel(({ projects }) => projects["plant"]?.manifest.text?.includes(`"${revision}"`) === true)
        .pipe(
          Effect.timeoutOrElse({
            duration: "15 seconds",
            orElse: () => Effect.die(new Error(`${revision} did not reach the gateway`))
          }),
          Effect.asVoid
        ),
    merge: (body: object) =>
      HttpClient.filterStatusOk(admin)
        .execute(
          HttpClientRequest.patch(url).pipe(
            HttpClientRequest.bodyText(JSON.stringify(body), "application/merge-patch+json")
          )
        )
        .pipe(
          Effect.flatMap((response) => response.text),
          Effect.orDie
        )
  }
})
