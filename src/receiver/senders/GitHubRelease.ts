/** The event `release` in GitHub's format: a published release moves a GatewaySync to its tag. */
import { Option, Predicate, Result, Schema } from "effect"
import * as Reader from "../Reader.ts"
import * as RefField from "../RefField.ts"
import { GitHubRepository, named } from "./GitHubRepository.ts"

const Body = Schema.Struct({
  action: Schema.optionalKey(Schema.String),
  release: Schema.Struct({
    id: Schema.optionalKey(Schema.Unknown),
    tag_name: Schema.Unknown,
    published_at: Schema.optionalKey(Schema.Unknown),
    draft: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
    prerelease: Schema.optionalKey(Schema.NullOr(Schema.Boolean))
  }),
  repository: Schema.optionalKey(Schema.NullOr(GitHubRepository))
})
const decode = Schema.decodeUnknownOption(Body)

/** A direct publish sends `created`, `published` and `released`, and every edit of an old release sends one as well. */
const acted: ReadonlySet<string> = new Set(["published", "released"])

/**
 * By what it is known again: `published` and `released` of one release are one, and take one place in the memory. All of
 * it is in the signed part.
 */
const identity = ({ release }: typeof Body.Type): string =>
  Reader.digestOf(
    JSON.stringify([release.id ?? null, release.tag_name, release.published_at ?? null, release.prerelease === true])
  )

export const looksLike = ({ release }: Reader.Message["body"]): boolean =>
  Predicate.isObject(release) && Predicate.hasProperty(release, "tag_name")

export const read = ({ body, event, id }: Reader.Message): Reader.Reading => {
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
        repositories: named(repository),
        prerelease: release.prerelease === true,
        digest: identity(decoded.value),
        ...Reader.optional("id", id)
      }
    ]
  }
}
