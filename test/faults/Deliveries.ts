/** Deliveries under load: who sent what and when, what was answered, and whether what is in etcd afterwards fits. */
import { Effect, type Option, Schedule, Schema } from "effect"
import * as Http from "node:http"
import { request as keys } from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"

/** One message; each asks for a ref of its own, so that the ref tells which one is in force. */
export interface Message {
  readonly path: string
  readonly ref: string
  /** The delivery's id, where its sender gives one. */
  readonly id?: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export const promotion = (path: string, ref: string): Message => ({
  path,
  ref,
  headers: {},
  body: JSON.stringify({ ref })
})

/** A GitHub release; `id` is also its tag. */
export const release = (path: string, id: string): Message => ({
  path,
  ref: id,
  id,
  headers: { "x-github-event": "release", "x-github-delivery": id },
  body: JSON.stringify({ action: "published", release: { tag_name: id } })
})

export type Outcome =
  | {
      readonly _tag: "Answered"
      readonly status: number
      readonly retryAfter: string | undefined
      /** None where it is no JSON object. */
      readonly body: Option.Option<Readonly<Record<string, unknown>>>
    }
  /** The connection was refused or broken, or nothing came: whether it was taken, nobody knows. */
  | { readonly _tag: "Broken"; readonly why: string }

export interface Attempt {
  readonly message: Message
  readonly port: number
  /** Moments of one clock, which counts what was begun and what was ended. */
  readonly begun: number
  readonly ended: number
  readonly outcome: Outcome
}

export const statusOf = ({ outcome }: Attempt): number | string =>
  outcome._tag === "Answered" ? outcome.status : outcome.why

export const isTaken = ({ outcome }: Attempt): boolean =>
  outcome._tag === "Answered" && outcome.status >= 200 && outcome.status < 300

const decodeBody = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown)))

/** Milliseconds: a sender of a forge waits for ten seconds; what takes longer than this hangs. */
const patience = 15_000

const exchange = (port: number, message: Message, agent: Http.Agent | false) =>
  Effect.callback<Outcome>((resume) => {
    const broken = (error: Error & { readonly code?: string }) =>
      resume(Effect.succeed({ _tag: "Broken", why: error.code ?? error.message }))
    const request = Http.request(
      {
        host: "127.0.0.1",
        port,
        path: message.path,
        method: "POST",
        agent,
        timeout: patience,
        headers: {
          ...message.headers,
          authorization: "Bearer token",
          "content-type": "application/json",
          "content-length": Buffer.byteLength(message.body)
        }
      },
      (response) => {
        const chunks: Array<Buffer> = []
        response.on("data", (chunk: Buffer) => chunks.push(chunk))
        response.on("error", broken)
        response.on("end", () =>
          resume(
            Effect.succeed({
              _tag: "Answered",
              status: response.statusCode ?? 0,
              retryAfter: response.headers["retry-after"],
              body: decodeBody(Buffer.concat(chunks).toString())
            })
          )
        )
      }
    )
    request.on("timeout", () => request.destroy(new Error("no answer")))
    request.on("error", broken)
    request.end(message.body)
    return Effect.sync(() => request.destroy())
  })

export interface Ledger {
  /** All that was answered or broken, in this order. */
  readonly attempts: ReadonlyArray<Attempt>
  /** The clock now. */
  readonly now: () => number
  /** A connection of its own unless an agent keeps some. */
  readonly post: (port: number, message: Message, agent?: Http.Agent) => Effect.Effect<Attempt>
}

export const ledger = (): Ledger => {
  let clock = 0
  const attempts: Array<Attempt> = []
  return {
    attempts,
    now: () => clock,
    post: (port, message, agent) =>
      Effect.suspend(() => {
        const begun = ++clock
        return Effect.map(exchange(port, message, agent ?? false), (outcome) => {
          const attempt: Attempt = { message, port, begun, ended: ++clock, outcome }
          attempts.push(attempt)
          return attempt
        })
      })
  }
}

export const until = <A>(look: () => A, isSo: (value: A) => boolean) =>
  Effect.sync(look).pipe(
    Effect.repeat({ until: isSo, schedule: Schedule.spaced("50 millis") }),
    Effect.timeout("90 seconds")
  )

/** The ids of `stoker.io/deliveries`, oldest first. */
export const rememberedIn = (annotations: RequestedRef.Annotations): ReadonlyArray<string> =>
  decodeRemembered(annotations[keys.deliveries] ?? "[]").map(({ id }) => id)
const decodeRemembered = Schema.decodeUnknownSync(
  Schema.fromJsonString(Schema.Array(Schema.Struct({ id: Schema.String })))
)

/** A message with all its attempts. */
interface Sent {
  readonly ref: string
  readonly id: string | undefined
  readonly begun: number
  /** When its sender first, and last, had the word that it was taken. */
  readonly taken: number | undefined
  readonly lastTaken: number | undefined
}

const sentOf = (attempts: ReadonlyArray<Attempt>): ReadonlyArray<Sent> => {
  const byRef = Map.groupBy(attempts, ({ message }) => message.ref)
  return Array.from(byRef, ([ref, all]) => {
    const taken = all.filter(isTaken).map(({ ended }) => ended)
    return {
      ref,
      id: all[0]?.message.id,
      begun: Math.min(...all.map(({ begun }) => begun)),
      taken: taken.length === 0 ? undefined : Math.min(...taken),
      lastTaken: taken.length === 0 ? undefined : Math.max(...taken)
    }
  })
}

/**
 * What is wrong with a GatewaySync after these attempts, in words; nothing where every message that was taken is in
 * force, or another was taken after it. "After" is certain only of one that was begun when the other was answered.
 */
export const losses = (
  annotations: RequestedRef.Annotations,
  attempts: ReadonlyArray<Attempt>
): ReadonlyArray<string> => {
  const sent = sentOf(attempts)
  const ref = annotations[keys.ref]
  const inForce = sent.find((one) => one.ref === ref)
  if (inForce === undefined) {
    const taken = sent.filter((one) => one.taken !== undefined)
    return taken.length === 0 && ref === undefined ? [] : [`"${ref}" is in force, which nobody sent`]
  }
  const superseded = inForce.taken
  const forgotten = sent
    .filter((one) => one.taken !== undefined && superseded !== undefined && one.begun > superseded)
    .map((one) => `"${one.ref}" was taken, and "${ref}", which was taken before it began, is in force`)

  const remembered = rememberedIn(annotations)
  const oldest = Math.min(
    ...sent
      .filter((one) => one.id !== undefined && remembered.includes(one.id))
      .map((one) => one.lastTaken ?? Number.POSITIVE_INFINITY)
  )
  const unremembered = sent
    .filter((one) => one.id !== undefined && one.taken !== undefined && !remembered.includes(one.id))
    .filter((one) => one.begun > oldest || remembered.length < RequestedRef.rememberedDeliveries)
    .map((one) => `the delivery ${one.id} was taken, and is not among those handled, although older ones are`)
  return [...forgotten, ...unremembered]
}
