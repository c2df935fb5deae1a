/** The event `create` in GitHub's format: a new branch or tag wakes who follows that name already. */
import { Option, Result, Schema } from "effect"
import type * as RequestedRef from "../../api/RequestedRef.ts"
import * as Reader from "../Reader.ts"
import * as Changes from "./Changes.ts"
import { GitHubRepository, named } from "./GitHubRepository.ts"

const Body = Schema.Struct({
  // Short here, in contrast to a push: a branch may be called refs/heads/main.
  ref: Schema.String,
  ref_type: Schema.Literals(["branch", "tag"]),
  /** The commit; GitHub does not say. */
  sha: Schema.optionalKey(Schema.NullOr(Schema.String)),
  repository: Schema.optionalKey(Schema.NullOr(GitHubRepository))
})
const decode = Schema.decodeUnknownOption(Body)

/** Of `create` or `delete`. Only `create` tells the main branch, or the commit. */
export const looksLike = ({ pusher_type, ref_type }: Reader.Message["body"]): boolean =>
  typeof ref_type === "string" && typeof pusher_type === "string"

export const isDeletion = (body: Reader.Message["body"]): boolean =>
  looksLike(body) && !("master_branch" in body) && !("sha" in body)

export const read = (by: RequestedRef.Sender, { body, id }: Reader.Message): Reader.Reading =>
  Option.match(decode(body), {
    onNone: () => Reader.ignored(by, "what was created is neither a branch nor a tag"),
    onSome: ({ ref, ref_type, repository, sha }) =>
      Changes.read({
        by,
        id,
        repositories: named(repository),
        changes: [Result.succeed({ ref, kind: ref_type, after: sha })]
      })
  })
