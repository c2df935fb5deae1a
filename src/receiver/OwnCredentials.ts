/**
 * Credentials that a GatewaySync brings itself (`spec.webhook.*.secretRef`): they replace the receiver's for it.
 * Secrets are read by name when a request needs them and kept for a minute, so are failures; never listed, never watched.
 */
import { Cache, Data, Effect, type Redacted, Schema } from "effect"
import type * as GatewaySync from "../api/GatewaySync.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import * as Resource from "../kubernetes/Resource.ts"
import * as Authorizer from "./Authorizer.ts"

const Secret = Schema.Struct({ data: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)) })
const decode = Schema.decodeUnknownEffect(Secret)
const decodeValue = Schema.decodeEffect(Schema.StringFromBase64)

class Key extends Data.Class<{ readonly namespace: string; readonly name: string; readonly key: string }> {}

export type OwnCredentials = (cr: GatewaySync.GatewaySync) => Effect.Effect<Authorizer.Credentials | undefined>

/** Answers undefined for a GatewaySync without credentials of its own. A Secret that cannot be read fits nobody. */
export const make = Effect.gen(function* () {
  const client = yield* ApiClient
  const cache = yield* Cache.make({
    capacity: 1000,
    timeToLive: "1 minute",
    lookup: ({ key, name, namespace }: Key) =>
      client.get(Resource.secrets, { namespace, name }).pipe(
        Effect.flatMap(decode),
        Effect.flatMap(({ data }) => decodeValue(data?.[key] ?? "")),
        Effect.map(Authorizer.lines),
        Effect.catch(({ _tag }) =>
          Effect.as(
            Effect.logWarning(
              `the webhook credentials in Secret ${name} cannot be read, so they fit nobody (${_tag})`
            ).pipe(Effect.annotateLogs({ namespace })),
            [] as ReadonlyArray<Redacted.Redacted>
          )
        )
      )
  })
  return Effect.fnUntraced(function* (cr) {
    const { hmac, token } = cr.spec.webhook ?? {}
    if (hmac === undefined && token === undefined) return undefined
    const secrets = ({ secretRef }: { readonly secretRef: GatewaySync.SecretKeyRef }) =>
      Cache.get(cache, new Key({ namespace: cr.metadata.namespace, ...secretRef }))
    const credentials: Authorizer.Credentials = {
      ...(hmac === undefined ? {} : { hmac: yield* secrets(hmac) }),
      ...(token === undefined ? {} : { token: yield* secrets(token) })
    }
    return credentials
  }) satisfies OwnCredentials as OwnCredentials
})
