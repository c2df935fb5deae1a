/** GitHub `release`: a published release moves a GatewaySync to its tag. */
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

export const reader: Reader.Reader = {
  recognises: (message) =>
    Reader.isEvent(
      message,
      "github",
      "release",
      ({ release }) => Predicate.isObject(release) && Predicate.hasProperty(release, "tag_name")
    ),
  read: ({ body, digest, event, id }) => {
    const decoded = decode(body)
    if (Option.isNone(decoded)) return Reader.invalid("this is no GitHub release: it needs a `release` with `tag_name`")
    const { release, repository } = decoded.value
    // Without a header it is somebody's own call, as on the documentation's page.
    const action = decoded.value.action ?? (event === undefined ? "published" : "")
    if (!acted.has(action)) {
      return Reader.ignored("github", `a release moves a GatewaySync when it is published, not on "${clip(action)}"`)
    }
    if (release.draft === true) return Reader.ignored("github", "the release is a draft, so its tag may not exist")
    const tag = RefField.read("release.tag_name", release.tag_name, "A release has a tag")
    if (Result.isFailure(tag)) return Reader.invalid(tag.failure)
    return {
      _tag: "Request",
      sender: "github",
      patience: "forge",
      deliveries: [
        {
          _tag: "Promotion",
          by: "github",
          ref: tag.success.ref,
          repositories: urls(repository),
          prerelease: release.prerelease === true,
          digest,
          ...(id === undefined ? {} : { id })
        }
      ]
    }
  }
}

const clip = (text: string): string => (text.length > 64 ? `${text.slice(0, 64)}…` : text)
