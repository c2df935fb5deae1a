/**
 * What may be called a ref: a branch, a tag or a full commit id, as a person or a forge writes it.
 * The rules are those of `git check-ref-format`, and a few more that keep a ref harmless as an annotation and as an
 * argument of a program.
 */
import { Result } from "effect"

/** A ref's kind at the remote. `commit` is a full id. */
export type Kind = "branch" | "tag" | "commit"

/** Bytes that a ref may have at most. Git's own limit is the file system's: 255 for each part. */
export const maxLength = 1024

const commit = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/
const encoder = new TextEncoder()

/** Whether the text is the id that forges write for "nothing": all zeros. */
export const isZero = (id: string): boolean => /^0{40}(?:0{24})?$/.test(id)

/** Whether the text is a full commit id: 40 hexadecimal digits in lower case, or 64 where a repository uses SHA-256. */
export const isCommit = (ref: string): boolean => commit.test(ref)

/**
 * The ref, or what is wrong with it in words that fit after "the ref". Nothing is trimmed or repaired: what is not a
 * legal name is refused at the door, before it can take a GatewaySync hostage.
 */
export const validate = (ref: string): Result.Result<string, string> => {
  const no = (why: string) => Result.fail(why)
  if (ref === "") return no("is empty")
  if (encoder.encode(ref).length > maxLength) return no(`is longer than ${maxLength} bytes`)
  if (!ref.isWellFormed()) return no("is not well-formed Unicode")
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020\u007f-\u00a0\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/.test(ref)) {
    return no("has a blank, a control character or a change of writing direction in it")
  }
  if (ref.startsWith("-")) return no('starts with "-"')
  if (/[~^:?*[\\]/.test(ref)) return no("has one of ~ ^ : ? * [ \\ in it")
  if (ref.includes("..") || ref.includes("@{")) return no('has ".." or "@{" in it')
  if (ref === "@" || ref === "HEAD" || isZero(ref)) return no("names no branch, tag or commit")
  if (ref.endsWith(".")) return no('ends with "."')
  for (const part of ref.split("/")) {
    if (part === "") return no('starts or ends with "/", or has "//" in it')
    if (part.startsWith(".")) return no('has a part that starts with "."')
    if (part.endsWith(".lock")) return no('has a part that ends with ".lock"')
  }
  return Result.succeed(ref)
}

/** A ref as forges send it: `refs/heads/x` and `refs/tags/x` by their short name, with the kind that the prefix tells. */
export const shorten = (ref: string): { readonly ref: string; readonly kind?: "branch" | "tag" } => {
  if (ref.startsWith("refs/heads/")) return { ref: ref.slice("refs/heads/".length), kind: "branch" }
  if (ref.startsWith("refs/tags/")) return { ref: ref.slice("refs/tags/".length), kind: "tag" }
  return { ref }
}

/**
 * A ref as people and forges write it, to the name that `spec.git.ref` would have: shortened and legal, with the kind
 * that its prefix tells; or what is wrong with it, in words that fit after "the ref".
 */
export const read = (
  text: string
): Result.Result<{ readonly ref: string; readonly kind?: "branch" | "tag" }, string> => {
  const short = shorten(text)
  // refs/pull/1/merge, refs/notes/x. A branch may be called refs/…, but then it comes as refs/heads/refs/….
  if (short.kind === undefined && text.startsWith("refs/")) {
    return Result.fail("is neither under refs/heads/ nor under refs/tags/")
  }
  return Result.map(validate(short.ref), () => short)
}

/** Equal but for a leading `v`: how `spec.git.ref: 2.0.0` catches up with a request for `v2.0.0`. */
export const sameVersion = (a: string, b: string): boolean => {
  const bare = (ref: string) => (ref.startsWith("v") ? ref.slice(1) : ref)
  return bare(a) === bare(b)
}
