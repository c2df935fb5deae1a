/**
 * Where the API server is and how we show who we are: the Pod's ServiceAccount, or a kubeconfig file.
 */
import type { OutgoingHttpHeaders } from "node:http"
import type { RequestOptions } from "node:https"
import { Config, Context, Duration, Effect, Equal, FileSystem, Layer, Option, Redacted, Schema } from "effect"

/** There is no usable configuration. Stop: nothing can be done before a person mends it. */
export class KubeConfigError extends Schema.TaggedError<KubeConfigError>()("KubeConfigError", {
  message: Schema.String
}) {}

interface Access {
  readonly tls: Tls
  readonly authorization: Option.Option<Redacted.Redacted>
}

/** All PEM. */
export interface Tls {
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
  readonly rejectUnauthorized?: boolean
}

export class KubeConfig extends Context.Service<
  KubeConfig,
  {
    /** e.g. `https://10.0.0.1:443`, without a trailing slash. */
    readonly server: string
    /** The namespace that we are in. */
    readonly namespace: string
    /** Read afresh at most once a minute; the same object while nothing has changed. */
    readonly tls: Effect.Effect<Tls>
    /** The `Authorization` header, if there is one, read afresh at most once a minute. */
    readonly authorization: Effect.Effect<Option.Option<Redacted.Redacted>>
    /** The next `authorization` and `tls` are read afresh: for after a 401. */
    readonly renew: Effect.Effect<void>
  }
>()("stoker/kubernetes/KubeConfig") {
  /**
   * The ServiceAccount of the Pod: `KUBERNETES_SERVICE_HOST` and `_PORT`, and `token`, `ca.crt`, `namespace` in
   * `SERVICE_ACCOUNT_DIR` (default: where the kubelet puts them). The first two are read again and again: they change.
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
      const namespace = yield* read("namespace")
      const access = yield* readAgain(
        Effect.map(Effect.all([read("ca.crt"), read("token")]), ([ca, token]) => ({
          tls: { ca },
          authorization: Option.some(Redacted.make(`Bearer ${token}`))
        }))
      )
      const address = host.includes(":") ? `[${host}]` : host
      return { server: `https://${address}:${port}`, namespace, ...access }
    })
  )

  /** `KUBECONFIG`, else `~/.kube/config`: contexts, client certificates, exec plugins, by the official client library. */
  static readonly layerKubeconfig = Layer.effect(
    KubeConfig,
    Effect.gen(function* () {
      const library = yield* Effect.promise(() => import("@kubernetes/client-node/dist/config.js"))
      const fs = yield* FileSystem.FileSystem
      const named = Option.filter(yield* Config.option(Config.String("KUBECONFIG")), (text) => text !== "")
      const standard = `${yield* Config.String("HOME").pipe(Config.withDefault(""))}/.kube/config`
      const file = Option.getOrElse(named, () => standard)
      const wayOut = "Set KUBECONFIG to one, or run in a Pod with a ServiceAccount"
      // The library would take http://localhost:8080 for it.
      if (Option.isNone(named) && !(yield* Effect.orElseSucceed(fs.exists(standard), () => false))) {
        return yield* new KubeConfigError({
          message: `there is no kubeconfig: KUBECONFIG names none, and ${standard} is not there. ${wayOut}`
        })
      }
      const failed = (cause: unknown) => {
        const said = cause instanceof Error ? cause.message : String(cause)
        // After the first line a parser prints what stands there, which may be a token.
        return new KubeConfigError({
          message: `the kubeconfig ${file} cannot be used: ${said.split("\n", 1)[0]}. ${wayOut}`
        })
      }
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
      const pem = (name: "ca" | "cert" | "key", value: unknown) =>
        value === undefined ? {} : { [name]: String(value) }
      const access = yield* readAgain(
        Effect.tryPromise({
          try: async () => {
            const applied: RequestOptions = {}
            await config.applyToHTTPSOptions(applied)
            const header = (applied.headers as OutgoingHttpHeaders | undefined)?.["Authorization"]
            const tls: Tls = {
              ...pem("ca", applied.ca),
              ...pem("cert", applied.cert),
              ...pem("key", applied.key),
              ...(cluster.skipTLSVerify === true ? { rejectUnauthorized: false } : {})
            }
            return {
              tls,
              authorization: Option.map(Option.fromNullishOr(header), (text) => Redacted.make(String(text)))
            }
          },
          catch: failed
        })
      )
      return {
        server: cluster.server.replace(/\/+$/, ""),
        namespace: config.getContextObject(config.getCurrentContext())?.namespace ?? "default",
        ...access
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

/**
 * Reads at once, and again at most once a minute. What cannot be read for a moment (the kubelet swaps a link, an exec
 * plugin fails) stays what it was: without a token the API server would refuse all, the renewal of a Lease as well.
 */
const readAgain = Effect.fnUntraced(function* (read: Effect.Effect<Access, KubeConfigError>) {
  let last = yield* read
  const [access, renew] = yield* read.pipe(
    Effect.map((fresh) => {
      last = { ...fresh, tls: Equal.equals(fresh.tls, last.tls) ? last.tls : fresh.tls }
      return last
    }),
    Effect.catch((error) => Effect.map(Effect.logWarning(error.message), () => last)),
    Effect.cachedInvalidateWithTTL(Duration.minutes(1))
  )
  return {
    tls: Effect.map(access, ({ tls }) => tls),
    authorization: Effect.map(access, ({ authorization }) => authorization),
    renew
  }
})
