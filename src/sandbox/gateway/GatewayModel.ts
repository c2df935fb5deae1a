import * as Schema from "effect/Schema"

/** `projects/` and `config/` are scanned on their own. */
export const ScanKind = Schema.Literals(["projects", "config"])
export type ScanKind = typeof ScanKind.Type

/** A file as the gateway read it. `text` is there when it is UTF-8 of at most 16 KiB. */
export const LoadedFile = Schema.Struct({ sha256: Schema.String, text: Schema.optional(Schema.String) })
export type LoadedFile = typeof LoadedFile.Type

/** A directory with a `resource.json`; `directory` is relative to the data directory. Only listed files belong to it. */
export const LoadedResource = Schema.Struct({
  directory: Schema.String,
  files: Schema.Record(Schema.String, LoadedFile)
})
export type LoadedResource = typeof LoadedResource.Type

/** Resources by `<module>/<type>/<name…>`. */
export const LoadedProject = Schema.Struct({
  directory: Schema.String,
  manifest: LoadedFile,
  resources: Schema.Record(Schema.String, LoadedResource)
})
export type LoadedProject = typeof LoadedProject.Type

/** A collection of `config/resources`, with the collection that it overrides. */
export const LoadedCollection = Schema.Struct({
  directory: Schema.String,
  manifest: LoadedFile,
  parent: Schema.String,
  resources: Schema.Record(Schema.String, LoadedResource)
})
export type LoadedCollection = typeof LoadedCollection.Type

/** Everything a gateway has loaded; what it works with, whatever lies on disk by now. */
export const GatewayModel = Schema.Struct({
  projects: Schema.Record(Schema.String, LoadedProject),
  collections: Schema.Record(Schema.String, LoadedCollection)
})
export type GatewayModel = typeof GatewayModel.Type

export const empty: GatewayModel = { projects: {}, collections: {} }

/** Every loaded file by its path relative to the data directory. */
export const filesOf = (model: GatewayModel): ReadonlyMap<string, LoadedFile> => {
  const files = new Map<string, LoadedFile>()
  for (const [manifest, holders] of [
    ["project.json", model.projects],
    ["config-mode.json", model.collections]
  ] as const) {
    for (const holder of Object.values(holders)) {
      files.set(`${holder.directory}/${manifest}`, holder.manifest)
      for (const resource of Object.values(holder.resources)) {
        for (const [name, file] of Object.entries(resource.files)) files.set(`${resource.directory}/${name}`, file)
      }
    }
  }
  return files
}

/** The collections that count, weakest first: the parents of `mode` (or of core), itself, and `local` last. */
export const collectionChain = (model: GatewayModel, mode: string): ReadonlyArray<string> => {
  const chain: Array<string> = []
  let name = model.collections[mode] === undefined ? "core" : mode
  while (model.collections[name] !== undefined && !chain.includes(name)) {
    chain.unshift(name)
    name = model.collections[name]?.parent ?? "system"
  }
  return model.collections["local"] === undefined || chain.includes("local") ? chain : [...chain, "local"]
}

/** The config resources in force, by `<module>/<type>/<name>`: of several collections the last of the chain wins. */
export const effectiveConfig = (model: GatewayModel, mode = "core"): Readonly<Record<string, LoadedResource>> =>
  Object.assign({}, ...collectionChain(model, mode).map((name) => model.collections[name]?.resources))

/** One config resource in force. */
export const configResource = (model: GatewayModel, id: string, mode = "core"): LoadedResource | undefined =>
  collectionChain(model, mode)
    .map((name) => model.collections[name]?.resources[id])
    .findLast((_) => _ !== undefined)
