/** What all objects that belong to a GatewaySync have in common. */
import { Duration } from "effect"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"

/** Roles, their bindings and Secrets are not watched, and somebody may change them: they are looked at again after this. */
export const renewal = Duration.minutes(10)

export const labels = (cr: GatewaySync): Readonly<Record<string, string>> => ({
  [Names.owned.crName]: cr.metadata.name,
  [Names.owned.managedBy]: Names.owned.managedByValue
})

/** By it the objects go when the GatewaySync goes, also when no controller is there any more. */
export const ownerReferences = (cr: GatewaySync) => [
  {
    apiVersion: Names.apiVersion,
    kind: Names.gatewaySyncs.kind,
    name: cr.metadata.name,
    uid: cr.metadata.uid,
    controller: true,
    blockOwnerDeletion: true
  }
]

export const metadata = (cr: GatewaySync) => ({ labels: labels(cr), ownerReferences: ownerReferences(cr) })

export const write = { fieldManager: Names.managers.controller } as const
