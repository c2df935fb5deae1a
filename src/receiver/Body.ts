/** A body's bytes as the text of its JSON. Pure. */
import { Result } from "effect"
import type * as Reader from "./Reader.ts"

const decode = (bytes: Uint8Array): Result.Result<string, string> =>
  Result.try({
    // Drops a byte order mark.
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => "the body is not UTF-8"
  })

export const isForm = (headers: Reader.Headers): boolean =>
  /^\s*application\/x-www-form-urlencoded\b/i.test(headers["content-type"] ?? "")

/** GitHub's other content type, the default of its API: `payload=<the JSON>`. */
const unwrap = (text: string): Result.Result<string, string> => {
  const payload = new URLSearchParams(text).get("payload")
  if (payload !== null) return Result.succeed(payload)
  // What curl -d claims unless told otherwise.
  return text.trimStart().startsWith("{") ? Result.succeed(text) : Result.fail('the form has no field "payload"')
}

/** @param bytes the body as it came: what was signed */
export const text = (headers: Reader.Headers, bytes: Uint8Array): Result.Result<string, string> =>
  isForm(headers) ? Result.flatMap(decode(bytes), unwrap) : decode(bytes)
