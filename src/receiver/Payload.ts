/**
 * A webhook's headers and bytes to what they mean. Pure.
 *
 * A header that names a forge and its event decides first; a body without one is recognised by its shape, first match
 * wins: the forges, Argo CD, Kargo, generic. A new sender is a file under `senders/` and a line here.
 */
import { Predicate, Result } from "effect"
import type * as Body from "./Body.ts"
import * as Reader from "./Reader.ts"
import * as ArgoCD from "./senders/ArgoCD.ts"
import * as AzureDevOps from "./senders/AzureDevOps.ts"
import * as BitbucketCloud from "./senders/BitbucketCloud.ts"
import * as BitbucketServer from "./senders/BitbucketServer.ts"
import * as Generic from "./senders/Generic.ts"
import * as Gitea from "./senders/Gitea.ts"
import * as GitHub from "./senders/GitHub.ts"
import * as GitLab from "./senders/GitLab.ts"
import * as Kargo from "./senders/Kargo.ts"

/** In the order of recognition, by header and by body: Gitea and its kin send GitHub's header as well. */
const senders: ReadonlyArray<Reader.Sender> = [
  AzureDevOps.sender,
  Gitea.sender,
  GitLab.sender,
  BitbucketCloud.sender,
  BitbucketServer.sender,
  GitHub.sender,
  ArgoCD.sender,
  Kargo.sender,
  Generic.sender
]

const marks = senders.flatMap((sender) => sender.marks.map((mark) => ({ sender, mark })))

/** Headers of senders that are no forge. */
const otherIds = ["idempotency-key", "webhook-id"]

/** Objects and lists within each other at most: real payloads stay below 30. */
const deepest = 128

/** Whose message it is, when a header tells. */
const markedBy = (headers: Reader.Headers) =>
  marks.find(({ mark }) => headers[mark.header] !== undefined && headers[mark.header] !== "")

/** The sender's id of a delivery, from the headers alone. */
export const deliveryId = (headers: Reader.Headers): string | undefined =>
  (markedBy(headers)?.mark.ids ?? otherIds).map((header) => Reader.idOf(headers[header])).find((id) => id !== undefined)

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

export const read = ({ headers, text }: Body.Received): Reader.Reading => {
  const json = text()
  if (Result.isFailure(json)) return Reader.invalid(json.failure)
  const body = parseObject(json.success)
  if (Result.isFailure(body)) return Reader.invalid(body.failure)
  const marked = markedBy(headers)
  const message: Reader.Message = {
    body: body.success,
    digest: Reader.digestOf(json.success),
    ...Reader.optional("id", deliveryId(headers)),
    ...(marked === undefined
      ? {}
      : { event: { forge: marked.sender.name, name: headers[marked.mark.event ?? marked.mark.header] ?? "" } })
  }
  const sender = marked?.sender ?? senders.find((candidate) => candidate.looksLike(message.body))
  return (
    sender?.read(message) ??
    Reader.invalid(
      'no ref found: it is looked for in "release.tag_name", app.metadata.annotations["git.ref"], "freight.commits" and "ref"'
    )
  )
}
