/**
 * GitLab, also its system hooks: push, tag push, release. The header says "System Hook" for all of a server's events,
 * so the body's `object_kind` (or `event_name`) decides. A job has a `ref` too, and is none of our business.
 */
import { Option, Predicate, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import * as Reader from "../Reader.ts"
import * as RefField from "../RefField.ts"
import * as Changes from "./Changes.ts"

const text = Schema.optionalKey(Schema.NullOr(Schema.String))

const Repository = Schema.Struct({ git_http_url: text, git_ssh_url: text, web_url: text, homepage: text })
const repositories = {
  project: Schema.optionalKey(Schema.NullOr(Repository)),
  repository: Schema.optionalKey(Schema.NullOr(Repository))
}

const Push = Schema.Struct({ ref: Schema.String, before: text, after: text, checkout_sha: text, ...repositories })
const decodePush = Schema.decodeUnknownOption(Push)

const Release = Schema.Struct({
  action: Schema.String,
  tag: Schema.Unknown,
  commit: Schema.optionalKey(Schema.NullOr(Schema.Struct({ id: text }))),
  ...repositories
})
const decodeRelease = Schema.decodeUnknownOption(Release)

const named = ({ project, repository }: Pick<typeof Push.Type, "project" | "repository">) => {
  const told = project ?? repository
  return RepositoryIdentity.said([told?.git_http_url, told?.git_ssh_url, told?.web_url ?? told?.homepage])
}

const readPush = ({ body, id }: Reader.Message): Reader.Reading =>
  Option.match(decodePush(body), {
    onNone: () => Reader.invalid("this is no push of GitLab: it needs `ref`, `before` and `after` as texts"),
    onSome: ({ after, before, checkout_sha, ref, ...told }) => {
      const isGone = typeof after === "string" && GitRef.isZero(after)
      return Changes.read({
        by: "gitlab",
        id,
        repositories: named(told),
        // For an annotated tag `after` is the tag's own id.
        changes: [Result.succeed({ ref, before, after: isGone ? after : (checkout_sha ?? after) })]
      })
    }
  })

const readRelease = ({ body, digest, id }: Reader.Message): Reader.Reading => {
  const decoded = decodeRelease(body)
  if (Option.isNone(decoded)) return Reader.invalid("this is no release of GitLab: it needs `action` and `tag`")
  const { action, commit, tag, ...told } = decoded.value
  if (action !== "create") {
    return Reader.ignored("gitlab", `a release moves a GatewaySync when it is created, not on "${Reader.clip(action)}"`)
  }
  const ref = RefField.read("tag", tag, "A release has a tag")
  if (Result.isFailure(ref)) return Reader.invalid(ref.failure)
  const sha = commit?.id ?? undefined
  return {
    _tag: "Request",
    sender: "gitlab",
    patience: "forge",
    deliveries: [
      {
        _tag: "Promotion",
        by: "gitlab",
        ref: ref.success.ref,
        repositories: named(told),
        digest,
        ...Reader.optional("commit", sha !== undefined && GitRef.isCommit(sha) ? sha : undefined),
        ...Reader.optional("id", id)
      }
    ]
  }
}

const kindOf = ({ event_name, object_kind }: Reader.Message["body"]): string =>
  typeof object_kind === "string" ? object_kind : typeof event_name === "string" ? event_name : ""

export const sender: Reader.Sender = {
  name: "gitlab",
  // A retry has the same Idempotency-Key; servers before 17.4 send none.
  marks: [{ header: "x-gitlab-event", ids: ["idempotency-key", "webhook-id", "x-gitlab-event-uuid"] }],
  // CI of GitHub has an `event_name` as well, but no `project`.
  looksLike: ({ event_name, object_kind, project }) =>
    typeof object_kind === "string" || (typeof event_name === "string" && Predicate.isObject(project)),
  read: (message) => {
    const kind = kindOf(message.body)
    switch (kind) {
      case "push":
      case "tag_push":
        return readPush(message)
      case "release":
        return readRelease(message)
      default:
        return Reader.otherEvent("gitlab", kind === "" ? (message.event?.name ?? "") : kind)
    }
  }
}
