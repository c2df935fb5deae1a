/** `npm test`: the checks, then every test. The last line is `N passed, N failed`; the exit status says the same. */
import { spawn } from "node:child_process"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const folder = await mkdtemp(join(tmpdir(), "stoker-test-"))
const report = join(folder, "report.json")

const run = (command: string, args: ReadonlyArray<string>) =>
  new Promise<number>((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] })
    child.on("error", () => resolve(1))
    child.on("close", (code) => resolve(code ?? 1))
  })

interface Report {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly testResults: ReadonlyArray<{
    readonly name: string
    readonly status: string
    readonly assertionResults: ReadonlyArray<unknown>
  }>
}

try {
  const only = process.argv.slice(2)
  const checked = only.length > 0 ? 0 : await run(process.execPath, ["scripts/check.ts"])
  const prepared = await run(process.execPath, ["dist/stoker.js", "sandbox", "--prepare"])
  const tested =
    prepared === 0
      ? await run(process.execPath, [
          "node_modules/vitest/vitest.mjs",
          "run",
          "--reporter=default",
          "--reporter=json",
          `--outputFile.json=${report}`,
          ...only
        ])
      : 1
  const results = await readFile(report, "utf8").then(
    (text) => JSON.parse(text) as Report,
    () => undefined
  )
  // A file that cannot be loaded has no test to count, yet it is a failure.
  const broken =
    results?.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0) ?? []
  for (const file of broken) console.log(`could not be run: ${file.name}`)
  const passed = (results?.numPassedTests ?? 0) + (checked === 0 && only.length === 0 ? 1 : 0)
  let failed = (results?.numFailedTests ?? 0) + broken.length + (checked === 0 ? 0 : 1)
  if (failed === 0 && (tested !== 0 || passed === 0)) failed = 1
  const skipped = results?.numPendingTests ?? 0
  if (skipped > 0) console.log(`(${skipped} skipped, each with its reason above)`)
  console.log(`${passed} passed, ${failed} failed`)
  process.exitCode = failed === 0 ? 0 : 1
} finally {
  await rm(folder, { recursive: true, force: true })
}
