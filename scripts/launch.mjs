// The one door of `npm start`, `npm test` and friends. It needs nothing but the Node (20 or newer) that npm
// itself runs on: it installs what the lock file names where that is missing, builds `dist/` where a source is
// newer, and then runs the given script; under the Node 26 that npm has put into `node_modules` where the machine's own
// is older than 22.19.
import { spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const [script, ...rest] = process.argv.slice(2)
if (script === undefined) {
  console.error("usage: node scripts/launch.mjs SCRIPT [ARG ...]")
  process.exit(2)
}

const [major, minor] = process.versions.node.split(".").map(Number)
if (major < 20) {
  console.error(`Stoker is set up by Node 20 or newer; this is ${process.version}. Install a newer Node and try again.`)
  process.exit(2)
}

const run = (command, args, options = {}) => {
  const result = spawnSync(command, args, { cwd: root, stdio: ["ignore", 2, 2], ...options })
  if (result.status !== 0) {
    const why = result.error === undefined ? `it ended with ${result.status ?? result.signal}` : result.error.message
    console.error(`${command} ${args.join(" ")} did not succeed: ${why}`)
    process.exit(result.status ?? 1)
  }
}

const lock = createHash("sha256")
  .update(readFileSync(join(root, "package-lock.json")))
  .digest("hex")
const installed = join(root, "node_modules", ".stoker-installed")
if (!existsSync(installed) || readFileSync(installed, "utf8") !== lock) {
  console.error("Installing what package-lock.json names (once, about half a minute) …")
  const npm = process.env.npm_execpath
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"]
  // A NODE_ENV=production of the caller must not leave out what the set-up itself needs.
  const env = { ...process.env, NODE_ENV: "development", npm_config_omit: "" }
  if (npm === undefined) run("npm", args, { env })
  else run(process.execPath, [npm, ...args], { env })
  writeFileSync(installed, lock)
}

// Where the machine's own Node is new enough it is taken (a prebuilt one would not even run on NixOS).
const isNewEnough = major > 22 || (major === 22 && minor >= 19)
const bin = join(root, "node_modules", ".bin")
const node = isNewEnough ? process.execPath : join(bin, "node")
const path = [...(isNewEnough ? [dirname(process.execPath)] : []), bin, process.env.PATH ?? ""].join(":")

const digest = () => {
  const hash = createHash("sha256").update(lock)
  const walk = (folder) => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true }).sort((a, b) =>
      a.name < b.name ? -1 : 1
    )) {
      const path = join(folder, entry.name)
      if (entry.isDirectory()) walk(path)
      else hash.update(path).update(readFileSync(join(root, path)))
    }
  }
  walk("src")
  return hash.update(readFileSync(join(root, "scripts", "build.ts"))).digest("hex")
}
const built = join(root, "dist", ".built-from")
const builds = script === "scripts/build.ts"
if (!builds && script !== "scripts/check.ts" && script !== "scripts/generate.ts") {
  const sources = digest()
  if (!existsSync(built) || readFileSync(built, "utf8") !== sources) {
    console.error("Building dist/ …")
    run(node, [join(root, "scripts", "build.ts")])
    writeFileSync(built, sources)
  }
}

const child = spawn(node, [join(root, script), ...rest], {
  cwd: process.cwd(),
  stdio: "inherit",
  env: {
    ...process.env,
    PATH: path,
    // The child ends itself when this process is gone: SIGKILL reaches only one of the two.
    STOKER_PARENT_PID: String(process.pid)
  }
})
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  // A terminal sends SIGINT to the whole group, so the child has it already; the others reach only us.
  process.on(signal, () => signal === "SIGINT" || child.kill(signal))
}
const parent = process.ppid
setInterval(() => {
  if (process.ppid !== parent) child.kill("SIGTERM")
}, 500).unref()
child.on("exit", (code, signal) => {
  if (builds && code === 0) writeFileSync(built, digest())
  process.exit(code ?? (signal === "SIGINT" ? 130 : 1))
})
