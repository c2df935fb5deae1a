/** A receiver on a free port, over an API server in memory. */
import { Effect, Layer, Logger, Redacted } from "effect"
import type { HttpServer } from "effect/http"
import { createHmac } from "node:crypto"
import { Authorizer, type Credentials } from "../../src/receiver/Authorizer.ts"
import * as Receiver from "../../src/receiver/Receiver.ts"
import { MemoryApi } from "./MemoryApi.ts"

export const bearer = { authorization: "Bearer s3cret-token" }
const hmacSecret = "s3cret-hmac"
export const both: Credentials = { hmac: [Redacted.make(hmacSecret)], token: [Redacted.make("s3cret-token")] }
export const signature = (body: string | Uint8Array, secret = hmacSecret) => ({
  "x-hub-signature-256": `sha256=${createHmac("sha256", secret).update(body).digest("hex")}`
})

export const silent = Logger.make(() => {})

export interface Options extends Pick<Receiver.Options, "limits" | "trustedProxies"> {
  readonly credentials?: Credentials
  readonly logger?: Logger.Logger<unknown, unknown>
}

export const receiver = ({ credentials = {}, logger = silent, ...options }: Options = {}) =>
  Layer.unwrap(
    MemoryApi.use(({ store }) => Effect.succeed(Receiver.serve({ ...options, store, port: 0, host: "127.0.0.1" })))
  ).pipe(
    Layer.provide(Authorizer.layerOf(credentials)),
    Layer.provideMerge(MemoryApi.layer),
    Layer.provideMerge(Logger.layer([logger]))
  )

/** With the GatewaySync plant/site. */
export const run = <A, E>(test: Effect.Effect<A, E, MemoryApi | HttpServer.HttpServer>, options: Options = {}) =>
  MemoryApi.use((api) => Effect.andThen(api.put("site"), test)).pipe(Effect.provide(receiver(options)))

/** Patches since the last look. */
export const written = MemoryApi.use((api) =>
  Effect.map(api.calls, (calls) => calls.filter(({ verb }) => verb === "patch"))
)
