/**
 * Where the API server is and how we show who we are: the Pod's ServiceAccount, or a kubeconfig file.
 */
import type { OutgoingHttpHeaders } from "node:http"
import type { RequestOptions } from "node:https"
import { Config, Context, Duration, Effect, FileSystem, Layer, Option, Redacted, Schema } from "effect"

/** There is no usable configuration. Stop: nothing can be done before a person mends it. */
export class KubeConfigError extends Schema.TaggedError<KubeConfigError>()("KubeConfigError", {
  message: Schema.String
}) {}

export class KubeConfig extends Context.Service<
  KubeConfig,
  {
    /** e.g. `https://10.0.0.1:443`, without a trailing slash. */
    readonly server: string
    /** The namespace that we are in. */
    readonly namespace: string
    /** PEM. */
    readonly tls: {
      readonly ca?: string
      readonly cert?: string
      readonly key?: string
      readonly rejectUnauthorized?: boolean
    }
    /** The `Authorization` header, if there is one, read afresh at most once a minute. */
    readonly authorization: Effect.Effect<Option.Option<Redacted.Redacted>>
    /** The next `authorization` is read afresh: for after a 401. */
    readonly renew: Effect.Effect<void>
  }
>()("stoker/kubernetes/KubeConfig") {
  /**
   * The ServiceAccount of the Pod: `KUBERNETES_SERVICE_HOST` and `_PORT`, and `token`, `ca.crt`, `namespace` in
   * `SERVICE_ACCOUNT_DIR` (default: where the kubelet puts them).
   */
  static readonly layerInCluster = Layer.effect(
    KubeConfig,
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const host = yield* Config.String("KUBERNETES_SERVICE_HOST")
      const port = yield* Config.Port("KUBERNETES_SERVICE_PORT").pipe(Config.withDefault(443))
      const folder = yield* Config.String("SERVICE_ACCOUNT_DIR").pipe(
        Config.withDefault("/var/run/secrets/kubernetes.io/serviceaccount")
      )
      const read = (file: string) =>
        fs.readFileString(`${folder}/${file}`).pipe(
          Effect.map((text) => text.trim()),
          Effect.mapError(
            (cause) =>
              new KubeConfigError({
                message: `cannot read ${folder}/${file} (${cause.reason._tag}): is the ServiceAccount's token mounted?`
              })
          )
        )
      const ca = yield* read("ca.crt")
      const namespace = yield* read("namespace")
      yield* read("token")
      // A token that cannot be read for a moment (the kubelet swaps a link) must not fail a request for good.
      const [authorization, renew] = yield* read("token").pipe(
        Effect.map((token) => Option.some(Redacted.make(`Bearer ${token}`))),
        Effect.catch((error) => Effect.as(Effect.logWarning(error.message), Option.none<Redacted.Redacted>())),
        Effect.cachedInvalidateWithTTL(Duration.minutes(1))
      )
      const address = host.includes(":") ? `[${host}]` : host
      return { server: `https://${address}:${port}`, namespace, tls: { ca }, authorization, renew }
    })
  )

  /** `KUBECONFIG`, else `~/.kube/config`: contexts, client certificates, exec plugins, by the official client library. */
  static readonly layerKubeconfig = Layer.effect(
    KubeConfig,
    Effect.gen(function* () {
      const library = yield* Effect.promise(() => import("@kubernetes/client-node/dist/config.js"))
      const failed = (cause: unknown) =>
        new KubeConfigError({
          message: `the kubeconfig cannot be used: ${cause instanceof Error ? cause.message : String(cause)}. Set KUBECONFIG, or run in a Pod with a ServiceAccount`
        })
      const config = yield* Effect.try({
        try: () => {
          const loaded = new library.KubeConfig()
          loaded.loadFromDefault()
          return loaded
        },
        catch: failed
      })
      const cluster = config.getCurrentCluster()
      if (cluster === null) return yield* failed("it names no current cluster")
      const options = Effect.tryPromise({
        try: async () => {
          const applied: RequestOptions = {}
          await config.applyToHTTPSOptions(applied)
          return applied
        },
        catch: failed
      })
      const first = yield* options
      const pem = (value: unknown) => (value === undefined ? undefined : String(value))
      const [authorization, renew] = yield* options.pipe(
        Effect.map((applied) => {
          const header = (applied.headers as OutgoingHttpHeaders | undefined)?.["Authorization"]
          return header === undefined ? Option.none() : Option.some(Redacted.make(String(header)))
        }),
        Effect.catch((error) => Effect.as(Effect.logWarning(error.message), Option.none<Redacted.Redacted>())),
        Effect.cachedInvalidateWithTTL(Duration.minutes(1))
      )
      const ca = pem(first.ca)
      const cert = pem(first.cert)
      const key = pem(first.key)
      return {
        server: cluster.server.replace(/\/+$/, ""),
        namespace: config.getContextObject(config.getCurrentContext())?.namespace ?? "default",
        tls: {
          ...(ca === undefined ? {} : { ca }),
          ...(cert === undefined ? {} : { cert }),
          ...(key === undefined ? {} : { key }),
          ...(cluster.skipTLSVerify === true ? { rejectUnauthorized: false } : {})
        },
        authorization,
        renew
      }
    })
  )

  /** In a Pod its ServiceAccount, else the kubeconfig. */
  static readonly layer = Layer.unwrap(
    Effect.gen(function* () {
      const host = yield* Config.option(Config.String("KUBERNETES_SERVICE_HOST"))
      return Option.isSome(host) ? KubeConfig.layerInCluster : KubeConfig.layerKubeconfig
    })
  )
}
