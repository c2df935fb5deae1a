/**
 * What a profile makes of a commit: which file of the repository belongs where in the data directory, and which of our
 * files belong there no more. Pure; what lies on disk is compared in `Changes`.
 *
 * *Guarantees.* All or nothing: one problem and there is no plan. Nothing outside the data directory, nothing that an
 * exclude pattern matches, and of Ignition's own files only what a mapping names as an exact file. Deleted is only what
 * the inventory lists.
 */
import { Option, Result, Schema } from "effect"
import * as PathGlob from "../api/PathGlob.ts"
import * as Profile from "../api/Profile.ts"
import type { ScanKind } from "../ignition/GatewayClient.ts"
import type * as Inventory from "./Inventory.ts"
import * as Template from "./Template.ts"

/** A file of the commit. */
export interface TreeEntry {
  /** As git writes it: `100644`, `100755`, `120000` (symlink), `160000` (submodule). */
  readonly mode: string
  readonly id: string
  /** From the root of the repository. */
  readonly path: string
}

/** A mapping with its paths rendered and normalised: no slash at either end, `""` is the root. */
export interface Mapping {
  readonly source: string
  readonly destination: string
  readonly type: "dir" | "file" | undefined
  readonly required: boolean
  /** Written with a slash at its end: it can only be a folder. */
  readonly intoFolder: boolean
}

/** The halves of the data directory that the gateway scans, in the order in which it is asked to. */
export const scanKinds: ReadonlyArray<ScanKind> = ["projects", "config"]

/** Where a file comes from. */
export interface Source {
  /** Blob id. */
  readonly id: string
  /** Path in the repository. */
  readonly path: string
}

export interface Plan {
  /** By path in the data directory. */
  readonly files: ReadonlyMap<string, Source>
  readonly deletes: ReadonlyArray<string>
  /** Files of the inventory that are excluded now: neither written nor deleted, and still ours. */
  readonly kept: ReadonlyArray<string>
}

/** The commit cannot be applied with this profile, and nothing of it was. Somebody has to edit one or the other. */
export class PlanRefused extends Schema.TaggedError<PlanRefused>()("PlanRefused", {
  problems: Schema.NonEmptyArray(Schema.String)
}) {
  override get message(): string {
    const shown = this.problems.slice(0, mostShown)
    const more = this.problems.length - shown.length
    return `nothing was applied: ${shown.join("; ")}${more > 0 ? `; and ${more} more` : ""}`
  }
}
const mostShown = 5

/** Belongs to the gateway. Written only where a mapping names exactly this file, deleted never. */
export const neverTouched = [
  "**/.resources/**",
  "config/local/**",
  "config/resources/local/**",
  "config/ignition/**",
  "db/**",
  "var/**",
  "logs/**",
  "modules.json",
  "commissioning.json",
  "gateway.xml",
  "ignition.conf",
  "redundancy.xml",
  "**/*.idb"
]
/** Our own folder in the data directory, and what the Go agent leaves there. Not even as an exact file. */
export const ownFolder = ".stoker"
export const formerStaging = ".sync-staging"

/** A deletion of more than so many files, or more than half of at least so many, must be allowed. */
const massDeletion = { files: 500, share: 0.5, shareFrom: 20 }

/** The profile's mappings with their variables filled in. */
export const mappings = (
  profile: Profile.Effective,
  variables: Template.Variables
): Result.Result<ReadonlyArray<Mapping>, PlanRefused> => {
  const problems: Array<string> = []
  const rendered = profile.mappings.map((mapping, index): Mapping => {
    const place = `mapping ${index + 1} (${mapping.source} → ${mapping.destination})`
    const path = (field: "source" | "destination") => {
      const result = Template.render(mapping[field], variables)
      if (Result.isFailure(result)) {
        problems.push(`${place}: ${field}: ${result.failure.message}`)
        return ""
      }
      Option.map(Profile.pathProblem(result.success), (why) =>
        problems.push(`${place}: ${field} "${result.success}" ${why}`)
      )
      return result.success
    }
    if (mapping.template === true) problems.push(`${place}: "template: true" is not supported yet; remove it`)
    if ((mapping.patches ?? []).length > 0) problems.push(`${place}: "patches" are not supported yet; remove them`)
    const destination = path("destination")
    return {
      source: normalise(path("source")),
      destination: normalise(destination),
      type: mapping.type,
      required: mapping.required ?? false,
      intoFolder: destination.endsWith("/")
    }
  })
  if (rendered.length === 0) problems.push("the profile has no mappings; files stay as they are")
  return settle(problems, rendered)
}

/** Folders and files of the repository that the mappings read: what has to be listed. */
export const sources = (mappings: ReadonlyArray<Mapping>): ReadonlyArray<string> => [
  ...new Set(mappings.map(({ source }) => source))
]

export interface Input {
  readonly mappings: ReadonlyArray<Mapping>
  readonly excludePatterns: ReadonlyArray<string>
  /** All files at and below `sources`, each once, sorted by path. */
  readonly tree: ReadonlyArray<TreeEntry>
  /** The files we wrote, by path. */
  readonly inventory: Readonly<Record<string, Inventory.File>>
  readonly allowMassDeletion: boolean
}

export const make = (input: Input): Result.Result<Plan, PlanRefused> => {
  const problems: Array<string> = []
  const excluded = PathGlob.excludes(input.excludePatterns)
  const files = new Map<string, Source>()
  for (const mapping of input.mappings) overlay(mapping, input.tree, excluded, files, problems)
  clashes(files, problems)

  const gone = Object.keys(input.inventory).filter((path) => !files.has(path))
  const kept = gone.filter(excluded)
  const deletes = gone.filter((path) => !excluded(path) && !belongsToGateway(path))
  const known = Object.keys(input.inventory).length
  const many =
    deletes.length > massDeletion.files ||
    (known >= massDeletion.shareFrom && deletes.length > known * massDeletion.share)
  if (many && !input.allowMassDeletion) {
    problems.push(
      `${deletes.length} of ${known} files would be deleted, as ${deletes[0]}; if that is meant, set the annotation stoker.io/allow-mass-deletion on the GatewaySync to this commit`
    )
  }
  return settle(problems, { files, deletes, kept })
}

/** The ids of all contents. */
export const blobs = ({ files }: Plan): ReadonlyArray<string> => Array.from(files.values(), ({ id }) => id)

/** Whether this is what Git LFS commits in place of a file. */
export const isLfsPointer = (content: Uint8Array): boolean =>
  content.length < 1024 && Buffer.from(content.subarray(0, lfs.length)).equals(lfs)
const lfs = Buffer.from("version https://git-lfs.github.com/spec/")

export const lfsProblem = (path: string): string =>
  `${path} is a Git LFS pointer, not the file itself; commit the file without LFS, or exclude it (excludePatterns)`

/** Whether a file of the data directory is nobody's: no mapping produces it, none excludes it, the gateway does not own it. */
export const isUnmanaged = ({ files }: Plan, excludePatterns: ReadonlyArray<string>): ((path: string) => boolean) => {
  const excluded = PathGlob.excludes([...excludePatterns, `${ownFolder}/**`, `${formerStaging}/**`])
  return (path) => !files.has(path) && !excluded(path) && !belongsToGateway(path)
}

/** The kinds of scan that make the gateway see these paths. */
export const scansFor = (paths: Iterable<string>): ReadonlyArray<ScanKind> => {
  const touched = new Set(Array.from(paths, (path) => fold(path.slice(0, path.indexOf("/")))))
  return scanKinds.filter((kind) => touched.has(kind))
}

/** The value, unless there are problems. */
export const settle = <A>(problems: ReadonlyArray<string>, value: A): Result.Result<A, PlanRefused> => {
  const [first, ...rest] = problems
  return first === undefined ? Result.succeed(value) : Result.fail(new PlanRefused({ problems: [first, ...rest] }))
}

const normalise = (path: string): string =>
  path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")

const join = (folder: string, name: string): string => (folder === "" ? name : `${folder}/${name}`)

/** Adds what one mapping produces. */
const overlay = (
  mapping: Mapping,
  tree: ReadonlyArray<TreeEntry>,
  excluded: (path: string) => boolean,
  files: Map<string, Source>,
  problems: Array<string>
) => {
  const { destination, source } = mapping
  const place = `${source === "" ? "the repository" : source} → ${destination === "" ? "the data directory" : destination}`
  const exact = tree.find(({ path }) => path === source)
  const below = source === "" ? tree : tree.filter(({ path }) => path.startsWith(`${source}/`))
  const found = exact !== undefined ? "file" : below.length > 0 ? "dir" : undefined

  if (found === undefined) {
    const link = tree.find(({ mode, path }) => mode !== "100644" && source.startsWith(`${path}/`))
    if (link !== undefined) problems.push(`${place}: ${special(link)}`)
    else if (mapping.required) problems.push(`${place}: the source is required and not in the commit`)
    return
  }
  if (exact !== undefined && isSpecial(exact)) {
    problems.push(`${place}: ${special(exact)}`)
    return
  }
  if (mapping.type !== undefined && mapping.type !== found) {
    problems.push(`${place}: the mapping says type "${mapping.type}", and the source is a ${found}`)
    return
  }
  if (exact !== undefined) {
    if (mapping.intoFolder || destination === "") {
      problems.push(`${place}: the source is a file, so the destination must name a file, without a slash at its end`)
    } else add(exact, destination, true)
    return
  }
  for (const entry of below) {
    add(entry, join(destination, source === "" ? entry.path : entry.path.slice(source.length + 1)), false)
  }

  function add(entry: TreeEntry, path: string, isExact: boolean) {
    if (excluded(path) || (!isExact && belongsToGateway(path))) return
    const problem = isSpecial(entry) ? special(entry) : nameProblem(path)
    if (problem !== undefined) problems.push(`${place}: ${problem}`)
    else files.set(path, { id: entry.id, path: entry.path })
  }
}

const isSpecial = ({ mode }: TreeEntry): boolean => mode === "120000" || mode === "160000"

const special = ({ mode, path }: TreeEntry): string =>
  mode === "160000"
    ? `${path} is a submodule, whose files this commit does not hold; commit the files themselves, or exclude it`
    : `${path} is a symbolic link, which is never followed; commit the file itself, or exclude it`

const encoder = new TextEncoder()

const nameProblem = (path: string): string | undefined => {
  const problem = Option.getOrUndefined(Profile.pathProblem(path))
  if (problem !== undefined) return `"${path}" ${problem}`
  const parts = path.split("/")
  if ([ownFolder, formerStaging].includes(unmasked(parts[0]!))) return `${path} lies in a folder of Stoker's own`
  if (parts.some((part) => part.length > 85 && encoder.encode(part).length > 255)) {
    return `${path}: a name is longer than 255 bytes, which no file system takes`
  }
  return undefined
}

const gatewayOwns = PathGlob.excludes(neverTouched)
const belongsToGateway = (path: string): boolean => gatewayOwns(unmasked(path))

/** The plainest name by which a disk may find this path too: some ignore case, composition, and what cannot be seen. */
const unmasked = (path: string): string => fold(path.replace(/\p{Default_Ignorable_Code_Point}/gu, "").toUpperCase())

/** Two paths that are one on some file system, or one that is a file and a folder. */
const clashes = (files: ReadonlyMap<string, Source>, problems: Array<string>) => {
  const folded = new Map<string, string>()
  const note = (path: string) => {
    const key = fold(path)
    const other = folded.get(key)
    if (other === undefined) folded.set(key, path)
    else if (other !== path) {
      problems.push(
        `${other} and ${path} differ only in letter case or in how letters are composed, and are one name to Ignition or on some disks; rename one`
      )
    }
    return other === undefined
  }
  for (const path of files.keys()) {
    note(path)
    for (let end = path.lastIndexOf("/"); end > 0; end = path.lastIndexOf("/", end - 1)) {
      const folder = path.slice(0, end)
      if (files.has(folder))
        problems.push(`${folder} would be a file and, because of ${path}, a folder; change a mapping`)
      // Its own folders were seen with it.
      if (!note(folder)) break
    }
  }
}

/** One key for names that differ only in letter case or Unicode composition. */
export const fold = (path: string): string => path.normalize("NFC").toLowerCase()
