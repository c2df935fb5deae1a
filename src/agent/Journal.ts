/**
 * What is under way on the volume, written down before the first file changes: a start after a crash finishes it or
 * takes it back, and a scan that is owed is not forgotten.
 */
import { Effect, Option, Schema } from "effect"
import { ScanKind } from "../ignition/GatewayClient.ts"
import * as Inventory from "./Inventory.ts"
import { Volume } from "./Volume.ts"

const scans = Schema.Array(ScanKind)

/** Files are being changed. All paths are relative to the data directory. */
export const Apply = Schema.TaggedStruct("Apply", {
  /** Absent in the format before this one, and so are `staging` and `seen`. */
  origin: Schema.optionalKey(Inventory.Origin),
  /** Holds the new contents. */
  staging: Schema.optionalKey(Schema.String),
  /** Deleted first: they are in the way of what is written. */
  clear: Schema.Array(Schema.String),
  /** In this order. `staged`, below `staging`, holds the new content until it is renamed to `path`. */
  writes: Schema.Array(Schema.Struct({ path: Schema.String, staged: Schema.String, file: Inventory.File })),
  deletes: Schema.Array(Schema.String),
  /** What lay in place of `clear` and `deletes` when this was staged: what comes there later is not ours to delete. */
  seen: Schema.optionalKey(Schema.Record(Schema.String, Schema.Struct({ size: Schema.Int, modified: Schema.Finite }))),
  scans
})
export type Apply = typeof Apply.Type

/** The files are in place; the gateway has to be asked to look at them. */
export const Scan = Schema.TaggedStruct("Scan", { scans })
export type Scan = typeof Scan.Type

export const Journal = Schema.Union([Apply, Scan])
export type Journal = typeof Journal.Type

/** Written by nobody that we know of: anything may have been under way. */
export interface Unreadable {
  readonly _tag: "Unreadable"
}

const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Journal))
const file = ".stoker/journal.json"

export const load = Effect.gen(function* () {
  const volume = yield* Volume
  const [sight] = yield* volume.look([file])
  if (sight?._tag !== "File") return Option.none<Journal | Unreadable>()
  const text = Buffer.from(yield* volume.read(file)).toString()
  return Option.some(yield* Effect.orElseSucceed(decode(text), (): Journal | Unreadable => ({ _tag: "Unreadable" })))
})

/** What the files are of, once what is under way is complete. */
export const origin = Effect.gen(function* () {
  const journal = Option.getOrUndefined(yield* load)
  return journal?._tag === "Apply"
    ? Option.fromNullishOr(journal.origin)
    : Option.flatMapNullishOr(yield* Inventory.load, ({ origin }) => origin)
})

/** On the disk when it returns. */
export const save = (journal: Journal) =>
  Effect.flatMap(Volume, (volume) => volume.replace(file, JSON.stringify(journal)))

export const clear = Effect.flatMap(Volume, (volume) => volume.remove(file))
