/** The agent as a process: how it ends. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer } from "effect"
import { fileURLToPath } from "node:url"
import * as Metadata from "../../src/api/Metadata.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"
import { effective, services, until } from "../agent/Plant.ts"
import * as Product from "./Product.ts"

const views = "projects/line/com.inductiveautomation.perspective/views"
/** So many that the writing takes a while. */
const count = 3000
const files = Object.fromEntries(
  Array.from({ length: count }, (_, n) => [`site/${views}/v${n}/view.json`, JSON.stringify({ n })])
)

layer(Layer.merge(services, NodeHttpClient.layerNodeHttp), { excludeTestServices: true })("stoker agent", (it) => {
  it.effect("on SIGTERM is not ready, ends the writing that is under way, cuts what waits, and exits with 0", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const folder = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-agent-process-" })
      const dataDir = `${folder}/data`
      yield* fs.makeDirectory(`${dataDir}/.stoker`, { recursive: true })
      yield* fs.writeFileString(`${folder}/api-key`, "stoker:secret")
      const gateway = yield* SimulatedGateway.make({ dataDir, tokens: ["stoker:secret"] })
      yield* gateway.awaitPhase("running")
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      const repository = yield* (yield* GitServer).create("agent-process")
      // There is no API server: what the volume keeps says what is wanted.
      const { traceparent: _, ...data } = Metadata.encode(
        {
          commit: yield* repository.commit({ files }),
          ref: "main",
          gitURL: repository.url,
          paused: "false",
          authType: "none",
          gatewayPort: 8088,
          gatewayTLS: "false",
          profiles: { default: effective({ mappings: [{ source: "site/projects", destination: "projects" }] }) }
        },
        () => "1"
      )
      yield* fs.writeFileString(
        `${dataDir}/.stoker/metadata.json`,
        JSON.stringify({ namespace: "plant", cr: "site", profile: "default", data })
      )
      const agent = yield* Product.run(["agent"], {
        KUBECONFIG: fileURLToPath(new URL("nowhere.kubeconfig.json", import.meta.url)),
        POD_NAME: "ignition-0",
        POD_NAMESPACE: "plant",
        CR_NAME: "site",
        DATA_PATH: dataDir,
        REPO_PATH: `${folder}/repo`,
        GATEWAY_URL: gateway.url,
        API_KEY_FILE: `${folder}/api-key`,
        PROBE_PORT: "0",
        METRICS_PORT: "0"
      })
      assert.strictEqual((yield* agent.until("probes", "/healthz", 200)).text, "ok")
      yield* until(fs.exists(`${dataDir}/${views}`))
      yield* agent.signal("SIGTERM")
      const stopping = agent.get("probes", "/readyz").pipe(
        Effect.map(({ status, text }) => status === 503 && text.includes("process: stopping")),
        Effect.retry(Product.retrying)
      )
      yield* until(stopping)
      assert.strictEqual(yield* agent.exit, 0)
      const written = yield* fs.readDirectory(`${dataDir}/${views}`)
      assert.strictEqual(written.length, count)
      assert.isTrue(yield* fs.exists(`${dataDir}/${views}/v${count - 1}/view.json`))
      // The scan is still owed, and the volume is free for the next one.
      assert.match(yield* fs.readFileString(`${dataDir}/.stoker/journal.json`), /"projects"/)
      assert.isFalse(yield* fs.exists(`${dataDir}/.stoker/owner`))
    })
  )
})
