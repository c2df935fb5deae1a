import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import * as Access from "./Access.ts"
import type { LoadedResource } from "./GatewayModel.ts"

/** Files by path relative to the data directory. */
export type Files = Readonly<Record<string, string>>

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`

/** A resource's files: `config.json` and the `resource.json` that lists it. */
export const resource = (directory: string, config: unknown): Files => ({
  [`${directory}/config.json`]: json(config),
  [`${directory}/resource.json`]: json({
    scope: "A",
    version: 1,
    restricted: false,
    overridable: true,
    files: ["config.json"],
    attributes: { enabled: true }
  })
})

const collection = (name: string, parent: string): Files => ({
  [`config/resources/${name}/config-mode.json`]: json({
    title: name,
    description: "",
    enabled: true,
    inheritable: true,
    parent
  })
})

/** What a new installation brings along. */
export const minimal: Files = {
  ...collection("external", "system"),
  ...collection("core", "external"),
  ...collection("local", "core"),
  "config/local/ignition/gateway-network/uuid.txt": "00000000-0000-4000-8000-000000000000\n",
  "gateway.xml": "<properties/>\n",
  "ignition.conf": "wrapper.java.maxmemory=1024\n",
  "redundancy.xml": "<properties/>\n"
}

/** The mark of a commissioned installation (the real one holds its internal store there). */
const commissionedMark = "db/config.idb"
/** What the usual chart leaves to know that it has seeded this volume. */
const seededMark = ".ignition-seed-complete"

/**
 * How an empty volume gets its first files.
 *
 * - `image`: only when the volume holds nothing at all, so that what somebody put there earlier prevents it.
 * - `chart`: once a volume by `cp`, over what lies there already.
 */
export type SeedPolicy = "none" | "image" | "chart"

export interface Seed {
  readonly plant: Effect.Effect<void>
  readonly isCommissioned: Effect.Effect<boolean>
  /**
   * Leaves commissioning: default permissions and the default user source, over what the gateway had of its own.
   * `properties`: the security-properties in force.
   */
  readonly commission: (properties: LoadedResource | undefined) => Effect.Effect<void>
  readonly markCommissioned: Effect.Effect<void>
}

export const make = Effect.fnUntraced(function* (dataDir: string, policy: SeedPolicy, files: Files) {
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path

  const write = (name: string, content: string) =>
    Effect.andThen(
      fileSystem.makeDirectory(path.dirname(path.join(dataDir, name)), { recursive: true }),
      fileSystem.writeFileString(path.join(dataDir, name), content)
    )
  const writeAll = (all: Files) => Effect.forEach(Object.entries(all), ([name, content]) => write(name, content))
  const exists = (name: string) => fileSystem.exists(path.join(dataDir, name))

  const plant = Effect.gen(function* () {
    yield* fileSystem.makeDirectory(dataDir, { recursive: true })
    if (policy === "none") return
    if (policy === "chart") {
      if (yield* exists(seededMark)) return
      yield* writeAll({ ...files, [seededMark]: "" })
    } else if ((yield* fileSystem.readDirectory(dataDir)).length === 0) {
      yield* writeAll(files)
    }
  })

  const markCommissioned = write(commissionedMark, "")

  const seed: Seed = {
    plant: Effect.orDie(plant),
    isCommissioned: Effect.orDie(exists(commissionedMark)),
    markCommissioned: Effect.orDie(markCommissioned),
    commission: (properties) =>
      Effect.gen(function* () {
        // `external` is not the gateway's to write, and what it says there stays in force.
        const external = properties?.directory.startsWith("config/resources/external/")
        yield* writeAll({
          ...(external === true
            ? {}
            : resource("config/resources/core/ignition/security-properties", Access.defaultProperties)),
          ...resource("config/resources/core/ignition/user-source/default", { profile: { type: "internal" } }),
          ...resource("config/resources/core/ignition/identity-provider/default", { profile: { type: "ignition" } })
        })
        yield* markCommissioned
      }).pipe(Effect.orDie)
  }
  return seed
})
