/**
 * The GatewaySync resource (`stoker.io/v1alpha1`, namespaced, short name `gs`).
 *
 * The CRD in `crds/` is generated from these Schemas: descriptions, defaults and bounds stand here once.
 * Decoding skips the bounds (the API server has checked them, and what it stored under an older CRD must still be read)
 * and ignores fields that it does not know, which survive because nobody ever writes a decoded object back.
 */
import { Effect, Schema } from "effect"
import * as Conditions from "./Conditions.ts"
import * as Profile from "./Profile.ts"
import * as RepositoryIdentity from "./RepositoryIdentity.ts"
import * as RequestedRef from "./RequestedRef.ts"

const withDefault = <S extends Schema.Top>(schema: S, value: S["Encoded"] & S["Type"], description: string) =>
  schema.annotate({ description, default: value }).pipe(Schema.withDecodingDefaultKey(Effect.succeed(value)))

const name = Schema.String.pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(253)))

/** As Kubernetes takes it (with `u`, or no CRD would hold it). Any other would make another path of a request. */
const objectName = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/u
export const isObjectName = (text: string): boolean => text.length <= 253 && objectName.test(text)

const secretName = name.pipe(Schema.check(Schema.isPattern(objectName)))
const secretKey = name.pipe(Schema.check(Schema.isPattern(/^[-._a-zA-Z0-9]+$/u)))

const SecretKeyRef = Schema.Struct({
  name: secretName.annotate({ description: "Name of the Secret, in this namespace." }),
  key: secretKey.annotate({ description: "Key in the Secret." })
})
export type SecretKeyRef = typeof SecretKeyRef.Type

const SecretSource = Schema.Struct({ secretRef: SecretKeyRef.annotate({ description: "Key of a Secret." }) })

export const GitAuth = Schema.Struct({
  token: Schema.optionalKey(
    SecretSource.annotate({
      description:
        "HTTP basic: the token is the password, the user `x-access-token` unless the Secret has a key `username`; a key `ca.crt` is trusted instead of the system's authorities."
    })
  ),
  sshKey: Schema.optionalKey(
    Schema.Struct({
      secretRef: SecretKeyRef.annotate({ description: "Private key." }),
      knownHosts: Schema.optionalKey(
        SecretSource.annotate({
          description: "known_hosts; without it the host key is not checked, and a condition says so."
        })
      )
    }).annotate({ description: "SSH." })
  ),
  githubApp: Schema.optionalKey(
    Schema.Struct({
      appId: Schema.Int.annotate({ description: "Id of the GitHub App.", format: "int64" }),
      installationId: Schema.Int.annotate({ description: "Id of its installation.", format: "int64" }),
      privateKeySecretRef: SecretKeyRef.annotate({
        description:
          "Private key of the App (PEM); a key `ca.crt` in the same Secret is trusted instead of the system's authorities."
      }),
      apiBaseURL: Schema.optionalKey(
        Schema.String.pipe(Schema.check(Schema.isMaxLength(2048))).annotate({
          description: "API of a GitHub Enterprise server; https://api.github.com when absent."
        })
      )
    }).annotate({ description: "GitHub App." })
  )
})
export type GitAuth = typeof GitAuth.Type

const Git = Schema.Struct({
  repo: Schema.String.pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(2048))).annotate({
    description:
      "URL of the repository: https, http, ssh (`ssh://` or `git@host:path`) or git. A password belongs into `auth`, never here."
  }),
  ref: Schema.String.pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(1024))).annotate({
    description:
      "Branch, tag or full commit id. A tag wins over a branch of the same name; annotated tags mean their commit."
  }),
  auth: Schema.optionalKey(GitAuth.annotate({ description: "Credentials; at most one kind." }))
})

const Polling = Schema.Struct({
  enabled: withDefault(Schema.Boolean, true, "Whether the remote is asked at an interval."),
  interval: withDefault(
    Schema.String.pipe(Schema.check(Schema.isMaxLength(64))),
    "60s",
    "How often, as a Go duration (`60s`, `5m`). With webhooks a long interval is a good fallback."
  )
})

const Gateway = Schema.Struct({
  port: withDefault(
    Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))),
    8088,
    "Port of the gateway's web server inside the pod."
  ),
  tls: withDefault(Schema.Boolean, false, "Whether that port speaks TLS."),
  api: Schema.Struct({
    secretName: secretName.annotate({ description: "Secret with the Ignition API token (`name:secret`)." }),
    secretKey: withDefault(secretKey, "apiKey", "Key in that Secret.")
  }).annotate({ description: "Access to the gateway's API." })
})

const Sync = Schema.Struct({
  defaults: withDefault(
    Profile.Defaults,
    {
      excludePatterns: [...Profile.defaultExcludePatterns],
      syncPeriod: 30,
      designerSessionPolicy: "proceed",
      dryRun: false,
      paused: false
    },
    "What every profile starts from."
  ),
  profiles: Profile.Profiles.annotate({
    description: "Name to profile. A pod chooses by annotation `stoker.io/profile`, else it gets `default`."
  })
})

/** `100m`, `64Mi`, or a plain number. */
const Quantity = Schema.Union([Schema.Int, Schema.String]).annotate({ "x-kubernetes-int-or-string": true })
const Quantities = Schema.Record(Schema.String, Quantity).pipe(Schema.check(Schema.isMaxProperties(32)))

const Agent = Schema.Struct({
  image: Schema.optionalKey(
    Schema.Struct({
      repository: Schema.optionalKey(
        Schema.String.pipe(Schema.check(Schema.isMaxLength(512))).annotate({ description: "Image repository." })
      ),
      tag: Schema.optionalKey(
        Schema.String.pipe(Schema.check(Schema.isMaxLength(256))).annotate({ description: "Image tag, or tag@digest." })
      ),
      pullPolicy: Schema.optionalKey(
        Schema.Literals(["Always", "IfNotPresent", "Never"]).annotate({ description: "When the image is pulled." })
      )
    }).annotate({ description: "Image of the agent; the controller's DEFAULT_AGENT_IMAGE when absent." })
  ),
  resources: Schema.optionalKey(
    Schema.Struct({
      requests: Schema.optionalKey(Quantities.annotate({ description: "What the agent asks for." })),
      limits: Schema.optionalKey(Quantities.annotate({ description: "What the agent may use at most." }))
    }).annotate({ description: "Resources of the agent's container." })
  )
})

const Webhook = Schema.Struct({
  hmac: Schema.optionalKey(
    SecretSource.annotate({ description: "Secret of signatures, instead of the receiver's own." })
  ),
  token: Schema.optionalKey(SecretSource.annotate({ description: "Bearer token, instead of the receiver's own." })),
  refs: Schema.optionalKey(
    Schema.Array(Schema.String.pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(512))))
      .pipe(Schema.check(Schema.isMaxLength(64)))
      .annotate({ description: "Globs of the refs that a webhook may move this GatewaySync to; any when absent." })
  ),
  prereleases: withDefault(Schema.Boolean, false, "Whether a prerelease moves this GatewaySync.")
})

export const Spec = Schema.Struct({
  git: Git.annotate({ description: "Where the configuration comes from." }),
  polling: withDefault(Polling, { enabled: true, interval: "60s" }, "Asking the remote at an interval."),
  gateway: Gateway.annotate({ description: "How an agent reaches its gateway." }),
  sync: Sync.annotate({ description: "What goes where." }),
  agent: Schema.optionalKey(Agent.annotate({ description: "The sidecar." })),
  paused: withDefault(Schema.Boolean, false, "Nothing is resolved or synced."),
  webhook: Schema.optionalKey(Webhook.annotate({ description: "Webhooks to this GatewaySync." }))
})
export type Spec = typeof Spec.Type

export const SyncStatus = Schema.Literals(["Pending", "Synced", "Error", "MissingSidecar"])
export type SyncStatus = typeof SyncStatus.Type

const text = (description: string) => Schema.optionalKey(Schema.String.annotate({ description }))

export const DiscoveredGateway = Schema.Struct({
  name: Schema.String.annotate({ description: "The gateway's name." }),
  namespace: Schema.String.annotate({ description: "Namespace of its pod." }),
  podName: Schema.String.annotate({ description: "Its pod." }),
  serviceAccountName: text("ServiceAccount of the pod."),
  profile: text("Profile that the pod chose."),
  syncStatus: SyncStatus.annotate({ description: "Pending, Synced, Error or MissingSidecar." }),
  message: text("What is wrong with this gateway, in words."),
  lastSyncTime: text("When it last synced (RFC 3339)."),
  lastSyncDuration: text("How long that took (Go duration)."),
  syncedCommit: text("Commit on its disk."),
  syncedRef: text("Ref of that commit."),
  agentVersion: text("Version of its agent."),
  lastScanResult: text("What the gateway said to the last scan."),
  filesChanged: Schema.optionalKey(Schema.Int.annotate({ description: "Files written and deleted by the last sync." })),
  projectsSynced: Schema.optionalKey(
    Schema.Array(Schema.String).annotate({ description: "Ignition projects that the mappings produce." })
  )
})
export type DiscoveredGateway = typeof DiscoveredGateway.Type

export const RefResolutionStatus = Schema.Literals(["NotResolved", "Resolving", "Resolved", "Error"])
export const RefKind = Schema.Literals(["branch", "tag", "commit"])

export const Status = Schema.Struct({
  observedGeneration: Schema.optionalKey(
    Schema.Int.annotate({ description: "Generation that this status speaks of.", format: "int64" })
  ),
  lastSyncTime: text("When the resolved commit last changed (RFC 3339)."),
  lastSyncRef: text("The ref in force."),
  lastSyncRefKind: Schema.optionalKey(
    RefKind.annotate({ description: "What the ref in force is: branch, tag or commit." })
  ),
  lastSyncCommit: text("The commit in force."),
  lastSyncCommitShort: text("Its first seven digits."),
  refResolutionStatus: Schema.optionalKey(
    RefResolutionStatus.annotate({ description: "NotResolved, Resolved or Error; Resolving is not written." })
  ),
  lastHandledRequest: text("Fingerprint of the request that was last handled."),
  profileCount: Schema.optionalKey(Schema.Int.annotate({ description: "Number of profiles.", format: "int32" })),
  discoveredGateways: Schema.optionalKey(
    Schema.Array(DiscoveredGateway).annotate({
      description: "The gateways that name this GatewaySync.",
      // One writer, always the whole list; a map by pod would keep an owner for each field of each gateway.
      "x-kubernetes-list-type": "atomic"
    })
  ),
  conditions: Schema.optionalKey(
    Schema.Array(Conditions.Condition).annotate({
      description: "Conditions, one a type.",
      "x-kubernetes-list-type": "map",
      "x-kubernetes-list-map-keys": ["type"]
    })
  )
})
export type Status = typeof Status.Type

/** What a label can hold: the name of a GatewaySync is one on all that belongs to it. */
export const mostNameLength = 63

/** What is wrong with the name of one that was made before the CRD refused it; undefined when nothing is. */
export const nameProblem = (name: string): string | undefined =>
  name.length <= mostNameLength
    ? undefined
    : `nothing is resolved or synced: metadata.name has ${name.length} characters, and what belongs to this GatewaySync needs it as a label, which holds ${mostNameLength}. Make it anew under a shorter name, let its pods name that in the annotation stoker.io/cr-name, then delete this one`

/** The metadata that Stoker reads. */
export const Metadata = Schema.Struct({
  name: Schema.String,
  namespace: Schema.String,
  uid: Schema.String,
  resourceVersion: Schema.String,
  generation: Schema.Int.pipe(Schema.withDecodingDefaultKey(Effect.succeed(1))),
  annotations: Schema.Record(Schema.String, Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed({}))),
  finalizers: Schema.Array(Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed([]))),
  deletionTimestamp: Schema.optionalKey(Schema.String)
})

export const GatewaySync = Schema.Struct({
  metadata: Metadata,
  spec: Spec,
  status: Status.pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
})
export type GatewaySync = typeof GatewaySync.Type

/** Whether it brings credentials for its webhooks: they replace the receiver's for it. */
export const hasOwnCredentials = ({ spec: { webhook } }: GatewaySync): boolean =>
  webhook?.hmac !== undefined || webhook?.token !== undefined

/** Name of the index of a store by {@link ownCredentialsIn}. */
export const byOwnCredentials = "own-credentials"

/** What those of all namespaces are found under. */
export const everywhere = ""

/**
 * Where one with credentials of its own is found, so that nobody looks through those without: its namespace,
 * {@link everywhere}, and the names of its repository, which are like none of the former.
 */
export const ownCredentialsIn = (cr: GatewaySync): ReadonlyArray<string> =>
  hasOwnCredentials(cr) ? [cr.metadata.namespace, everywhere, ...RepositoryIdentity.names(cr.spec.git.repo)] : []

/** How the agents authenticate to the repository: a word in their metadata. */
export const authType = (spec: Spec): "none" | "ssh" | "token" | "githubApp" => {
  const auth = spec.git.auth
  if (auth?.githubApp !== undefined) return "githubApp"
  if (auth?.sshKey !== undefined) return "ssh"
  if (auth?.token !== undefined) return "token"
  return "none"
}

/** What a sender that waits is told: whether the plant has what was last requested. */
export interface Progress {
  readonly synced: boolean
  readonly gateways: { readonly synced: number; readonly total: number }
  readonly paused: boolean
}

/** Synced only when every request was handled, at least one gateway is there, and each of them counts as synced. */
export const progress = (cr: GatewaySync): Progress => {
  const gateways = cr.status.discoveredGateways ?? []
  const synced = gateways.filter((gateway) => gateway.syncStatus === "Synced").length
  const conditions = cr.status.conditions ?? []
  const isTrue = (type: Conditions.Type) => Conditions.get(conditions, type)?.status === "True"
  return {
    synced:
      RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest) &&
      cr.status.observedGeneration === cr.metadata.generation &&
      isTrue("RefResolved") &&
      Conditions.get(conditions, "ProfilesValid")?.status !== "False" &&
      isTrue("AllGatewaysSynced") &&
      gateways.length > 0 &&
      synced === gateways.length,
    gateways: { synced, total: gateways.length },
    paused: cr.spec.paused
  }
}
