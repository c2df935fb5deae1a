/**
 * The sandbox in a terminal: the gateways, the latest deliveries with their waterfalls, every sender by a key, and
 * commands to paste. Where no person looks on (no terminal) it prints plain lines instead.
 */
import { Clock, Effect, Option, Queue, Ref, Schedule, SynchronizedRef, Terminal } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { stripVTControlCharacters } from "node:util"
import * as Names from "../api/Names.ts"
import * as DemoRepository from "./DemoRepository.ts"
import { Plant, type GatewaySyncView } from "./Plant.ts"
import * as Senders from "./Senders.ts"
import { TraceCollector, type Span } from "./TraceCollector.ts"
import * as Waterfall from "./Waterfall.ts"

interface Delivery {
  readonly what: string
  readonly startMs: number
  readonly rows: ReadonlyArray<Waterfall.Row>
}

interface GatewayLine {
  readonly name: string
  readonly commit: string
  readonly status: string
  readonly scan: string
  readonly message: string
}

/** What can be pasted into a shell, with a word on what it does. */
export interface Command {
  readonly what: string
  readonly line: string
}

/** All that is on the screen. */
export interface Screen {
  readonly now: number
  readonly gateways: ReadonlyArray<GatewayLine>
  /** Each GatewaySync and what it follows. */
  readonly follows: ReadonlyArray<readonly [name: string, ref: string | undefined]>
  /** Newest first. */
  readonly deliveries: ReadonlyArray<Delivery>
  /** Place of the sender whose line can be pasted. */
  readonly shown: number
  readonly commands: ReadonlyArray<Command>
  /** Where the terminal is too low for both, whether the commands are shown instead of the plant. */
  readonly turned: boolean
  /** What the last key led to. */
  readonly note: string
}

const bold = (text: string) => `\u001b[1m${text}\u001b[0m`
const dim = (text: string) => `\u001b[2m${text}\u001b[0m`
const colour = (status: string) =>
  `\u001b[${status === "Synced" ? 32 : status === "Error" ? 31 : 33}m${status}\u001b[0m`

const keyOf = (place: number) => String((place + 1) % 10)

const senderLines = (shown: number): ReadonlyArray<string> => {
  const cells = Senders.senders.map(({ name }, place) => {
    const cell = `${keyOf(place)} ${name}`.padEnd(23)
    return place === shown ? bold(cell) : cell
  })
  return [cells.slice(0, 5), cells.slice(5)].map((row) => `  ${row.join("")}`.trimEnd())
}

/** The screen as text, for a terminal of that size. Pure. */
export const render = (screen: Screen, size: Terminal.Size): string => {
  const { commands, deliveries, follows, gateways, note, now, turned } = screen
  const plant = [
    "",
    bold("Gateways"),
    ...gateways
      .slice(0, 12)
      .map(
        (one) =>
          `  ${one.name.padEnd(14)} ${one.commit.padEnd(9)} ${colour(one.status).padEnd(18)} ${one.scan}  ${one.message}`
      ),
    ...follows.slice(0, 3).map(([name, ref]) => dim(`  ${name} follows ${ref ?? "nothing yet"}`)),
    "",
    bold("Latest deliveries"),
    ...(deliveries.length === 0 ? [dim("  none yet: press 1")] : []),
    ...deliveries.flatMap((one) => [
      `  ${one.what} ${dim(ago(now, one.startMs))}`,
      ...Waterfall.render(one.rows, 40).split("\n")
    ])
  ]
  const paste = [
    "",
    bold("To paste into another terminal"),
    ...commands.flatMap(({ line, what }) => [dim(`  # ${what}`), `  ${line}`])
  ]
  const height = (some: ReadonlyArray<string>) =>
    some.reduce(
      (sum, text) => sum + Math.max(1, Math.ceil(stripVTControlCharacters(text).length / Math.max(1, size.columns))),
      0
    )
  const keys = ["", bold("Post a change as"), ...senderLines(screen.shown)]
  const fits = height([...keys, ...plant, ...paste]) + 4 <= size.rows
  return [
    bold("Stoker sandbox") +
      dim(`   s another sender's line   ${fits ? "" : "c commands to paste, and back   "}q quit`),
    ...keys,
    ...(fits ? [...plant, ...paste] : turned ? paste : plant),
    "",
    dim(note)
  ].join("\n")
}

/** What the remote has that can be told of, and how it is told. */
const announcer = Effect.gen(function* () {
  const plant = yield* Plant
  const client = yield* HttpClient.HttpClient
  const cr = plant.gatewaySyncs[0]!
  const url = `${plant.webhookUrl}/${cr}`
  const secrets = { hmac: plant.hmacSecret, token: plant.bearer }
  const revision = yield* Ref.make(0)
  const deliveries = yield* Ref.make(0)
  const release = yield* SynchronizedRef.make({ tag: "", tagged: "", isTold: true })
  const main = (revision: string) =>
    Effect.map(
      plant.repository.resolve(revision),
      Option.getOrElse(() => "0".repeat(40))
    )

  /** A person may have made tags as well. */
  const freeTag = Effect.gen(function* () {
    const next = yield* Ref.updateAndGet(revision, (count) => count + 1)
    const tag = `v0.${next}.0`
    return { next, tag, isFree: Option.isNone(yield* plant.repository.resolve(`refs/tags/${tag}`)) }
  }).pipe(Effect.repeat({ until: ({ isFree }) => isFree }))

  /** There is always a release that no gateway has. It is no commit of `main`, which people push to. */
  const nextRelease = SynchronizedRef.updateAndGetEffect(
    release,
    Effect.fnUntraced(function* (last) {
      const { status } = yield* plant.get(cr)
      if (!last.isTold && status.lastSyncCommit !== last.tagged) return last
      const { next, tag } = yield* freeTag
      const tagged = yield* plant.repository.commit({
        branch: "releases",
        parent: yield* main("main"),
        files: DemoRepository.change(plant.shape, next),
        message: tag
      })
      yield* plant.repository.annotatedTag(tag, tagged)
      return { tag, tagged, isTold: false }
    }, Effect.orDie)
  )

  const change = Effect.gen(function* () {
    const { tag, tagged } = yield* nextRelease
    const [head, before] = yield* Effect.all([main("main"), main("main^")])
    return { repository: plant.repository.url, head, before, tag, tagged }
  })

  const send = Effect.fnUntraced(
    function* ({ body, headers, idHeader }: Senders.Post) {
      const delivery = yield* Ref.updateAndGet(deliveries, (count) => count + 1)
      const response = yield* HttpClientRequest.post(url).pipe(
        HttpClientRequest.bodyText(body, "application/json"),
        HttpClientRequest.setHeaders({
          ...headers,
          ...(idHeader === undefined ? {} : { [idHeader]: `sandbox-${delivery}` })
        }),
        client.execute
      )
      return `answered ${response.status} ${yield* response.text}`
    },
    Effect.catch((error) => Effect.succeed(`no answer: ${error.message}`)),
    Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
  )

  return {
    /** The line of each sender, for what there is to tell. */
    lines: Effect.map(change, (change) =>
      Senders.senders.map(({ does, name, post }): Command => ({
        what:
          does === "wakes"
            ? `${name}: wakes ${cr} while it follows main (push something first)`
            : `${name}: moves ${cr} to ${change.tag}`,
        line: Senders.shellLine(url, post(change, secrets))
      }))
    ),
    /** Makes a change and tells it as that sender does. Answers what came of it. */
    announce: Effect.fnUntraced(function* ({ does, name, post }: Senders.Sender) {
      if (does === "moves") {
        const answer = yield* send(post(yield* change, secrets))
        yield* SynchronizedRef.update(release, (last) => ({ ...last, isTold: true }))
        return `${name}: ${answer}`
      }
      yield* plant.commit(yield* Ref.updateAndGet(revision, (count) => count + 1))
      const view = yield* plant.get(cr)
      const follows = view.metadata.annotations[Names.request.ref] ?? view.spec.git.ref
      if (follows === "main") return `${name}: ${yield* send(post(yield* change, secrets))}`
      // A push is not for who follows a tag, so go back to the branch by a request, as a person would.
      const back = { headers: Senders.bearer(secrets), body: JSON.stringify({ ref: "main" }) }
      return `${cr} follows ${follows}, so back to main: ${yield* send(back)}`
    })
  }
})

/** What can be pasted beside the lines of the senders. */
const others = (plant: Plant["Service"]): ReadonlyArray<Command> => [
  { what: "a repository to push to", line: `git clone ${plant.repository.url} plant && cd plant` },
  { what: "the resource itself", line: `KUBECONFIG=${plant.kubeconfigs.admin} kubectl -n plant get gatewaysyncs -w` }
]

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
  const { announce, lines } = yield* announcer
  const note = yield* Ref.make("")
  const turned = yield* Ref.make(false)
  const shown = yield* Ref.make(0)

  const frame = Effect.gen(function* () {
    const crs = yield* Effect.forEach(plant.gatewaySyncs.slice(0, 20), plant.get)
    const place = yield* Ref.get(shown)
    const screen: Screen = {
      now: yield* Clock.currentTimeMillis,
      gateways: yield* gatewayLines(plant, crs),
      follows: crs.map((view, index) => [plant.gatewaySyncs[index]!, view.status.lastSyncRef]),
      deliveries: deliveries(yield* collector.spans, 2),
      shown: place,
      commands: [(yield* lines)[place]!, ...others(plant)],
      turned: yield* Ref.get(turned),
      note: yield* Ref.get(note)
    }
    const [columns, rows] = yield* Effect.all([terminal.columns, terminal.rows])
    yield* terminal.display(`\u001b[H\u001b[2J${render(screen, { columns, rows })}\n`)
  })

  const press = Effect.fnUntraced(function* (key: string) {
    const digit = key === "p" ? "1" : key === "r" ? "2" : key
    const place = Senders.senders.findIndex((_, place) => keyOf(place) === digit)
    if (place >= 0) {
      yield* Ref.set(shown, place)
      yield* Ref.set(note, yield* announce(Senders.senders[place]!))
    } else if (key === "s") yield* Ref.update(shown, (place) => (place + 1) % Senders.senders.length)
    else if (key === "c") yield* Ref.update(turned, (now) => !now)
  })

  const input = yield* terminal.readInput
  const keys = Effect.gen(function* () {
    while (true) {
      const { input: character, key } = yield* Queue.take(input)
      if (key.name === "q" || (key.ctrl && key.name === "c")) return
      yield* press(Option.getOrElse(character, () => key.name))
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
    const { lines } = yield* announcer
    for (const { line, what } of [...(yield* lines), ...others(plant)]) yield* print(`# ${what}\n${line}`)
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
