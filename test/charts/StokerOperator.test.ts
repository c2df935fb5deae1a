/** The chart, rendered by the real helm and taken by a real API server. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Duration, Effect, FileSystem, Layer, Option, Path, Redacted, Schema, Stream } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { expect } from "vitest"
import { parse } from "yaml"
import * as ReceiverFlags from "../../src/commands/ReceiverFlags.ts"
import * as AgentAccess from "../../src/controller/steps/AgentAccess.ts"
import { defaultLimits } from "../../src/receiver/Receiver.ts"
import * as Checkout from "../../src/sandbox/Checkout.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import { Toolchain } from "../../src/sandbox/Toolchain.ts"
import { ingress } from "./Page.ts"

const namespace = "stoker-system"
const serviceAccount = "stoker-stoker-operator-controller-manager"
const manager = `system:serviceaccount:${namespace}:${serviceAccount}`

/** Runs helm on the chart; `values` go to its standard input (`-f -`). */
const helm = Effect.fnUntraced(function* (command: ReadonlyArray<string>, values: object) {
  const file = yield* (yield* Toolchain).find("helm")
  const chart = (yield* Path.Path).join(yield* Checkout.root, "charts", "stoker-operator")
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const child = yield* spawner.spawn(
    ChildProcess.make(file, ["--namespace", namespace, ...command, chart, "-f", "-"], {
      stdin: Stream.encodeText(Stream.succeed(JSON.stringify(values)))
    })
  )
  const [output, code] = yield* Effect.all([Stream.mkString(Stream.decodeText(child.all)), child.exitCode], {
    concurrency: 2
  })
  return { output, code }
}, Effect.scoped)

const render = Effect.fnUntraced(function* (values: object, ...flags: ReadonlyArray<string>) {
  const { output, code } = yield* helm(["template", "stoker", ...flags], values)
  assert.strictEqual(code, 0, output)
  return { text: output, objects: yield* Manifests.parse(output) }
})

const names = (objects: ReadonlyArray<Manifests.Manifest>) =>
  objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`).sort()

const find = (objects: ReadonlyArray<Manifests.Manifest>, kind: string) =>
  Effect.fromNullishOr(objects.find((object) => object.kind === kind))

const Container = Schema.Struct({
  args: Schema.Array(Schema.String),
  env: Schema.Array(Schema.Struct({ name: Schema.String, value: Schema.optionalKey(Schema.String) }))
})
const Deployment = Schema.Struct({
  spec: Schema.Struct({
    template: Schema.Struct({
      spec: Schema.Struct({
        containers: Schema.NonEmptyArray(Container),
        volumes: Schema.Array(Schema.Record(Schema.String, Schema.Unknown))
      })
    })
  })
})

const Names = Schema.Array(Schema.String)
const ClusterRole = Schema.Struct({
  rules: Schema.Array(Schema.Struct({ apiGroups: Names, resources: Names, verbs: Names }))
})

const decodeRelease = Schema.decodeUnknownEffect(
  Schema.fromJsonString(Schema.Struct({ info: Schema.Struct({ notes: Schema.String }) }))
)

const deployment = Effect.fnUntraced(function* (objects: ReadonlyArray<Manifests.Manifest>) {
  const { spec } = yield* Effect.flatMap(find(objects, "Deployment"), Schema.decodeUnknownEffect(Deployment))
  const [container] = spec.template.spec.containers
  return {
    args: container.args,
    env: Object.fromEntries(container.env.map(({ name, value }) => [name, value])),
    volumes: spec.template.spec.volumes
  }
})

const base = [
  "Job stoker-stoker-operator-uninstall",
  "ClusterRole stoker-agent",
  `ClusterRole ${serviceAccount}`,
  `ClusterRoleBinding ${serviceAccount}`,
  `Deployment ${serviceAccount}`,
  `Role ${serviceAccount}`,
  `RoleBinding ${serviceAccount}`,
  "Service stoker-stoker-operator-metrics-service",
  `ServiceAccount ${serviceAccount}`
]

const hmac = { secret: "my-webhook-secret" }
const token = { secret: "my-token" }
/** What `helm install` is documented with, by the name of its golden file. */
const documented = {
  default: {},
  "receiver-open": { webhookReceiver: { enabled: true } },
  "receiver-hmac": { webhookReceiver: { enabled: true, hmac } },
  "receiver-hmac-existing": {
    webhookReceiver: { enabled: true, hmac: { secretRef: { name: "webhook-hmac", key: "webhook-secret" } } }
  },
  "receiver-token": { webhookReceiver: { enabled: true, token } },
  "receiver-token-existing": {
    webhookReceiver: { enabled: true, token: { secretRef: { name: "webhook-token-secret", key: "webhook-token" } } }
  },
  "receiver-ingress": { webhookReceiver: { enabled: true, hmac, ingress, trustedProxies: ["10.0.0.0/8", "::1"] } },
  "receiver-limits": {
    webhookReceiver: {
      enabled: true,
      port: 9000,
      token,
      ingress: { ...ingress, ingressClassName: "nginx" },
      limits: {
        failuresPerMinute: 10,
        deliveriesPerMinute: 0,
        headerTimeout: "5s",
        requestTimeout: "1m",
        idleTimeout: "2m"
      }
    }
  },
  "receiver-environment": {
    webhookReceiver: { enabled: true },
    extraEnv: [
      {
        name: "WEBHOOK_HMAC_SECRET",
        valueFrom: { secretKeyRef: { name: "webhook-hmac", key: "webhook-secret" } }
      }
    ]
  },
  replicas: { replicaCount: 2, webhookReceiver: { enabled: true, hmac, token } },
  monitoring: {
    metrics: { secure: false },
    serviceMonitor: { enabled: true },
    podMonitor: { enabled: true, labels: { release: "prometheus" }, interval: "1m" },
    prometheusRule: { enabled: true, additionalRules: [{ record: "stoker:up", expr: "up" }] },
    grafanaDashboard: { enabled: true },
    networkPolicy: { enabled: true }
  },
  least: {
    leaderElection: { enabled: false },
    metrics: { enabled: false },
    rbac: { autoBindAgent: { enabled: false } },
    crds: { update: false },
    uninstallHook: { enabled: false }
  },
  "own-names": {
    fullnameOverride: "plant-operator",
    image: { repository: "registry.example.com/stoker", tag: "edge", pullPolicy: "Always" },
    imagePullSecrets: [{ name: "registry" }],
    extraEnv: [{ name: "HTTPS_PROXY", value: "http://proxy.example.com:3128" }],
    nodeSelector: { "kubernetes.io/os": "linux" },
    priorityClassName: "system-cluster-critical"
  },
  pods: {
    nameOverride: "stoker",
    agentImage: { repository: "registry.example.com/agent", tag: "edge" },
    resources: { requests: { cpu: "100m" } },
    controller: { logDevMode: true },
    metrics: { service: { type: "NodePort", port: 9090 } },
    podAnnotations: { "example.com/team": "plant" },
    podLabels: { tier: "operators" },
    tolerations: [{ key: "dedicated", operator: "Exists" }],
    affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [] } } }
  }
}

const isGolden = (text: string, file: string) =>
  // oxlint-disable-next-line vitest/no-standalone-expect -- only the tests below call it
  Effect.promise(() => expect(`${text}\n`).toMatchFileSnapshot(`golden/${file}`))

/** The documents of a rendered text, each with the line that says where it comes from. */
const documents = (text: string) =>
  text
    .split(/^---$/m)
    .map((document) => document.trim())
    .filter((document) => document !== "")

const everything = {
  replicaCount: 2,
  webhookReceiver: { enabled: true, hmac, token, ingress },
  networkPolicy: { enabled: true }
}

const Services = ControlPlane.layer.pipe(Layer.provideMerge(NodeServices.layer))

/** The rendered objects in a cluster, their namespace held to the restricted Pod Security Standard. */
const Installed = Layer.effectDiscard(
  Effect.gen(function* () {
    const { objects } = yield* render(everything)
    const restricted = { "pod-security.kubernetes.io/enforce": "restricted" }
    yield* Manifests.apply(
      [
        { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, labels: restricted } },
        { apiVersion: "v1", kind: "Namespace", metadata: { name: "plant" } },
        ...objects
      ],
      namespace
    )
  })
)

type Keys = ReadonlyArray<string>

/** The chart's values, each by the path to it: those with a default, and those that are empty unless they are given. */
const defaults = Effect.gen(function* () {
  const file = (yield* Path.Path).join(yield* Checkout.root, "charts", "stoker-operator", "values.yaml")
  const values: unknown = parse(yield* FileSystem.FileSystem.use((fileSystem) => fileSystem.readFileString(file)))
  // What these hold is Kubernetes' and Grafana's, not the chart's.
  const isOpaque = (path: Keys) => ["resources", "grafanaDashboard.labels"].includes(path.join("."))
  const paths = (value: unknown, path: Keys): ReadonlyArray<{ readonly path: Keys; readonly isEmpty: boolean }> => {
    if (value === "" || (Array.isArray(value) && value.length === 0)) return [{ path, isEmpty: true }]
    const members = typeof value === "object" && value !== null ? Object.entries(value) : []
    if (typeof value === "object" && members.length === 0) return [{ path, isEmpty: true }]
    const inner = isOpaque(path) ? [] : members.flatMap(([name, member]) => paths(member, [...path, name]))
    return path.length === 0 ? inner : [{ path, isEmpty: false }, ...inner]
  }
  const all = paths(values, [])
  return {
    filled: all.filter(({ isEmpty }) => !isEmpty).map(({ path }) => path),
    empty: all.filter(({ isEmpty }) => isEmpty).map(({ path }) => path)
  }
})

const hook = { enabled: true }

/** What a null may take away, by its path, and the values that then come to the same. */
const removable: Readonly<Record<string, { readonly values: object; readonly like: object }>> = {
  webhook: { values: { webhook: null }, like: {} },
  "webhook.namespaceSelector": { values: { webhook: { namespaceSelector: null } }, like: {} },
  "webhookReceiver.hmac": {
    values: { webhookReceiver: { ...hook, token, hmac: null } },
    like: { webhookReceiver: { ...hook, token } }
  },
  "webhookReceiver.token": {
    values: { webhookReceiver: { ...hook, hmac, token: null } },
    like: { webhookReceiver: { ...hook, hmac } }
  },
  serviceMonitor: { values: { serviceMonitor: null }, like: {} },
  podMonitor: { values: { podMonitor: null }, like: {} },
  prometheusRule: { values: { prometheusRule: null }, like: {} },
  grafanaDashboard: { values: { grafanaDashboard: null }, like: {} }
}

/** And those whose absence nothing else can say: the line of their default, and what is deeper, is not there then. */
const removableLines: Readonly<Record<string, { readonly values: object; readonly line: RegExp }>> = {
  resources: { values: {}, line: /^ +resources:\n(?: {12,}.*\n)+/gm },
  "grafanaDashboard.labels": {
    values: { grafanaDashboard: { enabled: true } },
    line: /^ +grafana_dashboard: "1"\n/gm
  }
}

const AnyDeployment = Schema.Struct({
  spec: Schema.Struct({ template: Schema.Struct({ spec: Schema.Record(Schema.String, Schema.Unknown) }) })
})
const Review = Schema.Struct({ status: Schema.Struct({ allowed: Schema.Boolean }) })

layer(Services, { excludeTestServices: true })("chart stoker-operator", (it) => {
  it.effect("has the version of the product", () =>
    Effect.gen(function* () {
      const path = yield* Path.Path
      const root = yield* Checkout.root
      const read = (...file: ReadonlyArray<string>) =>
        FileSystem.FileSystem.use((fileSystem) => fileSystem.readFileString(path.join(root, ...file)))
      const product: unknown = JSON.parse(yield* read("package.json"))
      const chart: unknown = parse(yield* read("charts", "stoker-operator", "Chart.yaml"))
      const { version } = yield* Schema.decodeUnknownEffect(Schema.Struct({ version: Schema.String }))(product)
      assert.containsSubset(chart, { version, appVersion: version })
    })
  )

  it.effect.each([{}, everything])("passes helm's lint (%#)", (values) =>
    Effect.gen(function* () {
      const { output, code } = yield* helm(["lint", "--strict"], values)
      assert.strictEqual(code, 0, output)
    })
  )

  /**
   * The default as a whole, the others by the documents in which they differ from it. After a change that is meant:
   * `vitest run test/charts --update`, and read the difference.
   */
  it.effect.each(Object.entries(documented))("renders %s as its golden file", ([name, values]) =>
    Effect.gen(function* () {
      const usual = documents((yield* render({})).text)
      const all = documents((yield* render(values)).text)
      const shown = name === "default" ? all : all.filter((document) => !usual.includes(document))
      yield* isGolden(shown.join("\n---\n"), `${name}.yaml`)
    })
  )

  it.effect.each([
    "receiver-open",
    "receiver-hmac",
    "receiver-token",
    "receiver-environment",
    "receiver-ingress",
    "least"
  ] as const)("tells after an install what to do next (%s)", (name) =>
    Effect.gen(function* () {
      const { code, output } = yield* helm(["install", "stoker", "--dry-run=client", "--output=json"], documented[name])
      assert.strictEqual(code, 0, output)
      const { info } = yield* decodeRelease(output.slice(output.indexOf("{")))
      yield* isGolden(info.notes.trim(), `notes-${name}.txt`)
    })
  )

  it.effect("renders the controller alone by default, with the receiver off", () =>
    Effect.gen(function* () {
      const { objects } = yield* render({})
      assert.deepStrictEqual(names(objects), [...base].sort())
      assert.deepStrictEqual((yield* deployment(objects)).args, [
        "controller",
        "--leader-elect",
        "--health-probe-bind-address=:8081",
        "--metrics-bind-address=:8443",
        "--metrics-secure=true",
        "--webhook-receiver-port=0",
        "--update-crd"
      ])
    })
  )

  it.effect("renders less where less is asked for", () =>
    Effect.gen(function* () {
      const { objects, text } = yield* render({
        leaderElection: { enabled: false },
        metrics: { enabled: false },
        rbac: { autoBindAgent: { enabled: false } },
        crds: { update: false },
        uninstallHook: { enabled: false }
      })
      assert.deepStrictEqual(
        names(objects),
        base.filter((name) => !/^(Job|Role|RoleBinding|Service) |metrics/.test(name)).sort()
      )
      assert.notInclude(text, "rolebindings")
      assert.notInclude(text, "customresourcedefinitions")
      // Nor what the controller has only to hand it on to agents.
      const { rules } = yield* Effect.fromNullishOr(
        objects.find(({ kind, metadata }) => kind === "ClusterRole" && metadata.name === serviceAccount)
      ).pipe(Effect.flatMap(Schema.decodeUnknownEffect(ClusterRole)))
      assert.deepStrictEqual(
        rules.filter(({ resources }) => resources.includes("configmaps") || resources.includes("events")),
        [
          {
            apiGroups: [""],
            resources: ["configmaps"],
            verbs: ["get", "list", "watch", "create", "patch", "delete"]
          },
          { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"] }
        ]
      )
      const { args, env } = yield* deployment(objects)
      assert.notInclude(args, "--leader-elect")
      assert.include(args, "--metrics-bind-address=0")
      assert.strictEqual(env["AUTO_BIND_AGENT_RBAC"], "false")
    })
  )

  it.effect("gives the controller only flags that it has, and says its defaults", () =>
    Effect.gen(function* () {
      const { objects } = yield* render({ webhookReceiver: { enabled: true, trustedProxies: ["10.0.0.0/8"] } })
      const { args } = yield* deployment(objects)
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const entry = (yield* Path.Path).join(yield* Checkout.root, "src", "main.ts")
      const help = yield* spawner.string(ChildProcess.make(process.execPath, [entry, "controller", "--help"]))
      const flags = args.flatMap((argument) => /^--[\w-]+/.exec(argument) ?? [])
      assert.isAtLeast(flags.length, 10)
      assert.deepStrictEqual(
        flags.filter((flag) => !help.includes(` ${flag} `)),
        []
      )
      const { failuresPerMinute, deliveriesPerMinute, ...timeouts } = defaultLimits
      assert.includeMembers(
        [...args],
        [
          `--webhook-receiver-failures-per-minute=${failuresPerMinute}`,
          `--webhook-receiver-deliveries-per-minute=${deliveriesPerMinute}`,
          ...Object.entries(timeouts).map(
            ([name, time]) => `--webhook-receiver-${name.replace("Timeout", "-timeout")}=${Duration.toSeconds(time)}s`
          )
        ]
      )
    })
  )

  it.effect.each([
    ["1.29.0", { exec: { command: ["node", "-e", "setTimeout(() => {}, 5000)"] } }],
    ["1.30.0", { sleep: { seconds: 5 } }]
  ] as const)(
    "lets the receiver work on until the endpoints have forgotten its pod (Kubernetes %s)",
    ([version, preStop]) =>
      Effect.gen(function* () {
        const { objects } = yield* render({ webhookReceiver: { enabled: true } }, "--kube-version", version)
        const rendered = yield* find(objects, "Deployment")
        assert.containsSubset(rendered["spec"], { template: { spec: { containers: [{ lifecycle: { preStop } }] } } })
      })
  )

  it.effect("puts inline secrets into a Secret and files, never into the pod's spec", () =>
    Effect.gen(function* () {
      const { objects } = yield* render(everything)
      const receiver = "stoker-stoker-operator-webhook-receiver"
      assert.deepStrictEqual(
        names(objects),
        [...base, `Ingress ${receiver}`, `NetworkPolicy ${serviceAccount}`, `PodDisruptionBudget ${serviceAccount}`]
          .concat(`Secret ${receiver}`, `Service ${receiver}`)
          .sort()
      )
      const secret = yield* find(objects, "Secret")
      assert.deepStrictEqual(secret["stringData"], { hmac: hmac.secret, token: token.secret })
      for (const object of objects.filter((object) => object !== secret)) {
        assert.notInclude(JSON.stringify(object), hmac.secret)
        assert.notInclude(JSON.stringify(object), token.secret)
      }
      const { args, env, volumes } = yield* deployment(objects)
      assert.include(args, "--webhook-receiver-port=9444")
      assert.strictEqual(env["WEBHOOK_HMAC_SECRET_FILE"], "/etc/stoker/webhook-hmac/secret")
      assert.strictEqual(env["WEBHOOK_BEARER_TOKEN_FILE"], "/etc/stoker/webhook-token/secret")
      assert.containsSubset(volumes, [
        { name: "webhook-hmac", secret: { secretName: receiver, items: [{ key: "hmac", path: "secret" }] } },
        { name: "webhook-token", secret: { secretName: receiver, items: [{ key: "token", path: "secret" }] } }
      ])
    })
  )

  it.effect("keeps texts that YAML would read as something else", () =>
    Effect.gen(function* () {
      const hosts = [{ host: "h.example", paths: [{ path: "/webhook #x: y", pathType: "Exact" }] }]
      const { objects } = yield* render({
        priorityClassName: "1000",
        webhookReceiver: {
          enabled: true,
          hmac: { secretRef: { name: "123", key: "true" } },
          trustedProxies: ["fd00::"],
          ingress: { enabled: true, ingressClassName: "true", hosts }
        }
      })
      assert.include((yield* deployment(objects)).args, "--webhook-receiver-trusted-proxies=fd00::")
      const rendered = yield* find(objects, "Deployment")
      const secret = { secretName: "123", items: [{ key: "true" }] }
      const volumes = [{ name: "webhook-hmac", secret }]
      assert.containsSubset(rendered["spec"], { template: { spec: { priorityClassName: "1000", volumes } } })
      const { spec } = yield* find(objects, "Ingress")
      assert.containsSubset(spec, {
        ingressClassName: "true",
        rules: [{ http: { paths: [{ path: "/webhook #x: y" }] } }]
      })
    })
  )

  it.effect.each(["true", "123"])("names nothing by a boolean or a number (%s)", (name) =>
    Effect.gen(function* () {
      const command = ["template", name, "--namespace", name]
      const { output, code } = yield* helm(command, { ...everything, ...documented.monitoring, nameOverride: name })
      assert.strictEqual(code, 0, output)
      const objects = yield* Manifests.parse(output)
      assert.isAtLeast(objects.length, 15)
      assert.notMatch(JSON.stringify(objects), /"(?:namespace|app\.kubernetes\.io\/(?:name|instance))":[^"]/)
    })
  )

  it.effect("mounts existing Secrets, which win over inline ones", () =>
    Effect.gen(function* () {
      const { objects } = yield* render({
        webhookReceiver: {
          enabled: true,
          hmac: { ...hmac, secretRef: { name: "webhook-hmac" } },
          token: { secretRef: { name: "webhook-token-secret", key: "custom" } }
        }
      })
      assert.notInclude(names(objects).join(), "Secret ")
      assert.containsSubset((yield* deployment(objects)).volumes, [
        { secret: { secretName: "webhook-hmac", items: [{ key: "webhook-secret", path: "secret" }] } },
        { secret: { secretName: "webhook-token-secret", items: [{ key: "custom", path: "secret" }] } }
      ])
    })
  )

  it.effect("leads the Ingress to the receiver", () =>
    Effect.gen(function* () {
      const { objects } = yield* render(everything)
      const rendered = yield* find(objects, "Ingress")
      const service = { name: "stoker-stoker-operator-webhook-receiver", port: { name: "http" } }
      assert.deepStrictEqual(rendered["spec"], {
        rules: [
          {
            host: "stoker.example.com",
            http: { paths: [{ path: "/webhook", pathType: "Prefix", backend: { service } }] }
          }
        ],
        tls: ingress.tls
      })
      assert.containsSubset(rendered.metadata, { annotations: ingress.annotations })
    })
  )

  it.effect.each([
    ["webhookReceiver", { webhookReceiver: { prot: 9444 } }],
    ["port", { webhookReceiver: { port: "9444" } }],
    ["webhookReciever", { webhookReciever: { enabled: true } }],
    ["replicaCount", { replicaCount: 0 }],
    ["hosts", { webhookReceiver: { enabled: true, ingress: { enabled: true } } }],
    ["hosts", { webhookReceiver: { enabled: true, ingress: { enabled: true, hosts: null } } }],
    ["headerTimeout", { webhookReceiver: { limits: { headerTimeout: "10" } } }],
    ...["header", "request", "idle"].flatMap((name) =>
      ["0s", "0ms", "1.0001s"].map(
        (time) =>
          [`/limits/${name}Timeout': '${time}'`, { webhookReceiver: { limits: { [`${name}Timeout`]: time } } }] as const
      )
    ),
    ...["999.1.1.1/99", "10.0.0.0/33", "10.0.0", "010.0.0.0/8", "fd00::/129", "1:2:3", "::g", "the ingress"].map(
      (network) =>
        [`/trustedProxies/1': '${network}'`, { webhookReceiver: { trustedProxies: ["::1", network] } }] as const
    ),
    ["/hmac/secretRef/name': 'ns/x'", { webhookReceiver: { hmac: { secretRef: { name: "ns/x" } } } }],
    ["/token/secretRef/name': got number", { webhookReceiver: { token: { secretRef: { name: 1 } } } }],
    ["/extraEnv/0/value': got number", { extraEnv: [{ name: "A", value: 1 }] }],
    ["crds", { crds: { update: "yes" } }],
    [
      "serviceMonitor.enabled needs metrics.enabled",
      { metrics: { enabled: false }, serviceMonitor: { enabled: true } }
    ],
    ["serviceMonitor.enabled needs metrics.secure=false", { serviceMonitor: { enabled: true } }],
    ["prometheusRule.enabled needs metrics.secure=false", { prometheusRule: { enabled: true } }],
    ["certManager.enabled", { certManager: { enabled: true } }],
    ["webhookReceiver.port: 8443", { webhookReceiver: { enabled: true, port: 8443 } }],
    ["webhookReceiver.port: 8081", { webhookReceiver: { enabled: true, port: 8081 }, metrics: { enabled: false } }],
    ["nameOverride", { nameOverride: "Foo_Bar" }],
    ["nameOverride", { nameOverride: "a".repeat(54) }],
    ["fullnameOverride", { fullnameOverride: "a.b" }]
  ] as const)("refuses a wrong value and names it (%s)", ([name, values]) =>
    Effect.gen(function* () {
      const { output, code } = yield* helm(["template", "stoker"], values)
      assert.notStrictEqual(code, 0)
      assert.include(output, name)
    })
  )

  it.effect("refuses a null in the place of a default, by name", () =>
    Effect.gen(function* () {
      const without = (path: Keys): unknown => path.reduceRight<unknown>((inner, name) => ({ [name]: inner }), null)
      const { filled } = yield* defaults
      assert.isAtLeast(filled.length, 40)
      const accepted = yield* Effect.filter(
        filled.filter((path) => !(path.join(".") in removable || path.join(".") in removableLines)),
        Effect.fnUntraced(function* (path) {
          const { output, code } = yield* helm(["template", "stoker"], without(path) as object)
          return code === 0 || !output.includes(`missing property '${path.at(-1)}'`)
        })
      )
      assert.deepStrictEqual(accepted, [])
    })
  )

  it.effect.each(Object.entries(removable))("takes a null for %s", ([, { like, values }]) =>
    Effect.gen(function* () {
      assert.strictEqual((yield* render(values)).text, (yield* render(like)).text)
    })
  )

  it.effect.each(Object.entries(removableLines))("takes a null for %s, and leaves it out", ([path, { line, values }]) =>
    Effect.gen(function* () {
      const { text } = yield* render(values)
      assert.match(text, new RegExp(line, "m"))
      assert.strictEqual((yield* render(values, `--set=${path}=null`)).text, text.replaceAll(line, ""))
    })
  )

  it.effect("takes a null for what is empty anyway", () =>
    Effect.gen(function* () {
      const { empty } = yield* defaults
      assert.isAtLeast(empty.length, 20)
      const flags = empty.map((path) => `--set=${path.join(".")}=null`)
      assert.strictEqual((yield* render({}, ...flags)).text, (yield* render({})).text)
    })
  )

  it.effect("takes the networks that the controller takes", () =>
    Effect.gen(function* () {
      const trustedProxies = [
        "10.0.0.0/8",
        "192.168.1.7",
        "10.1.2.3/8",
        "::1",
        "fd00::/8",
        "::/0",
        "1:2:3:4:5:6:7:8/128"
      ]
      const { objects } = yield* render({ webhookReceiver: { enabled: true, trustedProxies } })
      const flag = (yield* deployment(objects)).args.find((argument) => argument.includes("trusted-proxies="))
      const networks = ReceiverFlags.parseNetworks(flag?.replace(/^.*=/, "") ?? "")
      assert.strictEqual(Option.getOrThrow(networks).length, trustedProxies.length)
    })
  )

  it.layer(Installed)("on an API server", (it) => {
    const post = (client: HttpClient.HttpClient, path: string, body: object) =>
      client.execute(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(path), body))

    /** `verb [group/]resource[/subresource] [in namespace] [named name]` */
    const isAllowed = Effect.fnUntraced(function* (question: string) {
      const { admin } = yield* ControlPlane
      const [, verb, group, resource, subresource, where, name] =
        /^(\w+) (?:(apps|[\w.]*\.[\w.]+)\/)?(\w+)(?:\/(\w+))?(?: in ([\w-]+))?(?: named (\S+))?$/.exec(question)!
      const response = yield* post(admin, "/apis/authorization.k8s.io/v1/subjectaccessreviews", {
        apiVersion: "authorization.k8s.io/v1",
        kind: "SubjectAccessReview",
        spec: { user: manager, resourceAttributes: { verb, group, resource, subresource, namespace: where, name } }
      })
      const { status } = yield* HttpClientResponse.schemaBodyJson(Review)(response)
      return status.allowed
    })

    it.effect("lets the controller do its work", () =>
      Effect.gen(function* () {
        const questions = [
          ...["get", "list", "watch", "patch"].map((verb) => `${verb} stoker.io/gatewaysyncs`),
          "patch stoker.io/gatewaysyncs/status in plant",
          "update stoker.io/gatewaysyncs/finalizers in plant",
          ...["get", "patch"].map(
            (verb) => `${verb} apiextensions.k8s.io/customresourcedefinitions named gatewaysyncs.stoker.io`
          ),
          ...["get", "list", "watch", "create", "patch", "delete"].map((verb) => `${verb} configmaps in plant`),
          ...["list", "watch"].map((verb) => `${verb} pods`),
          ...["get", "create", "patch", "delete"].map((verb) => `${verb} secrets in plant`),
          ...["create", "patch"].map((verb) => `${verb} events.k8s.io/events in plant`),
          ...["get", "create", "patch", "delete"].flatMap((verb) => [
            `${verb} rbac.authorization.k8s.io/roles in plant`,
            `${verb} rbac.authorization.k8s.io/rolebindings in plant`
          ]),
          `create coordination.k8s.io/leases in ${namespace}`,
          `patch apps/deployments/scale in ${namespace} named ${serviceAccount}`,
          ...["get", "update", "delete"].map(
            (verb) => `${verb} coordination.k8s.io/leases in ${namespace} named a86165bb.stoker.io`
          )
        ]
        assert.deepStrictEqual(yield* Effect.filter(questions, isAllowed), questions)
      })
    )

    it.effect("lets it do nothing else", () =>
      Effect.gen(function* () {
        const questions = [
          // Nothing asks who wants the metrics yet.
          "create authentication.k8s.io/tokenreviews",
          "create authorization.k8s.io/subjectaccessreviews",
          "list secrets",
          "watch secrets",
          `list secrets in ${namespace}`,
          "update secrets in plant",
          "create stoker.io/gatewaysyncs in plant",
          "delete stoker.io/gatewaysyncs in plant",
          "create pods in plant",
          "delete pods in plant",
          "get coordination.k8s.io/leases in plant",
          `update coordination.k8s.io/leases in ${namespace} named another`,
          "bind rbac.authorization.k8s.io/clusterroles",
          "escalate rbac.authorization.k8s.io/roles in plant",
          "patch apiextensions.k8s.io/customresourcedefinitions named pods.example.com",
          "create apiextensions.k8s.io/customresourcedefinitions",
          "delete apiextensions.k8s.io/customresourcedefinitions named gatewaysyncs.stoker.io",
          `patch apps/deployments in ${namespace} named ${serviceAccount}`,
          `patch apps/deployments/scale in ${namespace} named another`,
          `patch apps/deployments/scale in plant named ${serviceAccount}`
        ]
        assert.deepStrictEqual(yield* Effect.filter(questions, isAllowed), [])
      })
    )

    it.effect("gives it every right that it grants to agents, and none that it lacks", () =>
      Effect.gen(function* () {
        const { admin, issueServiceAccountToken } = yield* ControlPlane
        const credential = yield* issueServiceAccountToken(namespace, serviceAccount)
        const asManager = HttpClient.mapRequest(
          admin,
          HttpClientRequest.setHeader("authorization", `Bearer ${Redacted.value(credential.token)}`)
        )
        const create = (kind: "Role" | "RoleBinding", rest: object) =>
          post(asManager, `/apis/rbac.authorization.k8s.io/v1/namespaces/plant/${kind.toLowerCase()}s`, {
            apiVersion: "rbac.authorization.k8s.io/v1",
            kind,
            ...rest
          }).pipe(Effect.map((response) => response.status))
        const metadata = { name: "stoker-agent-plant" }
        assert.strictEqual(yield* create("Role", { metadata, rules: AgentAccess.rules("plant") }), 201)
        const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: metadata.name }
        const subjects = [{ kind: "ServiceAccount", name: "default", namespace: "plant" }]
        assert.strictEqual(yield* create("RoleBinding", { metadata, roleRef, subjects }), 201)
        const secrets = [{ apiGroups: [""], resources: ["secrets"], verbs: ["list"] }]
        assert.strictEqual(yield* create("Role", { metadata: { name: "more" }, rules: secrets }), 403)
      })
    )

    it.effect("makes pods that the restricted Pod Security Standard admits", () =>
      Effect.gen(function* () {
        const { admin } = yield* ControlPlane
        const { objects } = yield* render(everything)
        const { spec } = yield* Effect.flatMap(find(objects, "Deployment"), Schema.decodeUnknownEffect(AnyDeployment))
        const response = yield* post(admin, `/api/v1/namespaces/${namespace}/pods`, {
          metadata: { name: "manager" },
          spec: spec.template.spec
        })
        assert.strictEqual(response.status, 201, yield* response.text)
      })
    )
  })
})
