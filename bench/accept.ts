/**
 * How fast a webhook is accepted when 64 come at once, on one GatewaySync and on 64; beside it one patch of the API
 * server alone, which no receiver can beat.
 */
import { Effect } from "effect"
import { HttpClientRequest } from "effect/http"
import { ControlPlane } from "../src/sandbox/ControlPlane.ts"
import { Plant } from "../src/sandbox/Plant.ts"
import { spread, type Figure } from "./Sample.ts"

const now = Effect.sync(() => performance.now())

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const began = yield* now
    const value = yield* effect
    return { ms: (yield* now) - began, value }
  })

/** Needs a plant of 64 GatewaySyncs and no gateways. */
export const accept = Effect.gen(function* () {
  const plant = yield* Plant
  const { admin } = yield* ControlPlane
  const [one] = plant.gatewaySyncs

  const patch = (round: number) =>
    admin
      .execute(
        HttpClientRequest.patch(`/apis/stoker.io/v1alpha1/namespaces/plant/gatewaysyncs/${one}`).pipe(
          HttpClientRequest.bodyText(
            JSON.stringify({ metadata: { annotations: { bench: String(round) } } }),
            "application/merge-patch+json"
          )
        )
      )
      .pipe(Effect.flatMap((response) => response.text))
  const alone = yield* Effect.forEach(
    Array.from({ length: 50 }, (_, round) => round),
    (round) => timed(patch(round))
  )

  const volley = (target: (index: number) => string, round: number) =>
    Effect.forEach(
      Array.from({ length: 64 }, (_, index) => index),
      (index) => timed(plant.post(target(index), { ref: `bench-${round}-${index}` })),
      { concurrency: 64 }
    )
  // The first volley warms connections and compiled code.
  yield* volley(() => one!, 0)
  const same = (yield* Effect.forEach([1, 2, 3, 4, 5], (round) => volley(() => one!, round))).flat()
  const many = (yield* Effect.forEach([6, 7, 8, 9, 10], (round) =>
    volley((index) => plant.gatewaySyncs[index]!, round)
  )).flat()

  const floor = spread(alone.map(({ ms }) => ms))
  const figure = (what: string, sample: typeof same): Figure => {
    const ms = spread(sample.map((one) => one.ms))
    const errors = sample.filter(({ value }) => value.status !== 202).length
    return {
      what,
      value: `p50 ${ms.p50} ms, p99 ${ms.p99} ms, ${errors} errors (one patch alone: p50 ${floor.p50} ms)`,
      aim: "0 errors, p99 ≤ 5 × p50",
      met: errors === 0 && ms.p99 <= 5 * ms.p50,
      data: { ms, errors, onePatchAlone: floor, ratioP50: Math.round((ms.p50 / floor.p50) * 10) / 10 }
    }
  }
  return [
    figure("accepted, 64 at once on one GatewaySync", same),
    figure("accepted, 64 at once on 64 GatewaySyncs", many)
  ]
})
