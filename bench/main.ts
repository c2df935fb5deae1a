/**
 * `npm run bench [-- NAME ...]`: prints a line of JSON for each figure, then the table. Names: line, agent, accept, hook, start, cluster.
 * Every figure says what it was measured against; machines differ, so quote the ratios.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Layer } from "effect"
import { ControlPlane } from "../src/sandbox/ControlPlane.ts"
import { GitServer } from "../src/sandbox/GitServer.ts"
import * as Plant from "../src/sandbox/Plant.ts"
import { TraceCollector } from "../src/sandbox/TraceCollector.ts"
import { accept } from "./accept.ts"
import { agent } from "./agent.ts"
import * as Cluster from "./cluster.ts"
import { hook } from "./hook.ts"
import { line } from "./line.ts"
import type { Figure } from "./Sample.ts"
import { start } from "./start.ts"

const plant = (options: Partial<Plant.Options>) =>
  Plant.Plant.layerNoDeps({ ...Plant.demo, ...options }, (text) => Console.error(`· ${text}`)).pipe(
    Layer.provideMerge(Layer.mergeAll(GitServer.layerNoDeps(), TraceCollector.layer)),
    Layer.provideMerge(ControlPlane.layer)
  )

const benches = {
  line: line.pipe(Effect.provide(plant({ sites: 1, gateways: 1, views: 1000 }))),
  agent: agent.pipe(Effect.provide(GitServer.layerNoDeps().pipe(Layer.provideMerge(ControlPlane.layer)))),
  accept: accept.pipe(Effect.provide(plant({ sites: 1, gateways: 0, crs: 64 }))),
  hook: hook.pipe(Effect.provide(plant({ sites: 1, gateways: 0, crs: 1000, traced: false }))),
  start: start.pipe(Effect.provide(plant({ sites: 1, gateways: 1, traced: false }))),
  cluster: Cluster.cluster.pipe(
    Effect.provide(plant({ sites: 1, gateways: 0, crs: Cluster.gatewaySyncs, traced: false }))
  )
} as const

const main = Effect.gen(function* () {
  const wanted = process.argv.slice(2)
  const figures: Array<Figure> = []
  for (const [name, bench] of Object.entries(benches)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    yield* Console.error(`${name}:`)
    for (const figure of yield* Effect.scoped(bench)) {
      figures.push(figure)
      yield* Console.log(JSON.stringify({ bench: name, ...figure }))
    }
  }
  yield* Console.log("\n| what | measured | aim | |\n|---|---|---|---|")
  for (const { aim, met, value, what } of figures) {
    yield* Console.log(`| ${what} | ${value} | ${aim ?? ""} | ${met === undefined ? "" : met ? "met" : "missed"} |`)
  }
})

NodeRuntime.runMain(main.pipe(Effect.scoped, Effect.provide(NodeServices.layer)))
