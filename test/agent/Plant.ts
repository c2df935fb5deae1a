/**
 * A plant for one agent: a real git server, a simulated gateway, an API server of which only the two ConfigMaps exist.
 */
import { NodeServices } from "@effect/platform-node"
import {
  ConfigProvider,
  Effect,
  FileSystem,
  Layer,
  Logger,
  Option,
  Path,
  Redacted,
  Ref,
  Schedule,
  Schema,
  Stream,
  SubscriptionRef
} from "effect"
import { createHash } from "node:crypto"
import { Agent } from "../../src/agent/Agent.ts"
import * as GatewayAddress from "../../src/agent/GatewayAddress.ts"
import { Owner } from "../../src/agent/Owner.ts"
import { Repository } from "../../src/agent/Repository.ts"
import { Settings } from "../../src/agent/Settings.ts"
import { StatusReporter } from "../../src/agent/StatusReporter.ts"
import { Sync } from "../../src/agent/Sync.ts"
import { Volume } from "../../src/agent/Volume.ts"
import { Wanted } from "../../src/agent/Wanted.ts"
import * as GatewayStatus from "../../src/api/GatewayStatus.ts"
import * as Metadata from "../../src/api/Metadata.ts"
import type * as Profile from "../../src/api/Profile.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import * as ApiToken from "../../src/ignition/ApiToken.ts"
import type * as GatewayClientModule from "../../src/ignition/GatewayClient.ts"
import { GatewayClient } from "../../src/ignition/GatewayClient.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { filesOf } from "../../src/sandbox/gateway/GatewayModel.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"
import { Health } from "../../src/telemetry/Health.ts"
import { Supervisor } from "../../src/telemetry/Supervisor.ts"

export const token = "stoker:secret"

/** An API server with one metadata map and one status map. */
const makeApi = Effect.gen(function* () {
  const metadata = yield* SubscriptionRef.make<Readonly<Record<string, string>> | undefined>(undefined)
  const reports = yield* SubscriptionRef.make<ReadonlyArray<GatewayStatus.Report>>([])
  const isAway = yield* Ref.make(false)
  const refused = yield* SubscriptionRef.make(false)
  let version = 1
  const map = (data: Readonly<Record<string, string>>) => ({
    metadata: { name: "stoker-metadata-site", namespace: "plant", uid: "1", resourceVersion: String(version++) },
    data
  })
  const away = new ApiErrors.ApiError({
    operation: "test",
    reason: new ApiErrors.Unreachable({ message: "not in this test" })
  })
  const refuse = () => Effect.fail(away)
  const whileThere = <A>(effect: Effect.Effect<A>) =>
    Effect.flatMap(Ref.get(isAway), (isAway): Effect.Effect<A, ApiErrors.ApiError> =>
      isAway ? Effect.andThen(SubscriptionRef.set(refused, true), refuse()) : effect
    )
  const client = ApiClient.of({
    get: refuse,
    list: () =>
      whileThere(
        Effect.map(SubscriptionRef.get(metadata), (data) => ({
          resourceVersion: String(version++),
          continue: Option.none(),
          items: data === undefined ? [] : [map(data)]
        }))
      ),
    watch: () =>
      SubscriptionRef.changes(metadata).pipe(
        Stream.drop(1),
        Stream.map((data) =>
          JSON.stringify(
            data === undefined ? { type: "DELETED", object: map({}) } : { type: "MODIFIED", object: map(data) }
          )
        )
      ),
    create: refuse,
    mergePatch: (_resource, _ref, body) =>
      whileThere(
        Effect.gen(function* () {
          const { data } = yield* Effect.orDie(decodePatch(body))
          const report = Option.getOrThrow(GatewayStatus.decode(data["ignition-0"]))
          yield* SubscriptionRef.update(reports, (all) => [...all, report])
          return {}
        })
      ),
    jsonPatch: refuse,
    apply: refuse,
    delete: refuse,
    request: refuse
  })
  const awaitReport = (test: (report: GatewayStatus.Report) => boolean) =>
    SubscriptionRef.changes(reports).pipe(
      Stream.map((all) => all.at(-1)),
      Stream.filter((report) => report !== undefined && test(report)),
      Stream.take(1),
      Stream.runCollect,
      Effect.map(([report]) => report!)
    )
  /** Whether it answers, to what is asked from now on. */
  const setAway = (away: boolean) => Ref.set(isAway, away)
  /** Waits until it has been asked while it was away. */
  const awaitRefusal = SubscriptionRef.changes(refused).pipe(
    Stream.filter((refused) => refused),
    Stream.take(1),
    Stream.runDrain
  )
  return { client, metadata, reports: SubscriptionRef.get(reports), awaitReport, setAway, awaitRefusal }
})
const decodePatch = Schema.decodeUnknownEffect(Schema.Struct({ data: Schema.Record(Schema.String, Schema.String) }))

export const effective = (profile: Partial<Profile.Effective>): Profile.Effective => ({
  mappings: [
    { source: "site/projects", destination: "projects/" },
    { source: "site/config", destination: "config" }
  ],
  excludePatterns: ["**/.gitkeep"],
  syncPeriod: 5,
  dryRun: false,
  designerSessionPolicy: "proceed",
  paused: false,
  ...profile
})

/** What the metadata map says of a commit of `main`, but for its revision. */
export const metadataOf = (
  gitURL: string,
  commit: string,
  profile: Profile.Effective,
  more: Partial<Metadata.Data> = {}
): Omit<Metadata.Data, "revision"> => ({
  commit,
  ref: "main",
  gitURL,
  paused: "false",
  authType: "none",
  gatewayPort: 8088,
  gatewayTLS: "false",
  profiles: { default: profile },
  ...more
})

export const view = (text: string) => ({
  "site/projects/line/project.json": '{"title":"line","enabled":true,"inheritable":false}',
  "site/projects/line/com.inductiveautomation.perspective/views/main/resource.json":
    '{"scope":"G","version":1,"files":["view.json"],"attributes":{}}',
  "site/projects/line/com.inductiveautomation.perspective/views/main/view.json": `{"text":"${text}"}`
})
/** Two of them, the other one before it in every order, so that a commit has a middle. */
export const views = (text: string) => ({
  ...view(text),
  ...Object.fromEntries(Object.entries(view(text)).map(([path, content]) => [path.replace("/main/", "/aaa/"), content]))
})
/** What a gateway has read of views, each text once. */
export const viewTexts = (model: Parameters<typeof filesOf>[0]) =>
  new Set([...filesOf(model)].flatMap(([path, { text }]) => (path.endsWith("/view.json") ? [text] : [])))
export const viewFile = "projects/line/com.inductiveautomation.perspective/views/main/view.json"
export const config = (text: string) => ({
  "site/config/resources/core/config-mode.json":
    '{"title":"core","enabled":true,"inheritable":true,"parent":"external"}',
  "site/config/resources/core/ignition/thing/config.json": `{"value":"${text}"}`,
  "site/config/resources/core/ignition/thing/resource.json":
    '{"scope":"A","version":1,"files":["config.json"],"attributes":{}}'
})

export interface Options extends Partial<SimulatedGateway.Options> {
  /** Stands between the agent and its disk. */
  readonly disk?: (real: Layer.Layer<Volume>) => Layer.Layer<Volume>
  readonly deadlines?: GatewayClientModule.Options["deadlines"]
  /** More of the agent's environment, or other. */
  readonly environment?: Readonly<Record<string, string>>
}

/** A disk that does some operations otherwise. */
export const hooked =
  (other: (volume: (typeof Volume)["Service"]) => Partial<(typeof Volume)["Service"]>): NonNullable<Options["disk"]> =>
  (real) =>
    Layer.effect(
      Volume,
      Effect.map(Volume, (volume) => Volume.of({ ...volume, ...other(volume) }))
    ).pipe(Layer.provide(real))

/** One gateway, its repository and its API server. The agent runs in the scope in which its layer is built. */
export const makePlant = Effect.fnUntraced(function* ({
  deadlines,
  disk = (real) => real,
  environment = {},
  ...options
}: Options = {}) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-agent-test-" })
  const dataDir = path.join(folder, "data")
  yield* fs.makeDirectory(dataDir)
  yield* fs.writeFileString(path.join(folder, "api-key"), `${token}\n`)
  const server = yield* GitServer
  const repository = yield* server.create(path.basename(folder))
  const gateway = yield* SimulatedGateway.make({ dataDir, tokens: [token], ...options })
  const api = yield* makeApi

  const want = Effect.fnUntraced(function* (
    commit: string,
    profile: Partial<Profile.Effective> = {},
    data: Partial<Metadata.Data> = {}
  ) {
    const encoded = Metadata.encode(
      metadataOf(repository.url, commit, effective(profile), {
        gatewayPort: Number(new URL(gateway.url).port),
        ...data
      }),
      (text) => createHash("sha256").update(text).digest("hex").slice(0, 16)
    )
    yield* SubscriptionRef.set(api.metadata, encoded)
    return encoded.revision
  })

  const client = Layer.unwrap(
    Effect.gen(function* () {
      const url = Effect.provideContext(GatewayAddress.current, yield* Effect.context<Settings | Wanted>())
      return GatewayClient.layer({
        url,
        token: ApiToken.parse(Redacted.make(token)),
        ...(deadlines === undefined ? {} : { deadlines })
      })
    })
  )
  const agent = Agent.layer("test").pipe(
    Layer.provide(Sync.layer),
    Layer.provide(Owner.layer),
    Layer.provide([StatusReporter.layer, Repository.layer, client]),
    Layer.provide(Wanted.layer),
    Layer.provide([disk(Volume.layer(dataDir)), GitCommand.layer, Layer.succeed(ApiClient, api.client)]),
    Layer.provideMerge([Settings.layer, Supervisor.layer, Health.layer]),
    Layer.provide(
      ConfigProvider.layer(
        ConfigProvider.fromUnknown({
          POD_NAME: "ignition-0",
          POD_NAMESPACE: "plant",
          POD_UID: "pod-uid",
          CR_NAME: "site",
          DATA_PATH: dataDir,
          REPO_PATH: path.join(folder, "repo"),
          GATEWAY_PORT: new URL(gateway.url).port,
          API_KEY_FILE: path.join(folder, "api-key"),
          ...environment
        })
      )
    )
  )
  const read = (file: string) => fs.readFileString(path.join(dataDir, file))
  const write = (file: string, content: string) =>
    Effect.andThen(
      fs.makeDirectory(path.dirname(path.join(dataDir, file)), { recursive: true }),
      fs.writeFileString(path.join(dataDir, file), content)
    )
  const exists = (file: string) => fs.exists(path.join(dataDir, file))
  /** Waits until a probe passes. */
  const probe = (failing: Effect.Effect<ReadonlyArray<string>>) =>
    failing.pipe(
      Effect.repeat({ until: (checks) => checks.length === 0, schedule: Schedule.spaced("10 millis") }),
      Effect.asVoid
    )
  /** An agent that has brought a first commit to its running gateway, and goes on until the scope ends. */
  const begin = Effect.fnUntraced(function* (files: Readonly<Record<string, string>>) {
    yield* gateway.awaitPhase("running")
    const first = yield* repository.commit({ files })
    yield* want(first)
    yield* Layer.build(agent)
    yield* api.awaitReport(synced(first))
    return first
  })
  return { agent, api, begin, dataDir, exists, gateway, probe, read, repository, want, write }
})

export const services = Layer.merge(GitServer.layer, NodeServices.layer)
export const silent = Logger.layer([])

/** Waits until it is so. */
export const until = <E, R>(isSo: Effect.Effect<boolean, E, R>) =>
  Effect.repeat(isSo, { until: (so) => so, schedule: Schedule.spaced("10 millis") })

/** A report that this commit is there. */
export const synced =
  (commit: string) =>
  ({ syncStatus, syncedCommit }: GatewayStatus.Report): boolean =>
    syncStatus === "Synced" && syncedCommit === commit
export const kinds = (scans: ReadonlyArray<{ readonly kind: string }>) => scans.map(({ kind }) => kind)
