/**
 * `stoker sandbox`: a whole plant on this machine, to look at, to test against and to measure.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Clock, Config, Console, Effect, Exit, Layer, Option, Redacted, Schedule, Stdio, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { ControlPlane } from "../sandbox/ControlPlane.ts"
import { GitServer } from "../sandbox/GitServer.ts"
import * as LiveView from "../sandbox/LiveView.ts"
import * as Plant from "../sandbox/Plant.ts"
import { Processes } from "../sandbox/Processes.ts"
import * as Scenario from "../sandbox/Scenario.ts"
import { Toolchain } from "../sandbox/Toolchain.ts"
import { TraceCollector } from "../sandbox/TraceCollector.ts"
import * as Waterfall from "../sandbox/Waterfall.ts"
import { version } from "../Version.ts"

/** Progress is for people: it goes to standard error, so that standard output stays what was asked for. */
const progress = (line: string) => Console.error(`· ${line}`)

const plant = (options: Plant.Options) =>
  Plant.Plant.layerNoDeps(options, progress).pipe(
    Layer.provideMerge(Layer.mergeAll(GitServer.layerNoDeps(), TraceCollector.layer)),
    Layer.provideMerge(ControlPlane.layer)
  )

/** Drives the demo's deliveries and says how each went. Exit code 1 when one failed. */
const once = Effect.fnUntraced(function* (json: boolean) {
  const started = yield* Clock.currentTimeMillis
  const name = (text: string) => text.padEnd(36)
  if (!json) yield* Console.log(`\n${name("step")} result      ms`)
  const results = yield* Scenario.run((result) =>
    json
      ? Console.log(
          JSON.stringify({
            step: result.step,
            ok: result.ok,
            ms: Math.round(result.ms * 10) / 10,
            ...(result.ok ? {} : { problems: result.problems })
          })
        )
      : Console.log(
          [
            `${name(result.step)} ${result.ok ? "ok    " : "FAILED"} ${result.ms === 0 ? "" : result.ms.toFixed(0).padStart(7)}`,
            ...result.problems.map((problem) => `    ${problem}`)
          ].join("\n")
        )
  )
  const summary = Scenario.summary(results)
  if (json) yield* Console.log(JSON.stringify(summary))
  else {
    const fastest = results
      .filter((result) => result.webhook && Option.isSome(result.waterfall))
      .toSorted((a, b) => a.ms - b.ms)[0]
    if (fastest !== undefined && Option.isSome(fastest.waterfall)) {
      yield* Console.log(
        `\nThe fastest, ${fastest.step}, as its trace tells it:\n${Waterfall.render(fastest.waterfall.value)}`
      )
    }
    const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
    yield* Console.log(
      `\n${summary.passed} passed, ${summary.failed} failed; webhook to scan: ${summary.lineP50Ms} ms (median), ${seconds.toFixed(1)} s in all`
    )
  }
  return summary.failed === 0 && results.length > 0
})

/** What another program needs to drive the plant, as one line of JSON. */
const description = Effect.gen(function* () {
  const { bearer, gateways, gatewaySyncs, hmacSecret, kubeconfigs, repository, webhookUrl } = yield* Plant.Plant
  const collector = yield* TraceCollector
  return {
    webhookUrl,
    bearer: Redacted.value(bearer),
    hmacSecret: Redacted.value(hmacSecret),
    kubeconfig: kubeconfigs.admin,
    kubeconfigs: { controller: kubeconfigs.controller, agent: kubeconfigs.agent },
    namespace: Plant.namespace,
    gatewaySyncs,
    gitUrls: [repository.url],
    gateways: gateways.map(({ gateway, name }) => ({
      name,
      url: gateway.url,
      controlUrl: gateway.controlUrl,
      dataDir: gateway.dataDir
    })),
    otlpUrl: collector.url
  }
})

/** Ends when whoever started us closes our standard input. */
const stdinClosed = Effect.flatMap(Stdio.Stdio, (stdio) => Effect.ignore(Stream.runDrain(stdio.stdin)))

/** Ends when the process that started us is gone: SIGKILL tells its children nothing. */
const parentGone = Effect.gen(function* () {
  const parent = yield* Config.option(Config.Int("STOKER_PARENT_PID"))
  if (Option.isNone(parent)) return yield* Effect.never
  yield* Effect.sync(() => process.ppid === parent.value).pipe(
    Effect.repeat({ while: (alive) => alive, schedule: Schedule.spaced("500 millis") })
  )
  yield* Effect.logWarning("the process that started this sandbox is gone, so it ends")
})

const number = (name: string, description: string, value: number) =>
  Flag.Int(name).pipe(Flag.withDescription(description), Flag.withDefault(value))

const command = Command.make(
  "sandbox",
  {
    once: Flag.Boolean("once").pipe(
      Flag.withDescription("Drive the demo's deliveries, check each, and end"),
      Flag.withDefault(false)
    ),
    serve: Flag.Boolean("serve").pipe(
      Flag.withDescription("Stay up for other programs until standard input closes or SIGTERM"),
      Flag.withDefault(false)
    ),
    prepare: Flag.Boolean("prepare").pipe(
      Flag.withDescription("Only make sure that the control plane's programs are there"),
      Flag.withDefault(false)
    ),
    json: Flag.Boolean("json").pipe(Flag.withDescription("JSON lines instead of text"), Flag.withDefault(false)),
    sites: number("sites", "Sites of the repository", Plant.demo.sites),
    gateways: number("gateways", "Gateways in all", Plant.demo.gateways),
    crs: number("crs", "GatewaySync objects", Plant.demo.crs),
    views: number("views", "Pages of a site's project, two files each", Plant.demo.views),
    port: number("port", "Port of the webhook receiver; 0 = a free one", 0),
    set: Flag.String("set").pipe(Flag.withDescription("Chart value, key=value; may be repeated"), Flag.atLeast(0))
  },
  Effect.fnUntraced(function* (flags) {
    if (flags.prepare) {
      yield* Effect.flatMap(Toolchain, (toolchain) => toolchain.prepare).pipe(Effect.provide(tools))
      return
    }
    const options: Plant.Options = { ...Plant.demo, ...flags, webhookPort: flags.port }
    const work = Effect.gen(function* () {
      if (flags.once) {
        if (!(yield* once(flags.json))) yield* Effect.sync(() => (process.exitCode = 1))
        return
      }
      if (flags.serve) {
        const ready = yield* description
        yield* Console.log(flags.json ? JSON.stringify(ready) : JSON.stringify(ready, undefined, 2))
        return yield* stdinClosed
      }
      if (process.stdout.isTTY === true && process.stdin.isTTY === true && !flags.json)
        return yield* LiveView.interactive
      yield* LiveView.plain(Console.log)
    })
    const layers = Layer.merge(plant(options), NodeHttpClient.layerNodeHttp)
    yield* work.pipe(Effect.provide(layers), Effect.raceFirst(parentGone))
  })
).pipe(
  Command.withDescription(
    "A real control plane and git server, the built controller and agents, and simulated gateways, on this machine"
  )
)

const tools = Toolchain.layer.pipe(Layer.provide(Processes.layerNoDeps))

export const run = (args: ReadonlyArray<string>): void =>
  Command.runWith(command, { version })(args).pipe(Effect.provide(NodeServices.layer), (program) =>
    NodeRuntime.runMain(program, {
      // After Ctrl-C or SIGTERM everything was cleaned up: that is what was asked for.
      teardown: (exit, onExit) =>
        onExit(Exit.isSuccess(exit) || Exit.hasInterrupts(exit) ? Number(process.exitCode ?? 0) : 1)
    })
  )
