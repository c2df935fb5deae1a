/**
 * What the agents of one GatewaySync may do: read its metadata map, write its status map, write events. Nothing else.
 */
import { Clock, Duration, Effect, Equal, Option, Schema } from "effect"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import { Memory } from "../Memory.ts"
import * as Pod from "../Pod.ts"
import * as Owned from "./Owned.ts"

/** Somebody else may have changed them, and we do not watch them: they are looked at again after this. */
export const renewal = Duration.minutes(10)

export const rules = (cr: string) => [
  {
    apiGroups: [""],
    resources: ["configmaps"],
    resourceNames: [Names.metadataMap(cr)],
    verbs: ["get", "list", "watch"]
  },
  {
    apiGroups: [""],
    resources: ["configmaps"],
    resourceNames: [Names.statusMap(cr)],
    verbs: ["get", "update", "patch"]
  },
  { apiGroups: ["", "events.k8s.io"], resources: ["events"], verbs: ["create", "patch"] }
]

/** ServiceAccounts of all pods of the GatewaySync; `default` when there is none. */
export const subjects = (pods: ReadonlyArray<Pod.Pod>, namespace: string) => {
  const names = [...new Set(pods.map(Pod.serviceAccount))].sort()
  return (names.length === 0 ? ["default"] : names).map((name) => ({ kind: "ServiceAccount", name, namespace }))
}

const Existing = Schema.Struct({
  metadata: Schema.Struct({
    labels: Schema.Record(Schema.String, Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed({}))),
    ownerReferences: Schema.Array(Schema.Struct({ uid: Schema.String })).pipe(
      Schema.withDecodingDefaultKey(Effect.succeed([]))
    )
  }),
  rules: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Unknown))),
  roleRef: Schema.optionalKey(Schema.Struct({ apiGroup: Schema.String, kind: Schema.String, name: Schema.String })),
  subjects: Schema.optionalKey(Schema.Array(Schema.Unknown))
})
type Existing = typeof Existing.Type
const decodeExisting = Schema.decodeUnknownOption(Existing)

/** Role and binding as they shall be, but for what names them. */
export const desired = (cr: GatewaySync, pods: ReadonlyArray<Pod.Pod>) => {
  const { name, namespace } = cr.metadata
  const metadata = Owned.metadata(cr)
  return {
    role: { metadata, rules: rules(name) },
    binding: {
      metadata: { ...metadata, labels: { ...metadata.labels, [Names.owned.gatewaysync]: name } },
      roleRef: { apiGroup: Resource.roles.group, kind: Resource.roles.kind, name: Names.agentRole(name) },
      subjects: subjects(pods, namespace)
    }
  }
}

/** Whether an object has all that is desired; what others put on it does not count. */
const has = (
  existing: Option.Option<Existing>,
  cr: GatewaySync,
  { metadata, ...rest }: { readonly metadata: Metadata }
) =>
  Option.exists(
    existing,
    (found) =>
      found.metadata.ownerReferences.some(({ uid }) => uid === cr.metadata.uid) &&
      Object.entries(metadata.labels).every(([key, value]) => found.metadata.labels[key] === value) &&
      Object.entries(rest).every(([key, value]) => Equal.equals(found[key as keyof Existing], value))
  )
type Metadata = ReturnType<typeof Owned.metadata>

/** Makes them as they shall be, where they are not. The Role first: a binding to a Role that is not there is refused. */
export const apply = Effect.fnUntraced(function* (cr: GatewaySync, pods: ReadonlyArray<Pod.Pod>) {
  const client = yield* ApiClient
  const memory = yield* Memory
  const ref = { namespace: cr.metadata.namespace, name: Names.agentRole(cr.metadata.name) }
  const { binding, role } = desired(cr, pods)
  const digest = JSON.stringify(binding.subjects)
  const now = yield* Clock.currentTimeMillis
  const { access } = yield* memory.saw(cr)
  if (access?.digest === digest && now - access.at < Duration.toMillis(renewal)) return

  const read = (resource: Resource.Resource) =>
    client.get(resource, ref).pipe(
      Effect.map(decodeExisting),
      Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(Option.none<Existing>()))
    )
  if (!has(yield* read(Resource.roles), cr, role)) yield* client.apply(Resource.roles, ref, role, Owned.write)
  const bound = yield* read(Resource.roleBindings)
  if (!has(bound, cr, binding)) {
    // `roleRef` cannot be changed: the Go operator bound a ClusterRole here.
    const isOther = Option.exists(bound, ({ roleRef }) => !Equal.equals(roleRef, binding.roleRef))
    if (isOther) yield* client.delete(Resource.roleBindings, ref)
    yield* client.apply(Resource.roleBindings, ref, binding, Owned.write)
  }
  yield* memory.update(cr, { access: { digest, at: now } })
})
