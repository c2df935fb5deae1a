/**
 * The token of a GitHub App in a Secret, for the agents: they never see the App's key. It is renewed before its end also
 * where nothing else happens, since a gateway that restarts fetches with it.
 */
import { Clock, Duration, Effect, Equal, Option, Redacted, Schema } from "effect"
import { createHash } from "node:crypto"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import { InstallationTokens, margin } from "../InstallationTokens.ts"
import { Memory } from "../Memory.ts"
import * as Credentials from "./Credentials.ts"
import * as Owned from "./Owned.ts"

/** The next try after a failure; whoever asks the remote meanwhile puts it into the status. */
const retry = Duration.seconds(30)

const Existing = Schema.Struct({
  metadata: Schema.Struct({ ownerReferences: Schema.Array(Schema.Struct({ uid: Schema.String })) }),
  data: Schema.Record(Schema.String, Schema.String)
})
const decodeExisting = Schema.decodeUnknownOption(Existing)

const base64 = (text: string): string => Buffer.from(text).toString("base64")

/** Writes the Secret where it does not hold this. */
const write = Effect.fnUntraced(function* (cr: GatewaySync, data: typeof Existing.Type.data) {
  const client = yield* ApiClient
  const ref = { namespace: cr.metadata.namespace, name: Names.githubTokenSecret(cr.metadata.name) }
  const found = yield* client.get(Resource.secrets, ref).pipe(
    Effect.map(decodeExisting),
    Effect.catchReason("ApiError", "NotFound", () => Effect.succeed(Option.none<typeof Existing.Type>()))
  )
  const isThere = ({ data: held, metadata }: typeof Existing.Type) =>
    Equal.equals(held, data) && metadata.ownerReferences.some(({ uid }) => uid === cr.metadata.uid)
  if (Option.exists(found, isThere)) return
  const { labels, ownerReferences } = Owned.metadata(cr)
  const annotations = { [Names.owned.secretType]: Names.owned.githubAppToken }
  yield* client.apply(Resource.secrets, ref, { metadata: { labels, ownerReferences, annotations }, data }, Owned.write)
})

/** Keeps the Secret; answers when to look again (milliseconds since the epoch), or infinity. */
export const keep = Effect.fnUntraced(function* (cr: GatewaySync) {
  const app = cr.spec.git.auth?.githubApp
  if (app === undefined) {
    yield* (yield* InstallationTokens).forget(Resource.key(cr.metadata))
    return Number.POSITIVE_INFINITY
  }
  if (cr.spec.paused) return Number.POSITIVE_INFINITY
  const memory = yield* Memory
  const now = yield* Clock.currentTimeMillis
  const renewal = Duration.toMillis(Owned.renewal)
  return yield* Effect.gen(function* () {
    const { ca, expiresAt, token } = yield* Credentials.installationToken(cr, app)
    const data = { token: base64(Redacted.value(token)), ...(ca === undefined ? {} : { "ca.crt": base64(ca) }) }
    const digest = createHash("sha256").update(JSON.stringify(data)).digest("hex")
    const known = (yield* memory.saw(cr)).githubToken
    const seen = known?.digest === digest && now < known.at + renewal ? known : { digest, at: now }
    if (seen !== known) {
      yield* write(cr, data)
      yield* memory.update(cr, { githubToken: seen })
    }
    return Math.min(expiresAt - Duration.toMillis(margin), seen.at + renewal)
  }).pipe(
    Effect.catchTag("CredentialsMissing", (missing) =>
      Effect.as(Effect.logWarning(missing.message), now + Duration.toMillis(retry))
    )
  )
})
