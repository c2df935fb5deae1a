/** The CRD on a real API server: what it refuses, fills in, keeps and prints. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Path, Schedule, Schema } from "effect"
import { HttpClientRequest, HttpClientResponse } from "effect/http"
import { parse } from "yaml"
import * as CustomResourceDefinition from "../../src/api/CustomResourceDefinition.ts"
import { GatewaySync, type Spec, type Status } from "../../src/api/GatewaySync.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"

const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
const collection = "/apis/stoker.io/v1alpha1/namespaces/default/gatewaysyncs"

const send = Effect.fnUntraced(function* (request: HttpClientRequest.HttpClientRequest, body?: object) {
  const { admin } = yield* ControlPlane
  const response = yield* admin.execute(
    body === undefined ? request : HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.acceptJson(request), body)
  )
  return { status: response.status, warning: response.headers["warning"], body: yield* response.json }
})

const apply = (path: string, manager: string, body: object) =>
  send(
    HttpClientRequest.patch(`${path}?fieldManager=${manager}&force=true&fieldValidation=Strict`).pipe(
      HttpClientRequest.bodyText(JSON.stringify(body), "application/apply-patch+yaml")
    )
  )

const Definition = Schema.Struct({
  status: Schema.Struct({
    conditions: Schema.Array(Schema.Struct({ type: Schema.String, status: Schema.String }))
  })
})

/** With the CRD as it lies in the chart: what Helm installs. */
const Installed = Layer.effectDiscard(
  Effect.gen(function* () {
    const { admin } = yield* ControlPlane
    const created = yield* send(HttpClientRequest.post(crds), yield* crdOf("charts/stoker-operator/crds"))
    assert.strictEqual(created.status, 201, JSON.stringify(created.body))
    yield* admin
      .get(collection)
      .pipe(Effect.flatMap(HttpClientResponse.filterStatusOk), Effect.retry(Schedule.spaced("20 millis")))
  })
).pipe(Layer.provideMerge(ControlPlane.layer), Layer.provideMerge(NodeServices.layer))

const crdOf = Effect.fnUntraced(function* (folder: string) {
  const path = yield* Path.Path
  const file = path.join(import.meta.dirname, "..", "..", folder, "stoker.io_gatewaysyncs.yaml")
  return parse(yield* (yield* FileSystem.FileSystem).readFileString(file)) as object
})

const minimal = {
  git: { repo: "https://git.example.com/plant.git", ref: "main" },
  gateway: { api: { secretName: "api" } },
  sync: { profiles: { default: { mappings: [{ source: "sites/a", destination: "projects" }] } } }
}

const gatewaySync = (name: string, spec: object) => ({
  apiVersion: "stoker.io/v1alpha1",
  kind: "GatewaySync",
  metadata: { name },
  spec
})

const secretRef = { name: "credentials", key: "value" }

/** Every field of the spec, each with another value than its default. */
const full: Spec = {
  git: {
    repo: "git@git.example.com:plant.git",
    ref: "v1.2.3",
    auth: {
      token: { secretRef },
      sshKey: { secretRef, knownHosts: { secretRef } },
      githubApp: { appId: 1, installationId: 2 ** 40, privateKeySecretRef: secretRef, apiBaseURL: "https://x" }
    }
  },
  polling: { enabled: false, interval: "5m" },
  gateway: { port: 443, tls: true, api: { secretName: "api", secretKey: "token" } },
  sync: {
    defaults: {
      excludePatterns: ["**/*.bak"],
      vars: { site: "a" },
      syncPeriod: 3600,
      designerSessionPolicy: "wait",
      dryRun: true,
      paused: true
    },
    profiles: {
      site: {
        mappings: [
          {
            source: "sites/{{.GatewayName}}",
            destination: "projects/",
            type: "dir",
            required: true,
            template: true,
            patches: [{ file: "**/config.json", set: { "a.b": "{{.Vars.site}}" } }]
          }
        ],
        excludePatterns: ["**/*.tmp"],
        vars: { site: "b" },
        syncPeriod: 5,
        designerSessionPolicy: "fail",
        dryRun: false,
        paused: false
      }
    }
  },
  agent: {
    image: { repository: "registry.example.com/agent", tag: "1", pullPolicy: "Never" },
    resources: { requests: { cpu: "50m" }, limits: { cpu: 1, memory: "256Mi" } }
  },
  paused: true,
  webhook: { hmac: { secretRef }, token: { secretRef }, refs: ["v2.*"], prereleases: true }
}

const now = "2026-01-02T03:04:05Z"
const ready = {
  type: "Ready",
  status: "True",
  reason: "SyncSucceeded",
  message: "All gateways synced",
  lastTransitionTime: now,
  observedGeneration: 1
} as const
const synced = { ...ready, type: "AllGatewaysSynced", message: "1/1 synced" } as const

const fullStatus: Required<Status> = {
  observedGeneration: 1,
  lastSyncTime: now,
  lastSyncRef: "main",
  lastSyncRefKind: "branch",
  lastSyncCommit: "0123456789012345678901234567890123456789",
  lastSyncCommitShort: "0123456",
  refResolutionStatus: "Resolved",
  lastHandledRequest: "{}",
  profileCount: 1,
  discoveredGateways: [
    {
      name: "a",
      namespace: "default",
      podName: "a-0",
      serviceAccountName: "default",
      profile: "default",
      syncStatus: "Synced",
      message: "",
      lastSyncTime: now,
      lastSyncDuration: "142ms",
      syncedCommit: "0123456789012345678901234567890123456789",
      syncedRef: "main",
      agentVersion: "0.8.0",
      lastScanResult: "ok",
      filesChanged: 1,
      projectsSynced: ["a"]
    }
  ],
  conditions: [ready, synced]
}

layer(Installed, { excludeTestServices: true })("CustomResourceDefinition", (it) => {
  it.effect("lies in crds/ and in the chart as the Schemas make it", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* crdOf("crds"), CustomResourceDefinition.gatewaySyncs)
      assert.deepStrictEqual(yield* crdOf("charts/stoker-operator/crds"), CustomResourceDefinition.gatewaySyncs)
    })
  )

  it.effect("is accepted without reservation", () =>
    Effect.gen(function* () {
      const { body } = yield* send(HttpClientRequest.get(`${crds}/gatewaysyncs.stoker.io`))
      const { status } = yield* Schema.decodeUnknownEffect(Definition)(body)
      assert.deepStrictEqual(status.conditions.map(({ type, status }) => `${type}=${status}`).sort(), [
        "Established=True",
        "NamesAccepted=True"
      ])
    })
  )

  it.effect("fills in every default of a minimal object", () =>
    Effect.gen(function* () {
      const { status, body } = yield* send(HttpClientRequest.post(collection), gatewaySync("minimal", minimal))
      assert.strictEqual(status, 201, JSON.stringify(body))
      assert.deepStrictEqual((body as unknown as GatewaySync).spec, {
        git: minimal.git,
        polling: { enabled: true, interval: "60s" },
        gateway: { port: 8088, tls: false, api: { secretName: "api", secretKey: "apiKey" } },
        sync: {
          defaults: {
            excludePatterns: ["**/.git/", "**/.gitkeep", "**/.resources/**"],
            syncPeriod: 30,
            designerSessionPolicy: "proceed",
            dryRun: false,
            paused: false
          },
          profiles: { default: { mappings: [{ source: "sites/a", destination: "projects" }] } }
        },
        paused: false
      })
      const stored = yield* Schema.decodeUnknownEffect(GatewaySync)(body)
      assert.deepStrictEqual(stored.spec, (body as unknown as GatewaySync).spec)
    })
  )

  it.effect("keeps every field of the spec", () =>
    Effect.gen(function* () {
      const { status, body } = yield* send(
        HttpClientRequest.post(`${collection}?fieldValidation=Strict`),
        gatewaySync("full", full)
      )
      assert.strictEqual(status, 201, JSON.stringify(body))
      assert.deepStrictEqual((body as unknown as GatewaySync).spec, full)
    })
  )

  it.effect("takes an apply of the whole status, and keeps it", () =>
    Effect.gen(function* () {
      yield* send(HttpClientRequest.post(collection), gatewaySync("status", minimal))
      const answer = yield* apply(`${collection}/status/status`, "stoker-controller", {
        apiVersion: "stoker.io/v1alpha1",
        kind: "GatewaySync",
        metadata: { name: "status" },
        status: fullStatus
      })
      assert.strictEqual(answer.status, 200, JSON.stringify(answer.body))
      assert.deepStrictEqual((answer.body as unknown as GatewaySync).status, fullStatus)
      assert.deepStrictEqual((yield* Schema.decodeUnknownEffect(GatewaySync)(answer.body)).status, fullStatus)
    })
  )

  it.effect("merges the conditions of two writers by type", () =>
    Effect.gen(function* () {
      yield* send(HttpClientRequest.post(collection), gatewaySync("writers", minimal))
      const write = (manager: string, condition: object) =>
        apply(`${collection}/writers/status`, manager, {
          apiVersion: "stoker.io/v1alpha1",
          kind: "GatewaySync",
          metadata: { name: "writers" },
          status: { conditions: [condition] }
        })
      yield* write("one", ready)
      const { body } = yield* write("two", synced)
      assert.deepStrictEqual((body as unknown as GatewaySync).status.conditions, [ready, synced])
    })
  )

  it.effect("prints the columns of the contract", () =>
    Effect.gen(function* () {
      const { body } = yield* send(
        HttpClientRequest.get(collection).pipe(
          HttpClientRequest.setHeader("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        )
      )
      const table = yield* Schema.decodeUnknownEffect(
        Schema.Struct({
          columnDefinitions: Schema.Array(Schema.Struct({ name: Schema.String, priority: Schema.Int }))
        })
      )(body)
      assert.deepStrictEqual(
        table.columnDefinitions.map(({ name, priority }) => (priority === 0 ? name : `${name} (wide)`)),
        ["Name", "Ref", "Gateways", "Ready", "Status", "Age"].concat(
          "Commit (wide)",
          "Profiles (wide)",
          "Last Sync (wide)"
        )
      )
    })
  )

  it.effect.each([
    ["spec.git.ref", { ...minimal, git: { ...minimal.git, ref: "" } }],
    ["spec.git.repo", { ...minimal, git: { ref: "main" } }],
    ["spec.gateway.api.secretName", { ...minimal, gateway: { api: {} } }],
    ["spec.gateway.port", { ...minimal, gateway: { ...minimal.gateway, port: 0 } }],
    ["spec.sync.profiles", { ...minimal, sync: { profiles: {} } }],
    ["spec.sync.profiles.default.mappings", { ...minimal, sync: { profiles: { default: { mappings: [] } } } }],
    ["spec.sync.defaults.syncPeriod", { ...minimal, sync: { ...minimal.sync, defaults: { syncPeriod: 4 } } }],
    [
      "spec.sync.defaults.designerSessionPolicy",
      { ...minimal, sync: { ...minimal.sync, defaults: { designerSessionPolicy: "ask" } } }
    ]
  ] as const)("refuses a wrong %s and names it", ([field, spec]) =>
    Effect.gen(function* () {
      const { status, body } = yield* send(HttpClientRequest.post(collection), gatewaySync("wrong", spec))
      assert.strictEqual(status, 422)
      assert.include(JSON.stringify(body), field)
    })
  )
  it.effect("refuses a name that no label can hold, and says what to do", () =>
    Effect.gen(function* () {
      const longest = yield* send(HttpClientRequest.post(collection), gatewaySync("n".repeat(63), minimal))
      assert.strictEqual(longest.status, 201)
      const { status, body } = yield* send(HttpClientRequest.post(collection), {
        ...gatewaySync("n".repeat(64), minimal),
        // Nobody gets by with a status of their own.
        status: { profileCount: 1 }
      })
      assert.strictEqual(status, 422)
      assert.include(JSON.stringify(body), "choose a shorter one")
    })
  )
})
