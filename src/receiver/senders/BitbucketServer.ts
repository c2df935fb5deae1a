/**
 * Bitbucket Data Center (Server): `repo:refs_changed` with several changes. Older ones send no URL, only the project's
 * key and the repository's slug.
 */
import { Option, Predicate, Result, Schema } from "effect"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import * as Reader from "../Reader.ts"
import * as BitbucketCloud from "./BitbucketCloud.ts"
import * as Changes from "./Changes.ts"

const Change = Schema.Struct({
  ref: Schema.Struct({ id: Schema.String }),
  fromHash: Schema.optionalKey(Schema.NullOr(Schema.String)),
  toHash: Schema.String
})
const decodeChange = Schema.decodeUnknownOption(Change)

const Repository = Schema.Struct({
  slug: Schema.String,
  project: Schema.Struct({ key: Schema.String }),
  links: Schema.optionalKey(Schema.Unknown)
})
const Body = Schema.Struct({ changes: Changes.List, repository: Repository })
const decode = Schema.decodeUnknownOption(Body)

const Links = Schema.Struct({ clone: Changes.List })
const decodeLinks = Schema.decodeUnknownOption(Links)
const decodeClone = Schema.decodeUnknownOption(Schema.Array(Schema.Struct({ href: Schema.String })))

/** URLs of one repository: ssh and http, maybe by several names of the server. */
const mostLinks = 16

const change = (raw: unknown): Result.Result<Changes.Change, string> =>
  Option.match(decodeChange(raw), {
    onNone: () => Result.fail("a change has no `ref.id` or no `toHash`"),
    onSome: ({ fromHash, ref, toHash }) => Result.succeed({ ref: ref.id, before: fromHash, after: toHash })
  })

/** Page and clone URLs of ssh and http have different paths, so all are told. */
const named = ({
  links,
  project,
  slug
}: typeof Repository.Type): Result.Result<ReadonlyArray<RepositoryIdentity.Name>, string> => {
  const clone = Option.match(decodeLinks(links), { onNone: () => [], onSome: ({ clone }) => clone })
  if (clone.length > mostLinks) {
    return Result.fail(`"repository.links.clone" has ${clone.length} URLs, more than the ${mostLinks} that it may have`)
  }
  const urls = Option.getOrElse(decodeClone(clone), () => []).map(({ href }) => href)
  return Result.succeed(
    urls.length === 0 ? [RepositoryIdentity.onAnyHost(project.key, slug)] : RepositoryIdentity.said(urls)
  )
}

const readPush = ({ body, id }: Reader.Message): Reader.Reading => {
  const decoded = decode(body)
  if (Option.isNone(decoded)) {
    return Reader.invalid(
      "this is no push of Bitbucket: it needs `changes`, `repository.slug` and `repository.project.key`"
    )
  }
  const { changes, repository } = decoded.value
  return Result.match(named(repository), {
    onFailure: Reader.invalid,
    onSuccess: (repositories) => Changes.readMany({ by: "bitbucket", id, repositories }, changes, change)
  })
}

const eventOf = ({ body, event }: Reader.Message): string =>
  event?.name ?? (typeof body["eventKey"] === "string" ? body["eventKey"] : "")

export const sender: Reader.Sender = {
  name: "bitbucket",
  marks: [{ header: "x-event-key", ids: ["x-request-id"] }],
  looksLike: ({ eventKey, repository }) => typeof eventKey === "string" && Predicate.isObject(repository),
  read: (message) => {
    const event = eventOf(message)
    switch (event) {
      case "repo:refs_changed":
        return readPush(message)
      // The Cloud's, whose mark got lost on the way.
      case "repo:push":
        return BitbucketCloud.readPush(message)
      case "diagnostics:ping":
        return Reader.ignored("bitbucket", "ping: the hook works")
      default:
        return Reader.otherEvent("bitbucket", event)
    }
  }
}
