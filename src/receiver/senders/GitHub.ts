/** GitHub: push, release, create, ping. Every event has a header; the first three are known by their bodies as well. */
import * as Reader from "../Reader.ts"
import * as GitHubCreate from "./GitHubCreate.ts"
import * as GitHubPush from "./GitHubPush.ts"
import * as GitHubRelease from "./GitHubRelease.ts"

const readBare = (message: Reader.Message): Reader.Reading => {
  if (GitHubRelease.looksLike(message.body)) return GitHubRelease.read(message)
  if (!GitHubCreate.looksLike(message.body)) return GitHubPush.read(message)
  return GitHubCreate.isDeletion(message.body)
    ? Reader.otherEvent("github", "delete")
    : GitHubCreate.read("github", message)
}

export const sender: Reader.Sender = {
  name: "github",
  marks: [{ header: "x-github-event", ids: ["x-github-delivery"] }],
  looksLike: (body) => GitHubRelease.looksLike(body) || GitHubPush.looksLike(body) || GitHubCreate.looksLike(body),
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
