/**
 * ConfigMap `stoker-metadata-{cr}`: what the controller tells the agents of one GatewaySync. Written by the controller
 * only, always as a whole; an agent never trusts a part of it that does not decode.
 */
import { Effect, Schema } from "effect"
import * as Profile from "./Profile.ts"

export const AuthType = Schema.Literals(["none", "ssh", "token", "githubApp"])

const Flag = Schema.Literals(["true", "false"])

/** The map's `data`. */
export const Data = Schema.Struct({
  commit: Schema.String.pipe(Schema.check(Schema.isPattern(/^[0-9a-f]{40}$/))),
  ref: Schema.NonEmptyString,
  gitURL: Schema.NonEmptyString,
  paused: Flag.pipe(Schema.withDecodingDefaultKey(Effect.succeed("false" as const))),
  authType: AuthType.pipe(Schema.withDecodingDefaultKey(Effect.succeed("none" as const))),
  profiles: Schema.fromJsonString(Schema.Record(Schema.String, Profile.Effective)),
  gatewayPort: Schema.NumberFromString.pipe(Schema.withDecodingDefaultKey(Effect.succeed("8088"))),
  gatewayTLS: Flag.pipe(Schema.withDecodingDefaultKey(Effect.succeed("false" as const))),
  /** Hash of all other keys but `traceparent`: what a report answers to. Absent in maps of the Go operator. */
  revision: Schema.optionalKey(Schema.String),
  /** The commit that may delete many files. */
  allowMassDeletion: Schema.optionalKey(Schema.String),
  /** W3C trace context of the request that led here. */
  traceparent: Schema.optionalKey(Schema.String)
})
export type Data = typeof Data.Type

export const decode = Schema.decodeUnknownEffect(Data)
const encodeSync = Schema.encodeSync(Data)

/**
 * The map's `data`, ready to apply.
 *
 * @param hash digest of a text in a form that may be a label's value, e.g. 16 hexadecimal digits
 */
export const encode = (
  data: Omit<Data, "revision">,
  hash: (text: string) => string
): Readonly<Record<string, string>> & { readonly revision: string } => {
  const { traceparent, ...rest } = encodeSync(data)
  const stable = JSON.stringify(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)))
  return { ...rest, ...(traceparent === undefined ? {} : { traceparent }), revision: hash(stable) }
}
