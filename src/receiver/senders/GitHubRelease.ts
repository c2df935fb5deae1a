/** The event `release` in GitHub's format: a published release moves a GatewaySync to its tag. */
import { Option, Predicate, Result, Schema } from "effect"
import * as Reader from "../Reader.ts"
import * as RefField from "../RefField.ts"
import { GitHubRepository, urls } from "./GitHubRepository.ts"

const Body = Schema.Struct({
  action: Schema.optionalKey(Schema.String),
  release: Schema.Struct({
    tag_name: Schema.Unknown,
    draft: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
    prerelease: Schema.optionalKey(Schema.NullOr(Schema.Boolean))
  }),
  repository: Schema.optionalKey(Schema.NullOr(GitHubRepository))
})
const decode = Schema.decodeUnknownOption(Body)

/** A direct publish sends `created`, `published` and `released`, and every edit of an old release sends one as well. */
const acted: ReadonlySet<string> = new Set(["published", "released"])

export const looksLike = ({ release }: Reader.Message["body"]): boolean =>
  Predicate.isObject(release) && Predicate.hasProperty(release, "tag_name")

export const read = ({ body, digest, event, id }: Reader.Message): Reader.Reading => {
  const by = event?.forge ?? "github"
  const decoded = decode(body)
  if (Option.isNone(decoded)) return Reader.invalid("this is no release: it needs a `release` with `tag_name`")
  const { release, repository } = decoded.value
  // Without a header it is somebody's own call, as on the documentation's page.
  const action = decoded.value.action ?? (event === undefined ? "published" : "")
  if (!acted.has(action)) {
    return Reader.ignored(by, `a release moves a GatewaySync when it is published, not on "${Reader.clip(action)}"`)
  }
  if (release.draft === true) return Reader.ignored(by, "the release is a draft, so its tag may not exist")
  const tag = RefField.read("release.tag_name", release.tag_name, "A release has a tag")
  if (Result.isFailure(tag)) return Reader.invalid(tag.failure)
  return {
    _tag: "Request",
    sender: by,
    patience: "forge",
    deliveries: [
      {
        _tag: "Promotion",
        by,
        ref: tag.success.ref,
        repositories: urls(repository),
        prerelease: release.prerelease === true,
        digest,
        ...Reader.optional("id", id)
      }
    ]
  }
}
