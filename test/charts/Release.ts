/**
 * A release of the chart, by the real helm on a real API server. What a cluster has besides is played here, to the
 * letter of the objects that Helm made: the kubelet (runs the built product as the Deployment and the Job say), the
 * controllers of Deployments and Jobs, and the way through a Service.
 */
import { Context, Effect, Exit, Layer, Path, Ref, Schedule, Schema, Scope, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import * as Checkout from "../../src/sandbox/Checkout.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as Kubelet from "../../src/sandbox/Kubelet.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import { Processes } from "../../src/sandbox/Processes.ts"
import { Toolchain } from "../../src/sandbox/Toolchain.ts"

export const namespace = "stoker-system"
/** As the objects of release `stoker` are called. */
export const fullname = "stoker-stoker-operator"
export const manager = `${fullname}-controller-manager`

/** helm said no. */
export class HelmFailed extends Schema.TaggedError<HelmFailed>()("HelmFailed", { output: Schema.String }) {
  override get message(): string {
    return this.output
  }
}

const Labels = Schema.Record(Schema.String, Schema.String)
const PodTemplate = Schema.Struct({
  metadata: Schema.Struct({ labels: Labels }),
  spec: Schema.StructWithRest(
    Schema.Struct({
      serviceAccountName: Schema.String,
      containers: Schema.NonEmptyArray(
        Schema.StructWithRest(
          Schema.Struct({
            args: Schema.Array(Schema.String),
            ports: Schema.optionalKey(Schema.Array(Schema.Struct({ name: Schema.String, containerPort: Schema.Int })))
          }),
          [Schema.Record(Schema.String, Schema.Unknown)]
        )
      )
    }),
    [Schema.Record(Schema.String, Schema.Unknown)]
  )
})
const Workload = Schema.Struct({
  metadata: Schema.Struct({ name: Schema.String }),
  spec: Schema.Struct({ replicas: Schema.optionalKey(Schema.Int), template: PodTemplate })
})
const Service = Schema.Struct({
  spec: Schema.Struct({
    selector: Labels,
    ports: Schema.NonEmptyArray(Schema.Struct({ port: Schema.Int, targetPort: Schema.String }))
  })
})
const Secret = Schema.Struct({ data: Schema.Record(Schema.String, Schema.StringFromBase64) })

interface Running {
  readonly pod: Kubelet.Running & { readonly webhookPort: number; readonly metricsUrl: string }
  readonly podName: string
  readonly template: typeof PodTemplate.Type
  readonly scope: Scope.Closeable
}

export class Release extends Context.Service<
  Release,
  {
    /** Runs helm as the administrator; `values` is YAML, given as `-f`. Answers what it printed. */
    readonly helm: (args: ReadonlyArray<string>, values?: string) => Effect.Effect<string, HelmFailed>
    /** Where the chart lies. */
    readonly chart: string
    /** Does what follows a change of the Deployment: starts the new pod, and stops the old one once it is ready. */
    readonly rollOut: Effect.Effect<Kubelet.Running & { readonly metricsUrl: string }>
    /** `http://127.0.0.1:port` of the pods behind a Service's first port; fails where it leads to none. */
    readonly through: (service: string) => Effect.Effect<string>
    /** `helm uninstall`, with all that a cluster does meanwhile. */
    readonly uninstall: Effect.Effect<string, HelmFailed>
    /** An object as the API server has it; absent: undefined. */
    readonly get: (path: string) => Effect.Effect<unknown>
  }
>()("test/charts/Release") {
  static readonly layer = Layer.effect(
    Release,
    Effect.suspend(() => make)
  )
}

const make = Effect.gen(function* () {
  const { admin, adminKubeconfig } = yield* ControlPlane
  const path = yield* Path.Path
  const processes = yield* Processes
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const file = yield* (yield* Toolchain).find("helm")
  const chart = path.join(yield* Checkout.root, "charts", "stoker-operator")
  const home = yield* processes.folder("stoker-helm-")
  const logFolder = yield* processes.folder("stoker-release-")
  const needs = yield* Effect.context<Effect.Services<ReturnType<typeof Kubelet.runController>>>()
  const current = yield* Ref.make<Running | undefined>(undefined)
  const rollOuts = yield* Ref.make(0)

  const helm = Effect.fnUntraced(
    function* (args: ReadonlyArray<string>, values?: string) {
      const child = yield* spawner.spawn(
        ChildProcess.make(file, [...args, ...(values === undefined ? [] : ["-f", "-"])], {
          stdin: Stream.encodeText(Stream.make(values ?? "")),
          env: {
            KUBECONFIG: adminKubeconfig,
            HELM_CACHE_HOME: home,
            HELM_CONFIG_HOME: home,
            HELM_DATA_HOME: home
          },
          extendEnv: true
        })
      )
      const [output, code] = yield* Effect.all([Stream.mkString(Stream.decodeText(child.all)), child.exitCode], {
        concurrency: 2
      })
      if (code !== 0) return yield* new HelmFailed({ output })
      return output
    },
    Effect.scoped,
    Effect.catchTag("PlatformError", Effect.die)
  )

  const get = (url: string) =>
    Effect.gen(function* () {
      const response = yield* admin.get(url)
      const body = yield* response.json
      return response.status === 404 ? undefined : body
    }).pipe(Effect.orDie)
  const read = <S extends Schema.Codec<unknown, unknown>>(schema: S, url: string) =>
    Effect.flatMap(get(url), Schema.decodeUnknownEffect(schema)).pipe(Effect.orDie)
  const ours = (group: string, plural: string, name: string) => `${group}/namespaces/${namespace}/${plural}/${name}`
  const deploymentPath = ours("/apis/apps/v1", "deployments", manager)

  const stop = (running: Running) =>
    Effect.gen(function* () {
      yield* running.pod.signal("SIGTERM")
      yield* running.pod.ended
      yield* Scope.close(running.scope, Exit.void)
      yield* admin.del(`${ours("/api/v1", "pods", running.podName)}?gracePeriodSeconds=0`)
    }).pipe(Effect.orDie)

  yield* Effect.addFinalizer(() =>
    Effect.flatMap(Ref.get(current), (running) =>
      running === undefined ? Effect.void : Scope.close(running.scope, Exit.void)
    )
  )

  const rollOut = Effect.gen(function* () {
    const raw = yield* get(deploymentPath)
    const deployment = yield* Kubelet.decodeDeployment(raw)
    const { spec } = yield* Schema.decodeUnknownEffect(Workload)(raw)
    const names = (deployment.spec.template.spec.volumes ?? []).flatMap(({ secret }) =>
      secret === undefined ? [] : [secret.secretName]
    )
    const secrets = yield* Effect.forEach(names, (name) =>
      Effect.map(read(Secret, ours("/api/v1", "secrets", name)), ({ data }) => [name, data] as const)
    )
    const number = yield* Ref.getAndUpdate(rollOuts, (count) => count + 1)
    const podName = `${manager}-${number}`
    const scope = yield* Scope.make()
    const pod = yield* Kubelet.runController({
      deployment,
      namespace,
      secrets: Object.fromEntries(secrets),
      webhookPort: 0,
      env: {},
      logFolder,
      name: `controller-${number}`
    }).pipe(
      Scope.provide(scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
    )
    const before = yield* Ref.getAndSet(current, { pod, podName, template: spec.template, scope })
    yield* Manifests.apply(
      [
        {
          apiVersion: "v1",
          kind: "Pod",
          metadata: { ...spec.template.metadata, name: podName },
          spec: spec.template.spec
        }
      ],
      namespace
    )
    yield* pod.await("readyz")
    if (before !== undefined) yield* stop(before)
    return pod
  }).pipe(Effect.provideContext(needs), Effect.orDie)

  const through = Effect.fnUntraced(function* (name: string) {
    const { spec } = yield* read(Service, ours("/api/v1", "services", name))
    const running = yield* Effect.fromNullishOr(yield* Ref.get(current))
    const labels = running.template.metadata.labels
    const [port] = spec.ports
    const container = running.template.spec.containers[0]
    const target = (container.ports ?? []).find((one) => one.name === port.targetPort)
    const selects = Object.entries(spec.selector).every(([key, value]) => labels[key] === value)
    const listens = container.args.includes(`--webhook-receiver-port=${target?.containerPort}`)
    return yield* selects && listens
      ? Effect.succeed(`http://127.0.0.1:${running.pod.webhookPort}`)
      : Effect.die(new Error(`Service ${name} leads nowhere: ${JSON.stringify(spec)}`))
  }, Effect.orDie)

  /** Scaled to nothing: the pods end. */
  const deploymentController = Effect.gen(function* () {
    yield* read(Workload, deploymentPath).pipe(
      Effect.repeat({ until: ({ spec }) => spec.replicas === 0, schedule: Schedule.spaced("50 millis") })
    )
    const running = yield* Ref.getAndSet(current, undefined)
    if (running !== undefined) yield* stop(running)
  })

  /** Runs a Job once it is there, and says how it ended. */
  const jobController = Effect.fnUntraced(function* (name: string) {
    const job = yield* get(ours("/apis/batch/v1", "jobs", name)).pipe(
      Effect.repeat({ until: (found) => found !== undefined, schedule: Schedule.spaced("50 millis") }),
      Effect.flatMap(Schema.decodeUnknownEffect(Workload))
    )
    const { containers, serviceAccountName } = job.spec.template.spec
    const pod = yield* Kubelet.run({
      name,
      args: containers[0].args,
      env: {},
      serviceAccountFolder: yield* Kubelet.serviceAccount(namespace, serviceAccountName),
      logFolder,
      probePort: 0
    })
    const { how } = yield* pod.ended
    const now = new Date().toISOString().replace(/\.\d+/, "")
    const conditions = ["SuccessCriteriaMet", "Complete"].map((type) => ({ type, status: "True" }))
    if (!how.endsWith("code 0")) return yield* Effect.die(new Error(`the Job ${name} ${how}: see ${pod.logFile}`))
    yield* Manifests.apply(
      [
        {
          apiVersion: "batch/v1",
          kind: "Job",
          metadata: { name },
          status: { startTime: now, completionTime: now, succeeded: 1, conditions }
        }
      ],
      namespace,
      "/status"
    )
  }, Effect.scoped)

  const uninstall = Effect.gen(function* () {
    const [output] = yield* Effect.all(
      [
        helm(["uninstall", "stoker", "-n", namespace]),
        deploymentController,
        jobController(`${fullname}-uninstall`).pipe(Effect.provideContext(needs), Effect.orDie)
      ],
      { concurrency: 3 }
    )
    return output
  })

  return Release.of({ helm, chart, rollOut, through, uninstall, get })
})
