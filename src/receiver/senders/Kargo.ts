/**
 * Kargo's `http` step: `freight.commits[]`. A freight holds commits of several repositories in no useful order, so each
 * becomes a delivery about its `repoURL`. A Warehouse that follows a branch gives no tag: then the commit is the ref.
 */
import { Array, Option, Predicate, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import type * as RequestedRef from "../../api/RequestedRef.ts"
import * as Reader from "../Reader.ts"
import * as RefField from "../RefField.ts"

/** Keys as `quote` writes them, and as the expressions call the fields. */
const Commit = Schema.Struct({
  tag: Schema.optionalKey(Schema.Unknown),
  Tag: Schema.optionalKey(Schema.Unknown),
  id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  ID: Schema.optionalKey(Schema.NullOr(Schema.String)),
  repoURL: Schema.optionalKey(Schema.NullOr(Schema.String)),
  RepoURL: Schema.optionalKey(Schema.NullOr(Schema.String))
})
const decodeCommit = Schema.decodeUnknownOption(Commit)

const commitsOf = ({ freight }: Reader.Message["body"]): unknown =>
  Predicate.isObject(freight) && "commits" in freight ? freight.commits : undefined

const cause = "Does the Warehouse subscribe to tags of this repository?"

const delivery = (
  commit: unknown,
  at: string,
  id: string | undefined
): Result.Result<RequestedRef.Delivery, string> => {
  if (commit === null) return Result.fail(`"${at}" is null: commitFrom has found no commit of that repository`)
  const decoded = decodeCommit(commit)
  if (Option.isNone(decoded)) return Result.fail(`"${at}" is no commit with \`tag\` or \`id\` and \`repoURL\``)
  const { value } = decoded
  const sha = value.id ?? value.ID ?? undefined
  const repositories = RepositoryIdentity.said([value.repoURL ?? value.RepoURL])
  const tag = value.tag ?? value.Tag
  const hasTag = tag !== undefined && tag !== null && tag !== ""
  const ref =
    hasTag || sha === undefined ? RefField.read(`${at}.tag`, tag, cause) : RefField.read(`${at}.id`, sha, cause)
  return Result.map(ref, ({ ref }) => ({
    _tag: "Promotion",
    by: "kargo",
    ref,
    ...(repositories.length === 0 ? {} : { repositories }),
    ...(sha !== undefined && GitRef.isCommit(sha) ? { commit: sha } : {}),
    ...Reader.optional("id", id)
  }))
}

export const sender: Reader.Sender = {
  name: "kargo",
  marks: [],
  looksLike: (body) => Predicate.isNotNullish(commitsOf(body)),
  read: ({ body, id }) => {
    const commits = commitsOf(body)
    if (!globalThis.Array.isArray(commits)) return Reader.invalid('"freight.commits" is no list')
    if (commits.length > mostCommits) return Reader.invalid(`"freight.commits" has more than ${mostCommits} commits`)
    const read = commits.map((commit, index) => delivery(commit, `freight.commits[${index}]`, id))
    const [deliveries, problems] = Array.separate(read)
    if (!Array.isArrayNonEmpty(deliveries)) {
      return Reader.invalid(problems[0] ?? `"freight.commits" is empty. ${cause}`)
    }
    const [problem] = problems
    return { _tag: "Request", sender: "kargo", patience: "person", deliveries, ...Reader.optional("problem", problem) }
  }
}

/** A freight has one commit a subscription. */
const mostCommits = 256
