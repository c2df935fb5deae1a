/**
 * Anything that can post `{"ref": "v2.0.0"}`, with `"commit"` and `"repoURL"` beside it when it knows: the latter for a
 * hook that many GatewaySyncs share.
 */
import { Option, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import * as Reader from "../Reader.ts"
import * as RefField from "../RefField.ts"

const Commit = Schema.NullOr(Schema.String.check(Schema.makeFilter((id) => GitRef.isCommit(id) && !GitRef.isZero(id))))
const decodeCommit = Schema.decodeUnknownOption(Commit)

export const sender: Reader.Sender = {
  name: "generic",
  marks: [],
  looksLike: (body) => Object.hasOwn(body, "ref"),
  read: ({ body, id }) => {
    const ref = RefField.read("ref", body["ref"], "Has the variable that it comes from a value?")
    if (Result.isFailure(ref)) return Reader.invalid(ref.failure)
    const commit = decodeCommit(body["commit"] ?? null)
    if (Option.isNone(commit))
      return Reader.invalid('"commit" is no full commit id (40 or 64 hexadecimal digits in lower case)')
    const repoURL = body["repoURL"] ?? undefined
    if (repoURL !== undefined && (typeof repoURL !== "string" || RepositoryIdentity.of(repoURL) === undefined)) {
      return Reader.invalid('"repoURL" is no URL of a git repository')
    }
    return {
      _tag: "Request",
      sender: "generic",
      patience: "person",
      deliveries: [
        {
          _tag: "Promotion",
          by: "generic",
          ref: ref.success.ref,
          ...(commit.value === null ? {} : { commit: commit.value }),
          ...Reader.optional("repositories", repoURL === undefined ? undefined : RepositoryIdentity.said([repoURL])),
          ...Reader.optional("id", id)
        }
      ]
    }
  }
}
