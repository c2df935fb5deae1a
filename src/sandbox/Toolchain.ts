/**
 * Finds the native programs that the sandbox runs on, in this order:
 *
 * 1. `KUBEBUILDER_ASSETS`, a folder of them;
 * 2. `PATH` (what `nix develop` gives);
 * 3. the cache: `STOKER_CACHE_DIR`, else `$XDG_CACHE_HOME/stoker`, else `~/.cache/stoker`;
 * 4. the archive that controller-tools publishes for envtest, its checksum verified (API server and etcd);
 * 5. a build from Go modules, where `go` is there: works where only a module proxy is reachable;
 * 6. for nginx instead of 4 and 5: Debian's package, where `apt-get` is there, taken apart without being installed.
 *
 * What 4 to 6 bring is run once before it goes into the cache, by one atomic rename.
 */
import {
  Array,
  Clock,
  Config,
  Console,
  Context,
  Effect,
  FileSystem,
  Layer,
  Option,
  Order,
  Path,
  Schedule,
  Schema
} from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { createHash } from "node:crypto"
import { parse as parseYaml } from "yaml"
import * as Checkout from "./Checkout.ts"
import { Processes } from "./Processes.ts"

export const Tool = Schema.Literals(["kube-apiserver", "etcd", "helm", "kubectl", "kube-controller-manager", "nginx"])
export type Tool = typeof Tool.Type

/** None of the ways gave the tool. A person has to act: the message lists the ways and why each failed. */
export class ToolMissing extends Schema.TaggedError<ToolMissing>()("ToolMissing", {
  tool: Tool,
  tried: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return [
      `The sandbox needs ${this.tool} (${recipes[this.tool].version}) and did not get it in any way:`,
      ...this.tried.map((why) => `  - ${why}`),
      `Any one of these helps: put ${this.tool} on PATH (nix develop does), set KUBEBUILDER_ASSETS to a folder that has it,`,
      recipes[this.tool].from === "go"
        ? "or install Go 1.26 with a reachable module proxy and run again."
        : "or run where apt-get reaches the packages of Debian or Ubuntu."
    ].join("\n")
  }
}

export class Toolchain extends Context.Service<
  Toolchain,
  {
    /** The path of the program; the first call may take minutes and shows its progress on standard error. */
    readonly find: (tool: Tool) => Effect.Effect<string, ToolMissing>
    /** Makes sure that everything the sandbox always needs is there. */
    readonly prepare: Effect.Effect<void, ToolMissing>
  }
>()("stoker/sandbox/Toolchain") {
  static readonly layerNoDeps = Layer.effect(
    Toolchain,
    Effect.gen(function* () {
      const fileSystem = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const processes = yield* Processes
      const http = HttpClient.filterStatusOk(yield* HttpClient.HttpClient)
      const checkout = yield* Checkout.root
      const { assets, cacheFolder, searchPath } = yield* Settings

      const onSearchPath = { env: { PATH: searchPath.join(":") }, extendEnv: true }

      const cached = (tool: Tool) => path.resolve(cacheFolder, tool, recipes[tool].version, tool)

      const runs = (tool: Tool, file: string) =>
        spawner.exitCode(ChildProcess.make(file, recipes[tool].check)).pipe(
          Effect.timeout("30 seconds"),
          Effect.map((code) => code === 0),
          Effect.orElseSucceed(() => false)
        )

      const verified = Effect.fnUntraced(function* (tool: Tool, file: string) {
        if (!(yield* runs(tool, file))) return yield* new WayFailed({ why: `${file} does not run` })
        return file
      })

      const fromFolder = (tool: Tool, folder: string) =>
        Effect.flatMap(
          Effect.orElseSucceed(fileSystem.exists(path.join(folder, tool)), () => false),
          (exists) =>
            exists
              ? verified(tool, path.join(folder, tool))
              : Effect.fail(new WayFailed({ why: `there is none in ${folder}` }))
        )

      const fromAssets = (tool: Tool) =>
        Option.match(assets, {
          onNone: () => Effect.fail(new WayFailed({ why: "KUBEBUILDER_ASSETS is not set" })),
          onSome: (folder) => fromFolder(tool, folder)
        })

      const fromPath = (tool: Tool) =>
        Effect.firstSuccessOf([
          ...searchPath.map((folder) => fromFolder(tool, folder)),
          Effect.fail(new WayFailed({ why: "PATH has none that runs" }))
        ])

      const fromCache = (tool: Tool) =>
        Effect.flatMap(
          Effect.orElseSucceed(fileSystem.exists(cached(tool)), () => false),
          (exists) =>
            exists
              ? // A package is linked to libraries of this machine, which may have been upgraded since.
                recipes[tool].from === "debian"
                ? verified(tool, cached(tool))
                : Effect.succeed(cached(tool))
              : Effect.fail(new WayFailed({ why: `the cache has no ${cached(tool)}` }))
        )

      /** From a scratch folder into the cache, by one rename, once it has shown that it runs. */
      const publish = Effect.fnUntraced(function* (tool: Tool, file: string) {
        yield* fileSystem.chmod(file, 0o755)
        yield* verified(tool, file)
        yield* fileSystem.rename(file, cached(tool))
        return cached(tool)
      })

      const scratch = Effect.fnUntraced(function* (tool: Tool) {
        const folder = path.dirname(cached(tool))
        yield* fileSystem.makeDirectory(folder, { recursive: true })
        return yield* processes.folder(".scratch-", folder)
      })

      const downloaded = yield* Effect.cached(
        Effect.gen(function* () {
          const index = yield* http.get(envtestIndex).pipe(
            Effect.flatMap((response) => response.text),
            Effect.timeout("4 seconds"),
            Effect.flatMap((text) => Effect.try(() => parseYaml(text, everyScalarIsText))),
            Effect.flatMap(decodeIndex)
          )
          const found = newestArchive(index, platform)
          if (Option.isNone(found)) return yield* new WayFailed({ why: `nothing is published for ${platform}` })
          const archive = found.value
          yield* Console.error(`Downloading ${archive.selfLink} …`)
          const bytes = yield* http.get(archive.selfLink).pipe(
            Effect.flatMap((response) => response.arrayBuffer),
            Effect.map((buffer) => new Uint8Array(buffer)),
            Effect.timeout("5 minutes")
          )
          if (createHash("sha512").update(bytes).digest("hex") !== archive.hash) {
            return yield* new WayFailed({ why: `${archive.selfLink} does not have the checksum of its index` })
          }
          return bytes
        })
      )

      const fromDownload = Effect.fnUntraced(
        function* (tool: Tool, recipe: GoRecipe) {
          if (!recipe.inEnvtest) return yield* new WayFailed({ why: "no archive is published for it" })
          const bytes = yield* downloaded
          const folder = yield* scratch(tool)
          const archive = path.join(folder, "envtest.tar.gz")
          yield* fileSystem.writeFile(archive, bytes)
          const code = yield* spawner.exitCode(ChildProcess.make("tar", ["-xzf", archive, "-C", folder]))
          if (code !== 0) return yield* new WayFailed({ why: `tar cannot unpack ${archive}` })
          return yield* publish(tool, path.join(folder, "controller-tools", "envtest", tool))
        },
        Effect.scoped,
        Effect.mapError((error) => new WayFailed({ why: `download: ${error.message}` }))
      )

      /**
       * One build of a tool at a time on this machine: a folder is the lock, its time shows that the holder lives.
       * Answers what the holder has to do now and then.
       */
      const withBuildLock = Effect.fnUntraced(function* (tool: Tool) {
        const lock = `${cached(tool)}.lock`
        const take = Effect.acquireRelease(fileSystem.makeDirectory(lock), () =>
          Effect.ignore(fileSystem.remove(lock, { recursive: true }))
        )
        const isAbandoned = Effect.gen(function* () {
          const { mtime } = yield* fileSystem.stat(lock)
          const now = yield* Clock.currentTimeMillis
          return Option.exists(mtime, (date) => now - date.getTime() > 30_000)
        })
        yield* take.pipe(
          Effect.catchIf(isTaken, (taken) =>
            Effect.flatMap(isAbandoned, (abandoned) =>
              // Two may do this at once; then both build, and each rename is whole.
              abandoned ? Effect.andThen(fileSystem.remove(lock, { recursive: true }), take) : Effect.fail(taken)
            )
          ),
          Effect.tapError(() => Console.error(`Another run builds ${tool}; waiting for it …`)),
          Effect.retry({ schedule: Schedule.spaced("2 seconds"), while: isTaken })
        )
        return Effect.flatMap(Clock.currentTimeMillis, (now) =>
          Effect.ignore(fileSystem.utimes(lock, now / 1000, now / 1000))
        )
      })

      const fromGo = Effect.fnUntraced(
        function* (tool: Tool, recipe: GoRecipe) {
          const hasGo = yield* spawner.exitCode(ChildProcess.make("go", ["version"], onSearchPath)).pipe(
            Effect.map((code) => code === 0),
            Effect.orElseSucceed(() => false)
          )
          if (!hasGo) return yield* new WayFailed({ why: "there is no go on PATH" })
          const folder = yield* scratch(tool)
          const keepLock = yield* withBuildLock(tool)
          const inTheMeantime = yield* Effect.option(fromCache(tool))
          if (Option.isSome(inTheMeantime)) return inTheMeantime.value

          const build = yield* processes.start({
            name: "go-build",
            logFolder: folder,
            command: "go",
            args: ["build", "-mod=readonly", "-buildvcs=false", "-trimpath"].concat(
              ["-ldflags", `-s -w ${recipe.stamp}`.trimEnd()],
              ["-o", path.join(folder, tool), recipe.package]
            ),
            cwd: path.join(checkout, "src", "sandbox", "control-plane", recipe.module),
            env: { ...onSearchPath.env, CGO_ENABLED: "0", GOFLAGS: undefined, GOWORK: "off" }
          })
          const since = yield* Clock.currentTimeMillis
          yield* Effect.flatMap(Clock.currentTimeMillis, (now) =>
            Console.error(
              `Building ${tool} ${recipe.version} from Go modules (once, ${recipe.takes}) … ${Math.round((now - since) / 1000)} s`
            )
          ).pipe(Effect.andThen(keepLock), Effect.repeat(Schedule.spaced("10 seconds")), Effect.forkScoped)
          const { success, how } = yield* build.ended
          if (!success) return yield* build.fail(how)
          return yield* publish(tool, path.join(folder, tool))
        },
        Effect.scoped,
        Effect.mapError((error) => new WayFailed({ why: `build from Go modules: ${error.message}` }))
      )

      const fromDebian = Effect.fnUntraced(
        function* (tool: Tool, recipe: DebianRecipe) {
          const folder = yield* scratch(tool)
          yield* fileSystem.makeDirectory(path.join(folder, "lists"))
          yield* Console.error(`Fetching ${tool} from its Debian package (once, some seconds) …`)
          const apt = yield* processes.start({
            name: "apt-get",
            logFolder: folder,
            command: "/bin/sh",
            args: ["-c", unpackPackage, "sh", recipe.package],
            cwd: folder,
            env: onSearchPath.env
          })
          const { success, how } = yield* Effect.timeout(apt.ended, "2 minutes")
          if (!success) return yield* apt.fail(how)
          return yield* publish(tool, path.join(folder, recipe.file))
        },
        Effect.scoped,
        Effect.mapError((error) => new WayFailed({ why: `Debian's package: ${error.message}` }))
      )

      const find = Effect.fnUntraced(function* (tool: Tool) {
        const recipe = recipes[tool]
        const made =
          recipe.from === "go" ? [fromDownload(tool, recipe), fromGo(tool, recipe)] : [fromDebian(tool, recipe)]
        const tried: Array<string> = []
        for (const way of [fromAssets(tool), fromPath(tool), fromCache(tool), ...made]) {
          const file = yield* Effect.result(way)
          if (file._tag === "Success") return file.success
          tried.push(file.failure.why)
        }
        return yield* new ToolMissing({ tool, tried })
      })

      return Toolchain.of({
        find,
        prepare: Effect.forEach(["kube-apiserver", "etcd", "helm"] as const, find, { discard: true })
      })
    })
  )

  static readonly layer = this.layerNoDeps.pipe(Layer.provide(FetchHttpClient.layer))
}

interface GoRecipe {
  readonly from: "go"
  readonly version: string
  /** A folder of `control-plane/` with a `go.mod`. */
  readonly module: string
  /** What to build in that module. */
  readonly package: string
  /** Linker flags that tell the program its version. */
  readonly stamp: string
  /** Arguments that make it print its version and end well. */
  readonly check: ReadonlyArray<string>
  readonly inEnvtest: boolean
  /** On two cores, for people. */
  readonly takes: string
}

interface DebianRecipe {
  readonly from: "debian"
  /** Whichever the machine's release of Debian has. */
  readonly version: string
  readonly package: string
  /** In the package. */
  readonly file: string
  /** Arguments that make it print its version and end well. */
  readonly check: ReadonlyArray<string>
}

/** Gets a package's files into this folder. The lists are fresh, and not the machine's, which are root's to change. */
const unpackPackage = `
apt() { apt-get -qq -o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD" -o APT::Sandbox::User=root "$@"; }
apt -o Acquire::Languages=none update # one mirror that fails need not matter
apt download "$1" && dpkg-deb -x "$1"_*.deb .`

const kubernetes = {
  from: "go" as const,
  version: "v1.36.3",
  module: "kubernetes",
  stamp: "-X k8s.io/component-base/version.gitVersion=v1.36.3",
  check: ["--version"]
}

const recipes: Readonly<Record<Tool, GoRecipe | DebianRecipe>> = {
  "kube-apiserver": {
    ...kubernetes,
    package: "k8s.io/kubernetes/cmd/kube-apiserver",
    inEnvtest: true,
    takes: "about 3 minutes"
  },
  "kube-controller-manager": {
    ...kubernetes,
    package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    inEnvtest: false,
    takes: "about a minute"
  },
  kubectl: {
    ...kubernetes,
    package: "k8s.io/kubernetes/cmd/kubectl",
    check: ["version", "--client"],
    inEnvtest: true,
    takes: "about a minute"
  },
  etcd: {
    from: "go",
    version: "v3.7.3",
    module: "etcd",
    package: ".",
    stamp: "",
    check: ["--version"],
    inEnvtest: true,
    takes: "about half a minute"
  },
  helm: {
    from: "go",
    version: "v4.3.1",
    module: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    stamp: "-X helm.sh/helm/v4/internal/version.version=v4.3.1",
    check: ["version"],
    inEnvtest: false,
    takes: "about a minute"
  },
  nginx: { from: "debian", version: "debian", package: "nginx", file: "usr/sbin/nginx", check: ["-v"] }
}

const isTaken = (error: PlatformError) => error.reason._tag === "AlreadyExists"

/** Why one way did not work, for the list in {@link ToolMissing}. */
class WayFailed extends Schema.TaggedError<WayFailed>()("WayFailed", { why: Schema.String }) {
  override get message(): string {
    return this.why
  }
}

const Settings = Config.all({
  assets: Config.option(Config.String("KUBEBUILDER_ASSETS")),
  cacheFolder: Config.String("STOKER_CACHE_DIR").pipe(
    Config.orElse(() => Config.map(Config.String("XDG_CACHE_HOME"), (folder) => `${folder}/stoker`)),
    Config.orElse(() => Config.map(Config.String("HOME"), (folder) => `${folder}/.cache/stoker`))
  ),
  searchPath: Config.String("PATH").pipe(
    Config.withDefault(""),
    Config.map((value) => value.split(":").filter((folder) => folder.startsWith("/")))
  )
})

const envtestIndex = "https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml"

const Archive = Schema.Struct({ hash: Schema.String, selfLink: Schema.String })
const EnvtestIndex = Schema.Struct({
  releases: Schema.Record(Schema.String, Schema.Record(Schema.String, Archive))
})
/** A checksum of digits only is not a number. */
const everyScalarIsText = { schema: "failsafe" } as const
const decodeIndex = Schema.decodeUnknownEffect(EnvtestIndex)

const platform = `${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`

/** The newest patch of our minor version for this platform. */
export const newestArchive = (
  index: typeof EnvtestIndex.Type,
  platform: string
): Option.Option<typeof Archive.Type> => {
  const minor = recipes["kube-apiserver"].version.replace(/\d+$/, "")
  const patches = Object.entries(index.releases).flatMap(([version, archives]) => {
    const archive = archives[`envtest-${version}-${platform}.tar.gz`]
    const patch = Number(version.slice(minor.length))
    return version.startsWith(minor) && archive !== undefined && Number.isInteger(patch) ? [{ patch, archive }] : []
  })
  const byPatch = Order.mapInput(Order.Number, ({ patch }: { readonly patch: number }) => patch)
  return Option.map(Array.last(Array.sort(patches, byPatch)), ({ archive }) => archive)
}
