/** `repository` in the events of GitHub and of the forges that took over its format. */
import { Schema } from "effect"

const url = Schema.optionalKey(Schema.NullOr(Schema.String))

export const GitHubRepository = Schema.Struct({ clone_url: url, ssh_url: url, html_url: url })

/** The ways to write its URL; none when the event names no repository. */
export const urls = (repository: typeof GitHubRepository.Type | null | undefined): ReadonlyArray<string> =>
  [repository?.clone_url, repository?.ssh_url, repository?.html_url].filter(
    (text): text is string => text !== undefined && text !== null && text !== ""
  )
