/**
 * A real API server with our CRD, a real git server, and the controller as the process runs it, but for its writes, which
 * are noted here.
 */
import { NodeServices } from "@effect/platform-node"
import { Clock, Context, Duration, Effect, Layer, Ref, Schedule, Schema } from "effect"
import { SecureRandom } from "effect/crypto"
import { HttpClient, HttpClientRequest } from "effect/http"
import * as CustomResourceDefinition from "../../src/api/CustomResourceDefinition.ts"
import { GatewaySync } from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import { GatewaySyncController } from "../../src/controller/GatewaySyncController.ts"
import { Definition } from "../../src/controller/Definition.ts"
import { InstallationTokens } from "../../src/controller/InstallationTokens.ts"
import { Memory } from "../../src/controller/Memory.ts"
import { Metrics } from "../../src/controller/Metrics.ts"
import { SharedRefs } from "../../src/controller/SharedRefs.ts"
import { Stores } from "../../src/controller/Stores.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { EventRecorder } from "../../src/kubernetes/EventRecorder.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as Connection from "../kubernetes/Connection.ts"
import { Supervisor } from "../../src/telemetry/Supervisor.ts"

/** Installs a definition of GatewaySync and waits until it is served. */
export const definition = (installed: object) =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const { admin } = yield* ControlPlane
      const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
      yield* admin.execute(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(path), installed))
      yield* HttpClient.filterStatusOk(admin)
        .get(`/apis/${Names.apiVersion}/gatewaysyncs`)
        .pipe(Effect.retry(Schedule.spaced("20 millis")), Effect.timeout("20 seconds"))
    })
  )

export const definitions = definition(CustomResourceDefinition.gatewaySyncs)

/** A write of the controller, e.g. `apply configmaps one/stoker-metadata-site`. */
export class Writes extends Context.Service<Writes, { readonly all: Effect.Effect<ReadonlyArray<string>> }>()(
  "test/controller/Writes"
) {}

const noted = Layer.effectContext(
  Effect.gen(function* () {
    const client = yield* ApiClient
    const log = yield* Ref.make<ReadonlyArray<string>>([])
    /** The tests write, too, through the same client: under names of their own. */
    const noting =
      <Args extends ReadonlyArray<unknown>, A, E>(
        verb: string,
        write: (resource: Resource.Resource, ref: Resource.ObjectRef, ...args: Args) => Effect.Effect<A, E>
      ) =>
      (resource: Resource.Resource, ref: Resource.ObjectRef, ...args: Args) => {
        const isOurs =
          verb === "delete" || JSON.stringify(args).includes(`"fieldManager":"${Names.managers.controller}"`)
        const line = `${verb} ${resource.plural} ${Resource.key(ref)}`
        return Effect.andThen(
          isOurs ? Ref.update(log, (lines) => [...lines, line]) : Effect.void,
          write(resource, ref, ...args)
        )
      }
    return Context.make(
      ApiClient,
      ApiClient.of({
        ...client,
        apply: noting("apply", client.apply),
        mergePatch: noting("merge", client.mergePatch),
        jsonPatch: noting("json", client.jsonPatch),
        delete: noting("delete", client.delete)
      })
    ).pipe(Context.add(Writes, { all: Ref.get(log) }))
  })
)

/** Runs the controller, as the leader would. */
const running = Layer.effectDiscard(
  Effect.gen(function* () {
    const controller = yield* GatewaySyncController
    const { supervise } = yield* Supervisor
    yield* supervise("controller", controller.run)
    yield* (yield* Stores).ready
  })
)

/** The controller over whatever ApiClient is given; it mirrors, and does not lead yet. */
export const mirrors = GatewaySyncController.layer.pipe(
  Layer.provideMerge(
    Layer.mergeAll(
      Stores.layer,
      Definition.layer,
      InstallationTokens.layer,
      SharedRefs.layer,
      Metrics.layer,
      SecureRandom.layerWebCrypto,
      EventRecorder.layer({ controller: Names.eventController, instance: "test" })
    )
  ),
  Layer.provideMerge(Layer.mergeAll(Memory.layer, Supervisor.layer)),
  Layer.provide(GitCommand.layer),
  Layer.provide(NodeServices.layer)
)

export const controller = running.pipe(Layer.provideMerge(mirrors))

/** On a control plane and a git server, over a client that may do more than the usual one. */
export const over = <A, E, R, I>(
  process: Layer.Layer<A, E, R>,
  client: Layer.Layer<ApiClient | I, never, ApiClient>,
  installed: typeof definitions = definitions
) =>
  process.pipe(
    Layer.provideMerge(client.pipe(Layer.provide(ApiClient.layer))),
    Layer.provideMerge(Connection.kubeConfig),
    Layer.provideMerge(installed),
    Layer.provideMerge(Layer.mergeAll(ControlPlane.layer, GitServer.layer))
  )

export const layerWith = (installed: typeof definitions) => over(controller, noted, installed)

export const layer = layerWith(definitions)

// What tests do -------------------------------------------------------------------------------------------------------

const decode = Schema.decodeUnknownEffect(GatewaySync)
const decodePod = Schema.decodeUnknownEffect(Schema.Struct({ metadata: Schema.Struct({ uid: Schema.String }) }))
const decodeEvents = Schema.decodeUnknownEffect(
  Schema.Struct({
    items: Schema.Array(
      Schema.Struct({
        reason: Schema.String,
        note: Schema.String,
        series: Schema.optionalKey(Schema.Struct({ count: Schema.Int }))
      })
    )
  })
)

/** A namespace of its own with helpers for one GatewaySync. */
export const plant = Effect.fnUntraced(function* (namespace: string) {
  const client = yield* ApiClient
  const { create: createRepository } = yield* GitServer
  yield* client.request("POST", "/api/v1/namespaces", { metadata: { name: namespace } })
  const repository = yield* createRepository(namespace)
  const ref = (name: string) => ({ namespace, name })
  const fieldManager = "test"

  const get = (name: string) => Effect.flatMap(client.get(Names.gatewaySyncs, ref(name)), decode)
  const data = Effect.fnUntraced(function* (name: string) {
    const raw = yield* client.get(Resource.configMaps, ref(name))
    return ((raw as { readonly data?: Readonly<Record<string, string>> }).data ?? {}) as Readonly<
      Record<string, string | undefined>
    >
  })
  /** `reason: note` of all events on the GatewaySyncs, in the order of their names, with `×n` where they are counted. */
  const events = Effect.map(
    Effect.flatMap(client.request("GET", Resource.path(Resource.events, { namespace })), decodeEvents),
    ({ items }) =>
      items
        .map(({ note, reason, series }) => `${reason}: ${note}${series === undefined ? "" : ` ×${series.count}`}`)
        .sort()
  )
  const create = (name: string, spec: object) =>
    client.create(
      Names.gatewaySyncs,
      namespace,
      {
        apiVersion: Names.apiVersion,
        kind: "GatewaySync",
        metadata: { name },
        spec: {
          git: { repo: repository.url, ref: "main" },
          gateway: { api: { secretName: "api" } },
          polling: { enabled: false },
          sync: { profiles: { default: { mappings: [{ source: "projects", destination: "projects" }] } } },
          ...spec
        }
      },
      { fieldManager }
    )
  const patch = (name: string, body: object) => client.mergePatch(Names.gatewaySyncs, ref(name), body, { fieldManager })
  const annotate = (name: string, annotations: Readonly<Record<string, string | null>>) =>
    patch(name, { metadata: { annotations } })
  /** The pod of a gateway of `site` whose sidecar is ready; answers its UID. */
  const gateway = Effect.fnUntraced(function* (name: string) {
    const pod = yield* client.create(
      Resource.pods,
      namespace,
      {
        metadata: { name, annotations: { [Names.pod.crName]: "site", [Names.pod.inject]: "true" } },
        spec: {
          initContainers: [{ name: Names.agentContainer, image: "agent", restartPolicy: "Always" }],
          containers: [{ name: "gateway", image: "gateway" }]
        }
      },
      { fieldManager }
    )
    yield* sidecar(name, true)
    return (yield* decodePod(pod)).metadata.uid
  })
  const sidecar = (pod: string, ready: boolean) =>
    client.mergePatch(
      Resource.pods,
      ref(pod),
      {
        status: {
          phase: "Running",
          initContainerStatuses: [
            { name: Names.agentContainer, ready, started: true, restartCount: 0, image: "agent", imageID: "" }
          ]
        }
      },
      { fieldManager, subresource: "status" }
    )
  /** What the agent of a pod reports of `site`. */
  const report = (pod: string, value: object) =>
    client.mergePatch(
      Resource.configMaps,
      ref(Names.statusMap("site")),
      { data: { [pod]: JSON.stringify(value) } },
      { fieldManager: Names.managers.agent }
    )

  return { namespace, client, repository, ref, get, data, events, create, patch, annotate, gateway, sidecar, report }
})

/** Looks until it is so. */
export const until = <A, E, R>(
  look: Effect.Effect<A, E, R>,
  isSo: (value: A) => boolean,
  patience: Duration.Input = "15 seconds"
): Effect.Effect<A, Error, R> =>
  Effect.gen(function* () {
    const deadline = (yield* Clock.currentTimeMillis) + Duration.toMillis(patience)
    let last: unknown
    while ((yield* Clock.currentTimeMillis) < deadline) {
      const result = yield* Effect.result(look)
      if (result._tag === "Success" && isSo(result.success)) return result.success
      last = result._tag === "Success" ? result.success : result.failure
      yield* Effect.sleep("10 millis")
    }
    return yield* Effect.fail(new Error(`it never came to be so; last seen: ${JSON.stringify(last, undefined, 2)}`))
  })
