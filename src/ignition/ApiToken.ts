import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Redacted from "effect/Redacted"
import { TokenUnusable } from "./GatewayError.ts"

/** An Ignition API token: its name, which may be told, and the whole `name:secret`, which may not. */
export interface ApiToken {
  readonly name: string
  readonly header: Redacted.Redacted
}

/** The header that carries it. (Ignition does not use `Authorization`.) */
export const headerName = "x-ignition-api-token"

// Printable ASCII only: anything else is no header value, and Node would throw.
const nameAndSecret = /^([\x20-\x39\x3b-\x7e]+):[\x20-\x7e]+$/

/** Reads `name:secret`; white space around it is dropped. */
export const parse = Effect.fnUntraced(function* (text: Redacted.Redacted) {
  const value = Redacted.value(text).trim()
  const name = nameAndSecret.exec(value)?.[1]
  if (name === undefined) {
    return yield* new TokenUnusable({ detail: value === "" ? "it is empty" : "it is not of the form name:secret" })
  }
  return { name, header: Redacted.make(value, { label: "ignition-api-token" }) } satisfies ApiToken
})

/** The token in a file, read afresh each time it runs, so that a rotated Secret needs no restart. */
export const fromFile = (path: string): Effect.Effect<ApiToken, TokenUnusable, FileSystem.FileSystem> =>
  FileSystem.FileSystem.pipe(
    Effect.flatMap((files) => files.readFileString(path)),
    Effect.mapError((error) => new TokenUnusable({ detail: `file ${path} cannot be read (${error.reason._tag})` })),
    Effect.flatMap((text) => parse(Redacted.make(text)))
  )
