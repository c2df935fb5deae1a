/** A git server that serves what was there before the push that it announced, on a clock that the test sets. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Clock, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as Conditions from "../../src/api/Conditions.ts"
import type { GatewaySync } from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { InstallationTokens } from "../../src/controller/InstallationTokens.ts"
import { Memory } from "../../src/controller/Memory.ts"
import { Metrics } from "../../src/controller/Metrics.ts"
import { SharedRefs } from "../../src/controller/SharedRefs.ts"
import * as Resolve from "../../src/controller/steps/Resolve.ts"
import * as Summary from "../../src/controller/steps/Summary.ts"
import { GitCommand } from "../../src/git/GitCommand.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { GitServer, type HostedRepository } from "../../src/sandbox/GitServer.ts"
import { gatewaySync, resolved } from "./fixtures.ts"

const services = Layer.mergeAll(
  SharedRefs.layer.pipe(Layer.provide(GitCommand.layer)),
  Metrics.layer,
  GitServer.layer,
  Layer.mock(ApiClient, {}),
  Layer.mock(InstallationTokens, {})
).pipe(Layer.provide(NodeServices.layer))

/** One that has this commit of `main` when a push is announced that replaced it. */
const announced = (repository: HostedRepository, before: string) =>
  gatewaySync({
    metadata: {
      annotations: {
        [Names.request.pushed]: JSON.stringify({
          ref: "main",
          kind: "branch",
          before,
          after: "b".repeat(40),
          at: "2026-01-01T00:00:00Z",
          by: "github",
          id: "one"
        })
      }
    },
    git: { repo: repository.url },
    spec: { polling: { enabled: false } },
    status: { ...resolved, lastSyncCommit: before }
  })

/** Looks now, and sets the clock to the next look. */
const look = Effect.fnUntraced(function* (cr: GatewaySync) {
  const inForce = RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref)
  const resolution = yield* Resolve.resolve(cr, inForce, { repository: cr.spec.git.repo, commit: undefined })
  const now = yield* Clock.currentTimeMillis
  if (Number.isFinite(resolution.nextLook)) yield* TestClock.setTime(resolution.nextLook)
  const findings = { cr, inForce, resolution, problems: [], gateways: [], failures: [], now: "2026-01-01T00:00:00Z" }
  const skew = Conditions.get(Summary.status(findings).conditions ?? [], "RefSkew")?.reason
  return { ...resolution, wait: resolution.nextLook - now, skew }
})

/** A clock and a memory of its own. */
const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provide(effect, [TestClock.layer(), Layer.fresh(Memory.layer)])

layer(services, { excludeTestServices: true })("A remote that lags behind its own webhook", (it) => {
  it.effect("is asked again for a minute, ever less often, and then left to the next push, poll or edit", () =>
    Effect.gen(function* () {
      const { create, exchanges } = yield* GitServer
      const repository = yield* create("lags")
      const before = yield* repository.commit({ files: { a: "1" } })
      const cr = announced(repository, before)
      for (const wait of [500, 1000, 2000, 4000, 8000, 15_000, 30_000]) {
        const { commit, handled, skew, ...looked } = yield* look(cr)
        assert.deepStrictEqual(
          { commit: commit?.commit, handled, skew, wait: looked.wait },
          { commit: before, handled: false, skew: "WaitingForPush", wait }
        )
      }
      const last = yield* look(cr)
      assert.isTrue(last.handled)
      assert.strictEqual(last.nextLook, Number.POSITIVE_INFINITY)
      // Each time by the remote itself, never from what it said before.
      const asked = (yield* exchanges).filter((one) => one.repository === "lags" && one.method === "POST")
      assert.lengthOf(asked, 8)
    }).pipe(alone)
  )

  it.effect("is asked no more once it serves anything else", () =>
    Effect.gen(function* () {
      const { create } = yield* GitServer
      const repository = yield* create("catches-up")
      const before = yield* repository.commit({ files: { a: "1" } })
      const cr = announced(repository, before)
      yield* look(cr)
      yield* look(cr)
      const second = yield* repository.commit({ files: { a: "2" } })
      const done = yield* look(cr)
      assert.deepStrictEqual([done.commit?.commit, done.handled, done.skew], [second, true, "RemoteAgrees"])
      assert.strictEqual(done.nextLook, Number.POSITIVE_INFINITY)
    }).pipe(alone)
  )
})
