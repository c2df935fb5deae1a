/**
 * Template variables in `source` and `destination`: the part of Go's text/template that paths need. Fields, the escape
 * `{{"{{"}}`, comments and trimming (`{{- -}}`) work as in Go; every other construct is an error that names it, never
 * silently something else.
 */
import { Result, Schema } from "effect"

/** What a template may name. `PodOrdinal` is a number in Go, and printed the same. */
export interface Variables {
  readonly GatewayName: string
  readonly PodName: string
  readonly PodOrdinal: number
  readonly Namespace: string
  readonly Ref: string
  readonly Commit: string
  readonly CRName: string
  readonly Labels: Readonly<Record<string, string>>
  readonly Vars: Readonly<Record<string, string>>
}

/** The template cannot be rendered. Nothing changes before somebody edits it (or adds the variable). */
export class TemplateError extends Schema.TaggedError<TemplateError>()("TemplateError", {
  template: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `template ${JSON.stringify(this.template)}: ${this.detail}`
  }
}

const scalars = ["GatewayName", "PodName", "PodOrdinal", "Namespace", "Ref", "Commit", "CRName"] as const
const maps = ["Labels", "Vars"] as const
const known = [...scalars, "Labels.<key>", "Vars.<key>"].map((name) => `.${name}`).join(" ")

/** `{{`, an optional trim mark, then a comment, or strings and other text up to the first `}}` outside of a string. */
const action =
  /\{\{(?<left>-(?=\s))?(?:\s*(?<comment>\/\*[\s\S]*?\*\/)\s*|(?<body>(?:"(?:[^"\\\n]|\\.)*"|`[^`]*`|(?!\}\})[^"`])*?))(?<right>(?<=\s)-)?\}\}/y

/** The text with every action replaced; text without `{{` comes back as it is. */
export const render = (template: string, variables: Variables): Result.Result<string, TemplateError> => {
  const fail = (detail: string) => Result.fail(new TemplateError({ template, detail }))
  let output = ""
  let trim = false
  let at = 0
  const text = (to: number) => {
    const piece = template.slice(at, to)
    output += trim ? piece.trimStart() : piece
  }
  for (let open = template.indexOf("{{"); open !== -1; open = template.indexOf("{{", at)) {
    action.lastIndex = open
    const groups = action.exec(template)?.groups
    if (groups === undefined) return fail("an action is not closed: there is a {{ without its }}")
    text(open)
    if (groups["left"] !== undefined) output = output.trimEnd()
    if (groups["comment"] === undefined) {
      const value = evaluate((groups["body"] ?? "").trim(), variables)
      if (Result.isFailure(value)) return fail(value.failure)
      output += value.success
    }
    trim = groups["right"] !== undefined
    at = action.lastIndex
  }
  text(template.length)
  return Result.succeed(output)
}

/** What an action stands for, or why it cannot be. */
const evaluate = (body: string, variables: Variables): Result.Result<string, string> => {
  if (body === "") return Result.fail("missing value for command")
  const quoted = literal(body)
  if (quoted !== undefined) return Result.succeed(quoted)
  const chain = /^(?:\.[\p{L}_][\p{L}\p{N}_]*)+$/u.test(body) ? body.slice(1).split(".") : undefined
  return chain === undefined ? Result.fail(unsupported(body)) : field(chain, variables)
}

const field = ([name = "", ...rest]: ReadonlyArray<string>, variables: Variables): Result.Result<string, string> => {
  const scalar = scalars.find((one) => one === name)
  if (scalar !== undefined) {
    if (rest.length > 0) return Result.fail(`can't evaluate field ${rest[0]} in .${scalar}: it is a single value`)
    return Result.succeed(String(variables[scalar]))
  }
  const map = maps.find((one) => one === name)
  if (map === undefined) return Result.fail(`can't evaluate field ${name}: there are only ${known}`)
  const [key, ...below] = rest
  if (key === undefined) return Result.fail(`.${map} needs a key, as in {{.${map}.site}}`)
  // Only own keys: `constructor` is no variable.
  if (!Object.hasOwn(variables[map], key)) return Result.fail(`map has no entry for key "${key}"`)
  if (below.length > 0) return Result.fail(`can't evaluate field ${below[0]} in .${map}.${key}: it is a single value`)
  return Result.succeed(variables[map][key]!)
}

/** The value of a string in quotes or backquotes; undefined when the text is none, or has an escape that JSON lacks. */
const literal = (body: string): string | undefined => {
  if (/^`[^`]*`$/.test(body)) return body.slice(1, -1)
  if (!/^"(?:[^"\\\n]|\\["\\nrt/]|\\u[0-9a-fA-F]{4})*"$/.test(body)) return undefined
  return String(JSON.parse(body.replaceAll("\t", "\\t")))
}

const keywords = new Set("if else end range with define template block break continue".split(" "))

const unsupported = (body: string): string => {
  const word = /^[\p{L}_][\p{L}\p{N}_]*/u.exec(body)?.[0]
  if (word !== undefined && keywords.has(word)) return `{{${word}}} is not supported, only ${known}`
  if (/[|]/.test(body)) return `a pipeline ("|") is not supported, only ${known}`
  if (/\$|:=/.test(body)) return `a template variable ("$") is not supported, only ${known}`
  if (word !== undefined) return `the function "${word}" is not supported, only ${known}`
  const bad = /^(?:\.[\p{L}_][\p{L}\p{N}_]*)*\.?[\p{L}\p{N}_]*(.)/u.exec(body)?.[1]
  if (body.startsWith(".") && bad !== undefined && !/[\s.]/.test(bad)) {
    const code = bad.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")
    return `bad character U+${code} '${bad}': a key that is no identifier cannot be reached`
  }
  return `"${body}" is not supported, only ${known}`
}
