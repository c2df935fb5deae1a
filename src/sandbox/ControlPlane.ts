/**
 * A real Kubernetes control plane on this machine: etcd and kube-apiserver, for the demo, tests and benchmarks.
 *
 * **Guarantees**
 *
 * - Each has its own data folder, sockets, ports, keys and tokens, so that any number stand side by side.
 * - Only loopback listens; etcd's clients come over a socket in a folder that only we can enter.
 * - All processes and the folder go with the scope (see Processes).
 *
 * **Caveats**
 *
 * No controller-manager runs unless asked for, so namespaces stay Terminating, owned objects stay, and no `default`
 * ServiceAccount appears; the ServiceAccount admission plugin is therefore off. There is no kubelet.
 */
import { NodeHttpClient, NodeServices } from "@effect/platform-node"
import {
  Cause,
  Context,
  type DateTime,
  Duration,
  Effect,
  Exit,
  FileSystem,
  Layer,
  Option,
  Path,
  Redacted,
  Ref,
  Schedule,
  Schema,
  Scope,
  Semaphore
} from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import type { HttpClientError } from "effect/http/HttpClientError"
import type { PlatformError } from "effect/PlatformError"
import { generateKeyPairSync, randomBytes } from "node:crypto"
import { freePort, Processes, type Process, type ProcessError } from "./Processes.ts"
import { Toolchain, type ToolMissing } from "./Toolchain.ts"

/** How a kubeconfig proves who it is. A `tokenFile` is read again by clients, so its token can be renewed. */
export type Credential = { readonly token: Redacted.Redacted } | { readonly tokenFile: string }

export interface ServiceAccountToken {
  readonly token: Redacted.Redacted
  readonly expiresAt: DateTime.Utc
}

/** A server of the control plane, for faults. */
export interface Server {
  /** Starts it on the same port and data, and waits until it answers. Nothing happens when it runs. */
  readonly start: Effect.Effect<void, ProcessError | PlatformError>
  /** SIGTERM, and waits for its end (open watches may keep an API server for up to a minute). */
  readonly stop: Effect.Effect<void>
  /** SIGKILL, and waits for its end. */
  readonly kill: Effect.Effect<void>
  /** Its process group; none while it is stopped. */
  readonly pid: Effect.Effect<Option.Option<number>>
  readonly logFile: string
}

export class ControlPlane extends Context.Service<
  ControlPlane,
  {
    /** `https://127.0.0.1:port` */
    readonly url: string
    /** The file of the certificate authority (PEM) that the API server's certificate is verified with. */
    readonly caFile: string
    readonly caData: string
    /** A token of group `system:masters`. */
    readonly adminToken: Redacted.Redacted
    /** The administrator's kubeconfig file. */
    readonly adminKubeconfig: string
    /** The administrator's client: paths are relative to the API server, statuses are not looked at. */
    readonly admin: HttpClient.HttpClient
    /** Writes a kubeconfig file for a user and answers its path; the same user's file is replaced. */
    readonly kubeconfigFor: (
      user: string,
      credential: Credential,
      namespace?: string
    ) => Effect.Effect<string, PlatformError>
    /** Asks the API server for a token, by default for an hour (its least is 10 minutes). Renew before it expires. */
    readonly issueServiceAccountToken: (
      namespace: string,
      name: string,
      options?: { readonly lifetime?: Duration.Input; readonly audiences?: ReadonlyArray<string> }
    ) => Effect.Effect<ServiceAccountToken, HttpClientError | Schema.SchemaError>
    readonly apiServer: Server
    readonly etcd: Server
    /** Drops etcd's history up to now, so that older resource versions are gone (410). */
    readonly compact: Effect.Effect<void, HttpClientError | Schema.SchemaError>
    /** Starts kube-controller-manager with these controllers, for tests of garbage collection and the like. */
    readonly startControllerManager: (
      controllers: ReadonlyArray<string>
    ) => Effect.Effect<Process, ToolMissing | ProcessError | PlatformError, Scope.Scope>
  }
>()("stoker/sandbox/ControlPlane") {
  /** Needs Processes and Toolchain; ready in about 3 seconds once the programs are there. */
  static readonly layerNoDeps = Layer.effect(
    ControlPlane,
    Effect.gen(function* () {
      const outer = yield* Effect.scope
      return yield* Effect.gen(function* () {
        const scope = yield* Scope.fork(outer)
        return yield* make.pipe(
          Scope.provide(scope),
          Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
        )
      }).pipe(
        // The port is chosen before it is used: another program may have taken it.
        Effect.retry({ while: (error) => error._tag === "ProcessError", times: 1 })
      )
    })
  )

  /**
   * With everything it needs, and the processes and the toolchain for others. In tests: give `layer(…)` of
   * `@effect/vitest` the option `excludeTestServices`, or its frozen clock keeps the control plane from starting.
   */
  static readonly layer = this.layerNoDeps.pipe(
    Layer.provideMerge(Toolchain.layer),
    Layer.provideMerge(Processes.layerNoDeps),
    Layer.provide(NodeServices.layer)
  )
}

const make = Effect.gen(function* () {
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const processes = yield* Processes
  const toolchain = yield* Toolchain
  const etcdFile = yield* toolchain.find("etcd")
  const apiServerFile = yield* toolchain.find("kube-apiserver")

  const folder = yield* processes.folder("stoker-control-plane-")
  const at = (...names: ReadonlyArray<string>) => path.join(folder, ...names)
  const secretFile = (name: string, content: string) => fileSystem.writeFileString(at(name), content, { mode: 0o600 })

  const adminToken = Redacted.make(randomBytes(24).toString("hex"))
  yield* secretFile("tokens.csv", `${Redacted.value(adminToken)},admin,admin,"system:masters"\n`)
  yield* secretFile("service-accounts.key", serviceAccountKey())

  const etcdSocket = at("etcd.sock")
  const etcdClient = (yield* makeClient({ socketPath: etcdSocket })).pipe(
    HttpClient.mapRequest(HttpClientRequest.prependUrl("http://etcd"))
  )
  const etcd = yield* makeServer({
    logFile: at("etcd.log"),
    launch: processes.start({
      name: "etcd",
      command: etcdFile,
      logFolder: folder,
      args: flags({
        name: "sandbox",
        "data-dir": at("etcd"),
        "log-level": "warn",
        "unsafe-no-fsync": "true",
        "listen-client-urls": `unix://${etcdSocket}`,
        "advertise-client-urls": `unix://${etcdSocket}`,
        "listen-peer-urls": noPeers,
        "initial-advertise-peer-urls": noPeers,
        "initial-cluster": `sandbox=${noPeers}`
      })
    }),
    ready: etcdClient.get("/health").pipe(Effect.flatMap(HttpClientResponse.filterStatusOk))
  })
  yield* etcd.start

  const port = yield* freePort
  const url = `https://127.0.0.1:${port}`
  // The API server makes a certificate and an authority of its own, and keeps them here over restarts.
  const certificates = at("certificates")
  const authority = fileSystem.exists(path.join(certificates, "apiserver.key")).pipe(
    // The key is written last, so the certificates are whole.
    Effect.filterOrFail(
      (exists) => exists,
      () => new Cause.NoSuchElementError()
    ),
    Effect.andThen(fileSystem.readFileString(path.join(certificates, "apiserver.crt"))),
    Effect.map((chain) => chain.slice(chain.lastIndexOf("-----BEGIN CERTIFICATE-----")))
  )
  const admin = yield* authority.pipe(
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.flatMap((ca) => makeClient({ ca })),
    Effect.map(
      HttpClient.mapRequest((request) =>
        request.pipe(HttpClientRequest.prependUrl(url), HttpClientRequest.bearerToken(adminToken))
      )
    ),
    Effect.cached
  )
  const apiServer = yield* makeServer({
    logFile: at("kube-apiserver.log"),
    launch: processes.start({
      name: "kube-apiserver",
      command: apiServerFile,
      logFolder: folder,
      args: flags({
        "etcd-servers": `unix://${etcdSocket}`,
        "bind-address": "127.0.0.1",
        "secure-port": `${port}`,
        "cert-dir": certificates,
        "token-auth-file": at("tokens.csv"),
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": at("service-accounts.key"),
        "service-account-signing-key-file": at("service-accounts.key"),
        "service-cluster-ip-range": "10.0.0.0/24",
        "authorization-mode": "RBAC",
        "disable-admission-plugins": "ServiceAccount",
        "allow-privileged": "true",
        "endpoint-reconciler-type": "none",
        profiling: "false"
      })
    }),
    ready: Effect.flatMap(admin, answersEverything)
  })
  yield* apiServer.start
  const client = yield* admin

  const caData = yield* authority
  const caFile = at("ca.crt")
  yield* fileSystem.writeFileString(caFile, caData)

  const kubeconfigFor = Effect.fnUntraced(function* (user: string, credential: Credential, namespace?: string) {
    const file = `kubeconfig-${user.replace(/[^\w.-]/g, "_")}`
    const config = {
      apiVersion: "v1",
      kind: "Config",
      clusters: [
        {
          name: "sandbox",
          cluster: { server: url, "certificate-authority-data": Buffer.from(caData).toString("base64") }
        }
      ],
      users: [
        {
          name: user,
          user:
            "token" in credential ? { token: Redacted.value(credential.token) } : { tokenFile: credential.tokenFile }
        }
      ],
      contexts: [
        { name: "sandbox", context: { cluster: "sandbox", user, ...(namespace === undefined ? {} : { namespace }) } }
      ],
      "current-context": "sandbox"
    }
    // JSON is YAML. A reader never sees half a file.
    yield* secretFile(`${file}.new`, JSON.stringify(config, undefined, 2))
    yield* fileSystem.rename(at(`${file}.new`), at(file))
    return at(file)
  })

  const issueServiceAccountToken = Effect.fnUntraced(function* (
    namespace: string,
    name: string,
    options?: { readonly lifetime?: Duration.Input; readonly audiences?: ReadonlyArray<string> }
  ) {
    const lifetime = Duration.fromInputUnsafe(options?.lifetime ?? "1 hour")
    const request = HttpClientRequest.post(`/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`).pipe(
      HttpClientRequest.bodyJsonUnsafe({
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenRequest",
        spec: { expirationSeconds: Duration.toSeconds(lifetime), audiences: options?.audiences }
      })
    )
    const response = yield* Effect.flatMap(client.execute(request), HttpClientResponse.filterStatusOk)
    const { status } = yield* HttpClientResponse.schemaBodyJson(TokenRequest)(response)
    return { token: status.token, expiresAt: status.expirationTimestamp }
  })

  const askEtcd = <S extends Schema.Constraint>(path: string, body: unknown, answer: S) =>
    HttpClientRequest.post(path).pipe(
      HttpClientRequest.bodyJsonUnsafe(body),
      etcdClient.execute,
      Effect.flatMap(HttpClientResponse.filterStatusOk),
      Effect.flatMap(HttpClientResponse.schemaBodyJson(answer))
    )
  const compact = askEtcd("/v3/kv/range", { key: "AA==", limit: 1 }, EtcdAnswer).pipe(
    Effect.flatMap(({ header }) =>
      askEtcd("/v3/kv/compaction", { revision: header.revision, physical: true }, Schema.Unknown)
    ),
    Effect.asVoid
  )

  const adminKubeconfig = yield* kubeconfigFor("admin", { token: adminToken })

  const startControllerManager = Effect.fnUntraced(function* (controllers: ReadonlyArray<string>) {
    return yield* processes.start({
      name: "kube-controller-manager",
      command: yield* toolchain.find("kube-controller-manager"),
      logFolder: folder,
      args: flags({
        kubeconfig: adminKubeconfig,
        controllers: controllers.join(","),
        "leader-elect": "false",
        "service-account-private-key-file": at("service-accounts.key"),
        "root-ca-file": caFile,
        "secure-port": "0"
      })
    })
  })

  return ControlPlane.of({
    url,
    caFile,
    caData,
    adminToken,
    adminKubeconfig,
    admin: client,
    kubeconfigFor,
    issueServiceAccountToken,
    apiServer,
    etcd,
    compact,
    startControllerManager
  })
})

/** A program that can be ended and started again; it runs in a scope of its own below the caller's. */
const makeServer = Effect.fnUntraced(function* <A, E>(options: {
  readonly logFile: string
  readonly launch: Effect.Effect<Process, PlatformError, Scope.Scope>
  readonly ready: Effect.Effect<A, E, Scope.Scope>
}) {
  const outer = yield* Effect.scope
  const current = yield* Ref.make(Option.none<{ readonly process: Process; readonly scope: Scope.Closeable }>())
  const one = yield* Semaphore.make(1)

  const end = (signal: NodeJS.Signals) =>
    Effect.gen(function* () {
      const running = yield* Ref.getAndSet(current, Option.none())
      if (Option.isNone(running)) return
      yield* running.value.process.signal(signal)
      yield* running.value.process.ended
      yield* Scope.close(running.value.scope, Exit.void)
    }).pipe(one.withPermit)

  const start = Effect.gen(function* () {
    if (Option.isSome(yield* Ref.get(current))) return
    const scope = yield* Scope.fork(outer)
    const process = yield* Scope.provide(options.launch, scope)
    yield* Ref.set(current, Option.some({ process, scope }))
    yield* process.awaitReady(Scope.provide(options.ready, outer), "1 minute")
  }).pipe(one.withPermit)

  return {
    start,
    stop: end("SIGTERM"),
    kill: end("SIGKILL"),
    pid: Effect.map(
      Ref.get(current),
      Option.map(({ process }) => process.pid)
    ),
    logFile: options.logFile
  } satisfies Server
})

// Node's own client: the bundle cannot carry undici, which is loaded on demand and is not an ES module.
const makeClient = Effect.fnUntraced(function* (options: { readonly ca: string } | { readonly socketPath: string }) {
  const agent = yield* NodeHttpClient.makeAgent({ keepAlive: true, ...options })
  return yield* Effect.provideService(NodeHttpClient.makeNodeHttp, NodeHttpClient.HttpAgent, agent)
})

/** Ready as people mean it: after a start, custom resources answer up to 80 ms later than `/readyz` says. */
const answersEverything = Effect.fnUntraced(function* (admin: HttpClient.HttpClient) {
  const ok = HttpClient.filterStatusOk(admin)
  yield* Effect.all([ok.get("/readyz"), ok.get("/api/v1/namespaces/default")], { discard: true })
  const { items } = yield* ok
    .get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    .pipe(Effect.flatMap(HttpClientResponse.schemaBodyJson(CustomResourceDefinitions)))
  const lists = items.flatMap(({ spec }) =>
    spec.versions
      .filter(({ served }) => served)
      .map(({ name }) => `/apis/${spec.group}/${name}/${spec.names.plural}?limit=1`)
  )
  yield* Effect.forEach(lists, (list) => ok.get(list), { discard: true })
})

const CustomResourceDefinitions = Schema.Struct({
  items: Schema.Array(
    Schema.Struct({
      spec: Schema.Struct({
        group: Schema.String,
        names: Schema.Struct({ plural: Schema.String }),
        versions: Schema.Array(Schema.Struct({ name: Schema.String, served: Schema.Boolean }))
      })
    })
  )
})

const TokenRequest = Schema.Struct({
  status: Schema.Struct({
    token: Schema.RedactedFromValue(Schema.String),
    expirationTimestamp: Schema.DateTimeUtcFromString
  })
})

const EtcdAnswer = Schema.Struct({ header: Schema.Struct({ revision: Schema.String }) })

const flags = (values: Readonly<Record<string, string>>) =>
  Object.entries(values).map(([name, value]) => `--${name}=${value}`)

/** One member needs no peers; it has to be given an address nevertheless, and takes any free port. */
const noPeers = "http://127.0.0.1:0"

const serviceAccountKey = () =>
  generateKeyPairSync("ec", {
    namedCurve: "P-256",
    privateKeyEncoding: { type: "sec1", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" }
  }).privateKey
