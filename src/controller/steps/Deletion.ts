/**
 * A GatewaySync that is being deleted: first its objects go, then our finalizer. Each step may be repeated, and is right
 * also when nothing was ever made. Role and binding go with their owner where we have no right on them.
 */
import { Effect } from "effect"
import * as Names from "../../api/Names.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import * as Finalizer from "./Finalizer.ts"

export const run = Effect.fnUntraced(function* (cr: Finalizer.Held) {
  if (!Finalizer.isThere(cr)) return
  const client = yield* ApiClient
  const { name, namespace } = cr.metadata
  const targets: ReadonlyArray<readonly [Resource.Resource, string]> = [
    [Resource.configMaps, Names.metadataMap(name)],
    [Resource.configMaps, Names.statusMap(name)],
    [Resource.configMaps, Names.changesMap(name)],
    [Resource.secrets, Names.githubTokenSecret(name)],
    [Resource.roleBindings, Names.agentRole(name)],
    [Resource.roles, Names.agentRole(name)]
  ]
  yield* Effect.forEach(
    targets,
    ([resource, target]) =>
      client.delete(resource, { namespace, name: target }).pipe(
        Effect.catchReason("ApiError", "NotFound", () => Effect.void),
        Effect.catchReason("ApiError", "Forbidden", (_, error) =>
          resource.group === Resource.roles.group ? Effect.void : Effect.fail(error)
        )
      ),
    { discard: true }
  )
  yield* Finalizer.remove(cr)
})
