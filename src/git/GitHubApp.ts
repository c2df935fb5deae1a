import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import { createSign } from "node:crypto"
import * as GitHttp from "./GitHttp.ts"

/** An App of GitHub where it is installed. */
export interface Installation {
  readonly appId: number
  readonly installationId: number
  /** RSA, PEM (PKCS#1 as GitHub gives it, or PKCS#8). */
  readonly privateKey: Redacted.Redacted
  /** `https://api.github.com` when absent; of a GitHub Enterprise server `https://HOST/api/v3`. */
  readonly apiBaseURL?: string | undefined
  /** PEM; trusted instead of the system's authorities. */
  readonly ca?: string | undefined
}

/** A token that git takes as a password, for about an hour. */
export interface Token {
  readonly token: Redacted.Redacted
  /** Milliseconds since the epoch. */
  readonly expiresAt: number
}

/** GitHub gave no token. Tried again with back-off: most causes are mended at GitHub or in the Secret. */
export class GitHubAppError extends Schema.TaggedError<GitHubAppError>()("GitHubAppError", {
  message: Schema.String
}) {}

/** For the whole exchange. */
const deadline = Duration.seconds(15)

export class GitHubApp extends Context.Service<
  GitHubApp,
  { readonly exchange: (installation: Installation) => Effect.Effect<Token, GitHubAppError> }
>()("stoker/git/GitHubApp") {
  /** Through the proxies of our environment, each time by a connection of its own: tokens last for an hour. */
  static readonly layer = Layer.effect(
    GitHubApp,
    Effect.gen(function* () {
      const proxyEnv = yield* GitHttp.proxyEnv

      const exchange = Effect.fnUntraced(
        function* (installation: Installation) {
          const api = (installation.apiBaseURL ?? "https://api.github.com").replace(/\/+$/, "")
          const agent = yield* NodeHttpClient.makeAgent({ proxyEnv, ca: installation.ca })
          const http = yield* Effect.provideService(NodeHttpClient.makeNodeHttp, NodeHttpClient.HttpAgent, agent)
          const token = yield* jwt(installation, yield* Clock.currentTimeMillis)
          const request = HttpClientRequest.post(
            `${api}/app/installations/${installation.installationId}/access_tokens`
          ).pipe(
            HttpClientRequest.bearerToken(token),
            HttpClientRequest.setHeaders({
              accept: "application/vnd.github+json",
              "user-agent": "stoker",
              "x-github-api-version": "2022-11-28"
            })
          )
          const response = yield* Effect.mapError(http.execute(request), ({ reason }) => notReached(api, reason))
          if (response.status !== 201) return yield* refused(installation, api, response.status)
          const answer = yield* decode(response).pipe(
            Effect.mapError(() => new GitHubAppError({ message: `${api} answered with no token; is it GitHub's API?` }))
          )
          return { token: answer.token, expiresAt: answer.expires_at.epochMilliseconds }
        },
        (effect, { apiBaseURL = "GitHub" }) =>
          Effect.timeoutOrElse(effect, {
            duration: deadline,
            orElse: () =>
              new GitHubAppError({ message: `${apiBaseURL} gave no answer in ${Duration.toSeconds(deadline)} s.` })
          }),
        Effect.scoped,
        Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
      )
      return { exchange }
    })
  )
}

const decode = HttpClientResponse.schemaBodyJson(
  Schema.Struct({
    token: Schema.RedactedFromValue(Schema.String),
    expires_at: Schema.DateTimeUtcFromString
  })
)

const base64url = (value: object | Buffer): string =>
  (Buffer.isBuffer(value) ? value : Buffer.from(JSON.stringify(value))).toString("base64url")

/** Signed with RS256; from a minute ago, since clocks differ, for ten minutes, the most that GitHub takes. */
export const jwt = (
  { appId, privateKey }: Installation,
  now: number
): Effect.Effect<Redacted.Redacted, GitHubAppError> =>
  Effect.try({
    try: () => {
      const seconds = Math.floor(now / 1000)
      const claims = { iat: seconds - 60, exp: seconds + 540, iss: String(appId) }
      const text = `${base64url({ alg: "RS256", typ: "JWT" })}.${base64url(claims)}`
      const signature = createSign("RSA-SHA256").update(text).sign(Redacted.value(privateKey))
      return Redacted.make(`${text}.${base64url(signature)}`)
    },
    // What the library says may quote the key.
    catch: () => new GitHubAppError({ message: "The private key of the GitHub App is no RSA key in PEM." })
  })

/** The cause by its code alone: what the library says besides quotes the request. */
const notReached = (api: string, reason: object) => {
  const cause = Predicate.hasProperty(reason, "cause") ? reason.cause : undefined
  const code = Predicate.hasProperty(cause, "code") ? String(cause.code) : ""
  return new GitHubAppError({
    message: GitHttp.tlsCode.test(code)
      ? `no trusted TLS connection to ${api} (${code}). For a private CA put its certificate under ca.crt into the Secret of spec.git.auth.githubApp.`
      : `${api} cannot be reached${code === "" ? "" : ` (${code})`}; is spec.git.auth.githubApp.apiBaseURL right?`
  })
}

const refused = ({ appId, installationId }: Installation, api: string, status: number) => {
  const why = (() => {
    switch (status) {
      case 401:
        return `does not accept the key of App ${appId}: do appId and private key belong together, and is the clock right?`
      case 403:
        return `lets App ${appId} have no token: the installation may be suspended, or asked too often.`
      case 404:
        return `knows no installation ${installationId} of App ${appId}: is it still installed, and apiBaseURL right?`
      default:
        return `answered ${status}.`
    }
  })()
  return new GitHubAppError({ message: `${api} ${why}` })
}
