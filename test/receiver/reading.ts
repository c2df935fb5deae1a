/** Messages as senders send them, read; and what a test wants of the reading. */
import * as RepositoryIdentity from "../../src/api/RepositoryIdentity.ts"
import type * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as Body from "../../src/receiver/Body.ts"
import * as Payload from "../../src/receiver/Payload.ts"

export const commit = (digit: string) => digit.repeat(40)
export const zeros = commit("0")

export type Headers = Readonly<Record<string, string>>
/** What a message calls the repository of these URLs. */
export const named = (...urls: ReadonlyArray<string>) => RepositoryIdentity.said(urls)
type Reading = ReturnType<typeof Payload.read>

export const readBytes = (bytes: Uint8Array, headers: Headers = {}) => Payload.read(Body.received(headers, bytes))
export const readText = (text: string, headers: Headers = {}) => readBytes(new TextEncoder().encode(text), headers)
export const read = (body: unknown, headers: Headers = {}) => readText(JSON.stringify(body), headers)

export const deliveries = (reading: Reading): ReadonlyArray<RequestedRef.Delivery> => {
  if (reading._tag !== "Request") throw new Error(`no request: ${JSON.stringify(reading)}`)
  return reading.deliveries
}
export const delivery = (reading: Reading) => deliveries(reading)[0]!

/** Why it is invalid, or ignored. */
export const invalid = (reading: Reading): string => {
  if (reading._tag !== "Invalid") throw new Error(`not invalid: ${JSON.stringify(reading)}`)
  return reading.message
}
export const ignored = (reading: Reading): string => {
  if (reading._tag !== "Ignored") throw new Error(`not ignored: ${JSON.stringify(reading)}`)
  return reading.reason
}

export const lacks = (text: string, words: ReadonlyArray<string>) => words.filter((word) => !text.includes(word))
