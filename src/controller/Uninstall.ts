/**
 * What must be done before the controller is removed for good: nobody is there any more to take its finalizer off, so a
 * `kubectl delete gatewaysync` would wait for ever.
 *
 * The gateways keep what they have; objects that were made for a GatewaySync belong to it and go when it goes.
 */
import { Effect, Schedule, Schema, Stream } from "effect"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as Names from "../api/Names.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import * as Pages from "../kubernetes/Pages.ts"
import * as Resource from "../kubernetes/Resource.ts"
import * as Deletion from "./steps/Deletion.ts"
import * as Finalizer from "./steps/Finalizer.ts"

/** Somebody puts the finalizer on again. A person has to find out who. */
export class StillHeld extends Schema.TaggedError<StillHeld>()("StillHeld", {
  names: Schema.Array(Schema.String)
}) {
  override get message(): string {
    const more = this.names.length > 3 ? ` and ${this.names.length - 3} more` : ""
    return `${this.names.slice(0, 3).join(", ")}${more}: the finalizer ${Names.finalizer} is put on again. Another Stoker runs in this cluster: stop it first, or uninstall without hooks (helm uninstall --no-hooks)`
  }
}

const Scale = Schema.Struct({ status: Schema.Struct({ selector: Schema.NonEmptyString }) })
const decodeScale = Schema.decodeUnknownEffect(Scale)
const Held = Schema.Struct({ metadata: GatewaySync.Metadata })
const decodeObjects = Schema.decodeUnknownEffect(Schema.Array(Held))

/** Stops the controllers of a Deployment and waits until their pods are gone: one that runs would put it on again. */
const stop = Effect.fnUntraced(
  function* (deployment: Resource.ObjectRef) {
    const client = yield* ApiClient
    const path = `/apis/apps/v1/namespaces/${deployment.namespace}/deployments/${deployment.name}/scale`
    const scale = yield* client.request("PATCH", path, { spec: { replicas: 0 } }, "application/merge-patch+json")
    const { status } = yield* Effect.orDie(decodeScale(scale))
    yield* Effect.logInfo("waiting for the controllers to stop")
    const { namespace } = deployment
    yield* client
      .list(Resource.pods, { namespace, labelSelector: status.selector, limit: 1 })
      .pipe(Effect.repeat({ until: ({ items }) => items.length === 0, schedule: Schedule.spaced("500 millis") }))
  },
  Effect.catchReason("ApiError", "NotFound", () => Effect.void)
)

const held = Effect.gen(function* () {
  const client = yield* ApiClient
  const found = yield* Pages.of(client, Names.gatewaySyncs, {}).pipe(
    Stream.mapEffect(({ items }) => Effect.orDie(decodeObjects(items))),
    Stream.runCollect
  )
  return found.flat().filter(Finalizer.isThere)
  // Without the definition there are none.
}).pipe(Effect.catchReason("ApiError", "NotFound", () => Effect.succeed([])))

/** One that is being deleted takes its objects along at once. What was changed meanwhile is looked at again. */
const release = (one: typeof Held.Type) =>
  (one.metadata.deletionTimestamp === undefined ? Finalizer.remove(one) : Deletion.run(one)).pipe(
    Effect.catchReason("ApiError", "Invalid", () => Effect.void)
  )

/** Safe to repeat, also when the controller is gone already. */
export const run = Effect.fnUntraced(function* (deployment: Resource.ObjectRef) {
  const client = yield* ApiClient
  yield* stop(deployment)
  const left = yield* held.pipe(
    Effect.tap((all) => Effect.forEach(all, release, { concurrency: 8, discard: true })),
    Effect.tap((all) => (all.length === 0 ? Effect.void : Effect.logInfo(`freed ${all.length} GatewaySyncs`))),
    Effect.repeat({ until: (all) => all.length === 0, times: 5, schedule: Schedule.spaced("200 millis") })
  )
  if (left.length > 0) return yield* new StillHeld({ names: left.map(({ metadata }) => Resource.key(metadata)) })
  yield* client
    .delete(Resource.leases, { namespace: deployment.namespace, name: Names.lease })
    .pipe(Effect.catchReason("ApiError", "NotFound", () => Effect.void))
})
