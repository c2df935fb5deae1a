/** From the start of the built processes to their readiness, and what they hold in memory when nothing happens. */
import { Effect } from "effect"
import type { Running } from "../src/sandbox/Kubelet.ts"
import { Plant } from "../src/sandbox/Plant.ts"
import { ownMemory, rss } from "./Process.ts"
import { spread, type Figure } from "./Sample.ts"

/** Starts a process of the product several times and says how long each took to answer 200. */
const startTimes = <E, R>(launch: Effect.Effect<Running, E, R>, probe: "healthz" | "readyz" | "startupz") =>
  Effect.forEach([1, 2, 3, 4, 5], () =>
    Effect.scoped(
      Effect.gen(function* () {
        const began = performance.now()
        const running = yield* launch
        yield* running.await(probe)
        return performance.now() - began
      })
    )
  )

/** Needs a plant with one gateway. */
export const start = Effect.gen(function* () {
  const plant = yield* Plant
  // Idle means: for ten seconds nobody asked for anything.
  yield* Effect.sleep("10 seconds")
  const idleOf = (pid: number) => ({ mib: rss(pid), own: ownMemory(pid) })
  const idle = { controller: idleOf(plant.controller.pid), agent: idleOf(plant.gateways[0]!.agent.pid) }
  const controller = spread(yield* startTimes(plant.startController("bench"), "readyz"))
  const agent = spread(yield* startTimes(plant.startAgent("bench-0"), "healthz"))
  const synced = spread(yield* startTimes(plant.startAgent("bench-1"), "startupz"))
  const ready = (what: string, ms: typeof agent, seconds?: number): Figure => ({
    what,
    value: `p50 ${ms.p50} ms (${ms.min}–${ms.max})`,
    ...(seconds === undefined ? {} : { aim: `≤ ${seconds} s`, met: ms.p50 <= seconds * 1000 }),
    data: { ms }
  })
  const memory = (who: "controller" | "agent", mib: number): Figure => ({
    what: `${who}: idle memory (RSS)`,
    value: `${idle[who].mib.toFixed(0)} MiB, of which its own ${idle[who].own.toFixed(0)} MiB`,
    aim: `≤ ${mib} MiB`,
    met: idle[who].mib <= mib,
    data: idle[who]
  })
  return [
    ready("controller: from start to ready", controller, 0.5),
    memory("controller", 100),
    ready("agent: from start to its probes", agent, 0.3),
    ready("agent: from start to its first sync done (cold)", synced),
    memory("agent", 75)
  ]
})
