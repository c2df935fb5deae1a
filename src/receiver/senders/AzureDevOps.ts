/** Azure DevOps service hooks: `git.push` with several ref updates. The event and the delivery's id are in the body. */
import { Option, Result, Schema } from "effect"
import * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import * as Reader from "../Reader.ts"
import * as Changes from "./Changes.ts"

const text = Schema.optionalKey(Schema.NullOr(Schema.String))

const Update = Schema.Struct({ name: Schema.String, oldObjectId: text, newObjectId: Schema.String })
const decodeUpdate = Schema.decodeUnknownOption(Update)

const Body = Schema.Struct({
  id: text,
  notificationId: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Int, Schema.String]))),
  resource: Schema.Struct({
    refUpdates: Schema.optionalKey(Schema.NullOr(Changes.List)),
    repository: Schema.optionalKey(Schema.NullOr(Schema.Struct({ remoteUrl: text, sshUrl: text })))
  })
})
const decode = Schema.decodeUnknownOption(Body)

const change = (raw: unknown): Result.Result<Changes.Change, string> =>
  Option.match(decodeUpdate(raw), {
    onNone: () => Result.fail("a ref update has no `name` or no `newObjectId`"),
    onSome: ({ name, newObjectId, oldObjectId }) =>
      Result.succeed({ ref: name, before: oldObjectId, after: newObjectId })
  })

const readPush = ({ body }: Reader.Message): Reader.Reading => {
  const decoded = decode(body)
  if (Option.isNone(decoded)) return Reader.invalid("this is no push of Azure DevOps: it needs `resource.refUpdates`")
  const { id, notificationId, resource } = decoded.value
  if (resource.refUpdates === undefined || resource.refUpdates === null) {
    return Reader.ignored(
      "azure-devops",
      'the push does not say what it changes: set "Resource details to send" of the service hook to "All"'
    )
  }
  const told = {
    by: "azure-devops",
    id: Reader.idOf([id, notificationId].filter((part) => part !== undefined && part !== null).join("/")),
    repositories: RepositoryIdentity.said([resource.repository?.remoteUrl, resource.repository?.sshUrl])
  } as const
  return Changes.readMany(told, resource.refUpdates, change)
}

export const sender: Reader.Sender = {
  name: "azure-devops",
  marks: [
    { header: "x-vss-activityid", ids: ["x-vss-activityid"] },
    { header: "x-vss-subscriptionid", ids: [] }
  ],
  looksLike: ({ eventType, publisherId }) => publisherId === "tfs" && typeof eventType === "string",
  read: (message) => {
    const { eventType } = message.body
    return eventType === "git.push"
      ? readPush(message)
      : Reader.otherEvent("azure-devops", typeof eventType === "string" ? eventType : "")
  }
}
