/**
 * The files that the agent wrote itself, kept on the volume: the only ones that it ever deletes.
 */
import { Effect, Option, Schema } from "effect"
import { Volume } from "./Volume.ts"

export const File = Schema.Struct({
  /** Id of the git blob that the content is. */
  id: Schema.String,
  /** Bytes. */
  size: Schema.Int,
  /** Modification time after we wrote it, in epoch milliseconds. */
  modified: Schema.Finite
})
export type File = typeof File.Type

/** By path in the data directory. */
export const Files = Schema.Record(Schema.String, File)
export type Files = typeof Files.Type

/** What made the files: one commit, by one profile of one GatewaySync. */
export const Origin = Schema.Struct({
  commit: Schema.String,
  namespace: Schema.String,
  cr: Schema.String,
  profile: Schema.String,
  /** The map that named the commit, mappings and all. Absent in the format before this one. */
  metadata: Schema.optionalKey(Schema.Record(Schema.String, Schema.String))
})
export type Origin = typeof Origin.Type

/** Whether it is this agent's own profile of its own GatewaySync. */
export const isOf = (
  { cr, namespace, profile }: Origin,
  ours: { readonly crName: string; readonly crNamespace: string; readonly profile: string }
): boolean => cr === ours.crName && namespace === ours.crNamespace && profile === ours.profile

export const Inventory = Schema.Struct({
  version: Schema.Literal(1),
  /** Absent while the files may be of two commits: an apply could not be completed, and nothing was compared since. */
  origin: Schema.optionalKey(Origin),
  /** Instead of `origin` in the format before this one: whose profile it was is not known. */
  commit: Schema.optionalKey(Schema.String),
  files: Files
})
export type Inventory = typeof Inventory.Type

const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Inventory))
const file = ".stoker/applied.json"

/** None on a volume without one, or with one that is broken: then nothing is deleted. */
export const load = Effect.gen(function* () {
  const volume = yield* Volume
  const [sight] = yield* volume.look([file])
  if (sight?._tag !== "File") return Option.none<Inventory>()
  const text = Buffer.from(yield* volume.read(file)).toString()
  return yield* decode(text).pipe(
    Effect.map(Option.some),
    Effect.catch(() =>
      Effect.as(
        Effect.logWarning(`${file} cannot be read; files are adopted again, and nothing is deleted by the next sync`),
        Option.none<Inventory>()
      )
    )
  )
})

/** On the disk when it returns. (Encoding by the Schema would walk tens of thousands of files for the same text.) */
export const save = (inventory: Inventory) =>
  Effect.flatMap(Volume, (volume) => volume.replace(file, JSON.stringify(inventory)))

export const filesOf = (inventory: Option.Option<Inventory>): Files =>
  Option.match(inventory, { onNone: () => ({}), onSome: ({ files }) => files })
