/**
 * The demo's deliveries, one after the other, each checked on the gateways' disks and in what they have loaded.
 */
import { Cause, Clock, Effect, Option, Random } from "effect"
import * as Names from "../api/Names.ts"
import { eventually, Plant, type Answer } from "./Plant.ts"
import { push } from "./Senders.ts"
import { TraceCollector } from "./TraceCollector.ts"
import * as Waterfall from "./Waterfall.ts"

export interface StepResult {
  readonly step: string
  readonly ok: boolean
  /** From the POST (or the commit, where nothing is posted) to the last gateway's scan; 0 where nothing moves. */
  readonly ms: number
  readonly problems: ReadonlyArray<string>
  /** Whether a webhook moved the plant. */
  readonly webhook: boolean
  readonly waterfall: Option.Option<ReadonlyArray<Waterfall.Row>>
}

export interface Summary {
  readonly passed: number
  readonly failed: number
  /** Median over the steps in which a webhook moved the plant. */
  readonly lineP50Ms: number
}

/** A W3C trace context of our own, so that the delivery's trace can be found again. */
export const newTrace = Effect.gen(function* () {
  const hex = (digits: number) =>
    Effect.map(Effect.all(Array.from({ length: digits / 4 }, () => Random.nextIntBetween(0, 0x10000))), (parts) =>
      parts.map((part) => part.toString(16).padStart(4, "0")).join("")
    )
  const traceId = yield* hex(32)
  return { traceId, traceparent: `00-${traceId}-${yield* hex(16)}-01` }
})

/** Waits until the gateway is asked for a scan that `scans` does not count yet; answers when that was. */
const nextScan = (gateway: Plant["Service"]["gateways"][number], scans: number) =>
  gateway.gateway.awaitScan(scans).pipe(
    Effect.map((scan) => scan.at),
    Effect.timeoutOption("15 seconds"),
    Effect.map(Option.toArray)
  )

/**
 * Runs all steps; each result is handed out as soon as it is there. A step that fails does not stop the others.
 */
export const run = Effect.fnUntraced(function* (onStep: (result: StepResult) => Effect.Effect<void>) {
  const plant = yield* Plant
  const collector = yield* TraceCollector
  const cr = plant.gatewaySyncs[0]!
  const results: Array<StepResult> = []

  const step = <E, R>(
    name: string,
    body: Effect.Effect<
      { readonly ms: number; readonly problems: ReadonlyArray<string>; readonly traceId?: string },
      E,
      R
    >
  ) =>
    Effect.gen(function* () {
      const outcome = yield* Effect.exit(body)
      const result: StepResult =
        outcome._tag === "Failure"
          ? {
              step: name,
              ok: false,
              ms: 0,
              problems: Cause.prettyErrors(outcome.cause).map((error) => error.message),
              webhook: false,
              waterfall: Option.none()
            }
          : {
              step: name,
              ok: outcome.value.problems.length === 0,
              ms: outcome.value.ms,
              problems: outcome.value.problems,
              webhook: outcome.value.traceId !== undefined,
              waterfall:
                outcome.value.traceId === undefined ? Option.none() : yield* waterfall(collector, outcome.value.traceId)
            }
      results.push(result)
      yield* onStep(result)
    })

  /** Every gateway has the revision, nobody wrote without the lock, and the GatewaySync says so. */
  const settled = (revision: number, ref: string) =>
    eventually(
      Effect.gen(function* () {
        const problems = (yield* Effect.forEach(plant.gateways, (one) => one.differences(revision))).flat()
        for (const one of plant.gateways) {
          const { unlockedWrites } = yield* one.gateway.counters
          problems.push(
            ...unlockedWrites.map((write) => `${one.name}: ${write.path} was written without the scan lock`)
          )
        }
        const { status } = yield* plant.get(cr)
        const ready = status.conditions?.find((condition) => condition.type === "Ready")
        if (status.lastSyncRef !== ref)
          problems.push(`the GatewaySync follows ${status.lastSyncRef ?? "nothing"}, not ${ref}`)
        if (ready?.status !== "True")
          problems.push(`the GatewaySync is not Ready: ${ready?.message ?? "no condition yet"}`)
        return problems
      })
    )

  let revision = 0
  let ref = "main"

  /** A change that must reach every gateway. */
  const moves = (
    name: string,
    prepare: (revision: number) => Effect.Effect<unknown, unknown>,
    act: (traceparent: string) => Effect.Effect<Answer | void>
  ) =>
    step(
      name,
      Effect.gen(function* () {
        revision++
        const trace = yield* newTrace
        const scans = yield* Effect.forEach(plant.gateways, (one) => Effect.map(one.gateway.scans, (all) => all.length))
        yield* prepare(revision)
        const began = yield* Clock.currentTimeMillis
        const answer = yield* act(trace.traceparent)
        const problems: Array<string> = []
        if (answer !== undefined && (answer.status !== 202 || answer.body["accepted"] !== true)) {
          problems.push(`answered ${answer.status} ${JSON.stringify(answer.body)}`)
        }
        const at = yield* Effect.forEach(plant.gateways, (one, index) => nextScan(one, scans[index]!), {
          concurrency: "unbounded"
        })
        problems.push(...(yield* settled(revision, ref)))
        return {
          ms: Math.max(0, ...at.flat().map((time) => time - began)),
          problems,
          ...(answer === undefined ? {} : { traceId: trace.traceId })
        }
      })
    )

  const release = (tag: string) => (next: number) =>
    Effect.gen(function* () {
      const commit = yield* plant.commit(next)
      yield* plant.repository.annotatedTag(tag, commit)
      ref = tag
    })

  yield* step(
    "first sync",
    Effect.map(settled(0, ref), (problems) => ({ ms: 0, problems }))
  )
  yield* moves(
    "github push",
    (next) => plant.commit(next),
    (traceparent) =>
      Effect.gen(function* () {
        const after = Option.getOrThrow(yield* plant.repository.resolve("main"))
        const before = Option.getOrThrow(yield* plant.repository.resolve("main^"))
        return yield* plant.post(cr, push("main", before, after, plant.repository.url), {
          event: "push",
          sign: true,
          traceparent
        })
      })
  )
  yield* moves(
    "poll",
    (next) => Effect.andThen(plant.patch(cr, { spec: { polling: { interval: "1s" } } }), plant.commit(next)),
    () => Effect.void
  )
  yield* plant.patch(cr, { spec: { polling: { interval: "1h" } } })
  yield* moves("generic", release("v1.0.0"), (traceparent) => plant.post(cr, { ref: "v1.0.0" }, { traceparent }))
  yield* moves("github release", release("v1.1.0"), (traceparent) =>
    plant.post(
      cr,
      { action: "published", release: { tag_name: "v1.1.0", draft: false, prerelease: false } },
      { event: "release", sign: true, traceparent }
    )
  )
  yield* moves("argocd", release("v1.2.0"), (traceparent) =>
    plant.post(cr, { app: { metadata: { annotations: { "git.ref": "v1.2.0" } } } }, { traceparent })
  )
  yield* moves("kargo", release("v1.3.0"), (traceparent) =>
    plant.post(cr, { freight: { commits: [{ tag: "v1.3.0" }] } }, { traceparent })
  )
  yield* step(
    "branch push that is not for a tag",
    Effect.gen(function* () {
      const problems: Array<string> = []
      const former = yield* plant.get(cr)
      const scans = yield* Effect.forEach(plant.gateways, (one) => one.gateway.scans)
      const before = Option.getOrThrow(yield* plant.repository.resolve("main"))
      const after = yield* plant.commit(revision + 1)
      const answer = yield* plant.post(cr, push("main", before, after, plant.repository.url), {
        event: "push",
        sign: true
      })
      if (answer.status !== 200 || answer.body["accepted"] !== false) {
        problems.push(`answered ${answer.status} ${JSON.stringify(answer.body)}`)
      }
      // Nothing was written, so nothing can follow: there is no event that a controller or an agent could act on.
      const latter = yield* plant.get(cr)
      for (const key of Object.values(Names.request)) {
        if (former.metadata.annotations[key] !== latter.metadata.annotations[key]) problems.push(`${key} was changed`)
      }
      if (latter.status.lastSyncCommit !== former.status.lastSyncCommit) problems.push("the commit was changed")
      const later = yield* Effect.forEach(plant.gateways, (one) => one.gateway.scans)
      if (later.flat().length !== scans.flat().length) problems.push("a gateway was scanned")
      problems.push(...(yield* settled(revision, ref)))
      return { ms: 0, problems }
    })
  )
  return results
})

const waterfall = (collector: TraceCollector["Service"], traceId: string) =>
  collector
    .awaitTrace(traceId, (spans) => Waterfall.rows(spans) !== undefined)
    .pipe(
      Effect.map((spans) => Option.fromNullishOr(Waterfall.rows(spans))),
      Effect.timeoutOption("3 seconds"),
      Effect.map(Option.flatten)
    )

export const summary = (results: ReadonlyArray<StepResult>): Summary => {
  const moved = results.filter((result) => result.ok && result.webhook).map((result) => result.ms)
  return {
    passed: results.filter((result) => result.ok).length,
    failed: results.filter((result) => !result.ok).length,
    lineP50Ms: median(moved)
  }
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted.length === 0 ? 0 : Math.round(sorted[Math.floor((sorted.length - 1) / 2)]! * 10) / 10
}
