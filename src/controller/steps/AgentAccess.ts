/**
 * What the agents of one GatewaySync may do: read its metadata map, write its status map, write events. Nothing else.
 */
import { Clock, Duration, Effect, Equal, Option, Schema, Stream } from "effect"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Pages from "../../kubernetes/Pages.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import { Memory } from "../Memory.ts"
import * as Pod from "../Pod.ts"
import * as Owned from "./Owned.ts"

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

/** Bound where no pod is known yet. */
const nobody = "default"

/** ServiceAccounts of the pods of the GatewaySync, and others; `default` when there is none. */
export const subjects = (pods: ReadonlyArray<Pod.Pod>, namespace: string, others: ReadonlyArray<string> = []) => {
  const names = [...new Set([...pods.map(Pod.serviceAccount), ...others])].sort()
  return (names.length === 0 ? [nobody] : names).map((name) => ({ kind: "ServiceAccount", name, namespace }))
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

const decodeSubject = Schema.decodeUnknownOption(Schema.Struct({ kind: Schema.String, name: Schema.String }))
const decodePod = Schema.decodeUnknownOption(Pod.Pod)

/**
 * ServiceAccounts that are bound and that no pod we know of has, but a pod that has ended: those are not watched. Where
 * the pods cannot be listed, all: a failure never takes a right away.
 */
const stillUsed = Effect.fnUntraced(function* (
  cr: GatewaySync,
  pods: ReadonlyArray<Pod.Pod>,
  bound: Option.Option<Existing>
) {
  const client = yield* ApiClient
  const { name, namespace } = cr.metadata
  const known = new Set(pods.map(Pod.serviceAccount))
  const accounts = Option.match(bound, { onNone: () => [], onSome: ({ subjects = [] }) => subjects })
    .map(decodeSubject)
    .flatMap(Option.toArray)
    .filter(({ kind }) => kind === "ServiceAccount")
    .map((subject) => subject.name)
  if (accounts.length === 1 && accounts[0] === nobody) return []

  const isOurs = (item: unknown) => Option.exists(decodePod(item), (pod) => Pod.crName(pod) === name)
  const isUsed = (account: string) =>
    Pages.of(client, Resource.pods, { namespace, fieldSelector: `spec.serviceAccountName=${account}` }).pipe(
      Stream.filter(({ items }) => items.some(isOurs)),
      Stream.runHead,
      Effect.map(Option.isSome)
    )
  return yield* Effect.filter(
    accounts.filter((account) => !known.has(account)),
    (account) =>
      isUsed(account).pipe(
        Effect.catchTag("ApiError", (error) =>
          Effect.as(Effect.logWarning(`the ServiceAccount ${account} stays bound: ${error.message}`), true)
        )
      )
  )
})

/** Role and binding as they shall be, but for what names them. */
export const desired = (cr: GatewaySync, pods: ReadonlyArray<Pod.Pod>, others: ReadonlyArray<string> = []) => {
  const { name, namespace } = cr.metadata
  const metadata = Owned.metadata(cr)
  return {
    role: { metadata, rules: rules(name) },
    binding: {
      metadata: { ...metadata, labels: { ...metadata.labels, [Names.owned.gatewaysync]: name } },
      roleRef: { apiGroup: Resource.roles.group, kind: Resource.roles.kind, name: Names.agentRole(name) },
      subjects: subjects(pods, namespace, others)
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

/**
 * Makes them as they shall be, where they are not; answers when to look again (milliseconds since the epoch). The Role
 * first: a binding to a Role that is not there is refused.
 */
export const apply = Effect.fnUntraced(function* (cr: GatewaySync, pods: ReadonlyArray<Pod.Pod>) {
  const client = yield* ApiClient
  const memory = yield* Memory
  const { namespace } = cr.metadata
  const ref = { namespace, name: Names.agentRole(cr.metadata.name) }
  const digest = JSON.stringify(subjects(pods, namespace))
  const now = yield* Clock.currentTimeMillis
  const { access } = yield* memory.saw(cr)
  const renewal = Duration.toMillis(Owned.renewal)
  if (access?.digest === digest && now < access.at + renewal) return access.at + renewal

  const read = (resource: Resource.Resource) =>
    client.get(resource, ref).pipe(
      Effect.map(decodeExisting),
      Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(Option.none<Existing>()))
    )
  const bound = yield* read(Resource.roleBindings)
  const { binding, role } = desired(cr, pods, yield* stillUsed(cr, pods, bound))
  if (!has(yield* read(Resource.roles), cr, role)) yield* client.apply(Resource.roles, ref, role, Owned.write)
  if (!has(bound, cr, binding)) {
    // `roleRef` cannot be changed: the Go operator bound a ClusterRole here.
    const isOther = Option.exists(bound, ({ roleRef }) => !Equal.equals(roleRef, binding.roleRef))
    if (isOther) yield* client.delete(Resource.roleBindings, ref)
    yield* client.apply(Resource.roleBindings, ref, binding, Owned.write)
  }
  yield* memory.update(cr, { access: { digest, at: now } })
  return now + renewal
})
