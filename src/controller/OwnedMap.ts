/**
 * The ConfigMaps that belong to GatewaySyncs, by label: the metadata that we write and the reports of the agents.
 */
import { Effect, Schema } from "effect"
import { owned } from "../api/Names.ts"

export const OwnedMap = Schema.Struct({
  metadata: Schema.Struct({
    name: Schema.String,
    namespace: Schema.String,
    uid: Schema.String,
    resourceVersion: Schema.String,
    labels: Schema.Record(Schema.String, Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed({}))),
    ownerReferences: Schema.Array(Schema.Struct({ uid: Schema.String })).pipe(
      Schema.withDecodingDefaultKey(Effect.succeed([]))
    )
  }),
  data: Schema.Record(Schema.String, Schema.String).pipe(Schema.withDecodingDefaultKey(Effect.succeed({})))
})
export type OwnedMap = typeof OwnedMap.Type

export const labelSelector = owned.crName

export const crName = (map: OwnedMap): string | undefined => map.metadata.labels[owned.crName]

export const isOwnedBy = (map: OwnedMap, uid: string): boolean =>
  map.metadata.ownerReferences.some((owner) => owner.uid === uid)
