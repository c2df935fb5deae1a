/**
 * Tokens of GitHub Apps, one for all who name the same App, installation and key, renewed five minutes before their end.
 */
import { Cache, Clock, Context, Duration, Effect, Exit, Layer, Metric } from "effect"
import { GitHubApp, type GitHubAppError, type Installation, type Token } from "../git/GitHubApp.ts"

/** So long before its end a token is not given any more. */
export const margin = Duration.minutes(5)
/** A refusal is not asked for again before this. */
const patience = Duration.seconds(5)

const expiry = Metric.gauge("stoker_controller_github_app_token_expiry_timestamp_seconds", {
  description: "When the token of a GitHub App ends."
})

export class InstallationTokens extends Context.Service<
  InstallationTokens,
  { readonly get: (installation: Installation) => Effect.Effect<Token, GitHubAppError> }
>()("stoker/controller/InstallationTokens") {
  static readonly layerNoDeps = Layer.effect(
    InstallationTokens,
    Effect.gen(function* () {
      const app = yield* GitHubApp
      const lookup = Effect.fnUntraced(function* (installation: Installation) {
        const token = yield* app.exchange(installation)
        const life = token.expiresAt - (yield* Clock.currentTimeMillis) - Duration.toMillis(margin)
        const { appId, installationId } = installation
        yield* Metric.update(
          Metric.withAttributes(expiry, { app_id: String(appId), installation_id: String(installationId) }),
          Math.floor(token.expiresAt / 1000)
        )
        return { token, life: Duration.millis(Math.max(0, life)) }
      })
      const cache = yield* Cache.makeWith(lookup, {
        capacity: 1000,
        timeToLive: (exit) => (Exit.isSuccess(exit) ? exit.value.life : patience)
      })
      return { get: (installation) => Effect.map(Cache.get(cache, installation), ({ token }) => token) }
    })
  )
  static readonly layer = this.layerNoDeps.pipe(Layer.provide(GitHubApp.layer))
}
