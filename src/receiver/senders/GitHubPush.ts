/**
 * GitHub `push`, and a body of that format without a header (a server's own hook): wakes who follows the branch or tag.
 */
import { Option, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import * as Reader from "../Reader.ts"
import { GitHubRepository, urls } from "./GitHubRepository.ts"

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

export const reader: Reader.Reader = {
  recognises: (message) =>
    Reader.isEvent(
      message,
      "github",
      "push",
      ({ after, before, ref }) =>
        typeof ref === "string" && ref.startsWith("refs/") && typeof before === "string" && typeof after === "string"
    ),
  read: ({ body, event, id }) => {
    const decoded = decode(body)
    if (Option.isNone(decoded)) return Reader.invalid("this is no push: it needs `ref`, `before` and `after` as texts")
    const { after, before, deleted, head_commit, ref, repository } = decoded.value
    const by = event === undefined ? "generic" : "github"
    const named = GitRef.read(ref)
    if (Result.isFailure(named)) return Reader.ignored(by, `the pushed ref ${named.failure}`)
    const { kind, ref: short } = named.success
    if (kind === undefined) return Reader.invalid('"ref" of a push starts with refs/heads/ or refs/tags/')
    if (deleted === true || (typeof after === "string" && GitRef.isZero(after))) {
      return Reader.ignored(by, `the ${kind} "${short}" was deleted`)
    }
    return {
      _tag: "Request",
      sender: by,
      patience: "forge",
      deliveries: [
        {
          _tag: "Push",
          by,
          ref: short,
          kind,
          repositories: urls(repository),
          ...commit("before", before),
          // For an annotated tag `after` is the tag's own id.
          ...commit("after", head_commit?.id ?? after),
          ...(id === undefined ? {} : { id })
        }
      ]
    }
  }
}

/** Only what is a commit's id: anything else, zeros too, tells nothing. */
const commit = <K extends "before" | "after">(key: K, id: string | null | undefined): { readonly [P in K]?: string } =>
  (typeof id === "string" && GitRef.isCommit(id) && !GitRef.isZero(id) ? { [key]: id } : {}) as {
    readonly [P in K]?: string
  }
