/**
 * Bundles the product into `dist/`: one entry, split where a command is imported on demand, so that an agent never
 * loads what only the controller needs (a test holds that against the bundle's own metadata, `dist/meta.json`).
 *
 * The agent is a bundle of its own: code that it shares with the controller would come with all that the controller uses
 * of the same modules, and cost a gateway's pod about 10 MiB.
 */
import { rename, rm, writeFile } from "node:fs/promises"
import { isBuiltin } from "node:module"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build, type BuildOptions, type Plugin } from "esbuild"

const root = fileURLToPath(new URL("..", import.meta.url))
const dist = join(root, "dist")
// Built beside it: a build that fails leaves the former one in place, and nobody finds half a one.
const outdir = join(root, "dist.new")

/** The package declares no `sideEffects`, though it has none: without this every generated API (678 KB) comes along. */
const clientNodeIsPure: Plugin = {
  name: "client-node-is-pure",
  setup(builder) {
    builder.onResolve({ filter: /.*/ }, async (args) => {
      if (args.pluginData === "resolved" || args.kind === "entry-point") return undefined
      const inside =
        args.resolveDir.includes("@kubernetes/client-node") || args.path.startsWith("@kubernetes/client-node")
      if (!inside) return undefined
      const result = await builder.resolve(args.path, {
        resolveDir: args.resolveDir,
        importer: args.importer,
        kind: args.kind,
        pluginData: "resolved"
      })
      return { ...result, sideEffects: false }
    })
  }
}

const agentIsApart: Plugin = {
  name: "agent-is-apart",
  setup(builder) {
    builder.onResolve({ filter: /\/commands\/agent\.ts$/ }, ({ kind }) =>
      kind === "entry-point" ? undefined : { path: "./agent.js", external: true }
    )
  }
}

/**
 * Node's own modules are required, not imported: an import reads every export of theirs, and so loads all that hides
 * behind a getter (`node:http` brings the whole of fetch and WebSocket): 15 MiB for what nobody calls.
 */
const builtinsAreRequired: Plugin = {
  name: "builtins-are-required",
  setup(builder) {
    builder.onResolve({ filter: /^[a-z:_/0-9]+$/ }, ({ path, namespace }) =>
      isBuiltin(path) && namespace !== "builtin"
        ? { path: path.replace(/^(node:)?/, "node:"), namespace: "builtin", sideEffects: false }
        : undefined
    )
    builder.onLoad({ filter: /.*/, namespace: "builtin" }, ({ path }) => ({
      contents: `module.exports = require(${JSON.stringify(path)})`
    }))
  }
}

const options = {
  outdir,
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node22.19",
  minify: true,
  sourcemap: "linked",
  metafile: true,
  legalComments: "none",
  logLevel: "warning",
  chunkNames: "chunks/[name]-[hash]",
  // Some dependencies are CommonJS and call `require` for Node's own modules.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);'
  },
  plugins: [builtinsAreRequired, agentIsApart, clientNodeIsPure]
} satisfies BuildOptions

await rm(outdir, { recursive: true, force: true })
const bundles = [
  await build({ ...options, entryPoints: { stoker: join(root, "src/main.ts") } }),
  await build({ ...options, entryPoints: { agent: join(root, "src/commands/agent.ts") } })
].map(({ metafile }) => metafile)
const metadata = {
  inputs: Object.assign({}, ...bundles.map(({ inputs }) => inputs)),
  outputs: Object.assign({}, ...bundles.map(({ outputs }) => outputs))
}
// Paths in the metadata are as in the final place.
await writeFile(join(outdir, "meta.json"), JSON.stringify(metadata).replaceAll('"dist.new/', '"dist/'))
await rm(dist, { recursive: true, force: true })
await rename(outdir, dist)
