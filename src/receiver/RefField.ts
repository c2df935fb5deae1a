/**
 * The ref in a field of a payload: short and legal, or which field is wrong, how, and what usually causes it.
 */
import { Result } from "effect"
import * as GitRef from "../api/GitRef.ts"

/** What templates of Go print for a value that is not there. */
const absent = /^<(no value|nil)>$/

/**
 * @param field where it stands, e.g. `release.tag_name`
 * @param cause why such a field is usually empty, as a sentence
 */
export const read = (
  field: string,
  value: unknown,
  cause: string
): Result.Result<{ readonly ref: string; readonly kind?: "branch" | "tag" }, string> => {
  if (value === undefined || value === null) return Result.fail(`"${field}" is missing. ${cause}`)
  if (typeof value === "number" || typeof value === "boolean") {
    return Result.fail(
      `"${field}" is ${value}, a ${typeof value} and no text: a template has made it of the tag (1.10 becomes 1.1, 01 becomes 1). Put quotes around it`
    )
  }
  if (typeof value !== "string") return Result.fail(`"${field}" is no text`)
  if (value === "") return Result.fail(`"${field}" is empty. ${cause}`)
  if (absent.test(value)) {
    return Result.fail(`"${field}" is "${value}": a template has printed a value that is not there. ${cause}`)
  }
  return Result.mapError(GitRef.read(value), (why) => `the ref in "${field}" ${why}`)
}
