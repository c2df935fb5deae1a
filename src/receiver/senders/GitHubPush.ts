/** The event `push` in GitHub's format, also that of a server's own hook: wakes who follows the branch or tag. */
import { Option, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import * as Reader from "../Reader.ts"
import * as Changes from "./Changes.ts"
import { GitHubRepository, named } from "./GitHubRepository.ts"

const text = Schema.optionalKey(Schema.NullOr(Schema.String))

const Body = Schema.Struct({
  ref: Schema.String,
  before: text,
  after: text,
  deleted: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  head_commit: Schema.optionalKey(Schema.NullOr(Schema.Struct({ id: text }))),
  repository: Schema.optionalKey(Schema.NullOr(GitHubRepository))
})
const decode = Schema.decodeUnknownOption(Body)

/** A body without a header is a push by its `before` and `after`. */
export const looksLike = ({ after, before, ref }: Reader.Message["body"]): boolean =>
  typeof ref === "string" && ref.startsWith("refs/") && typeof before === "string" && typeof after === "string"

export const read = ({ body, event, id }: Reader.Message): Reader.Reading => {
  const decoded = decode(body)
  if (Option.isNone(decoded)) return Reader.invalid("this is no push: it needs `ref`, `before` and `after` as texts")
  const { after, before, deleted, head_commit, ref, repository } = decoded.value
  if (!ref.startsWith("refs/")) return Reader.invalid('"ref" of a push starts with refs/heads/ or refs/tags/')
  const isGone = deleted === true || (typeof after === "string" && GitRef.isZero(after))
  return Changes.read({
    by: event?.forge ?? "generic",
    id,
    repositories: named(repository),
    // For an annotated tag `after` is the tag's own id.
    changes: [Result.succeed({ ref, before, after: isGone ? zeros : (head_commit?.id ?? after) })]
  })
}

const zeros = "0".repeat(40)
