/** GitHub `create`: a new branch or tag wakes who follows that name already. */
import { Option, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import * as Reader from "../Reader.ts"
import { GitHubRepository, urls } from "./GitHubRepository.ts"

const Body = Schema.Struct({
  ref: Schema.String,
  ref_type: Schema.Literals(["branch", "tag"]),
  repository: Schema.optionalKey(Schema.NullOr(GitHubRepository))
})
const decode = Schema.decodeUnknownOption(Body)

export const reader: Reader.Reader = {
  recognises: (message) => Reader.isEvent(message, "github", "create"),
  read: ({ body, id }) => {
    const decoded = decode(body)
    if (Option.isNone(decoded)) return Reader.ignored("github", "what was created is neither a branch nor a tag")
    const { ref, ref_type, repository } = decoded.value
    // Short here, in contrast to a push: a branch may be called refs/heads/main.
    const legal = GitRef.validate(ref)
    if (Result.isFailure(legal)) return Reader.ignored("github", `the created ref ${legal.failure}`)
    return {
      _tag: "Request",
      sender: "github",
      patience: "forge",
      deliveries: [
        {
          _tag: "Push",
          by: "github",
          ref,
          kind: ref_type,
          repositories: urls(repository),
          ...(id === undefined ? {} : { id })
        }
      ]
    }
  }
}
