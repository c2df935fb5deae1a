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
  const compiled = patterns.map((pattern) => {
    // A trailing slash means "this directory and what is below it" (doublestar never matches such a pattern).
    const bare = expandSingle(pattern.endsWith("/") ? pattern.slice(0, -1) : pattern)
    return { glob: Glob.make(bare, { dot: true }), literal: literalOf(bare) }
  })
  return (path) => {
    for (const { glob, literal } of compiled) {
      // Most paths hold the pattern's own words nowhere: twenty thousand of them must cost next to nothing.
      if (!path.includes(literal)) continue
      if (Glob.match(glob, path)) return true
      for (let end = path.indexOf("/"); end !== -1; end = path.indexOf("/", end + 1)) {
        if (Glob.match(glob, path.slice(0, end))) return true
      }
    }
    return false
  }
}

/** A text that every path that the pattern matches has in it; empty where there is none for sure. */
const literalOf = (pattern: string): string => {
  if (/[[\]{}\\]/.test(pattern)) return ""
  const runs = pattern.split(/[*?]+/).flatMap((run) => run.split("/"))
  return runs.reduce((longest, run) => (run !== "." && run.length > longest.length ? run : longest), "")
}

/** `{a}` with a single alternative is that alternative in doublestar, and literal text in Effect's Glob. */
const expandSingle = (pattern: string): string =>
  pattern.replace(/(^|[^\\])\{([^{},\\]*)\}/g, (_, before, inner) => `${before}${inner}`)
