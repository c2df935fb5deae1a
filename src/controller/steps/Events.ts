/**
 * What people are told of a GatewaySync's history: from the status before to the status after. Pure. What did not change
 * is not told again, also not by the next leader, since the status before is the one in the cluster.
 */
import { Option } from "effect"
import * as Conditions from "../../api/Conditions.ts"
import * as GatewayStatus from "../../api/GatewayStatus.ts"
import type { DiscoveredGateway, GatewaySync, Status } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import * as RequestedRef from "../../api/RequestedRef.ts"
import type { Event, ObjectReference } from "../../kubernetes/EventRecorder.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import type { Remembered } from "../Memory.ts"
import * as Pod from "../Pod.ts"
import { withoutNextTry } from "./Resolve.ts"

export type Happening = Omit<Event, "regarding">

export const regarding = ({ metadata }: GatewaySync): ObjectReference => ({
  apiVersion: Names.apiVersion,
  kind: Names.gatewaySyncs.kind,
  namespace: metadata.namespace,
  name: metadata.name,
  uid: metadata.uid
})

const podReference = ({ metadata }: Pod.Pod): ObjectReference => ({
  apiVersion: Resource.apiVersion(Resource.pods),
  kind: Resource.pods.kind,
  namespace: metadata.namespace,
  name: metadata.name,
  uid: metadata.uid
})

/**
 * Deliveries that nobody has looked at yet, by who sent them, and what to remember as `told`. What was set by hand is no
 * delivery, and neither is a request for what was requested, or is in force, already: a sender that waits for the plant
 * repeats it every few seconds.
 */
export const received = (
  cr: GatewaySync,
  told: Remembered["told"]
): { readonly happenings: ReadonlyArray<Happening>; readonly now: NonNullable<Remembered["told"]> } => {
  const { annotations } = cr.metadata
  const isNew = (...keys: ReadonlyArray<string>) =>
    !RequestedRef.isHandled(
      Object.fromEntries(keys.flatMap((key) => (annotations[key] === undefined ? [] : [[key, annotations[key]]]))),
      cr.status.lastHandledRequest
    )
  const happening = (note: string): Happening => ({
    type: "Normal",
    reason: "WebhookReceived",
    action: "Receive",
    note
  })
  const request = RequestedRef.override(annotations)
  const push = RequestedRef.pushed(annotations)
  const moves = request !== undefined && request.ref !== (told?.ref ?? cr.status.lastSyncRef)
  return {
    happenings: [
      ...(request?.by !== undefined && moves && isNew(Names.request.ref, Names.request.id)
        ? [happening(`${request.by} requests "${request.ref}"`)]
        : []),
      ...(push !== undefined && push.id !== told?.push && isNew(Names.request.pushed)
        ? [happening(`${push.by} announces a push to ${push.kind} "${push.ref}"`)]
        : [])
    ],
    now: {
      ...(request === undefined ? {} : { ref: request.ref }),
      ...(push === undefined ? {} : { push: push.id })
    }
  }
}

export interface Change {
  readonly cr: GatewaySync
  readonly pods: ReadonlyArray<Pod.Pod>
  /** `data` of the status map. */
  readonly reports: Readonly<Record<string, string>>
  /** The status that was just written over `cr.status`. */
  readonly status: Status
  /** Why the agents' rights could not be written, if so. */
  readonly refusedRights: string | undefined
}

/** What became of the conditions. */
const conditions = ({ cr, refusedRights, status }: Change): ReadonlyArray<Happening> => {
  const before = (type: Conditions.Type) => Conditions.get(cr.status.conditions ?? [], type)
  const after = (type: Conditions.Type) => Conditions.get(status.conditions ?? [], type)
  const happenings: Array<Happening> = []
  const warn = (reason: string, action: string, note: string) =>
    happenings.push({ type: "Warning", reason, action, note })

  const cause = (condition: Conditions.Condition | undefined) =>
    condition?.status === "False" ? `${condition.reason} ${withoutNextTry(condition.message)}` : undefined
  const ref = after("RefResolved")
  if (ref !== undefined && cause(ref) !== undefined && cause(ref) !== cause(before("RefResolved"))) {
    warn(ref.reason, "Resolve", withoutNextTry(ref.message))
  }
  const profiles = after("ProfilesValid")
  if (profiles?.status === "False" && profiles.message !== before("ProfilesValid")?.message) {
    warn(profiles.reason, "Validate", profiles.message)
  }
  if (after("Ready")?.reason === "Paused" && before("Ready")?.reason !== "Paused") {
    happenings.push({
      type: "Normal",
      reason: "Paused",
      action: "Pause",
      note: "nothing is resolved or synced while spec.paused is true"
    })
  }
  // The condition Ready keeps the refusal, beside whatever else it says, so it is told once.
  if (refusedRights !== undefined && before("Ready")?.message.includes(refusedRights) !== true) {
    warn("RBACError", "Grant", `the agents could not be given their rights: ${refusedRights}`)
  }
  const all = after("AllGatewaysSynced")
  if (all?.status === "True" && before("AllGatewaysSynced")?.status !== "True") {
    happenings.push({
      type: "Normal",
      reason: "SyncCompleted",
      action: "Sync",
      note: `${all.message}: ${status.lastSyncRef} at ${status.lastSyncCommitShort}`
    })
  }
  return happenings
}

type Kind = Pick<Happening, "type" | "reason">

const skipped: Kind = { type: "Normal", reason: "SyncSkipped" }
const failure = (report: Option.Option<GatewayStatus.Report>): Kind => ({
  type: "Warning",
  reason: Option.exists(report, ({ errorReason }) => errorReason === GatewayStatus.cloneFailed)
    ? GatewayStatus.cloneFailed
    : "SyncFailed"
})

/** What became of the gateways. */
const gateways = ({ cr, pods, reports, status }: Change): ReadonlyArray<Happening> => {
  const now = status.discoveredGateways ?? []
  const before = new Map((cr.status.discoveredGateways ?? []).map((gateway) => [gateway.podName, gateway]))
  const happenings: Array<Happening> = []
  const named = (some: ReadonlyArray<DiscoveredGateway>) => some.map(({ podName }) => podName).join(", ")

  const found = now.filter(({ podName }) => !before.has(podName))
  if (found.length > 0) {
    happenings.push({
      type: "Normal",
      reason: "GatewaysDiscovered",
      action: "Discover",
      note: `${now.length} gateway${now.length === 1 ? "" : "s"}; new: ${named(found)}`
    })
  }
  const missing = now.filter(
    ({ podName, syncStatus }) => syncStatus === "MissingSidecar" && before.get(podName)?.syncStatus !== "MissingSidecar"
  )
  if (missing.length > 0) {
    happenings.push({
      type: "Warning",
      reason: "MissingSidecar",
      action: "Discover",
      note: `without sidecar: ${named(missing)}; delete these pods, so that they are made anew with one`
    })
  }
  for (const { message, name, podName, syncStatus } of now) {
    const former = before.get(podName)
    if (former?.message === message && former?.syncStatus === syncStatus) continue
    const report = GatewayStatus.find(reports, { podName, gatewayName: name })
    const kind =
      syncStatus === "Error"
        ? failure(report)
        : !cr.spec.paused && Option.exists(report, GatewayStatus.isSkipped)
          ? skipped
          : undefined
    if (kind === undefined) continue
    const pod = pods.find(({ metadata }) => metadata.name === podName)
    happenings.push({
      ...kind,
      action: "Sync",
      note: `gateway ${name} (pod ${podName}): ${message ?? "the agent gives no reason"}`,
      ...(pod === undefined ? {} : { related: podReference(pod) })
    })
  }
  return happenings
}

export const between = (change: Change): ReadonlyArray<Happening> => [...conditions(change), ...gateways(change)]
