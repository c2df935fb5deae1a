/**
 * ConfigMap `stoker-status-{cr}`: one key a gateway pod, a report by its agent.
 * Reports of the Go agent lack `observedRevision` and `podUID`, and their key is the gateway's name.
 */
import { Option, Schema } from "effect"

const count = Schema.optionalKey(Schema.Int)
const text = Schema.optionalKey(Schema.String)

export const Report = Schema.Struct({
  syncStatus: Schema.Literals(["Pending", "Synced", "Error"]),
  syncedCommit: text,
  syncedRef: text,
  /** RFC 3339. */
  lastSyncTime: text,
  /** Go duration, e.g. `142ms`. */
  lastSyncDuration: text,
  agentVersion: text,
  lastScanResult: text,
  filesChanged: count,
  /** Found by the first sync to a volume: files below the mapped folders that no mapping produces. They stay. */
  unmanagedFiles: count,
  projectsSynced: Schema.optionalKey(Schema.Array(Schema.String)),
  errorMessage: text,
  /** What kind of failure, by the name of the event for it: {@link cloneFailed}. Absent, or a later one: the sync failed. */
  errorReason: text,
  profileName: text,
  dryRun: Schema.optionalKey(Schema.Boolean),
  dryRunDiffAdded: count,
  dryRunDiffModified: count,
  dryRunDiffDeleted: count,
  designerSessionsBlocked: Schema.optionalKey(Schema.Boolean),
  /** Paused by `spec.paused` or its profile: the files are left as they are. */
  paused: Schema.optionalKey(Schema.Boolean),
  /** `revision` of the metadata that the report answers to. */
  observedRevision: text,
  podUID: text
})
export type Report = typeof Report.Type

/** `errorReason` where the repository could not be read: cloned, fetched, or a commit found in it. */
export const cloneFailed = "CloneFailed"

const Json = Schema.fromJsonString(Report)
export const decode = Schema.decodeUnknownOption(Json)
export const encode = Schema.encodeSync(Json)

/** The report of a pod in the map's data: under the pod's name, else (Go agent) under the gateway's. */
export const find = (
  data: Readonly<Record<string, string>>,
  pod: { readonly podName: string; readonly gatewayName: string }
): Option.Option<Report> => decode(data[pod.podName]).pipe(Option.orElse(() => decode(data[pod.gatewayName])))

/** The agent did what it was told, and that was to write nothing: its profile is paused, or a dry run. */
export const isSkipped = ({ dryRun, paused, syncStatus }: Report): boolean =>
  syncStatus === "Synced" && (dryRun === true || paused === true)

/** Whether a gateway has what the metadata says. Reports without revision and UID (Go agents) count by their commit. */
export const countsAsSynced = (
  report: Report,
  wanted: { readonly revision: string; readonly commit: string; readonly podUID: string }
): boolean => {
  if (report.syncStatus !== "Synced" || isSkipped(report)) return false
  if (report.podUID !== undefined && report.podUID !== wanted.podUID) return false
  return report.observedRevision === undefined
    ? report.syncedCommit === wanted.commit
    : report.observedRevision === wanted.revision
}
