/**
 * From what the steps found to the whole status. Pure; what did not change keeps its times, so that an unchanged plant
 * gives an unchanged status.
 */
import { Struct } from "effect"
import * as Conditions from "../../api/Conditions.ts"
import type { DiscoveredGateway, GatewaySync, Status } from "../../api/GatewaySync.ts"

import * as RequestedRef from "../../api/RequestedRef.ts"
import { lags, type Resolution, unasked } from "./Resolve.ts"

export interface Findings {
  readonly cr: GatewaySync
  readonly inForce: RequestedRef.InForce
  readonly resolution: Resolution
  /** What is wrong with the profiles. */
  readonly problems: ReadonlyArray<string>
  readonly gateways: ReadonlyArray<DiscoveredGateway>
  /** What could not be written, and why. */
  readonly failures: ReadonlyArray<string>
  /** RFC 3339. */
  readonly now: string
}

type Finding = Conditions.Finding

const former = ({ cr }: Findings, type: Conditions.Type): Finding | undefined => {
  const condition = Conditions.get(cr.status.conditions ?? [], type)
  // Reasons are ours, written by an earlier reconcile.
  return condition === undefined
    ? undefined
    : { type, status: condition.status, reason: condition.reason as Conditions.Reason, message: condition.message }
}

const refResolved = (findings: Findings): Finding | undefined => {
  const { commit, finding } = findings.resolution
  if (finding !== undefined) return finding
  const before = former(findings, "RefResolved")
  if (before?.status === "False" || commit === undefined) return before
  return { type: "RefResolved", status: "True", reason: "RefResolved", message: commit.commit }
}

const profilesValid = ({ cr, problems }: Findings): Finding =>
  problems.length === 0
    ? {
        type: "ProfilesValid",
        status: "True",
        reason: "ProfilesValid",
        message: count(Object.keys(cr.spec.sync.profiles).length, "valid profile")
      }
    : { type: "ProfilesValid", status: "False", reason: "ProfilesInvalid", message: problems.join("; ") }

const allGatewaysSynced = ({ gateways }: Findings): Finding => {
  const synced = gateways.filter(({ syncStatus }) => syncStatus === "Synced").length
  const missing = gateways.filter(({ syncStatus }) => syncStatus === "MissingSidecar").length
  const message = `${synced}/${gateways.length} synced`
  if (gateways.length === 0) {
    return { type: "AllGatewaysSynced", status: "False", reason: "NoGatewaysDiscovered", message }
  }
  return synced === gateways.length
    ? { type: "AllGatewaysSynced", status: "True", reason: "SyncSucceeded", message }
    : {
        type: "AllGatewaysSynced",
        status: "False",
        reason: "SyncInProgress",
        message: missing === 0 ? message : `${message} (${missing} missing sidecar)`
      }
}

const sidecarInjected = ({ gateways }: Findings): Finding | undefined => {
  if (gateways.length === 0) return undefined
  const without = gateways.filter(({ syncStatus }) => syncStatus === "MissingSidecar").map(({ podName }) => podName)
  return without.length === 0
    ? {
        type: "SidecarInjected",
        status: "True",
        reason: "SidecarPresent",
        message: `every gateway has its sidecar`
      }
    : {
        type: "SidecarInjected",
        status: "False",
        reason: "SidecarMissing",
        message: `without sidecar: ${without.join(", ")}; delete these pods, so that they are made anew with one`
      }
}

const hostKeyVerification = ({ cr }: Findings): Finding | undefined => {
  const ssh = cr.spec.git.auth?.sshKey
  if (ssh === undefined) return undefined
  return ssh.knownHosts === undefined
    ? {
        type: "SSHHostKeyVerification",
        status: "False",
        reason: "HostKeyVerificationDisabled",
        message: "the server's host key is not checked; give spec.git.auth.sshKey.knownHosts"
      }
    : {
        type: "SSHHostKeyVerification",
        status: "True",
        reason: "HostKeyVerificationEnabled",
        message: "the server's host key is checked"
      }
}

const refSkew = ({ cr, inForce, resolution }: Findings): Finding => {
  const { commit } = resolution
  if (commit !== undefined && lags(cr.metadata.annotations, commit)) {
    return {
      type: "RefSkew",
      status: "True",
      reason: "WaitingForPush",
      message: `a push to "${commit.ref}" was announced, and the remote still serves the commit before it`
    }
  }
  if (inForce.request !== undefined && inForce.ref !== cr.spec.git.ref) {
    return {
      type: "RefSkew",
      status: "True",
      reason: "OverriddenByRequest",
      message: `"${inForce.ref}" was requested by ${inForce.request.by ?? "hand"} and overrides spec.git.ref "${cr.spec.git.ref}"; edit that to end it`
    }
  }
  return { type: "RefSkew", status: "False", reason: "RemoteAgrees", message: "spec and remote agree" }
}

const ready = ({ failures, cr }: Findings, others: ReadonlyArray<Finding>): Finding => {
  if (cr.spec.paused) {
    return {
      type: "Ready",
      status: "False",
      reason: "Paused",
      message: ["paused by spec.paused", ...failures].join("; ")
    }
  }
  const wanting = ["ProfilesValid", "RefResolved", "AllGatewaysSynced"]
    .map((type) => others.find((finding) => finding.type === type))
    .find((finding) => finding?.status !== "True")
  const isReady = others.filter(({ status, type }) => status === "True" && needed.has(type)).length === needed.size
  if (failures.length > 0) {
    return { type: "Ready", status: "False", reason: "Reconciling", message: failures.join("; ") }
  }
  return isReady
    ? { type: "Ready", status: "True", reason: "SyncSucceeded", message: "All gateways synced" }
    : { type: "Ready", status: "False", reason: "Reconciling", message: wanting?.message ?? "nothing resolved yet" }
}

const needed: ReadonlySet<Conditions.Type> = new Set(["RefResolved", "ProfilesValid", "AllGatewaysSynced"])

const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`

/** The full set, in a fixed order: what is left out of an apply is removed. */
export const conditions = (findings: Findings): ReadonlyArray<Conditions.Condition> => {
  const others = [
    refResolved(findings),
    profilesValid(findings),
    allGatewaysSynced(findings),
    sidecarInjected(findings),
    hostKeyVerification(findings),
    refSkew(findings)
  ].filter((finding) => finding !== undefined)
  return Conditions.follow(findings.cr.status.conditions ?? [], [...others, ready(findings, others)], {
    now: findings.now,
    generation: findings.cr.metadata.generation
  })
}

const resolved = ({ cr: { status }, now, resolution: { commit } }: Findings): Status => {
  // Nothing resolved for this repository: what the gateways have is still what was last said.
  if (commit === undefined) return kept(status)
  const same = status.lastSyncCommit === commit.commit && status.lastSyncTime !== undefined
  return {
    lastSyncRef: commit.ref,
    ...(commit.kind === undefined ? {} : { lastSyncRefKind: commit.kind }),
    lastSyncCommit: commit.commit,
    lastSyncCommitShort: commit.commit.slice(0, 7),
    lastSyncTime: same ? status.lastSyncTime! : now
  }
}

const kept = (status: Status): Status =>
  Struct.pick(status, ["lastSyncCommit", "lastSyncCommitShort", "lastSyncRef", "lastSyncRefKind", "lastSyncTime"])

/** The whole status. */
export const status = (findings: Findings): Status => {
  const { cr, gateways, resolution } = findings
  const all = conditions(findings)
  const known = Conditions.get(all, "RefResolved")
  const handledRequest = resolution.handled
    ? RequestedRef.isHandled(cr.metadata.annotations, cr.status.lastHandledRequest)
      ? cr.status.lastHandledRequest
      : RequestedRef.fingerprint(cr.metadata.annotations)
    : cr.status.lastHandledRequest
  return {
    observedGeneration: cr.metadata.generation,
    ...resolved(findings),
    refResolutionStatus: known === undefined ? "NotResolved" : known.status === "True" ? "Resolved" : "Error",
    ...(handledRequest === undefined ? {} : { lastHandledRequest: handledRequest }),
    profileCount: Object.keys(cr.spec.sync.profiles).length,
    discoveredGateways: gateways,
    conditions: all
  }
}

/** The whole status of one that nothing can be done for. */
export const refused = (cr: GatewaySync, problem: string, now: string): Status =>
  status({
    cr,
    inForce: RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref),
    resolution: unasked(cr, undefined),
    problems: [],
    gateways: [],
    failures: [problem],
    now
  })
