/** The administrator's way to a control plane of the sandbox. */
import { Effect, Layer, Option, Redacted } from "effect"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../../src/kubernetes/KubeConfig.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"

export const kubeConfig = Layer.effect(
  KubeConfig,
  Effect.gen(function* () {
    const { adminToken, caData, url } = yield* ControlPlane
    return {
      server: url,
      namespace: "default",
      tls: Effect.succeed({ ca: caData }),
      authorization: Effect.succeed(Option.some(Redacted.make(`Bearer ${Redacted.value(adminToken)}`))),
      renew: Effect.void
    }
  })
)

export const layer = ApiClient.layer.pipe(Layer.provideMerge(kubeConfig), Layer.provideMerge(ControlPlane.layer))
