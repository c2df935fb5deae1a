/**
 * Credentials of a repository, read from their Secrets when they are needed and not kept.
 */
import { Effect, Redacted, Schema } from "effect"
import type { GatewaySync, SecretKeyRef } from "../../api/GatewaySync.ts"
import * as GitCredentials from "../../git/Credentials.ts"
import { ApiClient } from "../../kubernetes/ApiClient.ts"
import type { ApiError } from "../../kubernetes/ApiError.ts"
import * as Resource from "../../kubernetes/Resource.ts"
import * as WorkQueue from "../../kubernetes/WorkQueue.ts"
import { InstallationTokens } from "../InstallationTokens.ts"

/** The Secrets do not hold what the spec says. Tried again: they may come. */
export class CredentialsMissing extends Schema.TaggedError<CredentialsMissing>()("CredentialsMissing", {
  message: Schema.String,
  /** The reason of condition `RefResolved`. */
  reason: Schema.Literals(["RefResolutionFailed", "GitHubAppExchangeFailed"])
}) {}

export interface Found {
  readonly credentials: GitCredentials.Credentials
  /** Equal only for the same version of the same Secrets. */
  readonly identity: string
}

const Secret = Schema.Struct({
  metadata: Schema.Struct({ resourceVersion: Schema.String }),
  data: Schema.optionalKey(Schema.Record(Schema.String, Schema.String))
})
const decodeSecret = Schema.decodeUnknownEffect(Secret)

export const read: (
  cr: GatewaySync
) => Effect.Effect<Found, CredentialsMissing | ApiError, ApiClient | InstallationTokens> = Effect.fnUntraced(
  function* (cr) {
    const { namespace } = cr.metadata
    const { auth } = cr.spec.git
    if (auth?.githubApp !== undefined) {
      const { ca, identity, token } = yield* installationToken(cr, auth.githubApp)
      return { credentials: GitCredentials.token(token, { ca }), identity }
    }
    if (auth?.sshKey !== undefined) {
      const key = yield* secret(namespace, auth.sshKey.secretRef, "sshKey.secretRef")
      const { knownHosts } = auth.sshKey
      if (knownHosts === undefined) return { credentials: GitCredentials.ssh(key.value), identity: key.identity }
      const hosts = yield* secret(namespace, knownHosts.secretRef, "sshKey.knownHosts.secretRef")
      return {
        credentials: GitCredentials.ssh(key.value, Redacted.value(hosts.value)),
        identity: `${key.identity} ${hosts.identity}`
      }
    }
    if (auth?.token !== undefined) {
      const token = yield* secret(namespace, auth.token.secretRef, "token.secretRef")
      const credentials = GitCredentials.token(token.value, {
        username: token.other("username"),
        ca: token.other("ca.crt")
      })
      return { credentials, identity: token.identity }
    }
    return { credentials: GitCredentials.none, identity: "" }
  }
)

/** The token of a GitHub App, and the authority to trust. Its identity is that of the App and its key: tokens come and go. */
export const installationToken = Effect.fnUntraced(function* (
  { metadata }: GatewaySync,
  { apiBaseURL, appId, installationId, privateKeySecretRef }: GitHubAppAuth
) {
  const tokens = yield* InstallationTokens
  const key = yield* secret(metadata.namespace, privateKeySecretRef, "githubApp.privateKeySecretRef")
  const ca = key.other("ca.crt")
  const token = yield* WorkQueue.aside(
    tokens.get({ appId, installationId, privateKey: key.value, apiBaseURL, ca }, Resource.key(metadata))
  ).pipe(Effect.mapError(({ message }) => new CredentialsMissing({ reason: "GitHubAppExchangeFailed", message })))
  return { ...token, ca, identity: `${key.identity} ${appId}/${installationId}` }
})
type GitHubAppAuth = NonNullable<NonNullable<GatewaySync["spec"]["git"]["auth"]>["githubApp"]>

const secret = Effect.fnUntraced(function* (namespace: string, ref: SecretKeyRef, place: string) {
  const client = yield* ApiClient
  const missing = (what: string) =>
    new CredentialsMissing({
      reason: "RefResolutionFailed",
      message: `${what} (spec.git.auth.${place}, namespace ${namespace}).`
    })
  const found = yield* client.get(Resource.secrets, { namespace, name: ref.name }).pipe(
    Effect.catchReason("ApiError", "NotFound", () =>
      Effect.fail(missing(`there is no Secret "${ref.name}"; create it`))
    ),
    Effect.catchReason("ApiError", "Forbidden", () =>
      Effect.fail(missing(`Stoker may not read the Secret "${ref.name}"; let its ServiceAccount get secrets here`))
    ),
    Effect.flatMap((raw) =>
      Effect.mapError(decodeSecret(raw), () =>
        missing(`the Secret "${ref.name}" is not one as the API server makes them`)
      )
    )
  )
  const value = found.data?.[ref.key]
  if (value === undefined || value === "") {
    return yield* missing(`the Secret "${ref.name}" has no key "${ref.key}"; add it`)
  }
  const text = (base64: string) => Buffer.from(base64, "base64").toString()
  return {
    value: Redacted.make(text(value)),
    other: (key: string) => {
      const more = found.data?.[key]
      return more === undefined ? undefined : text(more).trim()
    },
    identity: `${namespace}/${ref.name}/${ref.key}@${found.metadata.resourceVersion}`
  }
})
