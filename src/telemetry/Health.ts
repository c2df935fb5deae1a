/**
 * What Kubernetes asks a process: whether it lives, is ready, has started. Each check has a name and is asked anew at
 * every probe; `ProbeServer` answers over HTTP.
 */
import { Context, Effect, Layer, type Scope } from "effect"

export type Probe = "live" | "ready" | "startup"

/**
 * Not ready and not started until {@link Health.started}: a probe that comes before a check is registered must not pass.
 */
export class Health extends Context.Service<
  Health,
  {
    /** Adds a check for as long as the scope lives. The check succeeds, or fails with what it waits for. */
    readonly register: (
      probe: Probe,
      name: string,
      check: Effect.Effect<void, string>
    ) => Effect.Effect<void, never, Scope.Scope>
    /** Every check is registered: from now on they alone decide. */
    readonly started: Effect.Effect<void>
    /** The process is going to end: not ready any more, whatever the checks say. */
    readonly stopping: Effect.Effect<void>
    /** The checks of a probe that fail now, as `name: what it waits for`. */
    readonly failing: (probe: Probe) => Effect.Effect<ReadonlyArray<string>>
  }
>()("stoker/telemetry/Health") {
  static readonly layer = Layer.sync(Health, () => {
    let phase: "starting" | "started" | "stopping" = "starting"
    /** What the process says of itself, whatever the checks say. */
    const own = (probe: Probe): ReadonlyArray<string> => {
      if (phase === "starting") return probe === "live" ? [] : ["process: still starting"]
      return phase === "stopping" && probe === "ready" ? ["process: stopping"] : []
    }
    const checks = new Set<{
      readonly probe: Probe
      readonly name: string
      readonly check: Effect.Effect<void, string>
    }>()
    return {
      register: (probe, name, check) =>
        Effect.asVoid(
          Effect.acquireRelease(
            Effect.sync(() => {
              const entry = { probe, name, check }
              checks.add(entry)
              return entry
            }),
            (entry) => Effect.sync(() => checks.delete(entry))
          )
        ),
      started: Effect.sync(() => {
        phase = "started"
      }),
      stopping: Effect.sync(() => {
        phase = "stopping"
      }),
      failing: (probe) =>
        // The checks of the moment it runs, not of the moment it is made: routes are made before there are any.
        Effect.suspend(() =>
          Effect.forEach(
            Array.from(checks).filter((entry) => entry.probe === probe),
            ({ check, name }) =>
              check.pipe(
                Effect.as([] as ReadonlyArray<string>),
                Effect.catch((why) => Effect.succeed([`${name}: ${why}`]))
              )
          )
        ).pipe(Effect.map((found) => [...own(probe), ...found.flat()]))
    }
  })
}
