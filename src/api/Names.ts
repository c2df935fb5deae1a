/**
 * The names that other programs see: API group, annotations, labels, owned objects.
 * They are those of the Go operator v0.7, so that clusters move over without touching a manifest.
 */

export const group = "stoker.io"
export const version = "v1alpha1"
export const apiVersion = `${group}/${version}`
/** The resource, as its REST path says it. */
export const gatewaySyncs = { group, version, plural: "gatewaysyncs", kind: "GatewaySync" } as const
export const finalizer = "stoker.io/finalizer"
export const lease = "a86165bb.stoker.io"

/** Field managers of the three writers. */
export const managers = { controller: "stoker-controller", receiver: "stoker-receiver", agent: "stoker-agent" } as const

/** Who reports the events on a GatewaySync. */
export const eventController = "stoker.io/controller"

/** Annotations and labels that users put on gateway pods, and those that injection adds. */
export const pod = {
  inject: "stoker.io/inject",
  injected: "stoker.io/injected",
  crName: "stoker.io/cr-name",
  profile: "stoker.io/profile",
  gatewayName: "stoker.io/gateway-name",
  agentLabel: "stoker.io/agent",
  appName: "app.kubernetes.io/name",
  podIndex: "apps.kubernetes.io/pod-index"
} as const

/** The init container that injection puts first. */
export const agentContainer = "stoker-agent"

/** Annotations that the receiver writes on a GatewaySync. */
export const request = {
  ref: "stoker.io/requested-ref",
  at: "stoker.io/requested-at",
  by: "stoker.io/requested-by",
  commit: "stoker.io/requested-commit",
  id: "stoker.io/requested-id",
  over: "stoker.io/requested-over",
  pushed: "stoker.io/pushed",
  deliveries: "stoker.io/deliveries",
  traceparent: "stoker.io/traceparent"
} as const

/** Annotation by which a user allows one commit to delete many files. */
export const allowMassDeletion = "stoker.io/allow-mass-deletion"

/** Labels of objects that the controller owns. */
export const owned = {
  crName: "stoker.io/cr-name",
  managedBy: "app.kubernetes.io/managed-by",
  managedByValue: "stoker",
  gatewaysync: "stoker.io/gatewaysync",
  secretType: "stoker.io/secret-type",
  githubAppToken: "github-app-token"
} as const

export const metadataMap = (cr: string): string => `stoker-metadata-${cr}`
export const statusMap = (cr: string): string => `stoker-status-${cr}`
export const changesMap = (cr: string): string => `stoker-changes-${cr}`
export const githubTokenSecret = (cr: string): string => `stoker-github-token-${cr}`
/** Role and RoleBinding of the agents of one GatewaySync. */
export const agentRole = (cr: string): string => `stoker-agent-${cr}`
