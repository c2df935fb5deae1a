/**
 * The gateways of a GatewaySync: its pods, and what their agents report. Pure.
 */
import { Option } from "effect"
import * as GatewayStatus from "../../api/GatewayStatus.ts"
import type { DiscoveredGateway } from "../../api/GatewaySync.ts"
import * as Pod from "../Pod.ts"

export interface Input {
  /** Pods that name the GatewaySync, or are its by being in its namespace. */
  readonly pods: ReadonlyArray<Pod.Pod>
  /** `data` of the status map. */
  readonly reports: Readonly<Record<string, string>>
  /** What the agents shall have, told or not; undefined before anything resolved. */
  readonly wanted: { readonly revision: string; readonly commit: string } | undefined
}

const isDiscovered = (pod: Pod.Pod): boolean => {
  if (pod.metadata.deletionTimestamp !== undefined) return false
  const sidecar = Pod.sidecar(pod)
  if (sidecar === "missing" && !Pod.wantsInjection(pod)) return false
  // A first sync that fails keeps the pod pending, and its error must be seen.
  return (
    pod.status.phase === "Running" || (pod.status.phase === "Pending" && (sidecar === "started" || sidecar === "ready"))
  )
}

/** Why a report that says Synced does not count, in words. */
const notYet = (report: GatewayStatus.Report, ready: boolean): string | undefined => {
  if (report.syncStatus !== "Synced") return undefined
  if (report.paused === true) return "paused: the files are left as they are"
  if (report.dryRun === true) {
    const [added = 0, modified = 0, deleted = 0] = [
      report.dryRunDiffAdded,
      report.dryRunDiffModified,
      report.dryRunDiffDeleted
    ]
    return `dry run: ${added} to add, ${modified} to change, ${deleted} to delete`
  }
  return ready ? undefined : "the sidecar is not ready"
}

const optional = <K extends string, V>(key: K, value: V | undefined): { readonly [P in K]?: V } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: V }

const gateway = (pod: Pod.Pod, { reports, wanted }: Input): DiscoveredGateway => {
  const name = Pod.gatewayName(pod)
  const sidecar = Pod.sidecar(pod)
  const identity = {
    name,
    namespace: pod.metadata.namespace,
    podName: pod.metadata.name,
    serviceAccountName: Pod.serviceAccount(pod),
    profile: Pod.profile(pod)
  }
  if (sidecar === "missing") {
    return {
      ...identity,
      syncStatus: "MissingSidecar",
      message: "the pod asks for a sidecar and has none: delete the pod, so that it is made anew with one"
    }
  }
  const found = GatewayStatus.find(reports, { podName: pod.metadata.name, gatewayName: name })
  if (Option.isNone(found)) return { ...identity, syncStatus: "Pending", message: "no report yet" }
  const report = found.value
  const ready = sidecar === "ready"
  const counts =
    wanted !== undefined && ready && GatewayStatus.countsAsSynced(report, { ...wanted, podUID: pod.metadata.uid })
  return {
    ...identity,
    syncStatus: report.syncStatus === "Error" ? "Error" : counts ? "Synced" : "Pending",
    ...optional("message", report.errorMessage ?? notYet(report, ready)),
    ...optional("lastSyncTime", report.lastSyncTime),
    ...optional("lastSyncDuration", report.lastSyncDuration),
    ...optional("syncedCommit", report.syncedCommit),
    ...optional("syncedRef", report.syncedRef),
    ...optional("agentVersion", report.agentVersion),
    ...optional("lastScanResult", report.lastScanResult),
    ...optional("filesChanged", report.filesChanged),
    ...optional("projectsSynced", report.projectsSynced)
  }
}

/** In the order of namespace, name and pod, so that equal plants give equal lists. */
export const discover = (input: Input): ReadonlyArray<DiscoveredGateway> =>
  input.pods
    .filter(isDiscovered)
    .map((pod) => gateway(pod, input))
    .sort((a, b) => compare(a.name, b.name) || compare(a.podName, b.podName))

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** Keys of the status map that belong to no pod or gateway that we know of. */
export const strayKeys = (input: Pick<Input, "pods" | "reports">): ReadonlyArray<string> => {
  const known = new Set(input.pods.flatMap((pod) => [pod.metadata.name, Pod.gatewayName(pod)]))
  return Object.keys(input.reports).filter((key) => !known.has(key))
}
