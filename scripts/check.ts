/** `npm run check`: types, lint with the arrows of the house, format, generated files. All at once; each failure is shown. */
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

const checks = {
  types: ["tsc", "--noEmit"],
  lint: ["oxlint", "--deny-warnings"],
  format: ["oxfmt", "--check"],
  generated: ["node", "scripts/generate.ts", "--check"]
} as const

const run = (name: string, [command, ...args]: ReadonlyArray<string>) =>
  new Promise<boolean>((resolve) => {
    const child = spawn(command!, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] })
    let output = ""
    child.stdout.on("data", (data) => (output += data))
    child.stderr.on("data", (data) => (output += data))
    child.on("error", (error) => (output += error.message))
    child.on("close", (code) => {
      console.log(`${code === 0 ? "ok  " : "FAIL"} ${name}`)
      if (code !== 0) console.log(output.trimEnd())
      resolve(code === 0)
    })
  })

const results = await Promise.all(Object.entries(checks).map(([name, command]) => run(name, command)))
process.exitCode = results.every(Boolean) ? 0 : 1
