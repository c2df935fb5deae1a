import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import { type BigIntStats, readdirSync, statSync } from "node:fs"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { setImmediate } from "node:timers/promises"
import type {
  GatewayModel,
  LoadedCollection,
  LoadedFile,
  LoadedProject,
  LoadedResource,
  ScanKind
} from "./GatewayModel.ts"

/** Something on disk that could not be loaded; `path` is relative to the data directory. */
export interface Fault {
  readonly path: string
  readonly message: string
}

/** A file whose content differs from the last reading; `at` (epoch ms) is when the file system saw the change. */
export interface Change {
  readonly path: string
  readonly at: number
}

export interface Reading {
  readonly model: GatewayModel
  readonly faults: ReadonlyArray<Fault>
}

/**
 * What lies in a gateway's data directory, read as a gateway reads it.
 *
 * What cannot be loaded keeps the version of `previous`, and is a fault. A file that did not change since (same inode,
 * size and change time) is not read again.
 */
export interface DataDirectory {
  readonly read: (kind: ScanKind, previous: GatewayModel) => Effect.Effect<Reading>
  /** When these files (gone ones: the directory they were in) last changed on disk. */
  readonly changedAt: (paths: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Change>>
}

const maxText = 16 * 1024

const ResourceManifest = Schema.fromJsonString(Schema.Struct({ files: Schema.Array(Schema.String) }))
const ProjectManifest = Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown))
const CollectionManifest = Schema.fromJsonString(Schema.Struct({ parent: Schema.optional(Schema.String) }))

const decodeResource = Schema.decodeUnknownOption(ResourceManifest)
const decodeProject = Schema.decodeUnknownOption(ProjectManifest)
const decodeCollection = Schema.decodeUnknownOption(CollectionManifest)
const decodeJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

/** Directories (relative to the data directory) → their files → what tells one version of a file from another. */
type Listing = ReadonlyMap<string, ReadonlyMap<string, string>>

export const make = (dataDir: string, resigns: boolean): DataDirectory => {
  const known = new Map<string, { readonly stamp: string; readonly resource: LoadedResource }>()
  const bytesOf = (path: string) => Fs.readFile(Path.join(dataDir, path))

  const resourceIn = async (
    directory: string,
    names: ReadonlyMap<string, string>
  ): Promise<LoadedResource | string> => {
    const stamp = JSON.stringify([...names].sort())
    const before = known.get(directory)
    if (before?.stamp === stamp) return before.resource
    const manifest = await bytesOf(`${directory}/resource.json`)
    const decoded = decodeResource(manifest.toString())
    if (Option.isNone(decoded)) return "resource.json is not a resource manifest"
    const files: Record<string, LoadedFile> = { "resource.json": toLoadedFile(manifest) }
    for (const name of decoded.value.files) {
      if (!names.has(name)) return `${name} is listed in resource.json and missing`
      const bytes = await bytesOf(`${directory}/${name}`)
      if (name.endsWith(".json") && Option.isNone(decodeJson(bytes.toString()))) return `Unable to deserialize ${name}`
      files[name] = toLoadedFile(bytes)
    }
    if (resigns && (await resign(Path.join(dataDir, directory, "resource.json"), manifest, files))) {
      files["resource.json"] = toLoadedFile(await bytesOf(`${directory}/resource.json`))
    }
    const resource = { directory, files }
    known.set(directory, { stamp, resource })
    return resource
  }

  /** All resources below `root`; those that cannot be loaded as they were before. */
  const resourcesIn = async (
    listing: Listing,
    root: string,
    previous: Readonly<Record<string, LoadedResource>>,
    faults: Array<Fault>
  ) => {
    const loaded: Record<string, LoadedResource> = {}
    for (const [directory, names] of listing) {
      if (!directory.startsWith(`${root}/`) || !names.has("resource.json")) continue
      const id = directory.slice(root.length + 1)
      const found = await resourceIn(directory, names).catch(unreadable)
      if (typeof found !== "string") {
        loaded[id] = found
        continue
      }
      faults.push({ path: directory, message: found })
      if (previous[id] !== undefined) loaded[id] = previous[id]
    }
    return loaded
  }

  const projects = async (previous: GatewayModel, faults: Array<Fault>): Promise<GatewayModel> => {
    const listing = await list(dataDir, "projects", (name) => name !== ".resources")
    const loaded: Record<string, LoadedProject> = {}
    for (const [name, directory] of holders(listing, "projects", "project.json")) {
      const before = previous.projects[name]
      if (Object.keys(loaded).some((other) => other.toLowerCase() === name.toLowerCase())) {
        faults.push({ path: directory, message: "another project has this name, but for its case" })
        continue
      }
      const bytes = await bytesOf(`${directory}/project.json`).catch(() => undefined)
      if (bytes === undefined || Option.isNone(decodeProject(bytes.toString()))) {
        faults.push({ path: directory, message: "project.json is not a project manifest" })
        if (before !== undefined) loaded[name] = before
        continue
      }
      const resources = await resourcesIn(listing, directory, before?.resources ?? {}, faults)
      loaded[name] = { directory, manifest: toLoadedFile(bytes), resources }
    }
    return { ...previous, projects: loaded }
  }

  const collections = async (previous: GatewayModel, faults: Array<Fault>): Promise<GatewayModel> => {
    const listing = await list(dataDir, "config/resources", () => true)
    const loaded: Record<string, LoadedCollection> = {}
    for (const [name, directory] of holders(listing, "config/resources", "config-mode.json")) {
      const before = previous.collections[name]
      const bytes = await bytesOf(`${directory}/config-mode.json`).catch(() => undefined)
      const decoded = decodeCollection(bytes?.toString())
      if (bytes === undefined || Option.isNone(decoded)) {
        faults.push({ path: directory, message: "config-mode.json is not a collection manifest" })
        if (before !== undefined) loaded[name] = before
        continue
      }
      const resources = await resourcesIn(listing, directory, before?.resources ?? {}, faults)
      loaded[name] = { directory, manifest: toLoadedFile(bytes), parent: decoded.value.parent ?? "system", resources }
    }
    return { ...previous, collections: loaded }
  }

  return {
    read: (kind, previous) =>
      Effect.promise(async () => {
        const faults: Array<Fault> = []
        const model = await (kind === "projects" ? projects(previous, faults) : collections(previous, faults))
        return { model, faults }
      }),
    changedAt: (paths) =>
      Effect.promise(() => Promise.all(paths.map(async (path) => ({ path, at: await changeTime(dataDir, path) }))))
  }
}

const Signed = Schema.fromJsonString(
  Schema.StructWithRest(
    Schema.Struct({ attributes: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown)) }),
    [Schema.Record(Schema.String, Schema.Unknown)]
  )
)
const decodeSigned = Schema.decodeUnknownOption(Signed)

/** Writes the signature that fits into a manifest, in place; false when it is there already. */
const resign = async (path: string, manifest: Buffer, files: Readonly<Record<string, LoadedFile>>) => {
  const { "resource.json": _, ...data } = files
  const lastModificationSignature = createHash("sha256")
    .update(JSON.stringify(Object.entries(data).map(([name, file]) => [name, file.sha256])))
    .digest("hex")
  const signed = decodeSigned(manifest.toString())
  if (Option.isNone(signed) || signed.value.attributes?.["lastModificationSignature"] === lastModificationSignature) {
    return false
  }
  const attributes = {
    ...signed.value.attributes,
    lastModification: { actor: "external" },
    lastModificationSignature
  }
  await Fs.writeFile(path, `${JSON.stringify({ ...signed.value, attributes }, null, 2)}\n`)
  return true
}

const toLoadedFile = (bytes: Buffer): LoadedFile => {
  const sha256 = createHash("sha256").update(bytes).digest("hex")
  if (bytes.length > maxText) return { sha256 }
  const text = bytes.toString("utf8")
  return Buffer.from(text).equals(bytes) ? { sha256, text } : { sha256 }
}

const stampOf = (stat: BigIntStats) => `${stat.ino}:${stat.size}:${stat.ctimeNs}`

const hasCode = Schema.is(Schema.Struct({ code: Schema.String }))

const unreadable = (cause: unknown) => `cannot be read (${hasCode(cause) ? cause.code : "unknown"})`

// Small synchronous steps cost a third of as many promises; every few of them others get their turn.
const stepsInARow = 50

/** The files below `root`, in order of their directories. What vanishes meanwhile is left out. */
const list = async (dataDir: string, root: string, enter: (name: string) => boolean): Promise<Listing> => {
  const found = new Map<string, ReadonlyMap<string, string>>()
  const ahead = [root]
  for (let directory = ahead.pop(); directory !== undefined; directory = ahead.pop()) {
    const files = new Map<string, string>()
    for (const entry of entriesOf(Path.join(dataDir, directory))) {
      const path = `${directory}/${entry.name}`
      if (entry.isDirectory()) {
        if (enter(entry.name)) ahead.push(path)
        continue
      }
      const stat = statSync(Path.join(dataDir, path), { bigint: true, throwIfNoEntry: false })
      if (stat?.isFile() === true) files.set(entry.name, stampOf(stat))
    }
    found.set(directory, files)
    if (found.size % stepsInARow === 0) await setImmediate()
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)))
}

const entriesOf = (directory: string) => {
  try {
    return readdirSync(directory, { withFileTypes: true })
  } catch {
    return []
  }
}

/** The directories directly below `root` that hold `manifest`: their names and paths. */
const holders = (listing: Listing, root: string, manifest: string): ReadonlyArray<readonly [string, string]> =>
  [...listing].flatMap(([directory, names]) => {
    const name = directory.slice(root.length + 1)
    return name !== "" && !name.includes("/") && names.has(manifest) ? [[name, directory] as const] : []
  })

const changeTime = async (dataDir: string, path: string): Promise<number> => {
  const stat = await Fs.stat(Path.join(dataDir, path)).catch(() => undefined)
  if (stat !== undefined) return stat.ctimeMs
  const parent = Path.dirname(path)
  return parent === path ? 0 : await changeTime(dataDir, parent)
}
