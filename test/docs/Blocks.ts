/** The fenced blocks of a page, each named by a comment above it: `<!-- block: name -->`. */
import { Effect, FileSystem, Ref } from "effect"

export interface Block {
  readonly name: string
  readonly language: string
  readonly text: string
}

const fence = /^(?:<!-- block: (?<name>.+?) -->\n)?```(?<language>\w*)\n(?<text>[\s\S]*?)^```$/gm

export const parse = (page: string): ReadonlyArray<Block> =>
  [...page.matchAll(fence)].map(({ groups }) => ({
    name: groups?.["name"] ?? "",
    language: groups?.["language"] ?? "",
    text: groups?.["text"] ?? ""
  }))

/** Hands out blocks by name, and knows which nobody asked for. */
export const read = Effect.fnUntraced(function* (file: string) {
  const page = yield* FileSystem.FileSystem.use((fileSystem) => fileSystem.readFileString(file))
  const blocks = parse(page)
  const used = yield* Ref.make<ReadonlySet<string>>(new Set())
  return {
    page,
    blocks,
    block: Effect.fnUntraced(function* (name: string) {
      yield* Ref.update(used, (names) => new Set(names).add(name))
      const found = blocks.filter((block) => block.name === name)
      return found.length === 1
        ? found[0]!.text
        : yield* Effect.die(new Error(`${file} has ${found.length} blocks "${name}"`))
    }),
    unused: Effect.map(Ref.get(used), (names) => blocks.filter(({ name }) => !names.has(name)))
  }
})
