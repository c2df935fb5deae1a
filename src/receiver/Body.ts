/** A request as it came, and the text of its JSON. Pure. */
import { Result } from "effect"
import type * as Reader from "./Reader.ts"

/** What is judged and then understood: the headers and bytes that came. */
export interface Received {
  readonly headers: Reader.Headers
  readonly body: Uint8Array
  /** The text of the JSON, out of a form where it is wrapped in one; or why there is none. Decoded once, when asked for. */
  readonly text: () => Result.Result<string, string>
}

export const received = (headers: Reader.Headers, body: Uint8Array): Received => {
  let text: Result.Result<string, string> | undefined
  return {
    headers,
    body,
    text: () => (text ??= isForm(headers) ? Result.flatMap(decode(body), unwrap) : decode(body))
  }
}

const decode = (bytes: Uint8Array): Result.Result<string, string> =>
  Result.try({
    // Drops a byte order mark.
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => "the body is not UTF-8"
  })

export const isForm = (headers: Reader.Headers): boolean =>
  /^\s*application\/x-www-form-urlencoded\b/i.test(headers["content-type"] ?? "")

const field = "payload="

/**
 * GitHub's other content type, the default of its API: `payload=<the JSON>`, as the first field. Only there: the content
 * type is outside the signature, and a text within a signed JSON must not become the payload when that is sent as a form.
 */
const unwrap = (text: string): Result.Result<string, string> => {
  if (text.startsWith(field)) {
    const end = text.indexOf("&")
    const value = text.slice(field.length, end === -1 ? undefined : end).replaceAll("+", " ")
    return Result.try({ try: () => decodeURIComponent(value), catch: () => 'the form\'s "payload" is not UTF-8' })
  }
  // What curl -d claims unless told otherwise.
  return text.trimStart().startsWith("{")
    ? Result.succeed(text)
    : Result.fail('the form has no field "payload" in front')
}
