/**
 * GitHub: push, release, create, ping. Every event has a header; the first three are known by their bodies as well. The
 * header is outside the signature, so a body of any other event asks for nothing without it either: it may hold a `ref`
 * at the top, and must not pass for a generic one.
 */
import { Predicate } from "effect"
import * as Reader from "../Reader.ts"
import * as GitHubCreate from "./GitHubCreate.ts"
import * as GitHubPush from "./GitHubPush.ts"
import * as GitHubRelease from "./GitHubRelease.ts"

/** An event in GitHub's format, be it of Gitea and its kin: who did what, and where. */
const isEvent = ({ organization, repository, sender }: Reader.Message["body"]): boolean =>
  Predicate.isObject(sender) && (Predicate.isObject(repository) || Predicate.isObject(organization))

const readBare = (message: Reader.Message): Reader.Reading => {
  const { body } = message
  if (GitHubRelease.looksLike(body)) return GitHubRelease.read(message)
  if (GitHubCreate.looksLike(body)) {
    return GitHubCreate.isDeletion(body) ? Reader.otherEvent("github", "delete") : GitHubCreate.read("github", message)
  }
  return GitHubPush.looksLike(body)
    ? GitHubPush.read(message)
    : Reader.ignored("github", "an event of a forge without its header, and neither a release nor a push nor a create")
}

export const sender: Reader.Sender = {
  name: "github",
  marks: [{ header: "x-github-event", ids: ["x-github-delivery"] }],
  looksLike: (body) =>
    GitHubRelease.looksLike(body) || GitHubPush.looksLike(body) || GitHubCreate.looksLike(body) || isEvent(body),
  read: (message) => {
    switch (message.event?.name) {
      case undefined:
        return readBare(message)
      case "push":
        return GitHubPush.read(message)
      case "release":
        return GitHubRelease.read(message)
      case "create":
        return GitHubCreate.read("github", message)
      case "ping":
        return Reader.ignored("github", "ping: the hook works")
      default:
        return Reader.otherEvent("github", message.event?.name ?? "")
    }
  }
}
