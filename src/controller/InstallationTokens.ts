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
  {
    /** @param user who needs it, e.g. `namespace/name`: an App is shown in the metrics as long as somebody does */
    readonly get: (installation: Installation, user: string) => Effect.Effect<Token, GitHubAppError>
    /** Nobody of this name needs a token any more. */
    readonly forget: (user: string) => Effect.Effect<void>
  }
>()("stoker/controller/InstallationTokens") {
  static readonly layerNoDeps = Layer.effect(
    InstallationTokens,
    Effect.gen(function* () {
      const app = yield* GitHubApp
      const lookup = Effect.fnUntraced(function* (installation: Installation) {
        const token = yield* app.exchange(installation)
        const life = token.expiresAt - (yield* Clock.currentTimeMillis) - Duration.toMillis(margin)
        return { token, life: Duration.millis(Math.max(0, life)) }
      })
      const cache = yield* Cache.makeWith(lookup, {
        capacity: 1000,
        timeToLive: (exit) => (Exit.isSuccess(exit) ? exit.value.life : patience)
      })

      /** The installation that each user needs a token of, and the series of each. */
      const needs = new Map<string, string>()
      const series = new Map<string, Metric.Gauge<number>>()
      const need = (user: string, id: string | undefined) =>
        Effect.suspend(() => {
          const former = needs.get(user) ?? ""
          if (id === undefined) needs.delete(user)
          else needs.set(user, id)
          const gauge = series.get(former)
          if (gauge === undefined || needs.values().some((other) => other === former)) return Effect.void
          series.delete(former)
          return Metric.remove(gauge)
        })

      const get = Effect.fnUntraced(function* (installation: Installation, user: string) {
        const labels = { app_id: String(installation.appId), installation_id: String(installation.installationId) }
        const id = `${labels.app_id}/${labels.installation_id}`
        yield* need(user, id)
        const { token } = yield* Cache.get(cache, installation)
        const gauge = series.get(id) ?? Metric.withAttributes(expiry, labels)
        series.set(id, gauge)
        yield* Metric.update(gauge, Math.floor(token.expiresAt / 1000))
        return token
      })
      return { get, forget: (user) => need(user, undefined) }
    })
  )
  static readonly layer = this.layerNoDeps.pipe(Layer.provide(GitHubApp.layer))
}
