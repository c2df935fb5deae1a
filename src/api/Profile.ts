/**
 * Profiles: what of the repository goes where on a gateway.
 * A profile is written by users in `spec.sync.profiles`; merged with `spec.sync.defaults` it goes to the agents.
 */
import { Effect, Option, Schema } from "effect"
import * as PathGlob from "./PathGlob.ts"

/** A field that has a default: in the CRD for objects that the API server stores, here for those that it stored before. */
const withDefault = <S extends Schema.Top>(schema: S, value: S["Encoded"] & S["Type"], description: string) =>
  schema.annotate({ description, default: value }).pipe(Schema.withDecodingDefaultKey(Effect.succeed(value)))

const path = Schema.String.pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(1024)))
const glob = Schema.String.pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(512)))
const identifier = /^[A-Za-z_][A-Za-z0-9_]*$/

export const Patch = Schema.Struct({
  file: Schema.optionalKey(
    glob.annotate({
      description: "Glob (doublestar) of the JSON files to patch, relative to the mapping's destination."
    })
  ),
  set: Schema.Record(Schema.String, Schema.String.pipe(Schema.check(Schema.isMaxLength(4096))))
    .pipe(Schema.check(Schema.isMinProperties(1), Schema.isMaxProperties(64)))
    .annotate({
      description:
        "Path (sjson) to value. The value may hold template variables; a valid JSON literal is that JSON value, anything else a string."
    })
})
export type Patch = typeof Patch.Type

export const Mapping = Schema.Struct({
  source: path.annotate({
    description: "File or folder in the repository: relative, without `..`. May hold template variables."
  }),
  destination: path.annotate({
    description: "Where it goes, relative to the gateway's data directory, without `..`. May hold template variables."
  }),
  type: Schema.optionalKey(
    Schema.Literals(["dir", "file"]).annotate({
      description: "What the source is; inferred when absent, an error when wrong."
    })
  ),
  required: Schema.optionalKey(
    Schema.Boolean.annotate({
      description: "Whether a missing source is an error (true) or skipped (false, the default)."
    })
  ),
  template: Schema.optionalKey(
    Schema.Boolean.annotate({ description: "Whether the contents of the files are rendered as templates." })
  ),
  patches: Schema.optionalKey(
    Schema.Array(Patch)
      .pipe(Schema.check(Schema.isMaxLength(64)))
      .annotate({ description: "Values to set in JSON files." })
  )
})
export type Mapping = typeof Mapping.Type

export const Mappings = Schema.Array(Mapping)
  .pipe(Schema.check(Schema.isMinLength(1), Schema.isMaxLength(64)))
  .annotate({ description: "In order: a later mapping overlays an earlier one." })

export const ExcludePatterns = Schema.Array(glob).pipe(Schema.check(Schema.isMaxLength(128)))
export const Vars = Schema.Record(Schema.String, Schema.String.pipe(Schema.check(Schema.isMaxLength(4096)))).pipe(
  Schema.check(Schema.isMaxProperties(256))
)
export const SyncPeriod = Schema.Int.pipe(Schema.check(Schema.isBetween({ minimum: 5, maximum: 3600 })))
export const DesignerSessionPolicy = Schema.Literals(["proceed", "wait", "fail"])
export type DesignerSessionPolicy = typeof DesignerSessionPolicy.Type

export const defaultExcludePatterns: ReadonlyArray<string> = ["**/.git/", "**/.gitkeep", "**/.resources/**"]

/** `spec.sync.defaults`. */
export const Defaults = Schema.Struct({
  excludePatterns: withDefault(
    ExcludePatterns,
    [...defaultExcludePatterns],
    "Globs (doublestar) of destinations that are neither written nor deleted."
  ),
  vars: Schema.optionalKey(
    Vars.annotate({ description: "Template variables `.Vars.<key>` of every profile; keys are identifiers." })
  ),
  syncPeriod: withDefault(SyncPeriod, 30, "Seconds between an agent's own looks at what it should have (5–3600)."),
  designerSessionPolicy: withDefault(
    DesignerSessionPolicy,
    "proceed",
    "What to do while a Designer session is open: proceed, wait (up to 5 minutes), fail. Agents only proceed so far, and say so."
  ),
  dryRun: withDefault(Schema.Boolean, false, "Only count what would change."),
  paused: withDefault(Schema.Boolean, false, "Leave the gateways as they are.")
})
export type Defaults = typeof Defaults.Type

/** One entry of `spec.sync.profiles`. */
export const Profile = Schema.Struct({
  mappings: Mappings,
  excludePatterns: Schema.optionalKey(ExcludePatterns.annotate({ description: "Added to those of the defaults." })),
  vars: Schema.optionalKey(Vars.annotate({ description: "Each key wins over that of the defaults." })),
  syncPeriod: Schema.optionalKey(SyncPeriod.annotate({ description: "Overrides the defaults (seconds, 5–3600)." })),
  designerSessionPolicy: Schema.optionalKey(DesignerSessionPolicy.annotate({ description: "Overrides the defaults." })),
  dryRun: Schema.optionalKey(Schema.Boolean.annotate({ description: "Overrides the defaults." })),
  paused: Schema.optionalKey(Schema.Boolean.annotate({ description: "Overrides the defaults." }))
})
export type Profile = typeof Profile.Type

export const Profiles = Schema.Record(Schema.String, Profile).pipe(
  Schema.check(Schema.isMinProperties(1), Schema.isMaxProperties(64))
)
export type Profiles = typeof Profiles.Type

/** A profile with the defaults merged in: what an agent works with. */
export const Effective = Schema.Struct({
  mappings: Schema.Array(Mapping),
  excludePatterns: Schema.optionalKey(Schema.Array(Schema.String)),
  vars: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
  syncPeriod: withDefault(Schema.Int, 30, "Seconds."),
  dryRun: withDefault(Schema.Boolean, false, ""),
  designerSessionPolicy: withDefault(DesignerSessionPolicy, "proceed", ""),
  paused: withDefault(Schema.Boolean, false, "")
})
export type Effective = typeof Effective.Type

/** Defaults and profile in one: exclude patterns are added, variables merged by key, everything else overridden. */
export const effective = (defaults: Defaults, profile: Profile): Effective => {
  const vars = { ...defaults.vars, ...profile.vars }
  const excludePatterns = [...new Set([...defaults.excludePatterns, ...(profile.excludePatterns ?? [])])]
  return {
    mappings: profile.mappings,
    ...(excludePatterns.length === 0 ? {} : { excludePatterns }),
    ...(Object.keys(vars).length === 0 ? {} : { vars }),
    syncPeriod: profile.syncPeriod ?? defaults.syncPeriod,
    dryRun: profile.dryRun ?? defaults.dryRun,
    designerSessionPolicy: profile.designerSessionPolicy ?? defaults.designerSessionPolicy,
    paused: profile.paused ?? defaults.paused
  }
}

/** What is wrong with a path once it is rendered, if anything: empty, absolute and `..` are refused. */
export const pathProblem = (text: string): Option.Option<string> => {
  if (text === "") return Option.some("is empty")
  if (text.startsWith("/")) return Option.some("is an absolute path")
  if (text.split("/").includes("..")) return Option.some('has ".." in it')
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f\\]/.test(text)) return Option.some("has a control character or a backslash in it")
  return Option.none()
}

/**
 * What the API server did not refuse but an agent could not work with, each as a sentence that names the place.
 * Empty when the profiles are valid.
 */
export const problems = (defaults: Defaults, profiles: Profiles): ReadonlyArray<string> => {
  const found: Array<string> = []
  const vars = (place: string, record: Readonly<Record<string, string>> | undefined) => {
    for (const key of Object.keys(record ?? {})) {
      if (!identifier.test(key)) {
        found.push(`${place}.vars: "${key}" is no identifier; use letters, digits and _, not starting with a digit`)
      }
    }
  }
  const globs = (place: string, patterns: ReadonlyArray<string> | undefined) => {
    for (const pattern of patterns ?? []) {
      Option.map(PathGlob.problem(pattern), (why) => found.push(`${place}: the pattern "${pattern}" ${why}`))
    }
  }
  vars("sync.defaults", defaults.vars)
  globs("sync.defaults.excludePatterns", defaults.excludePatterns)
  const names = Object.keys(profiles)
  if (names.length === 0) found.push("sync.profiles: there is no profile; add at least one")
  for (const name of names) {
    const profile = profiles[name]!
    const place = `sync.profiles.${name}`
    vars(place, profile.vars)
    globs(`${place}.excludePatterns`, profile.excludePatterns)
    if (profile.mappings.length === 0) found.push(`${place}.mappings: there is no mapping; add at least one`)
    profile.mappings.forEach((mapping, index) => {
      for (const field of ["source", "destination"] as const) {
        Option.map(pathProblem(mapping[field]), (why) =>
          found.push(
            `${place}.mappings[${index}].${field}: "${mapping[field]}" ${why}; give a path inside the ${field === "source" ? "repository" : "data directory"}`
          )
        )
      }
      for (const patch of mapping.patches ?? []) {
        if (patch.file !== undefined) globs(`${place}.mappings[${index}].patches.file`, [patch.file])
        if (Object.keys(patch.set).length === 0) found.push(`${place}.mappings[${index}].patches: "set" is empty`)
      }
    })
  }
  return found
}
