/**
 * The house keeps its arrows: a forbidden import must make the lint fail, and the bundle must hold what it promises.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../..", import.meta.url))

const lint = (path: string) =>
  new Promise<{ readonly failed: boolean; readonly output: string }>((resolve) => {
    execFile(join(root, "node_modules/.bin/oxlint"), [path], { cwd: root }, (error, stdout, stderr) =>
      resolve({ failed: error !== null, output: stdout + stderr })
    )
  })

describe("the arrows of the house", () => {
  for (const [room, forbidden] of [
    ["api", "../kubernetes/Resource.ts"],
    ["api", "node:fs"],
    ["kubernetes", "../api/Names.ts"],
    ["git", "../telemetry/Logs.ts"],
    ["ignition", "../git/Mirror.ts"],
    ["telemetry", "../api/Names.ts"],
    ["receiver", "../controller/Stores.ts"],
    ["receiver", "../git/RemoteRefs.ts"],
    ["controller", "../receiver/Receiver.ts"],
    ["agent", "../controller/Stores.ts"],
    ["agent", "../sandbox/Plant.ts"],
    ["controller", "@kubernetes/client-node"],
    ["agent", "isomorphic-git"],
    ["commands", "../sandbox/Plant.ts"],
    ["commands", "isomorphic-git"]
  ] as const) {
    it(`src/${room} may not import ${forbidden}`, async () => {
      const folder = await mkdtemp(join(root, "src", room, "arrow-"))
      try {
        const file = join(folder, "Forbidden.ts")
        // One folder deeper than the rooms' own files, so one step more.
        await writeFile(
          file,
          `import * as It from "${forbidden.startsWith("..") ? `../${forbidden}` : forbidden}"\nexport const it = It\n`
        )
        const { failed, output } = await lint(file)
        assert.isTrue(failed, output)
        assert.include(output, "no-restricted-imports")
      } finally {
        await rm(folder, { recursive: true })
      }
    })
  }
})

interface Meta {
  readonly outputs: Readonly<
    Record<
      string,
      {
        readonly entryPoint?: string
        readonly inputs: Readonly<Record<string, unknown>>
        readonly imports: ReadonlyArray<{ readonly path: string; readonly kind: string }>
      }
    >
  >
}

describe("the bundle", () => {
  it("loads for an agent neither the controller nor what only that needs", async () => {
    const meta = JSON.parse(await readFile(join(root, "dist/meta.json"), "utf8")) as Meta
    const entry = Object.entries(meta.outputs).find(([, output]) => output.entryPoint === "src/commands/agent.ts")
    assert.isDefined(entry)
    const loaded = new Set<string>()
    const visit = (path: string) => {
      if (loaded.has(path)) return
      loaded.add(path)
      // What is imported on demand is not loaded; libraries on demand have chunks of their own.
      for (const one of meta.outputs[path]?.imports ?? []) if (one.kind === "import-statement") visit(one.path)
    }
    visit(entry![0])
    const inputs = Array.from(loaded).flatMap((path) => Object.keys(meta.outputs[path]?.inputs ?? {}))
    assert.isTrue(inputs.includes("src/agent/Agent.ts"))
    const stray = inputs.filter((input) =>
      /^src\/(controller|receiver|sandbox|admission)\/|client-node|isomorphic-git|node_modules\/undici|effect\/dist\/cli\//.test(
        input
      )
    )
    assert.deepStrictEqual(stray, [])
  })

  it("requires Node's modules: an import would load what hides behind their getters", async () => {
    const { outputs } = JSON.parse(await readFile(join(root, "dist/meta.json"), "utf8")) as Meta
    const builtins = Object.values(outputs).flatMap(({ imports }) =>
      imports.filter(({ path }) => path.startsWith("node:"))
    )
    assert.isNotEmpty(builtins)
    assert.deepStrictEqual(
      builtins.filter(({ kind }) => kind !== "require-call"),
      []
    )
  })
})
