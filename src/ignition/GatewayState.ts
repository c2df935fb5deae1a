import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Commissioning } from "./GatewayError.ts"

/**
 * What a gateway says of itself, by `GET /StatusPing`.
 *
 * - `Down`: the connection is refused, no gateway process listens. Files may be written freely.
 * - `Starting`, `Stopping`, `Faulted`: a gateway process runs, its API does not answer.
 * - `Commissioning`: waits for its set-up pages; it also says RUNNING, but with details.
 * - `Running`: the only state in which a scan is worth asking for.
 * - `Unknown`: something answers (or hangs) in a way that is none of these; `text` says how.
 */
export type GatewayState = Data.TaggedEnum<{
  Down: {}
  Starting: {}
  Commissioning: {}
  Running: {}
  Faulted: {}
  Stopping: {}
  Unknown: { readonly text: string }
}>

export const GatewayState = Data.taggedEnum<GatewayState>()

/** Why a gateway does not run yet, and what to do where waiting is not enough. */
export const whatItWaitsFor = GatewayState.$match({
  Down: () => "nobody listens on its port; if it is up, spec.gateway.port is not its own",
  Starting: () => "it is starting",
  Commissioning: () => new Commissioning().message,
  Running: () => "it runs",
  Faulted: () => "it is faulted, its own log says why",
  Stopping: () => "it is stopping",
  Unknown: ({ text }) => `${text}; if that stays so, look at its log, and at spec.gateway.port and tls`
})

const StatusPing = Schema.fromJsonString(
  Schema.Struct({ state: Schema.String, details: Schema.optional(Schema.NullOr(Schema.String)) })
)

const decode = Schema.decodeUnknownEffect(StatusPing)

/** Reads the body of a `StatusPing` answer; what cannot be read is `Unknown`, never an error. */
export const fromStatusPing = (body: string): Effect.Effect<GatewayState> =>
  decode(body).pipe(
    Effect.map((ping) => fromPing(ping.state, ping.details ?? "")),
    Effect.orElseSucceed(() => GatewayState.Unknown({ text: "StatusPing answered something other than its JSON" }))
  )

const fromPing = (state: string, details: string): GatewayState => {
  if (state === "RUNNING" && details === "") return GatewayState.Running()
  if (state === "RUNNING" && details === "COMMISSIONING") return GatewayState.Commissioning()
  if (state === "STARTING") return GatewayState.Starting()
  if (state === "FAULTED") return GatewayState.Faulted()
  if (state === "STOPPING") return GatewayState.Stopping()
  return GatewayState.Unknown({ text: details === "" ? state : `${state} (${details})` })
}
