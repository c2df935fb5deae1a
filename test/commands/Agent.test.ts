/** The agent as a process: how it ends. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Schema } from "effect"
import { fileURLToPath } from "node:url"
import * as Inventory from "../../src/agent/Inventory.ts"
import * as Metadata from "../../src/api/Metadata.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"
import { effective, metadataOf, services, until } from "../agent/Plant.ts"
import * as Product from "./Product.ts"

const views = "projects/line/com.inductiveautomation.perspective/views"
/** So many that the writing takes a while. */
const count = 3000
const files = Object.fromEntries(
  Array.from({ length: count }, (_, n) => [`site/${views}/v${n}/view.json`, JSON.stringify({ n })])
)
const decodeInventory = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Struct({ files: Inventory.Files })))
const decodeMark = Schema.decodeUnknownEffect(
  Schema.fromJsonString(Schema.Struct({ pod: Schema.String, uid: Schema.String }))
)

/** A gateway and its volume. There is no API server: what the volume says of its files is what is wanted. */
const makePlant = Effect.fnUntraced(function* (name: string) {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-agent-process-" })
  const dataDir = `${folder}/data`
  yield* fs.makeDirectory(`${dataDir}/.stoker`, { recursive: true })
  yield* fs.writeFileString(`${folder}/api-key`, "stoker:secret")
  const gateway = yield* SimulatedGateway.make({ dataDir, tokens: ["stoker:secret"] })
  yield* gateway.awaitPhase("running")
  const repository = yield* (yield* GitServer).create(name)
  const profile = effective({ mappings: [{ source: "site/projects", destination: "projects" }] })
  const want = Effect.fnUntraced(function* (files: Readonly<Record<string, string>>) {
    const { traceparent: _, ...metadata } = Metadata.encode(
      metadataOf(repository.url, yield* repository.commit({ files }), profile),
      () => "1"
    )
    const file = `${dataDir}/.stoker/applied.json`
    const held = (yield* fs.exists(file)) ? yield* decodeInventory(yield* fs.readFileString(file)) : { files: {} }
    const origin = { commit: metadata["commit"], namespace: "plant", cr: "site", profile: "default", metadata }
    yield* fs.writeFileString(file, JSON.stringify({ version: 1, origin, files: held.files }))
  })
  const start = (pod: string) =>
    Product.run(["agent"], {
      KUBECONFIG: fileURLToPath(new URL("nowhere.kubeconfig.json", import.meta.url)),
      POD_NAME: pod,
      POD_NAMESPACE: "plant",
      POD_UID: pod,
      CR_NAME: "site",
      DATA_PATH: dataDir,
      REPO_PATH: `${folder}/repo-${pod}`,
      GATEWAY_URL: gateway.url,
      API_KEY_FILE: `${folder}/api-key`,
      PROBE_PORT: "0",
      METRICS_PORT: "0"
    })
  return { dataDir, gateway, start, want }
})

layer(Layer.merge(services, NodeHttpClient.layerNodeHttp), { excludeTestServices: true })("stoker agent", (it) => {
  it.effect("on SIGTERM is not ready, ends the writing that is under way, cuts what waits, and exits with 0", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { dataDir, gateway, start, want } = yield* makePlant("agent-process")
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      yield* want(files)
      const agent = yield* start("ignition-0")
      assert.strictEqual((yield* agent.until("probes", "/healthz", 200)).text, "ok")
      yield* until(fs.exists(`${dataDir}/${views}`))
      yield* agent.signal("SIGTERM")
      const stopping = agent.get("probes", "/readyz").pipe(
        Effect.map(({ status, text }) => status === 503 && text.includes("process: stopping")),
        Effect.retry(Product.retrying)
      )
      yield* until(stopping)
      assert.strictEqual(yield* agent.exit, 0)
      const written = yield* fs.readDirectory(`${dataDir}/${views}`, { recursive: true })
      assert.strictEqual(written.filter((name) => name.endsWith("view.json")).length, count)
      // The scan is still owed, and the volume is free for the next one.
      assert.match(yield* fs.readFileString(`${dataDir}/.stoker/journal.json`), /"projects"/)
      assert.isFalse(yield* fs.exists(`${dataDir}/.stoker/owner`))
    })
  )

  it.effect(
    "of two processes on one volume one writes, until it stands still: then the other does, and only that",
    () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const { dataDir, start, want } = yield* makePlant("agent-processes")
        const file = `${views}/main/view.json`
        const owner = `${dataDir}/.stoker/owner`
        const holds = (text: string) => Effect.map(fs.readFileString(`${dataDir}/${file}`), (found) => found === text)
        yield* want({ [`site/${file}`]: "one" })
        const one = yield* start("ignition-1")
        yield* one.until("probes", "/startupz", 200)
        assert.isTrue(yield* holds("one"))

        yield* want({ [`site/${file}`]: "two" })
        const two = yield* start("ignition-2")
        const names = two.get("probes", "/startupz").pipe(
          Effect.map(({ text }) => text.includes("in use by the agent of pod plant/ignition-1")),
          Effect.retry(Product.retrying)
        )
        yield* until(names)
        assert.isTrue(yield* holds("one"))

        yield* one.signal("SIGSTOP")
        // As if it had stood still for half a minute.
        const { pod, uid } = yield* decodeMark(yield* fs.readFileString(owner))
        yield* fs.writeFileString(owner, JSON.stringify({ pod, uid, at: 0 }))
        yield* two.until("probes", "/startupz", 200)
        assert.isTrue(yield* holds("two"))

        yield* one.signal("SIGCONT")
        yield* until(Effect.sync(() => one.said("in use by the agent of pod plant/ignition-2")))
        assert.strictEqual((yield* decodeMark(yield* fs.readFileString(owner))).uid, "ignition-2")
        assert.isTrue(yield* holds("two"))
      })
  )
})
