/**
 * Pods as the controller sees them: just the fields that tell which GatewaySync a pod belongs to and how its sidecar is.
 */
import { Effect, Schema } from "effect"
import { agentContainer, pod as keys } from "../api/Names.ts"

const text = Schema.optionalKey(Schema.String)

export const Pod = Schema.Struct({
  metadata: Schema.Struct({
    name: Schema.String,
    namespace: Schema.String,
    uid: Schema.String,
    deletionTimestamp: text,
    annotations: Schema.Struct({
      [keys.inject]: text,
      [keys.crName]: text,
      [keys.profile]: text,
      [keys.gatewayName]: text
    }).pipe(Schema.withDecodingDefaultKey(Effect.succeed({}))),
    labels: Schema.Struct({ [keys.appName]: text }).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
  }),
  spec: Schema.Struct({
    serviceAccountName: text,
    initContainers: Schema.Array(Schema.Struct({ name: Schema.String })).pipe(
      Schema.withDecodingDefaultKey(Effect.succeed([]))
    )
  }),
  status: Schema.Struct({
    phase: Schema.String.pipe(Schema.withDecodingDefaultKey(Effect.succeed("Pending"))),
    initContainerStatuses: Schema.Array(
      Schema.Struct({
        name: Schema.String,
        ready: Schema.Boolean.pipe(Schema.withDecodingDefaultKey(Effect.succeed(false))),
        started: Schema.optionalKey(Schema.NullOr(Schema.Boolean))
      })
    ).pipe(Schema.withDecodingDefaultKey(Effect.succeed([])))
  }).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
})
export type Pod = typeof Pod.Type

/** Finished pods hold no gateway and are not watched. */
export const fieldSelector = "status.phase!=Succeeded,status.phase!=Failed"

/** The GatewaySync that the pod names; injection adds the name where it could be derived. */
export const crName = (pod: Pod): string | undefined => pod.metadata.annotations[keys.crName]

export const wantsInjection = (pod: Pod): boolean => pod.metadata.annotations[keys.inject] === "true"

/** Wants a sidecar and names no GatewaySync: it belongs to the only one of its namespace. */
export const isUnnamed = (pod: Pod): boolean => wantsInjection(pod) && crName(pod) === undefined

export const gatewayName = (pod: Pod): string =>
  pod.metadata.annotations[keys.gatewayName] ?? pod.metadata.labels[keys.appName] ?? pod.metadata.name

export const profile = (pod: Pod): string => pod.metadata.annotations[keys.profile] ?? "default"

export const serviceAccount = (pod: Pod): string => pod.spec.serviceAccountName ?? "default"

/** The agent in the pod: absent, not started yet, started, or ready. */
export const sidecar = (pod: Pod): "missing" | "waiting" | "started" | "ready" => {
  if (!pod.spec.initContainers.some(({ name }) => name === agentContainer)) return "missing"
  const status = pod.status.initContainerStatuses.find(({ name }) => name === agentContainer)
  if (status?.ready === true) return "ready"
  return status?.started === true ? "started" : "waiting"
}
