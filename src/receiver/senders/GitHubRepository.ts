/** `repository` in the events of GitHub and of the forges that took over its format. */
import { Schema } from "effect"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"

const url = Schema.optionalKey(Schema.NullOr(Schema.String))

export const GitHubRepository = Schema.Struct({ clone_url: url, ssh_url: url, html_url: url })

/** What it is called; none when the event names no repository. */
export const named = (repository: typeof GitHubRepository.Type | null | undefined) =>
  RepositoryIdentity.said([repository?.clone_url, repository?.ssh_url, repository?.html_url])
