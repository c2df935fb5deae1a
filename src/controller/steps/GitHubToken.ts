/**
 * The token of a GitHub App in a Secret, for the agents: they never see the App's key. It is renewed before its end also
 * where nothing else happens, since a gateway that restarts fetches with it.
 */
import { Clock, Duration, Effect, Redacted } from "effect"
import { createHash } from "node:crypto"
import type { GatewaySync } from "../../api/GatewaySync.ts"
import * as Names from "../../api/Names.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import { margin } from "../InstallationTokens.ts"
import { Memory } from "../Memory.ts"
import * as Credentials from "./Credentials.ts"
import * as Owned from "./Owned.ts"

/** The next try after a failure; whoever asks the remote meanwhile puts it into the status. */
const retry = Duration.seconds(30)

/** Keeps the Secret; answers when to look again (milliseconds since the epoch), or infinity. */
export const keep = Effect.fnUntraced(function* (cr: GatewaySync) {
  const app = cr.spec.git.auth?.githubApp
  if (app === undefined || cr.spec.paused) return Number.POSITIVE_INFINITY
  const memory = yield* Memory
  return yield* Effect.gen(function* () {
    const { expiresAt, token } = yield* Credentials.installationToken(cr, app)
    const digest = createHash("sha256").update(Redacted.value(token)).digest("hex")
    if ((yield* memory.saw(cr)).githubToken !== digest) {
      const client = yield* ApiClient
      const { labels, ownerReferences } = Owned.metadata(cr)
      yield* client.apply(
        Resource.secrets,
        { namespace: cr.metadata.namespace, name: Names.githubTokenSecret(cr.metadata.name) },
        {
          metadata: {
            labels,
            ownerReferences,
            annotations: { [Names.owned.secretType]: Names.owned.githubAppToken }
          },
          data: { token: Buffer.from(Redacted.value(token)).toString("base64") }
        },
        Owned.write
      )
      yield* memory.update(cr, { githubToken: digest })
    }
    return expiresAt - Duration.toMillis(margin)
  }).pipe(
    Effect.catchTag("CredentialsMissing", (missing) =>
      Effect.logWarning(missing.message).pipe(
        Effect.andThen(Clock.currentTimeMillis),
        Effect.map((now) => now + Duration.toMillis(retry))
      )
    )
  )
})
