/**
 * A push as every forge tells it: changes of refs, of which some may be deletions. What is left wakes those that follow
 * one of the refs; a push of which nothing is left is ignored, with the reason.
 */
import { Array, Result, Schema } from "effect"
import * as GitRef from "../../api/GitRef.ts"
import type * as RepositoryIdentity from "../../api/RepositoryIdentity.ts"
import type * as RequestedRef from "../../api/RequestedRef.ts"
import * as Reader from "../Reader.ts"

export interface Change {
  /** `refs/heads/x`, `refs/tags/x`; or short, with its kind. */
  readonly ref: string
  readonly kind?: "branch" | "tag"
  readonly before?: string | null | undefined
  /** Zeros: the ref is gone. */
  readonly after?: string | null | undefined
}

interface Told {
  readonly by: RequestedRef.Sender
  readonly id: string | undefined
  readonly repositories: ReadonlyArray<RepositoryIdentity.Name>
}

export interface Push extends Told {
  /** A change that cannot be read stands as the reason why. */
  readonly changes: ReadonlyArray<Result.Result<Change, string>>
}

/** A list whose elements are looked at only when it is not too long. */
export const List = Schema.declare<ReadonlyArray<unknown>>(globalThis.Array.isArray)

/** Changes of one push at most. Each costs a decoding, and who may send has not been told from others by then. */
export const mostChanges = 1000

/** Only what is a commit's id: anything else, zeros too, tells nothing. */
const commit = (id: string | null | undefined): string | undefined =>
  typeof id === "string" && GitRef.isCommit(id) && !GitRef.isZero(id) ? id : undefined

const named = ({
  kind,
  ref
}: Change): Result.Result<{ readonly ref: string; readonly kind: "branch" | "tag" }, string> =>
  kind === undefined
    ? Result.flatMap(
        Result.mapError(GitRef.read(ref), (why) => `the pushed ref ${why}`),
        (read) =>
          read.kind === undefined
            ? Result.fail("the pushed ref is short: it starts with refs/heads/ or refs/tags/")
            : Result.succeed({ ref: read.ref, kind: read.kind })
      )
    : Result.map(
        Result.mapError(GitRef.validate(ref), (why) => `the pushed ref ${why}`),
        () => ({ ref, kind })
      )

const delivery = (push: Told, change: Change): Result.Result<RequestedRef.Push, string> =>
  Result.flatMap(named(change), ({ kind, ref }) =>
    typeof change.after === "string" && GitRef.isZero(change.after)
      ? Result.fail(`the ${kind} "${ref}" was deleted`)
      : Result.succeed<RequestedRef.Push>({
          _tag: "Push",
          by: push.by,
          ref,
          kind,
          repositories: push.repositories,
          ...Reader.optional("before", commit(change.before)),
          ...Reader.optional("after", commit(change.after)),
          ...Reader.optional("id", push.id)
        })
  )

export const read = (push: Push): Reader.Request | Reader.Ignored => {
  const [deliveries, reasons] = Array.partition(push.changes, (change) =>
    Result.flatMap(change, (one) => delivery(push, one))
  )
  if (Array.isReadonlyArrayNonEmpty(deliveries)) {
    return { _tag: "Request", sender: push.by, patience: "forge", deliveries }
  }
  const shown = reasons.slice(0, 3).join("; ")
  return Reader.ignored(push.by, reasons.length === 0 ? "the push changes no ref" : shown)
}

/** A push with a list of changes, which is not gone through when it is too long. */
export const readMany = (
  told: Told,
  changes: ReadonlyArray<unknown>,
  change: (raw: unknown) => Result.Result<Change, string>
): Reader.Reading =>
  changes.length > mostChanges
    ? Reader.invalid(`the push has ${changes.length} changes, more than the ${mostChanges} that one may have`)
    : read({ ...told, changes: changes.map(change) })
