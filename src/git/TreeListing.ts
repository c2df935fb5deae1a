import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { GitError, type Reason } from "./GitError.ts"
import type { ObjectReader } from "./ObjectReader.ts"

export interface TreeEntry {
  /** `100644`, `100755`, `120000` (symlink), `160000` (submodule). */
  readonly mode: string
  readonly id: string
  /** From the root of the repository. */
  readonly path: string
}

/** Lists files of commits whose trees are in the store. Trees that the last listing saw are not read again. */
export const make = Effect.fnUntraced(function* (reader: ObjectReader, repository: string) {
  const known = yield* Ref.make<ReadonlyMap<string, Tree>>(new Map())
  const fail = (reason: Reason) => new GitError({ repository, reason })

  /** Adds those of the trees that are not among the seen, from the last listing or the store. */
  const readTrees = Effect.fnUntraced(function* (ids: ReadonlyArray<string>, seen: Map<string, Tree>) {
    const former = yield* Ref.get(known)
    const wanted = new Set(ids.filter((id) => !seen.has(id)))
    for (const id of wanted) {
      const tree = former.get(id)
      if (tree !== undefined) seen.set(id, tree)
    }
    yield* Stream.runForEach(reader.read([...wanted].filter((id) => !seen.has(id))), (object) => {
      if (object._tag === "Missing") return fail({ _tag: "Damaged", detail: `tree ${object.name} is missing` })
      seen.set(object.id, parse(object.content))
      return Effect.void
    })
  })

  /**
   * All files at and below the paths (`""` is the root), sorted by path, each once. A path that does not exist has none. A
   * symlink on the way to a path is given instead of what is behind it.
   */
  const list = Effect.fnUntraced(function* (commit: string, paths: ReadonlyArray<string>) {
    const [root] = yield* Stream.runCollect(reader.look([`${commit}^{tree}`]))
    if (root?._tag !== "Found") return yield* fail({ _tag: "Damaged", detail: `no tree of commit ${commit}` })
    const seen = new Map<string, Tree>()
    const found = new Map<string, TreeEntry>()
    // A level at a time: one question for all folders of the same depth.
    let level: ReadonlyArray<Folder> = [{ id: root.id, path: "", wanted: paths.map(segmentsOf) }]
    while (level.length > 0) {
      yield* readTrees(
        level.map(({ id }) => id),
        seen
      )
      const next: Array<Folder> = []
      for (const folder of level) {
        const tree = seen.get(folder.id)
        if (tree === "not UTF-8") {
          return yield* fail({ _tag: "Command", detail: `a file name in "${folder.path}" is not UTF-8` })
        }
        for (const { id, mode, name } of tree ?? []) {
          const wanted = below(folder.wanted, name)
          if (wanted.length === 0) continue
          const path = folder.path === "" ? name : `${folder.path}/${name}`
          if (mode === "40000") next.push({ id, path, wanted })
          // A file where a folder is wanted is no match; a link is, so that it can be refused.
          else if (mode === "120000" || wanted.some((rest) => rest.length === 0)) found.set(path, { mode, id, path })
        }
      }
      level = next
    }
    yield* Ref.set(known, seen)
    return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
  })

  return { list }
})

/** What a tree object holds. */
type Tree = ReadonlyArray<{ readonly mode: string; readonly name: string; readonly id: string }> | "not UTF-8"

interface Folder {
  readonly id: string
  readonly path: string
  /** The rest of each wanted path below this folder; an empty one wants everything. */
  readonly wanted: ReadonlyArray<ReadonlyArray<string>>
}

const segmentsOf = (path: string): ReadonlyArray<string> =>
  path.split("/").filter((part) => part !== "" && part !== ".")

/** What of the wanted paths lies at or below the entry of this name. */
const below = (wanted: ReadonlyArray<ReadonlyArray<string>>, name: string): ReadonlyArray<ReadonlyArray<string>> =>
  wanted.flatMap((segments) => {
    if (segments.length === 0) return [segments]
    return segments[0] === name ? [segments.slice(1)] : []
  })

const utf8 = new TextDecoder("utf-8", { fatal: true })

/** `<mode> <name>\0<20 bytes id>`, repeated. */
const parse = (content: Buffer): Tree => {
  const entries: Array<{ mode: string; name: string; id: string }> = []
  let offset = 0
  while (offset < content.length) {
    const space = content.indexOf(32, offset)
    const end = content.indexOf(0, space)
    const name = Result.try(() => utf8.decode(content.subarray(space + 1, end)))
    if (Result.isFailure(name)) return "not UTF-8"
    entries.push({
      mode: content.toString("latin1", offset, space),
      name: name.success,
      id: content.toString("hex", end + 1, end + 21)
    })
    offset = end + 21
  }
  return entries
}
