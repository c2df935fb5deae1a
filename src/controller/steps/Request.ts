/**
 * Which ref is in force, and what must be done to the annotations that ask for another.
 */
import { Effect } from "effect"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import * as RequestedRef from "../../api/RequestedRef.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Owned from "./Owned.ts"

/**
 * The JSON Patch that completes an override that was set by hand. Its `test` fails when somebody has written since, and
 * then the truth is looked at again.
 */
export const adoption = (request: RequestedRef.Override, specRef: string, freshId: string): ReadonlyArray<object> => {
  const path = (key: string) => `/metadata/annotations/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`
  return [
    { op: "test", path: path(Names.request.ref), value: request.ref },
    ...(request.over === undefined ? [{ op: "add", path: path(Names.request.over), value: specRef }] : []),
    ...(request.id === undefined ? [{ op: "add", path: path(Names.request.id), value: freshId }] : [])
  ]
}

export const adopt = Effect.fnUntraced(function* (cr: GatewaySync, request: RequestedRef.Override, freshId: string) {
  const client = yield* ApiClient
  yield* client.jsonPatch(Names.gatewaySyncs, cr.metadata, adoption(request, cr.spec.git.ref, freshId), Owned.write)
})

/** Ends an override, and nothing that came meanwhile. */
export const remove = Effect.fnUntraced(function* (cr: GatewaySync) {
  const client = yield* ApiClient
  yield* client.jsonPatch(Names.gatewaySyncs, cr.metadata, RequestedRef.removal(cr.metadata.annotations), Owned.write)
})

/** The GatewaySync without its override. */
export const withoutOverride = (cr: GatewaySync): GatewaySync => {
  const { pushed: _pushed, deliveries: _deliveries, traceparent: _traceparent, ...keys } = Names.request
  const gone = Object.fromEntries(Object.values(keys).map((key) => [key, null]))
  return { ...cr, metadata: { ...cr.metadata, annotations: RequestedRef.after(cr.metadata.annotations, gone) } }
}
