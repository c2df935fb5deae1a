/**
 * The sandbox's screen from states, and its keys and paste lines on a real plant: each sender's post is taken, and what
 * it tells of reaches the gateways.
 */
import { NodeHttpClient, NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { Array, Effect, Fiber, Layer, Option, Queue, Ref, Terminal } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { spawnSync } from "node:child_process"
import { stripVTControlCharacters } from "node:util"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as LiveView from "../../src/sandbox/LiveView.ts"
import * as PlantModule from "../../src/sandbox/Plant.ts"
import { eventually, Plant } from "../../src/sandbox/Plant.ts"
import * as Senders from "../../src/sandbox/Senders.ts"
import { TraceCollector } from "../../src/sandbox/TraceCollector.ts"

const screen: LiveView.Screen = {
  now: 200_000,
  gateways: [
    { name: "site-1", commit: "1234567", status: "Synced", scan: "scanned 2 s ago", message: "" },
    { name: "site-2", commit: "–", status: "Error", scan: "no scan yet", message: "the scan was refused" }
  ],
  follows: [
    ["plant", "main"],
    ["other", undefined]
  ],
  deliveries: [
    { what: "github main", startMs: 197_000, rows: [{ name: "accept", start: 0, duration: 4 }] },
    { what: "kargo v1.0.0", startMs: 20_000, rows: [{ name: "accept", start: 0, duration: 2 }] }
  ],
  shown: 0,
  commands: [{ what: "GitHub push", line: `curl ${"x".repeat(300)}` }],
  turned: false,
  note: "answered 202"
}

const lines = (changes: Partial<LiveView.Screen>, size: Terminal.Size) =>
  stripVTControlCharacters(LiveView.render({ ...screen, ...changes }, size)).split("\n")

describe("the screen", () => {
  const large = { columns: 120, rows: 60 }

  it("shows gateways, what is followed, deliveries with their waterfalls, a line to paste and the last answer", () => {
    const text = lines({}, large).join("\n")
    assert.include(text, "  site-1         1234567   Synced    scanned 2 s ago")
    assert.match(text, /site-2 +– +Error +no scan yet {2}the scan was refused/)
    assert.include(text, "plant follows main")
    assert.include(text, "other follows nothing yet")
    assert.match(text, /github main 3 s ago\n.*accept/)
    assert.match(text, /kargo v1\.0\.0 3 min ago\n.*accept/)
    assert.include(text, "  # GitHub push\n  curl xxx")
    assert.isTrue(text.endsWith("\n\nanswered 202"))
  })

  it("says what to press while nothing was delivered", () => {
    assert.include(lines({ deliveries: [] }, large).join("\n"), "none yet: press 1")
  })

  it("has a key for each sender, and marks the one whose line is shown", () => {
    const [first = "", second = ""] = lines({}, large).filter((line) => /^ {2}\d [A-Z]/.test(line))
    const cells = [first, second].flatMap((row) => row.trim().split(/ {2,}/))
    assert.deepStrictEqual(
      cells,
      Senders.senders.map(({ name }, place) => `${(place + 1) % 10} ${name}`)
    )
    assert.isAtMost(Senders.senders.length, 10, "a digit is a key")
    assert.include(LiveView.render({ ...screen, shown: 7 }, large), "\u001b[1m8 Kargo step")
  })

  it("where the terminal is too low shows the plant, and the commands once it is turned", () => {
    const low = { columns: 80, rows: 24 }
    const plant = lines({}, low).join("\n")
    assert.include(plant, "c commands to paste, and back")
    assert.include(plant, "site-1")
    assert.notInclude(plant, "curl")
    const paste = lines({ turned: true }, low).join("\n")
    assert.include(paste, "curl xxx")
    assert.notInclude(paste, "site-1")
    assert.include(paste, "answered 202")
    assert.notInclude(lines({ turned: true }, large).join("\n"), "c commands")
  })

  it("counts a line that is too long for the terminal as the rows that it takes", () => {
    const rows = lines({}, large).length
    assert.include(lines({}, { columns: 400, rows: rows + 4 }).join("\n"), "curl")
    assert.notInclude(lines({}, { columns: 20, rows: rows + 4 }).join("\n"), "curl")
  })
})

const hasCurl = spawnSync("curl", ["--version"]).error === undefined

const plant = Plant.layerNoDeps(PlantModule.demo, () => Effect.void).pipe(
  Layer.provideMerge(Layer.mergeAll(GitServer.layerNoDeps(), TraceCollector.layer)),
  Layer.provideMerge(ControlPlane.layer),
  Layer.provideMerge(Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp))
)

/** A terminal whose keys we press, and whose screen we read. */
const makeTerminal = Effect.gen(function* () {
  const input = yield* Queue.make<Terminal.UserInput>()
  const shown = yield* Ref.make<ReadonlyArray<string>>([])
  const terminal = Terminal.make({
    columns: Effect.succeed(200),
    rows: Effect.succeed(100),
    size: Effect.never,
    readInput: Effect.succeed(input),
    readLine: Effect.never,
    display: (text) => Ref.update(shown, Array.append(text))
  })
  return {
    terminal,
    shown: Ref.get(shown),
    press: (key: string) =>
      Queue.offer(input, {
        input: Option.some(key),
        key: { name: key, ctrl: false, meta: false, shift: false }
      }),
    /** Waits until the screen has it. */
    shows: (what: RegExp) =>
      Effect.map(Ref.get(shown), (all) => {
        const last = stripVTControlCharacters(all.at(-1) ?? "")
        return what.test(last) ? [] : [`the screen has no ${what}:\n${last}`]
      })
  }
})

const holds = <E, R>(check: Effect.Effect<ReadonlyArray<string>, E, R>) =>
  Effect.map(eventually(check), (problems) => assert.deepStrictEqual(problems, []))

const cr = Effect.map(Plant, ({ gatewaySyncs }) => gatewaySyncs[0]!)

/** The GatewaySync follows it, and every gateway has that commit. */
const arrives = Effect.fnUntraced(function* (ref: string) {
  const { gateways, get, repository } = yield* Plant
  const commit = Option.getOrThrow(yield* repository.resolve(`${ref}^{commit}`))
  yield* holds(
    Effect.map(get(yield* cr), ({ status }) => [
      ...(status.lastSyncRef === ref ? [] : [`follows ${status.lastSyncRef}, not ${ref}`]),
      ...gateways.flatMap(({ name }) => {
        const seen = status.discoveredGateways?.find((gateway) => gateway.name === name)
        return seen?.syncedCommit === commit && seen.syncStatus === "Synced" ? [] : [`${name} has not ${commit}`]
      })
    ])
  )
})

const backToMain = Effect.gen(function* () {
  const { post } = yield* Plant
  yield* post(yield* cr, { ref: "main" })
  yield* arrives("main")
})

layer(plant, { excludeTestServices: true, timeout: "90 seconds" })("on a plant", (it) => {
  const slow = 60_000

  it.effect(
    "each key tells of a change as its sender does, and the change reaches the gateways",
    () =>
      Effect.gen(function* () {
        const { press, shown, shows, terminal } = yield* makeTerminal
        const view = yield* LiveView.interactive.pipe(
          Effect.provideService(Terminal.Terminal, terminal),
          Effect.forkScoped({ startImmediately: true })
        )
        yield* backToMain
        const places = Senders.senders.map(({ does, name }, place) => ({ does, name, key: `${(place + 1) % 10}` }))
        for (const { key, name } of places.filter(({ does }) => does === "wakes")) {
          yield* press(key)
          yield* holds(shows(new RegExp(`${name}: answered 202 .*"ref":"main"`)))
          yield* arrives("main")
        }
        for (const { key, name } of places.filter(({ does }) => does === "moves")) {
          yield* press(key)
          yield* holds(shows(new RegExp(`${name}: answered 202 .*"ref":"v0`)))
          const text = (yield* shown).at(-1) ?? ""
          yield* arrives(/answered 202 .*"ref":"(.*?)"/.exec(text)?.[1] ?? "no ref")
        }
        yield* press("p")
        yield* holds(shows(/plant follows v0\.\d+\.0, so back to main: answered 202/))
        yield* arrives("main")

        yield* holds(shows(/# GitHub push: wakes plant/))
        yield* press("s")
        yield* holds(shows(/# GitHub release: moves plant to v0/))
        yield* press("q")
        yield* Fiber.join(view)
        assert.strictEqual((yield* shown).at(-1), "\u001b[?25h\u001b[?1049l", "the terminal is as it was")
      }).pipe(Effect.scoped),
    slow
  )

  it.effect.runIf(hasCurl)(
    `each line that is printed works when it is pasted${hasCurl ? "" : " (skipped: needs curl on PATH)"}`,
    () =>
      Effect.gen(function* () {
        const { commit } = yield* Plant
        const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
        const printed = yield* Queue.make<string>()
        yield* LiveView.plain((line) => Queue.offer(printed, line)).pipe(Effect.forkScoped)
        const pasted = (yield* Queue.takeN(printed, Senders.senders.length)).map((text) => text.split("\n"))
        const clone = yield* Queue.take(printed)
        assert.match(clone, /^# a repository to push to\ngit clone http/)
        for (const [index, { does, name }] of Senders.senders.entries()) {
          const [what = "", line = ""] = pasted[index] ?? []
          assert.include(what, `# ${name}: ${does} plant`)
          yield* backToMain
          if (does === "wakes") yield* commit(100 + index)
          const answer = yield* spawner.string(ChildProcess.make("sh", ["-euc", line]))
          assert.match(answer, /^\{"accepted":true,.*\} 202$/m, `${name}: ${answer}`)
          yield* arrives(does === "wakes" ? "main" : (/"ref":"(.*?)"/.exec(answer)?.[1] ?? "no ref"))
        }
      }).pipe(Effect.scoped),
    slow
  )
})
