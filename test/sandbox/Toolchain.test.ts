import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Layer, Option, Path } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { createHash } from "node:crypto"
import { Processes } from "../../src/sandbox/Processes.ts"
import { newestArchive, Toolchain, type Tool } from "../../src/sandbox/Toolchain.ts"

const Everything = Layer.provideMerge(Processes.layerNoDeps, NodeServices.layer)
const platform = `${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`

layer(Everything, { excludeTestServices: true })("Toolchain", (it) => {
  /** Folders of programs that are shell scripts, and a way to ask for a tool in an environment made of them. */
  const workbench = Effect.gen(function* () {
    const fileSystem = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const folder = yield* Effect.flatMap(Processes, ({ folder }) => folder("stoker-test-"))
    const program = Effect.fnUntraced(function* (place: string, name: string, script = "exit 0") {
      yield* fileSystem.makeDirectory(path.join(folder, place), { recursive: true })
      const file = path.join(folder, place, name)
      yield* fileSystem.writeFileString(file, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
      return file
    })
    const find = (tool: Tool, http: (url: string) => Response, env: Record<string, string> = {}) =>
      Effect.flatMap(Toolchain, (toolchain) => toolchain.find(tool)).pipe(
        Effect.provide(
          Toolchain.layerNoDeps.pipe(
            Layer.provide(
              Layer.succeed(
                HttpClient.HttpClient,
                HttpClient.make((request, url) => Effect.succeed(HttpClientResponse.fromWeb(request, http(url.href))))
              )
            ),
            Layer.provide(
              ConfigProvider.layer(
                ConfigProvider.fromEnv({
                  env: { STOKER_CACHE_DIR: path.join(folder, "cache"), PATH: path.join(folder, "path"), ...env }
                })
              )
            )
          )
        )
      )
    return { folder, program, find }
  })
  const offline = () => new Response("", { status: 503 })

  it.effect("takes KUBEBUILDER_ASSETS before PATH before the cache", () =>
    Effect.gen(function* () {
      const { find, folder, program } = yield* workbench
      const path = yield* Path.Path
      const inCache = yield* program("cache/etcd/v3.7.3", "etcd")
      assert.strictEqual(yield* find("etcd", offline), inCache)
      const onPath = yield* program("path", "etcd")
      assert.strictEqual(yield* find("etcd", offline), onPath)
      const asset = yield* program("assets", "etcd")
      const env = { KUBEBUILDER_ASSETS: path.join(folder, "assets") }
      assert.strictEqual(yield* find("etcd", offline, env), asset)
    })
  )

  it.effect("passes over a program that does not run", () =>
    Effect.gen(function* () {
      const { find, folder, program } = yield* workbench
      const path = yield* Path.Path
      yield* program("assets", "etcd", "exit 1")
      yield* program("path", "etcd", "exit 1")
      const second = yield* program("path2", "etcd")
      const env = {
        KUBEBUILDER_ASSETS: path.join(folder, "assets"),
        PATH: ["relative", path.join(folder, "path"), path.join(folder, "path2")].join(":")
      }
      assert.strictEqual(yield* find("etcd", offline, env), second)
    })
  )

  const envtest = Effect.fnUntraced(function* (folder: string, program: (place: string, name: string) => unknown) {
    const path = yield* Path.Path
    const fileSystem = yield* FileSystem.FileSystem
    const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
    yield* program("content/controller-tools/envtest", "etcd") as Effect.Effect<string>
    const file = path.join(folder, "envtest.tar.gz")
    yield* spawner.exitCode(ChildProcess.make("tar", ["-czf", file, "-C", path.join(folder, "content"), "."]))
    return yield* fileSystem.readFile(file)
  })
  const index = (hash: string) =>
    `releases:\n  v1.36.2:\n    envtest-v1.36.2-${platform}.tar.gz:\n      hash: ${hash}\n      selfLink: https://releases.invalid/envtest.tar.gz\n`

  it.effect("downloads the envtest archive into the cache, once its checksum is right", () =>
    Effect.gen(function* () {
      const { find, folder, program } = yield* workbench
      const path = yield* Path.Path
      const archive = yield* envtest(folder, program)
      const hash = createHash("sha512").update(archive).digest("hex")
      const serve = (url: string) => new Response(url.endsWith(".yaml") ? index(hash) : archive.slice())
      assert.strictEqual(yield* find("etcd", serve), path.join(folder, "cache/etcd/v3.7.3/etcd"))
      const fileSystem = yield* FileSystem.FileSystem
      assert.deepStrictEqual(yield* fileSystem.readDirectory(path.join(folder, "cache/etcd/v3.7.3")), ["etcd"])
    })
  )

  it.effect("refuses an archive with another checksum, and lists every way that it tried", () =>
    Effect.gen(function* () {
      const { find, folder, program } = yield* workbench
      const archive = yield* envtest(folder, program)
      const serve = (url: string) => new Response(url.endsWith(".yaml") ? index("0".repeat(128)) : archive.slice())
      const error = yield* Effect.flip(find("etcd", serve))
      assert.strictEqual(error._tag, "ToolMissing")
      for (const text of ["KUBEBUILDER_ASSETS is not set", "PATH has none", "the cache has no", "checksum", "no go"]) {
        assert.include(error.message, text)
      }
    })
  )

  /** Stands for Go: makes a program that prints what it was built from. */
  const fakeGo = `
[ "$1" = build ] || exit 0
while [ "$1" != -o ]; do shift; done
[ -f go.mod ] || exit 1
printf '#!/bin/sh\\n# %s CGO_ENABLED=%s' "$3" "$CGO_ENABLED" >"$2"`

  it.effect("builds from Go modules, also where a run that was killed has left its lock", () =>
    Effect.gen(function* () {
      const { find, folder, program } = yield* workbench
      const fileSystem = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      yield* program("path", "go", fakeGo)
      const place = path.join(folder, "cache/kube-apiserver/v1.36.3")
      const lock = path.join(place, "kube-apiserver.lock")
      yield* fileSystem.makeDirectory(lock, { recursive: true })
      yield* fileSystem.utimes(lock, 1, 1)
      const built = yield* find("kube-apiserver", offline)
      assert.strictEqual(built, path.join(place, "kube-apiserver"))
      assert.include(yield* fileSystem.readFileString(built), "k8s.io/kubernetes/cmd/kube-apiserver CGO_ENABLED=0")
      assert.deepStrictEqual(yield* fileSystem.readDirectory(place), ["kube-apiserver"])
    })
  )

  it.effect("shows what Go said when the build fails", () =>
    Effect.gen(function* () {
      const { find, program } = yield* workbench
      yield* program("path", "go", '[ "$1" = version ] || { echo "module lookup disabled"; exit 1; }')
      const error = yield* Effect.flip(find("helm", offline))
      assert.include(error.message, "module lookup disabled")
    })
  )

  /** Stand for Debian's tools: the package's program is a script that prints which package it came from. */
  const fakeApt = `
case "$*" in
  *"Dir::State::Lists=$PWD/lists"*update) exit 100 ;;
  *"Dir::State::Lists=$PWD/lists"*"download nginx") : >nginx_1_amd64.deb ;;
  *) exit 1 ;;
esac`
  const fakeDpkg = `
[ "$1 $3" = "-x ." ] || exit 1
/bin/mkdir -p usr/sbin
printf '#!/bin/sh\n# %s' "$2" >usr/sbin/nginx`

  it.effect("takes nginx from its Debian package, anew when the one in the cache does not run any more", () =>
    Effect.gen(function* () {
      const { find, folder, program } = yield* workbench
      const fileSystem = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      yield* program("path", "apt-get", fakeApt)
      yield* program("path", "dpkg-deb", fakeDpkg)
      const file = path.join(folder, "cache/nginx/debian/nginx")
      assert.strictEqual(yield* find("nginx", offline), file)
      assert.include(yield* fileSystem.readFileString(file), "nginx_1_amd64.deb")
      assert.deepStrictEqual(yield* fileSystem.readDirectory(path.dirname(file)), ["nginx"])

      const fromNowOn = yield* program("cache/nginx/debian", "nginx", "# as it was")
      assert.strictEqual(yield* find("nginx", offline), fromNowOn)
      assert.include(yield* fileSystem.readFileString(file), "as it was")
      yield* program("cache/nginx/debian", "nginx", "exit 127")
      assert.strictEqual(yield* find("nginx", offline), file)
      assert.include(yield* fileSystem.readFileString(file), "nginx_1_amd64.deb")
    })
  )

  it.effect("says why there is no nginx, and what helps", () =>
    Effect.gen(function* () {
      const { find, program } = yield* workbench
      const withoutApt = yield* Effect.flip(find("nginx", offline))
      assert.match(withoutApt.message, /Debian's package: [^]*apt-get: (?:command )?not found/)
      yield* program("path", "apt-get", 'echo "Unable to locate package $*"; exit 100')
      const refused = yield* Effect.flip(find("nginx", offline))
      assert.match(refused.message, /Unable to locate package .* download nginx/)
      assert.include(refused.message, "put nginx on PATH")
      assert.notInclude(refused.message, "install Go")
    })
  )

  it.effect("chooses the newest patch of our minor version, for this platform", () =>
    Effect.sync(() => {
      const archive = (version: string) => ({
        [`envtest-${version}-linux-amd64.tar.gz`]: { hash: "", selfLink: version }
      })
      const releases = Object.fromEntries(
        ["v1.36.9", "v1.36.10", "v1.37.0", "v1.3.6", "v1.36.11-rc.0"].map((version) => [version, archive(version)])
      )
      assert.deepStrictEqual(
        Option.map(newestArchive({ releases }, "linux-amd64"), ({ selfLink }) => selfLink),
        Option.some("v1.36.10")
      )
      assert.isTrue(Option.isNone(newestArchive({ releases }, "plan9-arm64")))
    })
  )
})
