/**
 * Where the gateway listens: as the metadata says, which may be edited while we run; until it is known, as the pod's
 * environment says.
 */
import { Effect, Option } from "effect"
import { Settings } from "./Settings.ts"
import * as Wanted from "./Wanted.ts"

/** As `http://localhost:8088`; the gateway shares our pod. */
export const of = (port: number, tls: boolean): string => `${tls ? "https" : "http"}://localhost:${port}`

/** The address of this moment. `GATEWAY_URL` wins over both, for gateways that do not share their pod. */
export const current: Effect.Effect<string, never, Settings | Wanted.Wanted> = Effect.gen(function* () {
  const { gatewayFixedUrl, gatewayPort, gatewayTls } = yield* Settings
  if (Option.isSome(gatewayFixedUrl)) return gatewayFixedUrl.value
  const wanted = yield* Wanted.Wanted
  return Option.match(Wanted.dataOf(yield* wanted.current), {
    onNone: () => of(gatewayPort, gatewayTls),
    onSome: (data) => of(data.gatewayPort, data.gatewayTLS === "true")
  })
})
