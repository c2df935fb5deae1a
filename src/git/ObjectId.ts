import * as Schema from "effect/Schema"

/** A full object id, lower case: SHA-1, or SHA-256 in repositories that use it. */
export const ObjectId = Schema.String.check(Schema.isPattern(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/))

export const is = Schema.is(ObjectId)
