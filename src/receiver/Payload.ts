/**
 * A webhook's headers and bytes to what they mean. Pure.
 *
 * A header that names a forge and its event decides first; a body without one is recognised by its shape, first match
 * wins: release, push, Argo CD, Kargo, generic. A new sender is a file under `senders/` and a line here.
 */
import { Predicate, Result } from "effect"
import { createHash } from "node:crypto"
import type * as RequestedRef from "../api/RequestedRef.ts"
import * as Reader from "./Reader.ts"
import * as ArgoCD from "./senders/ArgoCD.ts"
import * as Generic from "./senders/Generic.ts"
import * as GitHubCreate from "./senders/GitHubCreate.ts"
import * as GitHubPing from "./senders/GitHubPing.ts"
import * as GitHubPush from "./senders/GitHubPush.ts"
import * as GitHubRelease from "./senders/GitHubRelease.ts"
import * as Kargo from "./senders/Kargo.ts"

const readers: ReadonlyArray<Reader.Reader> = [
  GitHubRelease.reader,
  GitHubPush.reader,
  GitHubCreate.reader,
  GitHubPing.reader,
  ArgoCD.reader,
  Kargo.reader,
  Generic.reader
]

/** Headers that name an event, in the order of recognition: Gitea and its kin send GitHub's as well. */
const eventHeaders: ReadonlyArray<{
  readonly header: string
  readonly forge: RequestedRef.Sender
  readonly id: string
}> = [
  { header: "x-vss-activityid", forge: "azure-devops", id: "x-vss-activityid" },
  { header: "x-forgejo-event", forge: "gitea", id: "x-gitea-delivery" },
  { header: "x-gitea-event", forge: "gitea", id: "x-gitea-delivery" },
  { header: "x-gogs-event", forge: "gitea", id: "x-gogs-delivery" },
  { header: "x-gitlab-event", forge: "gitlab", id: "x-gitlab-event-uuid" },
  { header: "x-event-key", forge: "bitbucket", id: "x-request-id" },
  { header: "x-github-event", forge: "github", id: "x-github-delivery" }
]

/** Objects and lists within each other at most: real payloads stay below 30. */
const deepest = 128

/** An id goes into an annotation; a longer one is none of a sender that we know. */
const idPattern = /^[\u0021-\u007e]{1,128}$/

const namedEvent = (headers: Reader.Headers) =>
  eventHeaders.find(({ header }) => headers[header] !== undefined && headers[header] !== "")

/** The sender's id of a delivery, from the headers alone. */
export const deliveryId = (headers: Reader.Headers): string | undefined => {
  const id = headers[namedEvent(headers)?.id ?? "idempotency-key"]
  return id !== undefined && idPattern.test(id) ? id : undefined
}

/** Whether braces and brackets nest deeper than that; without recursion, which is what deep ones are made to break. */
const isDeeper = (json: string, depth: number): boolean => {
  let level = 0
  let quoted = false
  for (let at = 0; at < json.length; at++) {
    const char = json.charCodeAt(at)
    if (quoted) {
      if (char === 0x5c) at++
      else if (char === 0x22) quoted = false
    } else if (char === 0x22) quoted = true
    else if (char === 0x7b || char === 0x5b) {
      if (++level > depth) return true
    } else if (char === 0x7d || char === 0x5d) level--
  }
  return false
}

const decodeText = (bytes: Uint8Array): Result.Result<string, string> =>
  Result.try({
    // Drops a byte order mark.
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => "the body is not UTF-8"
  })

/** GitHub's other content type, the default of its API: `payload=<the JSON>`. */
const unwrapForm = (headers: Reader.Headers, text: string): Result.Result<string, string> => {
  if (!/^\s*application\/x-www-form-urlencoded\b/i.test(headers["content-type"] ?? "")) return Result.succeed(text)
  const payload = new URLSearchParams(text).get("payload")
  if (payload !== null) return Result.succeed(payload)
  // What curl -d claims unless told otherwise.
  return text.trimStart().startsWith("{") ? Result.succeed(text) : Result.fail('the form has no field "payload"')
}

const parseObject = (text: string): Result.Result<Reader.Message["body"], string> => {
  if (text.trim() === "") return Result.fail('the body is empty: send JSON, e.g. {"ref":"v2.0.0"}')
  if (isDeeper(text, deepest)) return Result.fail(`the JSON nests deeper than ${deepest} levels`)
  const parsed = Result.try({ try: (): unknown => JSON.parse(text), catch: () => "the body is not JSON" })
  return Result.flatMap(parsed, (value) =>
    Predicate.isObject(value)
      ? Result.succeed(value as Reader.Message["body"])
      : Result.fail("the body is JSON, but no object")
  )
}

/** @param bytes the body as it came: what was signed */
export const read = (headers: Reader.Headers, bytes: Uint8Array): Reader.Reading => {
  const body = decodeText(bytes).pipe(
    Result.flatMap((text) => unwrapForm(headers, text)),
    Result.flatMap(parseObject)
  )
  if (Result.isFailure(body)) return Reader.invalid(body.failure)
  const named = namedEvent(headers)
  const id = deliveryId(headers)
  const message: Reader.Message = {
    body: body.success,
    digest: createHash("sha256").update(bytes).digest("base64url"),
    ...(named === undefined ? {} : { event: { forge: named.forge, name: headers[named.header] ?? "" } }),
    ...(id === undefined ? {} : { id })
  }
  const reader = readers.find((candidate) => candidate.recognises(message))
  if (reader !== undefined) return reader.read(message)
  if (message.event !== undefined) {
    const { forge, name } = message.event
    return Reader.ignored(forge, `the event "${name.slice(0, 64)}" of ${forge} is nothing to act on`)
  }
  return Reader.invalid(
    'no ref found: it is looked for in "release.tag_name", app.metadata.annotations["git.ref"], "freight.commits" and "ref"'
  )
}
