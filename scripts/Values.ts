/** The values of the chart as a table: what stands in `values.yaml`, with its comments. */
import { isMap, isScalar, isSeq, parseDocument, type Pair, type YAMLMap } from "yaml"

export interface Value {
  readonly path: string
  readonly preset: string
  readonly description: string
}

/** A comment of several lines as one; an example in it (a commented-out list) is left out. */
const prose = (comment: string | null | undefined): string =>
  (comment ?? "")
    // What stands before a blank line is about something else.
    .split(/\n\s*\n/)
    .at(-1)!
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !/^(- |host|paths|pathType|hosts|secretName)/.test(line))
    .join(" ")
    .replace(/:$/, ".")

const leaves = (map: YAMLMap, path: string): ReadonlyArray<Value> =>
  map.items.flatMap((pair: Pair, index) => {
    const { key, value } = pair
    if (!isScalar(key)) return []
    // The parser gives the comment of a map's first key to the map.
    const above = index === 0 && path !== "" ? map.commentBefore : key.commentBefore
    const own = prose(above)
    const name = path === "" ? String(key.value) : `${path}.${String(key.value)}`
    if (isMap(value) && value.items.length > 0) {
      const [first] = value.items
      const nested = leaves(value, name)
      // Said of the whole; the first leaf shows it unless it has words of its own.
      const describes = first !== undefined && nested[0] !== undefined && nested[0].description === ""
      return own === "" || !describes ? nested : [{ ...nested[0]!, description: own }, ...nested.slice(1)]
    }
    const preset = isMap(value) ? "{}" : isSeq(value) ? JSON.stringify(value.toJSON()) : JSON.stringify(toJson(value))
    return [{ path: name, preset, description: own }]
  })

const toJson = (value: unknown): unknown => (isScalar(value) ? value.value : value)

export const read = (text: string): ReadonlyArray<Value> => {
  const { contents } = parseDocument(text)
  return isMap(contents) ? leaves(contents, "") : []
}

const cell = (text: string) => text.replaceAll("|", "\\|")

export const table = (values: ReadonlyArray<Value>): string =>
  [
    "| value | default | |",
    "|---|---|---|",
    ...values.map(({ description, path, preset }) => `| \`${path}\` | \`${cell(preset)}\` | ${cell(description)} |`)
  ].join("\n")
