/**
 * Globs over `/`-separated paths with the meaning of doublestar, which users' manifests were written for.
 * Effect's Glob does the matching; what differs from doublestar is evened out here.
 */
import { Glob, Option } from "effect"

/** What is wrong with a glob, if anything: the patterns that doublestar refuses are refused here too, never ignored. */
export const problem = (pattern: string): Option.Option<string> => {
  if (pattern === "") return Option.some("is empty")
  if (/(^|[^\\])(\\\\)*\\$/.test(pattern)) return Option.some("ends with a lone backslash")
  const bare = pattern.replace(/\\./g, "")
  let brace = 0
  let bracket = false
  for (const char of bare) {
    if (bracket) {
      if (char === "]") bracket = false
    } else if (char === "[") bracket = true
    else if (char === "{") brace++
    else if (char === "}" && --brace < 0) return Option.some('has a "}" without a "{"')
  }
  if (bracket) return Option.some('has a "[" without a "]"')
  if (brace > 0) return Option.some('has a "{" without a "}"')
  if (/\[[!^]?\]/.test(bare)) return Option.some("has an empty [] in it")
  return Option.none()
}

/** A compiled exclude list: true for a path that one of the patterns matches, or one of whose folders does. */
export const excludes = (patterns: ReadonlyArray<string>): ((path: string) => boolean) => {
  // A trailing slash means "this directory and what is below it" (doublestar never matches such a pattern).
  const globs = patterns.map((pattern) =>
    Glob.make(expandSingle(pattern.endsWith("/") ? pattern.slice(0, -1) : pattern), { dot: true })
  )
  const one = (candidate: string) => globs.some((compiled) => Glob.match(compiled, candidate))
  return (target) => {
    for (let end = target.indexOf("/"); end !== -1; end = target.indexOf("/", end + 1)) {
      if (one(target.slice(0, end))) return true
    }
    return one(target)
  }
}

/** `{a}` with a single alternative is that alternative in doublestar, and literal text in Effect's Glob. */
const expandSingle = (pattern: string): string =>
  pattern.replace(/(^|[^\\])\{([^{},\\]*)\}/g, (_, before, inner) => `${before}${inner}`)
