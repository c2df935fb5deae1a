/**
 * The sandbox in a terminal: the gateways, the latest deliveries with their waterfalls, and commands to paste.
 * Where no person looks on (no terminal) it prints plain lines instead.
 */
import { Clock, Effect, Option, Queue, Redacted, Ref, Schedule, Terminal } from "effect"
import * as Names from "../api/Names.ts"
import { newTrace, push } from "./Scenario.ts"
import { Plant, type Answer, type GatewaySyncView } from "./Plant.ts"
import { TraceCollector, type Span } from "./TraceCollector.ts"
import * as Waterfall from "./Waterfall.ts"

interface Delivery {
  readonly what: string
  readonly startMs: number
  readonly rows: ReadonlyArray<Waterfall.Row>
}

/** What can be pasted into a shell, each with a word on what it does. */
export const commands = (plant: Plant["Service"]): ReadonlyArray<readonly [string, string]> => {
  const cr = plant.gatewaySyncs[0]!
  const url = `${plant.webhookUrl}/${cr}`
  const sign = (event: string, body: string) =>
    `body='${body}'; curl -sX POST ${url} -H 'Content-Type: application/json' -H 'X-GitHub-Event: ${event}' ` +
    `-H "X-Hub-Signature-256: sha256=$(printf %s "$body" | openssl dgst -sha256 -hmac '${Redacted.value(plant.hmacSecret)}' | sed 's/.* //')" -d "$body"`
  return [
    ["a repository to push to", `git clone ${plant.repository.url} plant && cd plant`],
    [
      "the generic webhook",
      `curl -X POST ${url} -H "Content-Type: application/json" -H "Authorization: Bearer ${Redacted.value(plant.bearer)}" -d '{"ref": "main"}'`
    ],
    ["a GitHub push, signed", sign("push", '{"ref":"refs/heads/main","before":"","after":"","deleted":false}')],
    [
      "a GitHub release, signed (make the tag first: git tag v2.0.0 && git push origin v2.0.0)",
      sign("release", '{"action":"published","release":{"tag_name":"v2.0.0","draft":false,"prerelease":false}}')
    ],
    ["the resource itself", `KUBECONFIG=${plant.kubeconfigs.admin} kubectl -n plant get gatewaysyncs -w`]
  ]
}

const bold = (text: string) => `\u001b[1m${text}\u001b[0m`
const dim = (text: string) => `\u001b[2m${text}\u001b[0m`
const colour = (status: string) =>
  `\u001b[${status === "Synced" ? 32 : status === "Error" ? 31 : 33}m${status}\u001b[0m`

/** The newest deliveries whose waterfall is complete, newest first. */
const deliveries = (spans: ReadonlyArray<Span>, most: number): ReadonlyArray<Delivery> => {
  const byTrace = Map.groupBy(spans, (span) => span.traceId)
  return Array.from(byTrace.values())
    .flatMap((trace): ReadonlyArray<Delivery> => {
      const accept = trace.find((span) => span.name === "accept")
      const rows = accept === undefined ? undefined : Waterfall.rows(trace)
      if (accept === undefined || rows === undefined) return []
      const sender = String(accept.attributes["sender"] ?? "webhook")
      return [{ what: `${sender} ${String(accept.attributes["ref"] ?? "")}`, startMs: accept.startMs, rows }]
    })
    .toSorted((a, b) => b.startMs - a.startMs)
    .slice(0, most)
}

const ago = (now: number, then: number) => {
  const seconds = Math.max(0, Math.round((now - then) / 1000))
  return seconds < 120 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`
}

const gatewayLines = Effect.fnUntraced(function* (plant: Plant["Service"], crs: ReadonlyArray<GatewaySyncView>) {
  const now = yield* Clock.currentTimeMillis
  return yield* Effect.forEach(plant.gateways, (one) =>
    Effect.gen(function* () {
      const cr = crs[plant.gatewaySyncs.indexOf(one.crName)]
      const seen = cr?.status.discoveredGateways?.find((gateway) => gateway.name === one.name)
      const scans = yield* one.gateway.scans
      const last = scans.at(-1)
      return {
        name: one.name,
        commit: seen?.syncedCommit?.slice(0, 7) ?? "–",
        status: seen?.syncStatus ?? "Pending",
        scan: last === undefined ? "no scan yet" : `scanned ${ago(now, last.at)}`,
        message: seen?.message ?? ""
      }
    })
  )
})

/** Draws until a person presses `q`. */
export const interactive = Effect.gen(function* () {
  const plant = yield* Plant
  const collector = yield* TraceCollector
  const terminal = yield* Terminal.Terminal
  const note = yield* Ref.make("")
  /** Where the terminal is too low for both, `c` turns from the plant to the commands and back. */
  const turned = yield* Ref.make(false)
  const revision = yield* Ref.make(0)
  const cr = plant.gatewaySyncs[0]!

  const frame = Effect.gen(function* () {
    const crs = yield* Effect.forEach(plant.gatewaySyncs.slice(0, 20), plant.get)
    const gateways = yield* gatewayLines(plant, crs)
    const latest = deliveries(yield* collector.spans, 2)
    const now = yield* Clock.currentTimeMillis
    const heading = bold("Stoker sandbox") + dim("   p push a change   r publish a release   q quit")
    const state = [
      "",
      bold("Gateways"),
      ...gateways
        .slice(0, 12)
        .map(
          (one) =>
            `  ${one.name.padEnd(14)} ${one.commit.padEnd(9)} ${colour(one.status).padEnd(18)} ${one.scan}  ${one.message}`
        ),
      ...crs
        .slice(0, 3)
        .map((view, index) =>
          dim(`  ${plant.gatewaySyncs[index]} follows ${view.status.lastSyncRef ?? "nothing yet"}`)
        ),
      "",
      bold("Latest deliveries"),
      ...(latest.length === 0 ? [dim("  none yet: press p")] : []),
      ...latest.flatMap((one) => [
        `  ${one.what} ${dim(ago(now, one.startMs))}`,
        ...Waterfall.render(one.rows, 40).split("\n")
      ])
    ]
    const paste = [
      "",
      bold("To paste into another terminal"),
      ...commands(plant).flatMap(([what, command]) => [dim(`  # ${what}`), `  ${command}`])
    ]
    const [columns, rows] = yield* Effect.all([terminal.columns, terminal.rows])
    const height = (some: ReadonlyArray<string>) =>
      some.reduce((sum, text) => sum + Math.max(1, Math.ceil(text.length / Math.max(1, columns))), 0)
    const fits = height([...state, ...paste]) + 4 <= rows
    const lines = [
      heading + (fits ? "" : dim("   c commands to paste, and back")),
      ...(fits ? [...state, ...paste] : (yield* Ref.get(turned)) ? paste : state),
      "",
      yield* Ref.get(note)
    ]
    yield* terminal.display(`\u001b[H\u001b[2J${lines.join("\n")}\n`)
  })

  const say = (answer: Answer) => Ref.set(note, dim(`answered ${answer.status} ${JSON.stringify(answer.body)}`))
  const pushChange = Effect.gen(function* () {
    const next = yield* Ref.updateAndGet(revision, (n) => n + 1)
    const before = Option.getOrElse(yield* plant.repository.resolve("main"), () => "")
    const after = yield* plant.commit(next)
    const view = yield* plant.get(cr)
    // On a tag a push is not for us, so go back to the branch by a request, as a person would.
    const onMain = (view.metadata.annotations[Names.request.ref] ?? view.spec.git.ref) === "main"
    const { traceparent } = yield* newTrace
    yield* Effect.flatMap(
      onMain
        ? plant.post(cr, push("main", before, after, plant.repository.url), { event: "push", sign: true, traceparent })
        : plant.post(cr, { ref: "main" }, { traceparent }),
      say
    )
  })
  const release = Effect.gen(function* () {
    const next = yield* Ref.updateAndGet(revision, (n) => n + 1)
    const tag = `v0.${next}.0`
    yield* Effect.orDie(plant.repository.annotatedTag(tag, yield* plant.commit(next)))
    const { traceparent } = yield* newTrace
    yield* Effect.flatMap(
      plant.post(
        cr,
        { action: "published", release: { tag_name: tag, draft: false, prerelease: false } },
        { event: "release", sign: true, traceparent }
      ),
      say
    )
  })

  const input = yield* terminal.readInput
  const keys = Effect.gen(function* () {
    while (true) {
      const { key } = yield* Queue.take(input)
      if (key.name === "q" || (key.ctrl && key.name === "c")) return
      if (key.name === "p") yield* pushChange
      if (key.name === "r") yield* release
      if (key.name === "c") yield* Ref.update(turned, (now) => !now)
    }
  }).pipe(Effect.catch(() => Effect.void))

  yield* terminal.display("\u001b[?1049h\u001b[?25l")
  yield* Effect.addFinalizer(() => Effect.ignore(terminal.display("\u001b[?25h\u001b[?1049l")))
  yield* Effect.raceFirst(keys, Effect.repeat(frame, Schedule.spaced("500 millis")))
}).pipe(Effect.scoped)

/** A line for every change of a gateway, and one for every delivery, until interrupted. */
export const plain = (print: (line: string) => Effect.Effect<void>) =>
  Effect.gen(function* () {
    const plant = yield* Plant
    const collector = yield* TraceCollector
    for (const [what, command] of commands(plant)) yield* print(`# ${what}\n${command}`)
    const said = new Set<string>()
    const once = (line: string) =>
      said.has(line)
        ? Effect.void
        : Effect.andThen(
            Effect.sync(() => said.add(line)),
            print(line)
          )
    yield* Effect.gen(function* () {
      const crs = yield* Effect.forEach(plant.gatewaySyncs, plant.get)
      for (const one of yield* gatewayLines(plant, crs))
        yield* once(`${one.name} ${one.commit} ${one.status} ${one.message}`.trim())
      for (const one of deliveries(yield* collector.spans, 5))
        yield* once(`${one.what}\n${Waterfall.render(one.rows, 40)}`)
    }).pipe(Effect.repeat(Schedule.spaced("500 millis")))
  })
