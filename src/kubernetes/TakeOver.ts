/**
 * Server-side apply over what another program wrote by Update. Such a program stays owner of its fields for ever: an apply
 * takes over those that it names itself, and leaves the others (old keys, old conditions) where they are. Once its entry
 * in `managedFields` is made ours, the next apply removes what it does not name.
 */
import { Effect, Option, Schema } from "effect"
import { ApiClient, type WriteOptions } from "./ApiClient.ts"
import type * as Resource from "./Resource.ts"

export interface Options extends WriteOptions {
  /** The part of the object that is ours alone, whoever wrote it before. */
  readonly part: "data" | "status"
  /** Of the object that the body was decided on: a `Conflict` where it is another by now. */
  readonly resourceVersion?: string | undefined
  /** Whether the API server's answer holds nothing but what was applied. */
  readonly isWhole: (answer: unknown) => boolean
}

/** Applies; where that leaves somebody else's fields behind, takes them over and applies once more. */
export const apply = Effect.fnUntraced(function* (
  resource: Resource.Resource,
  ref: Resource.ObjectRef,
  body: { readonly metadata?: object; readonly [part: string]: unknown },
  options: Options
) {
  const client = yield* ApiClient
  const { isWhole, part, resourceVersion, ...write } = options
  const attempt = client.apply(resource, ref, body, write)
  const answer = yield* resourceVersion === undefined
    ? attempt
    : client.apply(resource, ref, { ...body, metadata: { ...body.metadata, resourceVersion } }, write)
  if (isWhole(answer)) return answer
  const operations = takeOver(answer, part, write.fieldManager)
  if (operations.length === 0) return answer
  // Without the subresource: of managedFields there is only one list.
  return yield* client.jsonPatch(resource, ref, operations, { fieldManager: write.fieldManager }).pipe(
    Effect.andThen(attempt),
    // Somebody wrote meanwhile: the next apply finds the same again.
    Effect.catchReason("ApiError", "Invalid", (reason, error) =>
      reason.isFailedTest ? Effect.succeed(answer) : Effect.fail(error)
    ),
    Effect.catchReason("ApiError", "Conflict", () => Effect.succeed(answer))
  )
})

const Fields = Schema.Record(Schema.String, Schema.Unknown)
type Fields = typeof Fields.Type

const Entry = Schema.Struct({
  manager: Schema.optionalKey(Schema.String),
  operation: Schema.String,
  apiVersion: Schema.String,
  time: Schema.optionalKey(Schema.String),
  fieldsType: Schema.String,
  fieldsV1: Schema.optionalKey(Fields),
  subresource: Schema.optionalKey(Schema.String)
})
type Entry = typeof Entry.Type

const decode = Schema.decodeUnknownOption(
  Schema.Struct({
    metadata: Schema.Struct({ resourceVersion: Schema.String, managedFields: Schema.Array(Entry) })
  })
)

/** The JSON Patch by which the part is ours alone; none where nobody wrote it by Update. */
export const takeOver = (object: unknown, part: Options["part"], manager: string): ReadonlyArray<object> => {
  const decoded = decode(object)
  if (Option.isNone(decoded)) return []
  const { managedFields, resourceVersion } = decoded.value.metadata
  const field = `f:${part}`
  const owns = ({ fieldsV1 }: Entry) => fieldsV1?.[field] !== undefined
  const own = managedFields.find((entry) => entry.operation === "Apply" && entry.manager === manager && owns(entry))
  const others = managedFields.filter((entry) => entry.operation === "Update" && owns(entry))
  if (own === undefined || others.length === 0) return []
  const taken = others.map(({ fieldsV1 }) => ({ [field]: fieldsV1?.[field] }))
  const value = managedFields.flatMap((entry): ReadonlyArray<Entry> => {
    if (entry === own) return [{ ...own, fieldsV1: taken.reduce(union, own.fieldsV1 ?? {}) }]
    if (!others.includes(entry)) return [entry]
    const { [field]: _taken, ...rest } = entry.fieldsV1 ?? {}
    return Object.keys(rest).length === 0 ? [] : [{ ...entry, fieldsV1: rest }]
  })
  return [
    { op: "test", path: "/metadata/resourceVersion", value: resourceVersion },
    { op: "replace", path: "/metadata/managedFields", value }
  ]
}

const isFields = Schema.is(Fields)

const union = (a: Fields, b: Fields): Fields => {
  const both: Record<string, unknown> = { ...a }
  for (const [key, value] of Object.entries(b)) {
    const known = both[key]
    both[key] = isFields(known) && isFields(value) ? union(known, value) : value
  }
  return both
}
