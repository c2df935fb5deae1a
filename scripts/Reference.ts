/**
 * `docs/reference.md`: what other programs and people see of Stoker, from the Schemas, the running commands and the
 * metrics as they register themselves. What only has a name there is described here; the compiler asks for each.
 */
import { Duration, Effect, Metric, type JsonSchema } from "effect"
import { execFileSync } from "node:child_process"
import type * as Conditions from "../src/api/Conditions.ts"
import * as AgentMetrics from "../src/agent/Metrics.ts"
import * as CustomResourceDefinition from "../src/api/CustomResourceDefinition.ts"
import * as GatewaySync from "../src/api/GatewaySync.ts"
import * as Names from "../src/api/Names.ts"
import { Metrics } from "../src/controller/Metrics.ts"
import type * as Answer from "../src/receiver/Answer.ts"
import * as Receiver from "../src/receiver/Receiver.ts"
import * as Supervisor from "../src/telemetry/Supervisor.ts"

const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ")
const row = (...cells: ReadonlyArray<string>) => `| ${cells.map(cell).join(" | ")} |`
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) =>
  [row(...head), `|${head.map(() => "---|").join("")}`, ...rows.map((cells) => row(...cells))].join("\n")
const code = (text: string) => `\`${text}\``

// Fields --------------------------------------------------------------------------------------------------------------

type Node = JsonSchema.JsonSchema
const child = (node: Node, key: string) => node[key] as Node | undefined

const typeOf = (node: Node): string => {
  if (Array.isArray(node["enum"])) return node["enum"].map((one) => String(one)).join(", ")
  if (node["x-kubernetes-int-or-string"] === true) return "integer or string"
  const items = child(node, "items")
  if (items !== undefined) return `list of ${typeOf(items)}`
  return child(node, "additionalProperties") === undefined ? String(node["type"]) : "map"
}

const fields = (node: Node, path: string): ReadonlyArray<ReadonlyArray<string>> => {
  const required = (node["required"] as ReadonlyArray<string> | undefined) ?? []
  return Object.entries((node["properties"] ?? {}) as Readonly<Record<string, Node>>).flatMap(([name, field]) => {
    const at = `${path}.${name}`
    const preset = field["default"]
    const shown = preset === undefined ? (required.includes(name) ? "required" : "") : code(JSON.stringify(preset))
    const [items, entries] = [child(field, "items"), child(field, "additionalProperties")]
    return [
      [code(at), typeOf(field), shown, String(field["description"] ?? "")],
      ...fields(field, at),
      ...(items === undefined ? [] : fields(items, `${at}[]`)),
      ...(entries === undefined ? [] : fields(entries, `${at}.{name}`))
    ]
  })
}

const { properties } = CustomResourceDefinition.gatewaySyncs.spec.versions[0]!.schema.openAPIV3Schema
const fieldTable = (name: "spec" | "status") =>
  table(["field", "type", "default", ""], fields(properties[name] as Node, name))

// Annotations ---------------------------------------------------------------------------------------------------------

const onPods: Readonly<Record<keyof typeof Names.pod, string>> = {
  inject: "by you, `true`: this pod gets the agent",
  injected: "by injection: it has it",
  crName: "by you, or by injection where the namespace has exactly one GatewaySync: which one",
  profile: "by you: which profile; `default` when absent",
  gatewayName: "by you: the gateway's name; else the label `app.kubernetes.io/name`, else the pod's name",
  agentLabel: "label, by injection",
  appName: "label: the gateway's name, unless an annotation says it",
  podIndex: "label, by the StatefulSet: `.PodOrdinal` in templates"
}

const onGatewaySyncs: Readonly<Record<keyof typeof Names.request, string>> = {
  ref: "the ref that was requested; it overrides `spec.git.ref` until that is edited, or catches up",
  at: "when (RFC 3339, UTC)",
  by: "by whom: `github`, `gitlab`, `bitbucket`, `gitea`, `azure-devops`, `argocd`, `kargo`, `generic`",
  commit: "the commit that the sender spoke of; never trusted",
  id: "the delivery's id; a new one has the remote asked again",
  over: "the `spec.git.ref` that it overrides",
  pushed: "the last push that woke the GatewaySync, as JSON",
  deliveries: "the last deliveries that were handled, compact",
  traceparent: "the trace of the request, for the processes that go on with it"
}

// Conditions ----------------------------------------------------------------------------------------------------------

const conditions: Readonly<Record<Conditions.Type, string>> = {
  RefResolved: "the remote has said which commit the ref in force means",
  ProfilesValid: "the profiles can be carried out",
  AllGatewaysSynced: "every gateway that names this GatewaySync has what it should; the message counts",
  SidecarInjected: "every pod that asks for the agent has it",
  SSHHostKeyVerification: "host keys are checked (with SSH credentials)",
  Ready: "all of it: RefResolved, ProfilesValid and AllGatewaysSynced",
  RefSkew:
    "True while the remote still serves what was there before an announced push, or a request overrides `spec.git.ref`"
}

const reasons: Readonly<Record<Conditions.Type, ReadonlyArray<Conditions.Reason>>> = {
  RefResolved: ["RefResolved", "RefResolutionFailed", "GitHubAppExchangeFailed"],
  ProfilesValid: ["ProfilesValid", "ProfilesInvalid"],
  AllGatewaysSynced: ["SyncSucceeded", "SyncInProgress", "NoGatewaysDiscovered"],
  SidecarInjected: ["SidecarPresent", "SidecarMissing"],
  SSHHostKeyVerification: ["HostKeyVerificationEnabled", "HostKeyVerificationDisabled"],
  Ready: ["SyncSucceeded", "Reconciling", "Paused"],
  RefSkew: ["WaitingForPush", "OverriddenByRequest", "RemoteAgrees"]
}

// Answers -------------------------------------------------------------------------------------------------------------

const answers: Readonly<Record<Answer.Answer["status"], string>> = {
  200: "understood, but not for this GatewaySync (`accepted: false`, `reason`); or the answer to a `GET`",
  202: "stored (`accepted: true`, `ref`); also when the same was requested before (`message`)",
  400: "no JSON, or no ref in it that Git would take (`error` says which and the usual cause); a `GET` with a body",
  401: "no credentials, or wrong ones",
  404: "no such GatewaySync",
  405: "not `POST` or `GET`",
  413: "longer than 4 MiB",
  415: "a compressed body",
  422: "not for this GatewaySync, from a sender where a person waits: ArgoCD, Kargo, generic",
  429: "too many; `Retry-After` says when to come back",
  503: "not stored; send it again after `Retry-After`"
}

// Metrics -------------------------------------------------------------------------------------------------------------

/** A GatewaySync of which every series has something to show. */
const sample = GatewaySync.GatewaySync.make({
  metadata: {
    name: "site",
    namespace: "plant",
    uid: "uid",
    resourceVersion: "1",
    generation: 1,
    annotations: {},
    finalizers: []
  },
  spec: {
    git: { repo: "https://example.com/plant.git", ref: "main" },
    polling: { enabled: true, interval: "60s" },
    gateway: { port: 8088, tls: false, api: { secretName: "api", secretKey: "apiKey" } },
    sync: {
      defaults: {
        excludePatterns: [],
        syncPeriod: 30,
        designerSessionPolicy: "proceed",
        dryRun: false,
        paused: false
      },
      profiles: { default: { mappings: [{ source: "projects", destination: "projects" }] } }
    },
    paused: false
  },
  status: {
    discoveredGateways: [
      {
        name: "gateway",
        namespace: "plant",
        podName: "gateway-0",
        syncStatus: "Synced",
        lastSyncTime: "2026-01-01T00:00:00Z"
      }
    ],
    conditions: [
      { type: "Ready", status: "True", reason: "Ready", message: "", lastTransitionTime: "2026-01-01T00:00:00Z" }
    ]
  }
})

const metrics = Effect.gen(function* () {
  const { metadata, status } = sample
  const service = yield* Metrics
  yield* service.show(sample, status)
  yield* service.reconciled(metadata, "success", Duration.seconds(1))
  yield* service.resolved(metadata, Duration.seconds(1))
  yield* Metric.update(Metric.withAttributes(Receiver.requests, { source: "github", status_code: "202" }), 1)
  yield* Metric.update(Metric.withAttributes(Receiver.duration, { source: "github" }), 1)
  yield* Metric.update(Metric.withAttributes(Supervisor.restarts, { fiber: "controller" }), 1)
  yield* AgentMetrics.fetch(AgentMetrics.scan(AgentMetrics.sync("default")(Effect.void)))
  yield* AgentMetrics.synced("default", { added: 0, modified: 0, deleted: 0 })
  yield* AgentMetrics.started(Duration.seconds(1))
  const all = yield* Metric.snapshot
  return all
    .map(({ attributes, description, id, type }) => [
      code(id),
      type.toLowerCase(),
      Object.keys(attributes ?? {})
        .map(code)
        .join(" "),
      description ?? ""
    ])
    .sort(([a = ""], [b = ""]) => (a < b ? -1 : 1))
}).pipe(Effect.provide(Metrics.layer))

const isAgents = ([name = ""]: ReadonlyArray<string>) => name.includes("stoker_agent_")

// Flags ---------------------------------------------------------------------------------------------------------------

/** Without the flags that all commands have. */
const help = (root: string, command: string) =>
  execFileSync(process.execPath, ["src/main.ts", command, "--help"], { cwd: root, encoding: "utf8" })
    .split("GLOBAL FLAGS")[0]!
    .trim()

/** @param values the table of the chart's values */
export const render = async (root: string, values: string): Promise<string> => {
  const series = await Effect.runPromise(metrics)
  const head = ["name", "type", "labels", ""]
  return `# Reference

Made from the Schemas and the programs by \`npm run generate\`; edit those.

## GatewaySync

\`${Names.apiVersion}\`, namespaced, short name \`gs\`. \`spec\` is written by people:

${fieldTable("spec")}

\`status\` is written by the controller:

${fieldTable("status")}

## Conditions

${table(
  ["type", "True when", "reasons"],
  Object.entries(conditions).map(([type, meaning]) => [
    code(type),
    meaning,
    reasons[type as Conditions.Type].map(code).join(" ")
  ])
)}

## Annotations and labels

On pods of gateways:

${table(
  ["name", ""],
  Object.entries(onPods).map(([key, text]) => [code(Names.pod[key as keyof typeof Names.pod]), text])
)}

On a GatewaySync, by the receiver (or by you, with kubectl):

${table(
  ["name", ""],
  [
    ...Object.entries(onGatewaySyncs).map(([key, text]) => [
      code(Names.request[key as keyof typeof Names.request]),
      text
    ]),
    [code(Names.allowMassDeletion), "by you: the commit that may delete many files"]
  ]
)}

## Answers of the webhook receiver

\`POST /webhook/{namespace}/{name}\`, \`POST /webhook/{namespace}\`, \`POST /webhook\`; \`GET /webhook/{namespace}/{name}\`. Every
answer is JSON; every 2xx for one GatewaySync also says \`synced\` and \`gateways: {synced, total}\`.

${table(
  ["status", ""],
  Object.entries(answers).map(([status, text]) => [status, text])
)}

## Metrics

Of the controller, on port 8443 (\`stoker_fiber_restarts_total\` also of the agent):

${table(
  head,
  series.filter((one) => !isAgents(one))
)}

Of each agent, on port 8083:

${table(head, series.filter(isAgents))}

## Flags

\`stoker controller\`:

\`\`\`text
${help(root, "controller")}
\`\`\`

\`stoker uninstall\`, which the chart runs before it is removed:

\`\`\`text
${help(root, "uninstall")}
\`\`\`

## Values of the chart

${values}
`
}
