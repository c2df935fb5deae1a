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

/** Somebody else may have changed them, and we do not watch them: they are applied again after this. */
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

const Binding = Schema.Struct({ roleRef: Schema.Struct({ kind: Schema.String, name: Schema.String }) })
const decodeBinding = Schema.decodeUnknownOption(Binding)

export const apply = Effect.fnUntraced(function* (cr: GatewaySync, pods: ReadonlyArray<Pod.Pod>) {
  const client = yield* ApiClient
  const memory = yield* Memory
  const { name, namespace } = cr.metadata
  const ref = { namespace, name: Names.agentRole(name) }
  const who = subjects(pods, namespace)
  const digest = JSON.stringify(who)
  const now = yield* Clock.currentTimeMillis
  const { access } = yield* memory.saw(cr)
  if (access?.digest === digest && now - access.at < Duration.toMillis(renewal)) return
  const metadata = Owned.metadata(cr)
  // The Role first: a binding to a Role that is not there is refused.
  yield* client.apply(Resource.roles, ref, { metadata, rules: rules(name) }, Owned.write)
  const roleRef = { apiGroup: Resource.roles.group, kind: "Role", name: ref.name }
  const bind = client.apply(
    Resource.roleBindings,
    ref,
    {
      metadata: { ...metadata, labels: { ...metadata.labels, [Names.owned.gatewaysync]: name } },
      roleRef,
      subjects: who
    },
    Owned.write
  )
  yield* bind.pipe(
    Effect.catchReason("ApiError", "Invalid", (_, error) =>
      Effect.gen(function* () {
        // `roleRef` cannot be changed: the Go operator bound a ClusterRole here.
        const existing = decodeBinding(yield* client.get(Resource.roleBindings, ref))
        const same =
          Option.isSome(existing) && Equal.equals(existing.value.roleRef, { kind: roleRef.kind, name: roleRef.name })
        if (same) return yield* error
        yield* client.delete(Resource.roleBindings, ref)
        yield* bind
      })
    )
  )
  yield* memory.update(cr, { access: { digest, at: now } })
})
