import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import type { LoadedResource } from "./GatewayModel.ts"

/** A tree of security levels; what counts are its paths, as `Authenticated/Roles/Administrator`. */
interface SecurityLevel {
  readonly name: string
  readonly children?: ReadonlyArray<SecurityLevel>
}

const SecurityLevel: Schema.Codec<SecurityLevel> = Schema.Struct({
  name: Schema.String,
  children: Schema.optionalKey(Schema.Array(Schema.suspend((): Schema.Codec<SecurityLevel> => SecurityLevel)))
})

const Permission = Schema.Struct({
  type: Schema.Literals(["AnyOf", "AllOf"]),
  securityLevels: Schema.Array(SecurityLevel)
})

const SecurityProperties = Schema.Struct({
  accessPermissions: Permission,
  readPermissions: Permission,
  writePermissions: Permission
})
export type SecurityProperties = typeof SecurityProperties.Type

const TokenConfig = Schema.Struct({
  profile: Schema.Struct({
    type: Schema.Literal("basic-token"),
    secureChannelRequired: Schema.Boolean,
    securityLevels: Schema.Array(SecurityLevel)
  }),
  settings: Schema.Struct({ tokenHash: Schema.String })
})

/** API tokens by name. */
export type Tokens = ReadonlyMap<string, typeof TokenConfig.Type>

const administrator: typeof Permission.Type = {
  type: "AnyOf",
  securityLevels: [
    { name: "Authenticated", children: [{ name: "Roles", children: [{ name: "Administrator", children: [] }] }] }
  ]
}

/** What a gateway has after commissioning: nobody but an administrator, so no plain token. */
export const defaultProperties: SecurityProperties = {
  accessPermissions: administrator,
  readPermissions: administrator,
  writePermissions: administrator
}

/** 32 bytes in base64url, as `settings.tokenHash` has it. (That the gateway takes SHA-256 is our assumption.) */
export const hashOf = (secret: string) => createHash("sha256").update(secret).digest("base64url")

/** The `config.json` of a token resource. */
export const tokenConfig = (secret: string, levels: ReadonlyArray<string>): typeof TokenConfig.Encoded => ({
  profile: {
    type: "basic-token",
    secureChannelRequired: false,
    securityLevels: levels.map((name) => ({ name, children: [] }))
  },
  settings: { tokenHash: hashOf(secret) }
})

/** The `config.json` of security-properties that lets a token of one of these levels do everything. */
export const openTo = (levels: ReadonlyArray<string>): SecurityProperties => {
  const anyOf: typeof Permission.Type = {
    type: "AnyOf",
    securityLevels: levels.map((name) => ({ name, children: [] }))
  }
  return { accessPermissions: anyOf, readPermissions: anyOf, writePermissions: anyOf }
}

const decodeToken = Schema.decodeUnknownOption(Schema.fromJsonString(TokenConfig))
const decodeProperties = Schema.decodeUnknownOption(Schema.fromJsonString(SecurityProperties))

const tokenPrefix = "ignition/api-token/"

export const tokensOf = (config: Readonly<Record<string, LoadedResource>>): Tokens =>
  new Map(
    Object.entries(config).flatMap(([id, resource]) => {
      if (!id.startsWith(tokenPrefix)) return []
      const token = decodeToken(resource.files["config.json"]?.text)
      return Option.isSome(token) ? [[id.slice(tokenPrefix.length), token.value] as const] : []
    })
  )

/** What the `ignition/security-properties` in force says, else the default. */
export const propertiesOf = (resource: LoadedResource | undefined): SecurityProperties =>
  Option.getOrElse(decodeProperties(resource?.files["config.json"]?.text), () => defaultProperties)

export type Verdict = "allowed" | "unknown" | "forbidden"

/** Who may do what: 401 is `unknown`, 403 `forbidden`. */
export const judge = (request: {
  readonly header: string | undefined
  readonly tokens: Tokens
  readonly properties: SecurityProperties
  readonly writes: boolean
  readonly secure: boolean
}): Verdict => {
  const [name = "", ...secret] = (request.header ?? "").split(":")
  const token = request.tokens.get(name)
  if (token === undefined || token.settings.tokenHash !== hashOf(secret.join(":"))) return "unknown"
  if (token.profile.secureChannelRequired && !request.secure) return "forbidden"
  const { accessPermissions, readPermissions, writePermissions } = request.properties
  const granted = new Set(pathsOf(token.profile.securityLevels))
  return grants(accessPermissions, granted) && grants(request.writes ? writePermissions : readPermissions, granted)
    ? "allowed"
    : "forbidden"
}

const grants = (permission: typeof Permission.Type, granted: ReadonlySet<string>) => {
  const required = leavesOf(permission.securityLevels)
  if (required.length === 0) return true
  return permission.type === "AnyOf"
    ? required.some((path) => granted.has(path))
    : required.every((path) => granted.has(path))
}

const pathsOf = (levels: ReadonlyArray<SecurityLevel>, parent = ""): ReadonlyArray<string> =>
  levels.flatMap(({ children = [], name }) => [`${parent}${name}`, ...pathsOf(children, `${parent}${name}/`)])

const leavesOf = (levels: ReadonlyArray<SecurityLevel>, parent = ""): ReadonlyArray<string> =>
  levels.flatMap(({ children = [], name }) =>
    children.length === 0 ? [`${parent}${name}`] : leavesOf(children, `${parent}${name}/`)
  )
