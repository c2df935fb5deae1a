/** GatewaySyncs and pods as the API server sends them, with what a test cares about. */
import { Schema } from "effect"
import { GatewaySync } from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import { Pod } from "../../src/controller/Pod.ts"

const decodeGatewaySync = Schema.decodeUnknownSync(GatewaySync)
const decodePod = Schema.decodeUnknownSync(Pod)

export const commit = "a".repeat(40)
export const otherCommit = "b".repeat(40)

export const gatewaySync = (
  options: {
    readonly metadata?: object
    readonly git?: object
    readonly spec?: object
    readonly status?: object
  } = {}
): GatewaySync =>
  decodeGatewaySync({
    metadata: {
      name: "site",
      namespace: "plant",
      uid: "uid",
      resourceVersion: "1",
      generation: 1,
      ...options.metadata
    },
    spec: {
      git: { repo: "https://git.example.com/plant.git", ref: "main", ...options.git },
      gateway: { api: { secretName: "api" } },
      sync: { profiles: { default: { mappings: [{ source: "a", destination: "a" }] } } },
      ...options.spec
    },
    ...(options.status === undefined ? {} : { status: options.status })
  })

/** Synced to {@link commit} on main. */
export const resolved = {
  observedGeneration: 1,
  lastSyncRef: "main",
  lastSyncRefKind: "branch",
  lastSyncCommit: commit,
  lastSyncCommitShort: commit.slice(0, 7),
  lastSyncTime: "2026-01-01T00:00:00Z",
  refResolutionStatus: "Resolved",
  conditions: [
    {
      type: "RefResolved",
      status: "True",
      reason: "RefResolved",
      message: commit,
      lastTransitionTime: "2026-01-01T00:00:00Z"
    }
  ]
}

export const pod = (
  options: {
    readonly name?: string
    readonly annotations?: object
    readonly labels?: object
    readonly phase?: string
    readonly deletionTimestamp?: string
    readonly serviceAccountName?: string
    /** Absent: no sidecar in the pod. */
    readonly sidecar?: { readonly started?: boolean; readonly ready?: boolean }
  } = {}
): Pod =>
  decodePod({
    metadata: {
      name: options.name ?? "gateway-0",
      namespace: "plant",
      uid: `${options.name ?? "gateway-0"}-uid`,
      annotations: { [Names.pod.crName]: "site", [Names.pod.inject]: "true", ...options.annotations },
      ...(options.labels === undefined ? {} : { labels: options.labels }),
      ...(options.deletionTimestamp === undefined ? {} : { deletionTimestamp: options.deletionTimestamp })
    },
    spec: {
      containers: [{ name: "gateway" }],
      initContainers: options.sidecar === undefined ? [] : [{ name: Names.agentContainer, restartPolicy: "Always" }],
      ...(options.serviceAccountName === undefined ? {} : { serviceAccountName: options.serviceAccountName })
    },
    status: {
      phase: options.phase ?? "Running",
      initContainerStatuses:
        options.sidecar === undefined ? [] : [{ name: Names.agentContainer, ready: false, ...options.sidecar }]
    }
  })
