/**
 * Tells the controller how this gateway stands: our key in `stoker-status-{cr}`, by a merge patch, which never meets the
 * other gateways' keys. The newest report wins; one that cannot be delivered is sent until it can, or a newer one is
 * there.
 */
import { Context, Duration, Effect, Equal, Layer, Option, Random, Stream, SubscriptionRef } from "effect"
import * as GatewayStatus from "../api/GatewayStatus.ts"
import * as Names from "../api/Names.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import * as Resource from "../kubernetes/Resource.ts"
import { Settings } from "./Settings.ts"

/** Before a report, at random: a commit concerns many gateways at once, and they all write one object. */
export const spread = Duration.millis(250)
/** An unchanged report is sent again: somebody may have removed it. */
export const refresh = Duration.minutes(10)
/** After a failed attempt: 0.5 s, doubling to 30 s. */
export const backoff = (failures: number): Duration.Duration =>
  Duration.millis(Math.min(30_000, 500 * 2 ** Math.min(failures, 10)))

export class StatusReporter extends Context.Service<
  StatusReporter,
  {
    /** Returns at once. */
    readonly report: (report: GatewayStatus.Report) => Effect.Effect<void>
    /** Delivers; runs for ever. */
    readonly deliver: Effect.Effect<never>
  }
>()("stoker/agent/StatusReporter") {
  static readonly layer = Layer.effect(
    StatusReporter,
    Effect.gen(function* () {
      const settings = yield* Settings
      const client = yield* ApiClient
      const latest = yield* SubscriptionRef.make(Option.none<GatewayStatus.Report>())
      const ref = { namespace: settings.crNamespace, name: Names.statusMap(settings.crName) }

      const send = (report: GatewayStatus.Report) =>
        client.mergePatch(
          Resource.configMaps,
          ref,
          { data: { [settings.podName]: GatewayStatus.encode(report) } },
          { fieldManager: Names.managers.agent }
        )

      /** The report once it is another than the one delivered, or the same after a long while. */
      const due = (delivered: GatewayStatus.Report | undefined) =>
        SubscriptionRef.changes(latest).pipe(
          Stream.filter((report) => Option.isSome(report) && report.value !== delivered),
          Stream.take(1),
          Stream.runDrain,
          Effect.timeoutOption(refresh)
        )

      const deliver = Effect.gen(function* () {
        let delivered: GatewayStatus.Report | undefined
        let failures = 0
        while (true) {
          yield* due(delivered)
          yield* Effect.sleep(Duration.times(spread, yield* Random.next))
          const report = Option.getOrUndefined(yield* SubscriptionRef.get(latest))
          if (report === undefined) continue
          const error = yield* Effect.match(send(report), { onFailure: (error) => error, onSuccess: () => undefined })
          if (error === undefined) {
            delivered = report
            failures = 0
            continue
          }
          // The map and our right to write it come with the controller's next pass.
          const expected = error.reason._tag === "NotFound" || error.reason._tag === "Forbidden"
          if (failures === 0) {
            yield* (expected ? Effect.logInfo : Effect.logWarning)(`the report waits: ${error.message}`)
          }
          delivered = undefined
          yield* Effect.sleep(backoff(failures++))
        }
      })

      return {
        report: (report) =>
          SubscriptionRef.update(latest, (former) =>
            Option.exists(former, (same) => Equal.equals(same, report)) ? former : Option.some(report)
          ),
        deliver
      }
    })
  )
}
