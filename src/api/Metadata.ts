/**
 * ConfigMap `stoker-metadata-{cr}`: what the controller tells the agents of one GatewaySync. Written by the controller
 * only, always as a whole; an agent never trusts a part of it that does not decode.
 */
import { Effect, Option, Schema, Struct } from "effect"
import * as Profile from "./Profile.ts"

export const AuthType = Schema.Literals(["none", "ssh", "token", "githubApp"])

const Flag = Schema.Literals(["true", "false"])

/** The map's `data`. */
export const Data = Schema.Struct({
  commit: Schema.String.pipe(Schema.check(Schema.isPattern(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/))),
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
const decodeOption = Schema.decodeUnknownOption(Data)
const keys = Struct.keys(Data.fields)

/** Digest of a text in a form that may be a label's value, e.g. 16 hexadecimal digits. */
export type Hash = (text: string) => string

const revisionOf = (data: Readonly<Record<string, unknown>>, hash: Hash): string =>
  hash(JSON.stringify(Object.entries(data).sort(([a], [b]) => (a < b ? -1 : 1))))

/** The map's `data`, ready to apply. */
export const encode = (
  data: Omit<Data, "revision">,
  hash: Hash
): Readonly<Record<string, string>> & { readonly revision: string } => {
  const { traceparent, ...rest } = encodeSync(data)
  return { ...rest, ...(traceparent === undefined ? {} : { traceparent }), revision: revisionOf(rest, hash) }
}

/** The map's `data` where it is just what {@link encode} made: its revision tells whether somebody edited it. */
export const whole = (data: Readonly<Record<string, string>>, hash: Hash): Option.Option<Data> => {
  const { revision, traceparent: _traceparent, ...rest } = Struct.pick(data, keys)
  return revision === revisionOf(rest, hash) ? decodeOption(data) : Option.none()
}
