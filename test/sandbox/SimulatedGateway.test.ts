import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FileSystem from "effect/FileSystem"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import * as Access from "../../src/sandbox/gateway/Access.ts"
import { configResource, effectiveConfig, filesOf, type GatewayModel } from "../../src/sandbox/gateway/GatewayModel.ts"
import * as Seed from "../../src/sandbox/gateway/Seed.ts"
import * as SimulatedGateway from "../../src/sandbox/SimulatedGateway.ts"

const Live = Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp)

const view = "projects/site/com.inductiveautomation.perspective/views/Main"
const viewId = "com.inductiveautomation.perspective/views/Main"

const project = (commit: string): Seed.Files => ({
  "projects/site/project.json": JSON.stringify({ title: "Site", enabled: true }),
  [`${view}/resource.json`]: JSON.stringify({ scope: "G", version: 1, files: ["view.json"] }),
  [`${view}/view.json`]: JSON.stringify({ commit })
})

const write = Effect.fnUntraced(function* (dataDir: string, files: Seed.Files) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  for (const [name, content] of Object.entries(files)) {
    const file = path.join(dataDir, name)
    yield* fs.makeDirectory(path.dirname(file), { recursive: true })
    yield* fs.writeFileString(file, content)
  }
})

const start = Effect.fnUntraced(function* (
  files: Seed.Files = {},
  options: Omit<SimulatedGateway.Options, "dataDir"> = {}
) {
  const dataDir = yield* FileSystem.FileSystem.pipe(Effect.flatMap((_) => _.makeTempDirectoryScoped()))
  yield* write(dataDir, files)
  const gateway = yield* SimulatedGateway.make({ access: "open", ...options, dataDir })
  return { ...gateway, write: (more: Seed.Files) => write(dataDir, more) }
})

const call = Effect.fnUntraced(function* (
  request: HttpClientRequest.HttpClientRequest,
  headers: Record<string, string> = {}
) {
  const client = yield* HttpClient.HttpClient
  const response = yield* client.execute(HttpClientRequest.setHeaders(request, headers))
  const text = yield* response.text
  return { status: response.status, text, headers: response.headers }
})

const get = (url: string) => call(HttpClientRequest.get(url))
const post = (url: string, body?: unknown) =>
  call(
    body === undefined
      ? HttpClientRequest.post(url)
      : HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(url), body)
  )
const api = (gateway: { readonly url: string }, path: string) => `${gateway.url}/data/api/v1/${path}`

type Gateway = Effect.Success<ReturnType<typeof start>>

/** Asks for a scan and waits until it has ended. */
const scan = Effect.fnUntraced(function* (gateway: Gateway, kind: "projects" | "config") {
  const before = (yield* gateway.history).length
  yield* post(api(gateway, `scan/${kind}`))
  yield* gateway.awaitIdle(kind)
  assert.isAbove((yield* gateway.history).length, before)
})

const it_ = (
  name: string,
  test: () => Effect.Effect<unknown, unknown, Effect.Services<ReturnType<typeof start>> | HttpClient.HttpClient>
) => it.live(name, () => test().pipe(Effect.scoped, Effect.provide(Live)))

describe("the model", () => {
  it_("is what lay on disk at boot, then at the last scan", () =>
    Effect.gen(function* () {
      const gateway = yield* start(project("one"))
      yield* gateway.awaitPhase("running")
      yield* gateway.write(project("two"))
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/view.json`)?.text, '{"commit":"one"}')
      yield* scan(gateway, "projects")
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/view.json`)?.text, '{"commit":"two"}')
      assert.deepStrictEqual(
        (yield* gateway.history).map((_) => _.cause),
        ["boot", "boot", "scan"]
      )
    })
  )

  it_("keeps the old version of a resource that cannot be loaded, and says so in the log", () =>
    Effect.gen(function* () {
      const gateway = yield* start(project("one"))
      yield* gateway.awaitPhase("running")
      yield* gateway.write({ [`${view}/view.json`]: '{"commit":"tw' })
      yield* scan(gateway, "projects")
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/view.json`)?.text, '{"commit":"one"}')
      const logs = yield* get(api(gateway, "logs?minLevel=ERROR"))
      assert.include(logs.text, `${view}: Unable to deserialize view.json`)
      yield* gateway.write(project("two"))
      yield* scan(gateway, "projects")
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/view.json`)?.text, '{"commit":"two"}')
    })
  )

  it_("knows only files that their resource lists, and misses none of them", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ ...project("one"), [`${view}/stray.txt`]: "x" })
      yield* gateway.awaitPhase("running")
      assert.isFalse(filesOf(yield* gateway.model).has(`${view}/stray.txt`))
      yield* gateway.write({ [`${view}/resource.json`]: JSON.stringify({ files: ["view.json", "code.py"] }) })
      yield* scan(gateway, "projects")
      assert.include((yield* gateway.log).at(-1)?.message, "code.py is listed in resource.json and missing")
    })
  )

  it_("has no project without project.json, none below .resources, none that differs by case", () =>
    Effect.gen(function* () {
      const gateway = yield* start({
        ...project("one"),
        "projects/SITE/project.json": "{}",
        "projects/none/x.txt": "",
        "projects/.resources/project.json": "{}"
      })
      yield* gateway.awaitPhase("running")
      assert.strictEqual(Object.keys((yield* gateway.model).projects).length, 1)
    })
  )

  it_("takes config from the collections in the order of their parents", () =>
    Effect.gen(function* () {
      const tags = (collection: string) =>
        Seed.resource(`config/resources/${collection}/ignition/tag-provider/default`, { from: collection })
      const gateway = yield* start({
        ...Seed.minimal,
        ...tags("external"),
        ...tags("core"),
        "config/resources/orphan/ignition/x/resource.json": '{"files":[]}'
      })
      yield* gateway.awaitPhase("running")
      const model = yield* gateway.model
      assert.deepStrictEqual(Object.keys(model.collections), ["core", "external", "local"])
      assert.include(effectiveConfig(model)["ignition/tag-provider/default"]?.files["config.json"]?.text, "core")
    })
  )
})

describe("a scan", () => {
  it_("is joined by a second POST, which does not make it read again", () =>
    Effect.gen(function* () {
      const gateway = yield* start({ ...project("one"), "projects/site/m/t/bad/resource.json": "{" })
      yield* gateway.awaitPhase("running")
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      yield* gateway.write({ "projects/site/m/t/worse/resource.json": "{" })
      yield* post(api(gateway, "scan/projects"))
      yield* gateway.awaitLog((_) => _.message.includes("worse"))
      yield* gateway.write(project("two"))
      const joined = yield* post(api(gateway, "scan/projects"))
      assert.include(joined.text, '"scanActive":true')
      yield* gateway.setScanBehaviour({ _tag: "Normal" })
      yield* gateway.awaitIdle("projects")
      assert.strictEqual((yield* gateway.history).filter((_) => _.cause === "scan").length, 1)
      assert.strictEqual((yield* gateway.scans).length, 2)
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/view.json`)?.text, '{"commit":"one"}')
    })
  )

  it_("that fails ends like any other, with the old model and an error in the log", () =>
    Effect.gen(function* () {
      const gateway = yield* start(project("one"))
      yield* gateway.awaitPhase("running")
      yield* post(`${gateway.controlUrl}/__sim/scan-behaviour`, { _tag: "Fails", message: "abort collision policy" })
      yield* gateway.write(project("two"))
      yield* post(api(gateway, "scan/projects"))
      yield* gateway.awaitLog((_) => _.message === "abort collision policy")
      yield* gateway.awaitIdle("projects")
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/view.json`)?.text, '{"commit":"one"}')
    })
  )

  it_("signs what it loads anew, once, where told to", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const gateway = yield* start(project("one"), { resigns: true })
      yield* gateway.awaitPhase("running")
      const file = `${gateway.dataDir}/${view}/resource.json`
      const signed = yield* fs.readFileString(file)
      assert.include(signed, "lastModificationSignature")
      assert.strictEqual(filesOf(yield* gateway.model).get(`${view}/resource.json`)?.text, signed)
      yield* scan(gateway, "projects")
      assert.strictEqual(yield* fs.readFileString(file), signed)
      assert.deepStrictEqual((yield* gateway.counters).unlockedWrites, [])
    })
  )

  it_("is told to who waits for it, with its trace", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      yield* gateway.awaitPhase("running")
      const waiting = yield* Effect.forkChild(gateway.awaitScan(0))
      const remote = yield* Effect.forkChild(get(`${gateway.controlUrl}/__sim/scans/0`))
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
      yield* call(HttpClientRequest.post(api(gateway, "scan/config")), { traceparent }).pipe(
        Effect.provideService(HttpClient.TracerPropagationEnabled, false)
      )
      const seen = yield* Fiber.join(waiting)
      assert.strictEqual(seen.traceparent, traceparent)
      assert.strictEqual(seen.kind, "config")
      assert.include((yield* Fiber.join(remote)).text, traceparent)
    })
  )

  it_("comes unasked for projects, where told to", () =>
    Effect.gen(function* () {
      const gateway = yield* start(project("one"), { scanFrequency: "5 millis" })
      yield* gateway.awaitPhase("running")
      yield* gateway.write(project("two"))
      yield* gateway.awaitModel((_) => filesOf(_).get(`${view}/view.json`)?.text === '{"commit":"two"}')
      assert.deepStrictEqual(yield* gateway.scans, [])
    })
  )
})

describe("the scan lock", () => {
  it_("is held once, freed by a scan POST, and none is 204", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      yield* gateway.awaitPhase("running")
      const lock = api(gateway, "scan-lock/config")
      assert.strictEqual((yield* get(lock)).status, 204)
      assert.strictEqual((yield* post(lock)).status, 400)
      assert.strictEqual((yield* post(lock, { holdTimeout: 20 })).status, 200)
      assert.strictEqual((yield* post(lock, {})).status, 409)
      assert.include((yield* get(lock)).text, '"remaining":20')
      assert.strictEqual((yield* get(api(gateway, "scan-lock/projects"))).status, 204)
      yield* post(api(gateway, "scan/config"))
      assert.strictEqual((yield* get(lock)).status, 204)
    })
  )

  it_("is not had while a scan runs", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      yield* gateway.awaitPhase("running")
      yield* gateway.setScanBehaviour({ _tag: "NeverEnds" })
      yield* post(api(gateway, "scan/config"))
      assert.strictEqual((yield* post(api(gateway, "scan-lock/config"), { acquireTimeout: 0 })).status, 408)
    })
  )

  it_("counts writes that were made without it, deletions too, and none made with it", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const gateway = yield* start(project("one"))
      yield* gateway.awaitPhase("running")
      yield* fs.remove(`${gateway.dataDir}/${view}`, { recursive: true })
      yield* scan(gateway, "projects")
      const unlocked = (yield* gateway.counters).unlockedWrites.map((_) => _.path)
      assert.deepStrictEqual(unlocked, [`${view}/resource.json`, `${view}/view.json`])
      yield* post(api(gateway, "scan-lock/projects"), {})
      yield* gateway.write(project("two"))
      yield* scan(gateway, "projects")
      assert.strictEqual((yield* gateway.counters).unlockedWrites.length, 2)
    })
  )
})

describe("access", () => {
  const token = "stoker:secret"
  const secured = {
    ...Seed.minimal,
    ...Seed.resource("config/resources/external/ignition/api-token/stoker", Access.tokenConfig("secret", ["apiKeys"])),
    ...Seed.resource("config/resources/external/ignition/security-properties", Access.openTo(["apiKeys"]))
  }

  it_("is 404 before 401 before 403", () =>
    Effect.gen(function* () {
      const gateway = yield* start(
        {
          ...secured,
          ...Seed.resource("config/resources/core/ignition/security-properties", Access.defaultProperties)
        },
        { access: "checked" }
      )
      yield* gateway.awaitPhase("running")
      const ask = (path: string, header?: string) =>
        call(
          HttpClientRequest.get(api(gateway, path)),
          header === undefined ? {} : { "X-Ignition-API-Token": header }
        ).pipe(Effect.map((_) => _.status))
      assert.strictEqual(yield* ask("no-such-route"), 404)
      assert.strictEqual(yield* ask("designers"), 401)
      assert.strictEqual(yield* ask("designers", "stoker:other"), 401)
      assert.strictEqual(yield* ask("designers", token), 403)
    })
  )

  it_("lets a token in that lies there at boot, not one that came later", () =>
    Effect.gen(function* () {
      const gateway = yield* start({}, { access: "checked" })
      yield* gateway.awaitPhase("running")
      const ask = call(HttpClientRequest.get(api(gateway, "gateway-info")), { "X-Ignition-API-Token": token }).pipe(
        Effect.map((_) => _.status)
      )
      yield* gateway.write(secured)
      assert.strictEqual(yield* ask, 401)
      yield* gateway.restart
      yield* gateway.awaitPhase("down")
      yield* gateway.awaitPhase("running")
      assert.strictEqual(yield* ask, 200)
    })
  )

  it_("is lost by commissioning, except where it lies in external", () =>
    Effect.gen(function* () {
      const gateway = yield* start(
        {
          ...Seed.minimal,
          ...Seed.resource("config/resources/core/ignition/security-properties", Access.openTo(["a"]))
        },
        { commissioning: "automatic", access: "checked" }
      )
      yield* gateway.awaitPhase("running")
      const properties = (model: GatewayModel) =>
        Access.propertiesOf(configResource(model, "ignition/security-properties"))
      assert.deepStrictEqual(properties(yield* gateway.model), Access.defaultProperties)
      const other = yield* start(secured, { commissioning: "automatic", access: "checked" })
      yield* other.awaitPhase("running")
      assert.deepStrictEqual(properties(yield* other.model), Access.openTo(["apiKeys"]))
    })
  )
})

describe("the life of a gateway", () => {
  it_("goes from down over starting and commissioning to running", () =>
    Effect.gen(function* () {
      const gateway = yield* start({}, { boots: false, commissioning: "manual" })
      const ping = get(`${gateway.url}/StatusPing`).pipe(Effect.map((_) => _.text))
      assert.strictEqual((yield* Effect.flip(ping))._tag, "HttpClientError")
      yield* post(`${gateway.controlUrl}/__sim/state`, { state: "running" })
      yield* gateway.awaitPhase("commissioning")
      assert.strictEqual(yield* ping, '{"state":"RUNNING","details":"COMMISSIONING"}')
      const redirected = yield* post(api(gateway, "scan/projects"))
      assert.strictEqual(redirected.status, 302)
      assert.strictEqual(redirected.headers["location"], "/welcome")
      yield* post(`${gateway.controlUrl}/__sim/commission`)
      yield* gateway.awaitPhase("running")
      assert.strictEqual(yield* ping, '{"state":"RUNNING"}')
      yield* gateway.setPhase("faulted")
      assert.strictEqual((yield* get(api(gateway, "designers"))).status, 503)
      yield* gateway.setPhase("down")
      assert.strictEqual(yield* gateway.phase, "down")
      assert.strictEqual((yield* Effect.flip(ping))._tag, "HttpClientError")
    })
  )

  it_("does not begin on a port that is taken", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      const error = yield* Effect.flip(start({}, { port: Number(new URL(gateway.url).port) }))
      assert.strictEqual(error._tag, "ServeError")
    })
  )

  it_("is seeded by the chart over what lies there, by the image only where nothing does", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const mine = { "ignition.conf": "mine" }
      const chart = yield* start(mine, { seed: "chart" })
      assert.notStrictEqual(yield* fs.readFileString(`${chart.dataDir}/ignition.conf`), "mine")
      yield* chart.write(mine)
      yield* chart.setPhase("down")
      yield* chart.setPhase("running")
      yield* chart.awaitPhase("running")
      assert.strictEqual(yield* fs.readFileString(`${chart.dataDir}/ignition.conf`), "mine")
      const image = yield* start(mine, { seed: "image" })
      assert.isFalse(yield* fs.exists(`${image.dataDir}/config`))
      const fresh = yield* start({}, { seed: "image" })
      assert.isTrue(yield* fs.exists(`${fresh.dataDir}/config/resources/core/config-mode.json`))
    })
  )
})

describe("a restart", () => {
  it_("answers true and RUNNING for a while, then closes the port and comes back", () =>
    Effect.gen(function* () {
      const gateway = yield* start({}, { lingerTime: "30 millis" })
      yield* gateway.awaitPhase("running")
      const answer = yield* post(api(gateway, "restart-tasks/restart?confirm=true"))
      assert.strictEqual(answer.text, "true")
      assert.strictEqual((yield* get(`${gateway.url}/StatusPing`)).text, '{"state":"RUNNING"}')
      yield* gateway.awaitPhase("down")
      yield* gateway.awaitPhase("running")
      assert.strictEqual((yield* gateway.history).filter((_) => _.cause === "boot").length, 4)
    })
  )
})

describe("faults", () => {
  it_("happen as often as said, to the route that was said, by HTTP as well", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      yield* gateway.awaitPhase("running")
      const fault = { route: "GET /data/*", times: 2, failure: { _tag: "Status", status: 500 } }
      assert.strictEqual((yield* post(`${gateway.controlUrl}/__sim/faults`, fault)).status, 204)
      assert.strictEqual((yield* post(`${gateway.controlUrl}/__sim/faults`, { route: 1 })).status, 400)
      const statuses = []
      for (let i = 0; i < 3; i++) statuses.push((yield* get(api(gateway, "designers"))).status)
      assert.deepStrictEqual(statuses, [500, 500, 200])
      yield* gateway.faults.inject({ route: "GET /data/*", failure: { _tag: "SlowBody", millis: 0 } })
      assert.include((yield* get(api(gateway, "designers"))).text, '"items":[]')
    })
  )
})

describe("control by HTTP", () => {
  it_("tells the model, the history, the log, the scans and the counters, and only that", () =>
    Effect.gen(function* () {
      const gateway = yield* start(project("one"))
      yield* gateway.awaitPhase("running")
      const read = (path: string) => get(`${gateway.controlUrl}/__sim/${path}`)
      assert.include((yield* read("state")).text, "running")
      assert.include((yield* read("model")).text, viewId)
      assert.include((yield* read("history")).text, '"cause":"boot"')
      assert.strictEqual((yield* read("log")).text, "[]")
      assert.strictEqual((yield* read("scans")).text, "[]")
      assert.include((yield* read("counters")).text, '"unlockedWrites":[]')
      assert.strictEqual((yield* read("nonsense")).status, 404)
      assert.strictEqual((yield* read("scans/x")).status, 400)
    })
  )
})

describe("lists", () => {
  it_("come in the envelope, and an unknown parameter matches nothing", () =>
    Effect.gen(function* () {
      const gateway = yield* start()
      yield* gateway.awaitPhase("running")
      yield* post(`${gateway.url}/__sim/designers`, { id: "1", user: "eve", project: "site" })
      assert.include((yield* get(api(gateway, "designers"))).text, '"user":"eve"')
      assert.include((yield* get(api(gateway, "designers?nonsense=1"))).text, '"total":1,"matching":0')
      yield* gateway.designers.remove("1")
      assert.include((yield* get(api(gateway, "designers"))).text, '"items":[]')
    })
  )
})
