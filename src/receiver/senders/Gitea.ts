/**
 * Gitea, Forgejo and Gogs: GitHub's format, and GitHub's event header beside their own, so they are asked first. Their
 * release is `published`, `updated` or `deleted`; their `create` names the commit.
 */
import * as Reader from "../Reader.ts"
import * as GitHubCreate from "./GitHubCreate.ts"
import * as GitHubPush from "./GitHubPush.ts"
import * as GitHubRelease from "./GitHubRelease.ts"

export const sender: Reader.Sender = {
  name: "gitea",
  marks: [
    { header: "x-forgejo-event", ids: ["x-forgejo-delivery", "x-gitea-delivery"] },
    { header: "x-gitea-event", ids: ["x-gitea-delivery"] },
    { header: "x-gogs-event", ids: ["x-gogs-delivery"] }
  ],
  looksLike: () => false,
  read: (message) => {
    const name = message.event?.name ?? ""
    switch (name) {
      case "push":
        return GitHubPush.read(message)
      case "release":
        return GitHubRelease.read(message)
      case "create":
        return GitHubCreate.read("gitea", message)
      default:
        return Reader.otherEvent("gitea", name)
    }
  }
}
