/**
 * Our finalizer: put on before anything else is made, taken off when everything is removed. By JSON Patch with `test`, so
 * that no other finalizer is lost.
 */
import { Effect } from "effect"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Owned from "./Owned.ts"

const path = "/metadata/finalizers"

/** Nothing but the metadata of a GatewaySync. */
export type Held = Pick<GatewaySync, "metadata">

export const isThere = (cr: Held): boolean => cr.metadata.finalizers.includes(Names.finalizer)

/** Operations that add it, whatever else is there. */
export const addition = (finalizers: ReadonlyArray<string>): ReadonlyArray<object> =>
  finalizers.length === 0
    ? [
        { op: "test", path, value: null },
        { op: "add", path, value: [Names.finalizer] }
      ]
    : [
        { op: "test", path, value: finalizers },
        { op: "add", path: `${path}/-`, value: Names.finalizer }
      ]

export const removal = (finalizers: ReadonlyArray<string>): ReadonlyArray<object> => {
  const at = finalizers.indexOf(Names.finalizer)
  return [
    { op: "test", path: `${path}/${at}`, value: Names.finalizer },
    { op: "remove", path: `${path}/${at}` }
  ]
}

/** The change comes back by the watch, and with it the next look. */
export const add = Effect.fnUntraced(function* (cr: GatewaySync) {
  const client = yield* ApiClient
  yield* client.jsonPatch(Names.gatewaySyncs, cr.metadata, addition(cr.metadata.finalizers), Owned.write)
})

export const remove = Effect.fnUntraced(function* (cr: Held) {
  const client = yield* ApiClient
  yield* client
    .jsonPatch(Names.gatewaySyncs, cr.metadata, removal(cr.metadata.finalizers), Owned.write)
    .pipe(Effect.catchReason("ApiError", "NotFound", () => Effect.void))
})
