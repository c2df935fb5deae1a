/**
 * The sandbox as people and programs start it, and what it leaves behind: nothing.
 */
import { afterEach, assert, beforeEach, describe, it } from "@effect/vitest"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "stoker-cli-"))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

interface Started {
  readonly child: ChildProcess
  /** The next line of standard output. */
  readonly line: () => Promise<string>
  readonly rest: () => Promise<ReadonlyArray<string>>
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>
}

/** Everything that it starts has our folder in its environment, and keeps its files below it. */
const start = (...args: ReadonlyArray<string>): Started => {
  const child = spawn(process.execPath, ["scripts/launch.mjs", "dist/stoker.js", "sandbox", ...args], {
    cwd: root,
    // Not the test runner's own environment: it makes Node keep a cache in the temporary folder.
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      STOKER_CACHE_DIR: process.env["STOKER_CACHE_DIR"],
      TMPDIR: folder
    },
    stdio: ["pipe", "pipe", "ignore"],
    // A process group of its own, as a shell gives it.
    detached: true
  })
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
  return {
    child,
    line: async () => String((await lines.next()).value),
    rest: async () => {
      const found: Array<string> = []
      for (let next = await lines.next(); next.done !== true; next = await lines.next()) found.push(next.value)
      return found
    },
    ended: new Promise((resolve) => child.on("exit", (code, signal) => resolve({ code, signal })))
  }
}

/** Processes that were started for our folder, by their command lines. */
const processes = async (): Promise<ReadonlyArray<string>> => {
  const found: Array<string> = []
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    try {
      if ((await readFile(`/proc/${pid}/environ`, "utf8")).includes(`TMPDIR=${folder}\0`)) {
        found.push(`${pid} ${(await readFile(`/proc/${pid}/cmdline`, "utf8")).replaceAll("\0", " ").slice(0, 200)}`)
      }
    } catch {
      // Gone, or not ours to look at.
    }
  }
  return found
}

/** The process below the launcher. */
const sandbox = async (): Promise<number> => {
  const inner = (await processes()).find((one) => one.includes("stoker.js sandbox") && !one.includes("launch.mjs"))
  return Number.parseInt(inner ?? "", 10)
}

/** What is left of processes and files: empty as soon as that is true, else after twenty seconds. */
const left = async (): Promise<ReadonlyArray<string>> => {
  for (let tries = 0; ; tries++) {
    const found = [...(await processes()), ...(await readdir(folder))]
    if (found.length === 0 || tries === 200) return found
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

describe("stoker sandbox", () => {
  it("--once --json: a line a step, a summary, exit code 0, nothing left", { timeout: 120_000 }, async () => {
    const { ended, rest } = start("--once", "--json")
    const lines = (await rest()).map((line) => JSON.parse(line) as Record<string, unknown>)
    assert.deepStrictEqual(await ended, { code: 0, signal: null })
    const summary = lines.pop()!
    assert.strictEqual(summary["failed"], 0)
    assert.strictEqual(summary["passed"], lines.length)
    assert.isAbove(Number(summary["lineP50Ms"]), 0)
    for (const step of lines) {
      assert.isString(step["step"])
      assert.isTrue(step["ok"])
      assert.isNumber(step["ms"])
    }
    assert.deepStrictEqual(await left(), [])
  })

  it(
    "--serve --json: says how to drive it, and goes when its standard input closes",
    { timeout: 120_000 },
    async () => {
      const { child, ended, line } = start("--serve", "--json", "--sites", "1", "--gateways", "1", "--crs", "2")
      const ready = JSON.parse(await line()) as {
        readonly webhookUrl: string
        readonly bearer: string
        readonly namespace: string
        readonly kubeconfig: string
        readonly kubeconfigs: Readonly<Record<string, string>>
        readonly gatewaySyncs: ReadonlyArray<string>
        readonly gateways: ReadonlyArray<{ readonly name: string; readonly url: string; readonly dataDir: string }>
        readonly gitUrls: ReadonlyArray<string>
        readonly hmacSecret: string
        readonly otlpUrl: string
      }
      assert.deepStrictEqual(ready.gatewaySyncs, ["plant-1", "plant-2"])
      assert.strictEqual(ready.gateways.length, 1)
      assert.strictEqual(ready.gitUrls.length, 1)
      assert.match(ready.otlpUrl, /^http:\/\/127\.0\.0\.1:\d+$/)
      for (const file of [ready.kubeconfig, ready.kubeconfigs["controller"]!, ready.kubeconfigs["agent"]!]) {
        assert.include(await readFile(file, "utf8"), "clusters")
      }
      const post = (bearer: string) =>
        fetch(`${ready.webhookUrl}/${ready.gatewaySyncs[0]}`, {
          method: "POST",
          headers: { authorization: `Bearer ${bearer}` },
          body: JSON.stringify({ ref: "main" })
        })
      assert.strictEqual((await post(ready.bearer)).status, 202)
      assert.strictEqual((await post("wrong")).status, 401)
      assert.isAbove((await processes()).length, 4)
      child.stdin!.end()
      assert.deepStrictEqual(await ended, { code: 0, signal: null })
      assert.deepStrictEqual(await left(), [])
    }
  )

  for (const [how, end, code] of [
    ["SIGTERM", ({ child }: Started) => child.kill("SIGTERM"), 0],
    // A terminal sends it to everybody in the foreground.
    ["Ctrl-C", ({ child }: Started) => process.kill(-child.pid!, "SIGINT"), 0],
    ["SIGKILL of what npm started", ({ child }: Started) => child.kill("SIGKILL"), null],
    ["SIGKILL of the sandbox itself", async () => process.kill(await sandbox(), "SIGKILL"), 1]
  ] as const) {
    it(`leaves nothing behind after ${how}`, { timeout: 60_000 }, async () => {
      const started = start("--serve", "--json", "--sites", "1", "--gateways", "1")
      await started.line()
      await end(started)
      assert.strictEqual((await started.ended).code, code)
      assert.deepStrictEqual(await left(), [])
    })
  }
})
