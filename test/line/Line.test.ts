/**
 * The whole line on a real control plane, by the built product, from a repository that asks for a token: every delivery
 * of the demo, and then a search for the plant's secrets everywhere that people and programs can look.
 */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Layer, Option, Redacted } from "effect"
import * as Names from "../../src/api/Names.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import * as DemoRepository from "../../src/sandbox/DemoRepository.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import * as PlantModule from "../../src/sandbox/Plant.ts"
import { eventually, Plant } from "../../src/sandbox/Plant.ts"
import * as Scenario from "../../src/sandbox/Scenario.ts"
import * as Senders from "../../src/sandbox/Senders.ts"
import { TraceCollector } from "../../src/sandbox/TraceCollector.ts"

const plant = Plant.layerNoDeps({ ...PlantModule.demo, privateRepository: true }, () => Effect.void).pipe(
  Layer.provideMerge(Layer.mergeAll(GitServer.layerNoDeps(), TraceCollector.layer)),
  Layer.provideMerge(ControlPlane.layer),
  Layer.provideMerge(NodeServices.layer)
)

const filesBelow = Effect.fnUntraced(function* (folder: string) {
  const fileSystem = yield* FileSystem.FileSystem
  const found: Array<readonly [string, string]> = []
  for (const file of yield* fileSystem.readDirectory(folder, { recursive: true })) {
    const path = `${folder}/${file}`
    if ((yield* fileSystem.stat(path)).type === "File") found.push([path, yield* fileSystem.readFileString(path)])
  }
  return found
})

layer(plant, { excludeTestServices: true, timeout: "60 seconds" })("the line", (it) => {
  it.effect(
    "brings every delivery to both gateways, as one trace",
    () =>
      Effect.gen(function* () {
        const results = yield* Scenario.run(() => Effect.void)
        assert.deepStrictEqual(
          results.filter((result) => !result.ok).map(({ problems, step }) => ({ step, problems })),
          []
        )
        assert.deepStrictEqual(
          results.map((result) => result.step),
          [
            "first sync",
            "github push",
            "poll",
            "generic",
            "github release",
            "argocd",
            "kargo",
            "branch push that is not for a tag"
          ]
        )
        for (const result of results.filter(({ webhook }) => webhook)) {
          assert.isTrue(Option.isSome(result.waterfall), `${result.step} is one trace from accept to scan`)
        }
      }),
    60_000
  )

  it.effect(
    "hands the trace of a delivery on to the gateway itself",
    () =>
      Effect.gen(function* () {
        const { gateways, post, commit, gatewaySyncs } = yield* Plant
        const { gateway } = gateways[0]!
        const { traceId, traceparent } = yield* Scenario.newTrace
        yield* commit(1000)
        const scans = (yield* gateway.scans).length
        yield* post(gatewaySyncs[0]!, { ref: "main" }, { traceparent })
        const scan = yield* gateway.awaitScan(scans)
        assert.include(scan.traceparent ?? "", traceId)
      }),
    30_000
  )

  it.effect(
    "shows no secret: not in logs, spans, events, status, argv or files, also when they are refused",
    () =>
      Effect.gen(function* () {
        const { controller, gateways, gatewaySyncs, get, logFolder, post, repository, secrets } = yield* Plant
        const { admin } = yield* ControlPlane
        const fileSystem = yield* FileSystem.FileSystem
        const collector = yield* TraceCollector
        const inUrl = "p4ssw0rd-in-a-url"
        const base64 = (text: string) => Buffer.from(text).toString("base64").replace(/=+$/, "")
        // As they are, and as they travel: alone in base64, and as the password of HTTP basic.
        const marked = [
          ...Object.entries(secrets).map(([name, value]) => ({ name, value: Redacted.value(value) })),
          { name: "password in a URL", value: inUrl }
        ].flatMap(({ name, value }) => [
          { name, value },
          { name: `${name} in base64`, value: base64(value) },
          { name: `${name} as HTTP basic`, value: base64(`x-access-token:${value}`) }
        ])
        const answers: Array<string> = []
        const answered = (answer: PlantModule.Answer) => {
          answers.push(JSON.stringify(answer.body))
          return answer
        }

        // Errors quote what they are about, so provoke some: the git server refuses the token from now on.
        yield* repository.requireLogin(Option.some({ username: "x-access-token", password: Redacted.make("another") }))
        answered(yield* post(gatewaySyncs[0]!, { ref: "v9.9.9" }))
        // A person put a password where none belongs; then a forge speaks of another repository, with one of its own.
        yield* Manifests.apply(
          [
            {
              apiVersion: Names.apiVersion,
              kind: "GatewaySync",
              metadata: { name: "careless", namespace: PlantModule.namespace },
              spec: {
                git: { repo: repository.url.replace("://", `://bob:${inUrl}@`), ref: "main" },
                gateway: { api: { secretName: "none" } },
                sync: { profiles: DemoRepository.profiles }
              }
            }
          ],
          PlantModule.namespace
        )
        const refused = yield* eventually(
          Effect.map(get("careless"), ({ status }) =>
            status.conditions?.some(({ type }) => type === "RefResolved") === true ? [] : ["not looked at yet"]
          )
        )
        assert.deepStrictEqual(refused, [])
        for (const url of [`https://eve:${inUrl}@git.example.org/other.git`, repository.url]) {
          const push = Senders.push("main", "0".repeat(39) + "1", "0".repeat(39) + "2", url)
          answered(yield* post("careless", push, { event: "push", sign: true }))
          answered(yield* post("careless", push, { event: "push" }))
        }
        const problems = yield* eventually(
          Effect.map(get(gatewaySyncs[0]!), ({ status }) =>
            status.conditions?.some(({ status, type }) => type === "RefResolved" && status === "False") === true
              ? []
              : ["the refusal is not in the status yet"]
          )
        )
        assert.deepStrictEqual(problems, [])

        const places: Array<readonly [string, string]> = []
        for (const file of yield* fileSystem.readDirectory(logFolder)) {
          places.push([`log ${file}`, yield* fileSystem.readFileString(`${logFolder}/${file}`)])
        }
        assert.isAtLeast(places.length, 3, "controller and two agents have logged")
        places.push(["spans", JSON.stringify(yield* collector.spans)])
        for (const path of [
          "/apis/stoker.io/v1alpha1/gatewaysyncs",
          "/api/v1/configmaps",
          "/api/v1/pods",
          "/apis/events.k8s.io/v1/events",
          "/apis/apps/v1/deployments"
        ]) {
          const response = yield* admin.get(path)
          assert.strictEqual(response.status, 200, path)
          // What a person wrote into a spec is his own to read.
          const text = yield* response.text
          places.push([path, text.replaceAll(`bob:${inUrl}@`, "")])
        }
        for (const pid of [controller.pid, ...gateways.map(({ agent }) => agent.pid)]) {
          places.push([`argv of ${pid}`, yield* fileSystem.readFileString(`/proc/${pid}/cmdline`)])
          const environment = yield* fileSystem.readFileString(`/proc/${pid}/environ`)
          places.push([`environment of ${pid}`, environment])
          const clone = /(?:^|\0)REPO_PATH=([^\0]+)/.exec(environment)?.[1]
          if (clone !== undefined) places.push(...(yield* filesBelow(clone)))
        }
        for (const { gateway } of gateways) {
          places.push(...(yield* filesBelow(gateway.dataDir)))
        }
        places.push(["answers", answers.join("\n")])
        for (const [place, content] of places) {
          if (!place.includes("/")) assert.isAbove(content.length, 10, `the search sees something in ${place}`)
        }
        assert.include(answers.join("\n"), "another repository")

        for (const { name, value } of marked) {
          const found = places.filter(([, content]) => content.includes(value)).map(([place]) => place)
          assert.deepStrictEqual(found, [], `the ${name} must not be there`)
        }
      }),
    60_000
  )
})
