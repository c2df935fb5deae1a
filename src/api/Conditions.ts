/**
 * Conditions of a GatewaySync: their types, reasons and how a new set follows from the old one.
 */
import { Schema } from "effect"

export const ConditionStatus = Schema.Literals(["True", "False", "Unknown"])

export const Condition = Schema.Struct({
  type: Schema.String.pipe(Schema.check(Schema.isMaxLength(316))).annotate({
    description: "Type of the condition, in CamelCase."
  }),
  status: ConditionStatus.annotate({ description: "True, False or Unknown." }),
  reason: Schema.String.pipe(Schema.check(Schema.isMaxLength(1024))).annotate({
    description: "Why the condition is as it is, in one CamelCase word."
  }),
  message: Schema.String.pipe(Schema.check(Schema.isMaxLength(32_768))).annotate({
    description: "The same for people: what, why, and the way out."
  }),
  lastTransitionTime: Schema.String.annotate({
    description: "When the status last changed (RFC 3339).",
    format: "date-time"
  }),
  observedGeneration: Schema.optionalKey(
    Schema.Int.annotate({ description: "The generation that the condition speaks of.", format: "int64" })
  )
})
export type Condition = typeof Condition.Type

export type Type =
  | "RefResolved"
  | "ProfilesValid"
  | "AllGatewaysSynced"
  | "SidecarInjected"
  | "SSHHostKeyVerification"
  | "Ready"
  | "RefSkew"

export type Reason =
  | "RefResolved"
  | "RefResolutionFailed"
  | "GitHubAppExchangeFailed"
  | "ProfilesValid"
  | "ProfilesInvalid"
  | "SyncSucceeded"
  | "SyncInProgress"
  | "NoGatewaysDiscovered"
  | "SidecarPresent"
  | "SidecarMissing"
  | "HostKeyVerificationEnabled"
  | "HostKeyVerificationDisabled"
  | "Reconciling"
  | "Paused"
  | "WaitingForPush"
  | "OverriddenByRequest"
  | "RemoteAgrees"

/** What a reconcile found out: a condition without the times that only the former set can tell. */
export interface Finding {
  readonly type: Type
  readonly status: typeof ConditionStatus.Type
  readonly reason: Reason
  readonly message: string
}

export const get = (conditions: ReadonlyArray<Condition>, type: Type): Condition | undefined =>
  conditions.find((condition) => condition.type === type)

/**
 * The findings as conditions. `lastTransitionTime` is kept from the former condition of that type unless the status
 * changed; the set is always the full one, since an apply removes what it leaves out.
 *
 * @param now RFC 3339, UTC, whole seconds
 */
export const follow = (
  former: ReadonlyArray<Condition>,
  findings: ReadonlyArray<Finding>,
  options: { readonly now: string; readonly generation: number }
): ReadonlyArray<Condition> =>
  findings.map((finding) => {
    const before = get(former, finding.type)
    return {
      ...finding,
      lastTransitionTime: before?.status === finding.status ? before.lastTransitionTime : options.now,
      observedGeneration: options.generation
    }
  })
