/**
 * Bitbucket Cloud: `repo:push` with several changes. Names are short and have their type; the only URL is the
 * repository's page.
 */
import { Option, Predicate, Result, Schema } from "effect"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import * as Reader from "../Reader.ts"
import * as Changes from "./Changes.ts"

const End = Schema.Struct({
  type: Schema.String,
  name: Schema.String,
  target: Schema.optionalKey(Schema.NullOr(Schema.Struct({ hash: Schema.optionalKey(Schema.NullOr(Schema.String)) })))
})
const Change = Schema.Struct({
  old: Schema.optionalKey(Schema.NullOr(End)),
  new: Schema.NullOr(End)
})
const decodeChange = Schema.decodeUnknownOption(Change)

const Body = Schema.Struct({
  push: Schema.Struct({ changes: Changes.List }),
  repository: Schema.Struct({
    links: Schema.Struct({ html: Schema.Struct({ href: Schema.String }) })
  })
})
const decode = Schema.decodeUnknownOption(Body)

const kinds: Readonly<Record<string, "branch" | "tag">> = { branch: "branch", tag: "tag" }

const change = (raw: unknown): Result.Result<Changes.Change, string> => {
  const decoded = decodeChange(raw)
  if (Option.isNone(decoded)) return Result.fail("a change is neither of a branch nor of a tag")
  const { new: now, old } = decoded.value
  if (now === null)
    return Result.fail(`the ${Reader.clip(old?.type ?? "ref")} "${Reader.clip(old?.name ?? "")}" was deleted`)
  const kind = Object.hasOwn(kinds, now.type) ? kinds[now.type] : undefined
  if (kind === undefined) return Result.fail(`"${Reader.clip(now.name)}" is a ${Reader.clip(now.type)}`)
  return Result.succeed({ ref: now.name, kind, before: old?.target?.hash, after: now.target?.hash })
}

export const readPush = ({ body, id }: Reader.Message): Reader.Reading =>
  Option.match(decode(body), {
    onNone: () =>
      Reader.invalid("this is no push of Bitbucket: it needs `push.changes` and `repository.links.html.href`"),
    onSome: ({ push, repository }) =>
      Changes.readMany(
        { by: "bitbucket", id, repositories: RepositoryIdentity.said([repository.links.html.href]) },
        push.changes,
        change
      )
  })

export const sender: Reader.Sender = {
  name: "bitbucket",
  marks: [{ header: "x-hook-uuid", event: "x-event-key", ids: ["x-request-uuid"] }],
  looksLike: ({ push }) => Predicate.isObject(push) && "changes" in push,
  read: (message) =>
    message.event === undefined || message.event.name === "repo:push"
      ? readPush(message)
      : Reader.otherEvent("bitbucket", message.event.name)
}
