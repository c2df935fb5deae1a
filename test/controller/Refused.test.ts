/**
 * Writes that the API server refuses, and a leader that is killed between two of them: what agents were told never goes
 * back, and nothing counts as done that was not written.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Duration, Effect, Layer, Option, Redacted, Ref } from "effect"
import * as Conditions from "../../src/api/Conditions.ts"
import * as GatewaySync from "../../src/api/GatewaySync.ts"
import * as Names from "../../src/api/Names.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { retry } from "../../src/controller/GatewaySyncController.ts"
import { Memory } from "../../src/controller/Memory.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import {
  ApiError,
  Forbidden,
  Invalid,
  ServerError,
  TooManyRequests,
  Unreachable,
  UnknownField
} from "../../src/kubernetes/ApiError.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as Cluster from "./Cluster.ts"

interface Write {
  /** e.g. `apply gatewaysyncs/status refused/site` */
  readonly line: string
  readonly body: object
}

type Verdict = (write: Write) => Effect.Effect<ApiError["reason"] | undefined>

/** The API server, as it answers the controller; the tests' own writes pass. */
class Refusals extends Context.Service<
  Refusals,
  {
    /** What is refused from now on, and why. */
    readonly refuse: (verdict: Verdict) => Effect.Effect<void>
    /** What was written, in order. */
    readonly written: Effect.Effect<ReadonlyArray<Write>>
  }
>()("test/controller/Refusals") {}

const none: Verdict = () => Effect.succeed(undefined)

const refusing = Layer.effectContext(
  Effect.gen(function* () {
    const client = yield* ApiClient
    const verdict = yield* Ref.make(none)
    const log = yield* Ref.make<ReadonlyArray<Write>>([])
    const judged = <A>(
      verb: string,
      resource: Resource.Resource,
      ref: Resource.ObjectRef,
      part: string,
      body: object
    ) => {
      const line = `${verb} ${resource.plural}${part} ${Resource.key(ref)}`
      return (write: Effect.Effect<A, ApiError>) =>
        Effect.gen(function* () {
          const reason = yield* (yield* Ref.get(verdict))({ line, body })
          if (reason !== undefined) return yield* new ApiError({ operation: line, reason })
          const answer = yield* write
          yield* Ref.update(log, (lines) => [...lines, { line, body }])
          return answer
        })
    }
    const part = (subresource: string | undefined) => (subresource === undefined ? "" : `/${subresource}`)
    return Context.make(
      ApiClient,
      ApiClient.of({
        ...client,
        apply: (resource, ref, body, options) =>
          client
            .apply(resource, ref, body, options)
            .pipe(judged("apply", resource, ref, part(options.subresource), body)),
        jsonPatch: (resource, ref, operations, options) =>
          client.jsonPatch(resource, ref, operations, options).pipe(judged("patch", resource, ref, "", operations)),
        delete: (resource, ref, options) =>
          client.delete(resource, ref, options).pipe(judged("delete", resource, ref, "", {}))
      })
    ).pipe(
      Context.add(Refusals, {
        refuse: (now) => Ref.set(verdict, now),
        written: Ref.get(log)
      })
    )
  })
)

const unavailable = new ServerError({ status: 503, message: "etcd has no leader" })

/** Refuses what begins so, the first time, after something else was done. */
const once = Effect.fnUntraced(function* (start: string, before: Effect.Effect<void> = Effect.void) {
  const left = yield* Ref.make(true)
  const verdict: Verdict = ({ line }) =>
    Effect.gen(function* () {
      if (!line.startsWith(start) || !(yield* Ref.getAndSet(left, false))) return undefined
      yield* before
      return unavailable
    })
  return verdict
})

/** What the agents of `site` were told, in order: repository and commit. */
const told = (namespace: string) =>
  Effect.gen(function* () {
    const { written } = yield* Refusals
    return (yield* written).flatMap(({ body, line }) => {
      if (line !== `apply configmaps ${namespace}/stoker-metadata-site`) return []
      const { data } = body as { readonly data: Readonly<Record<string, string>> }
      return [`${data["gitURL"]} ${data["commit"]}`]
    })
  })

const push = (id: string) => ({
  [Names.request.pushed]: JSON.stringify({ ref: "main", kind: "branch", at: "now", by: "github", id })
})

describe("a reconcile that failed", () => {
  const after = (reason: ApiError["reason"], attempt = 1) =>
    Duration.toSeconds(retry(new ApiError({ operation: "PATCH", reason }), attempt))

  it("is tried again soon where it passes by itself, and seldom where somebody must help", () => {
    const away = new Unreachable({ message: "refused" })
    assert.deepStrictEqual(
      [1, 2, 3, 4, 5, 6, 7, 8, 100].map((attempt) => after(away, attempt)),
      [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    )
    assert.strictEqual(after(new TooManyRequests({ retryAfterMillis: 7000, message: "busy" })), 7)
    assert.strictEqual(after(new Forbidden({ message: "not yours" })), 30)
    assert.strictEqual(after(new UnknownField({ message: "an old definition" })), 300)
  })
})

layer(Cluster.over(Cluster.controller, refusing), { excludeTestServices: true, timeout: "2 minutes" })(
  "what the API server refuses",
  (it) => {
    /** Ends what a leader remembers: as if it had been killed, and another one led. */
    const kill = (plant: Effect.Success<ReturnType<typeof Cluster.plant>>) =>
      Effect.gen(function* () {
        const memory = yield* Memory
        yield* memory.forget(yield* Effect.orDie(plant.get("site")))
      })

    for (const { name, dies } of [
      { name: "the status write after a new commit fails", dies: false },
      { name: "the leader is killed between metadata and status", dies: true }
    ]) {
      it.effect(`tells agents nothing older when ${name}`, () =>
        Effect.gen(function* () {
          const { refuse } = yield* Refusals
          const memory = yield* Memory
          const plant = yield* Cluster.plant(dies ? "killed" : "failed")
          const { namespace, repository } = plant
          const first = yield* repository.commit({ files: { a: "1" } })
          yield* plant.create("site", { polling: { enabled: true, interval: "2s" } })
          yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
          yield* refuse(
            yield* once(
              `apply gatewaysyncs/status ${namespace}/`,
              dies ? Effect.provideService(kill(plant), Memory, memory) : Effect.void
            )
          )
          const second = yield* repository.commit({ files: { a: "2" } })
          yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === second)
          yield* refuse(none)
          const commits = (yield* told(namespace)).map((line) => line.split(" ")[1])
          assert.deepStrictEqual(commits, [first, second])
        })
      )
    }

    it.effect("tells agents nothing older when the remote is away, too, before the status is written", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Refusals
        const memory = yield* Memory
        const plant = yield* Cluster.plant("away")
        const { namespace, repository } = plant
        const first = yield* repository.commit({ files: { a: "1" } })
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
        const second = yield* repository.commit({ files: { a: "2" } })
        const goAway = repository.requireLogin(Option.some({ username: "nobody", password: Redacted.make("nothing") }))
        yield* refuse(
          yield* once(
            `apply gatewaysyncs/status ${namespace}/`,
            Effect.andThen(goAway, Effect.provideService(kill(plant), Memory, memory))
          )
        )
        yield* plant.annotate("site", push("one"))
        const away = yield* Cluster.until(
          plant.get("site"),
          (cr) => Conditions.get(cr.status.conditions ?? [], "RefResolved")?.status === "False"
        )
        yield* refuse(none)
        assert.strictEqual(away.status.lastSyncCommit, second)
        assert.isFalse(RequestedRef.isHandled(away.metadata.annotations, away.status.lastHandledRequest))
        assert.deepStrictEqual(yield* told(namespace), [`${repository.url} ${first}`, `${repository.url} ${second}`])
      })
    )

    it.effect("tells agents no commit of the former repository when the status write after its edit fails", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Refusals
        const memory = yield* Memory
        const { create } = yield* GitServer
        const plant = yield* Cluster.plant("repository")
        const { namespace, repository } = plant
        const other = yield* create("another")
        const first = yield* repository.commit({ files: { a: "1" } })
        const second = yield* other.commit({ files: { a: "2" } })
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
        yield* refuse(
          yield* once(`apply gatewaysyncs/status ${namespace}/`, Effect.provideService(kill(plant), Memory, memory))
        )
        yield* plant.patch("site", { spec: { git: { repo: other.url } } })
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.observedGeneration === 2)
        yield* refuse(none)
        assert.strictEqual((yield* plant.get("site")).status.lastSyncCommit, second)
        assert.deepStrictEqual(yield* told(namespace), [`${repository.url} ${first}`, `${other.url} ${second}`])
      })
    )

    it.effect("tells agents what a poll found as soon as the metadata can be written, not with the next poll", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Refusals
        const plant = yield* Cluster.plant("metadata")
        const { namespace, repository } = plant
        const first = yield* repository.commit({ files: { a: "1" } })
        yield* plant.create("site", { polling: { enabled: true, interval: "1s" } })
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
        const noMorePolls = Effect.orDie(plant.patch("site", { spec: { polling: { enabled: false } } }))
        yield* refuse(yield* once(`apply configmaps ${namespace}/stoker-metadata-`, Effect.asVoid(noMorePolls)))
        const second = yield* repository.commit({ files: { a: "2" } })
        yield* Cluster.until(plant.data("stoker-metadata-site"), (data) => data["commit"] === second)
        yield* refuse(none)
      })
    )

    it.effect("counts no gateway as synced, and no request as handled, before the metadata is written", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Refusals
        const plant = yield* Cluster.plant("progress")
        const { namespace, repository } = plant
        const first = yield* repository.commit({ files: { a: "1" } })
        yield* repository.setRef("refs/tags/v2", first)
        yield* plant.create("site", {})
        const podUID = yield* plant.gateway("gateway-0")
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.discoveredGateways?.length === 1)
        const { revision } = yield* plant.data("stoker-metadata-site")
        const report = { syncStatus: "Synced", syncedCommit: first, observedRevision: revision, podUID }
        yield* plant.report("gateway-0", report)
        const isDone = (cr: GatewaySync.GatewaySync) => GatewaySync.progress(cr).synced
        yield* Cluster.until(plant.get("site"), isDone)

        // What the spec says cannot be told to the agents.
        yield* refuse(({ line }) =>
          Effect.succeed(line === `apply configmaps ${namespace}/stoker-metadata-site` ? unavailable : undefined)
        )
        yield* plant.patch("site", { spec: { gateway: { port: 8043 } } })
        const refused = yield* Cluster.until(plant.get("site"), (cr) => cr.status.observedGeneration === 2)
        assert.isFalse(isDone(refused))
        assert.strictEqual(Conditions.get(refused.status.conditions ?? [], "AllGatewaysSynced")?.message, "0/1 synced")
        yield* refuse(none)
        const written = yield* Cluster.until(
          plant.data("stoker-metadata-site"),
          (data) => data["gatewayPort"] === "8043"
        )
        yield* plant.report("gateway-0", { ...report, observedRevision: written["revision"] })
        yield* Cluster.until(plant.get("site"), isDone)

        // A promotion meets profiles that no agent could follow.
        yield* plant.patch("site", {
          metadata: {
            annotations: {
              [Names.request.ref]: "v2",
              [Names.request.over]: "main",
              [Names.request.id]: "one",
              [Names.request.by]: "kargo"
            }
          },
          spec: { sync: { defaults: { excludePatterns: ["[a"] } } }
        })
        const held = yield* Cluster.until(plant.get("site"), (cr) => cr.status.observedGeneration === 3)
        assert.isFalse(isDone(held))
        assert.isFalse(RequestedRef.isHandled(held.metadata.annotations, held.status.lastHandledRequest))

        for (const reason of ["WebhookReceived", "ProfilesInvalid"]) {
          yield* Cluster.until(plant.events, (lines) => lines.some((line) => line.startsWith(reason)))
        }

        yield* plant.patch("site", { spec: { sync: { defaults: { excludePatterns: [] } } } })
        const moved = yield* Cluster.until(plant.data("stoker-metadata-site"), (data) => data["ref"] === "v2")
        yield* plant.report("gateway-0", { ...report, observedRevision: moved["revision"] })
        yield* Cluster.until(plant.get("site"), isDone)
      })
    )

    it.effect("writes the status field by field where an apply meets a definition that lacks one", () =>
      Effect.gen(function* () {
        const { refuse, written } = yield* Refusals
        const plant = yield* Cluster.plant("lacking")
        const status = "apply gatewaysyncs/status lacking/"
        const lacks = new UnknownField({ message: "failed to create typed patch object" })
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* refuse(({ line }) => Effect.succeed(line.startsWith(status) ? lacks : undefined))
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
        yield* refuse(none)
        assert.isFalse((yield* written).some(({ line }) => line.startsWith(status)))
      })
    )

    for (const start of ["apply configmaps", "apply roles", "apply gatewaysyncs/status"]) {
      it.effect(`leaves nothing of a GatewaySync that is deleted during a reconcile, before its "${start}"`, () =>
        Effect.gen(function* () {
          const { refuse, written } = yield* Refusals
          const namespace = `gone-${start.replaceAll(/[^a-z]+/g, "-")}`
          const plant = yield* Cluster.plant(namespace)
          yield* plant.repository.commit({ files: { a: "1" } })
          const left = yield* Ref.make(true)
          yield* refuse(({ line }) =>
            Effect.gen(function* () {
              if (!line.startsWith(`${start} ${namespace}/`) || !(yield* Ref.getAndSet(left, false))) return undefined
              yield* Effect.orDie(plant.client.delete(Names.gatewaySyncs, plant.ref("site")))
              return undefined
            })
          )
          yield* plant.create("site", {})
          yield* plant.gateway("gateway-0")
          yield* Cluster.until(Effect.flip(plant.get("site")), (error) => JSON.stringify(error).includes("NotFound"))
          yield* refuse(none)
          assert.isFalse(yield* Ref.get(left))
          for (const [resource, name] of [
            [Resource.configMaps, "stoker-metadata-site"],
            [Resource.configMaps, "stoker-status-site"],
            [Resource.roles, "stoker-agent-site"],
            [Resource.roleBindings, "stoker-agent-site"]
          ] as const) {
            const error = yield* Effect.flip(plant.client.get(resource, plant.ref(name)))
            assert.strictEqual(error.reason._tag, "NotFound", name)
          }
          // The finalizer went last, so that nothing was written after it.
          const ours = (yield* written).filter(({ line }) => line.includes(` ${namespace}/`))
          assert.strictEqual(ours.at(-1)?.line, `patch gatewaysyncs ${namespace}/site`)
        })
      )
    }

    it.effect("says once that agents get no rights, also while paused and while another write fails", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Refusals
        const plant = yield* Cluster.plant("no-rights")
        const { namespace } = plant
        const ready = (cr: GatewaySync.GatewaySync) =>
          Conditions.get(cr.status.conditions ?? [], "Ready")?.message ?? ""
        const forbidden = ({ line }: Write) =>
          Effect.succeed(line.startsWith("apply role") ? new Forbidden({ message: "roles are not yours" }) : undefined)
        yield* refuse(forbidden)
        yield* plant.create("site", { paused: true })
        yield* plant.gateway("gateway-0")
        const paused = yield* Cluster.until(plant.get("site"), (cr) => cr.status.discoveredGateways?.length === 1)
        assert.match(ready(paused), /^paused by spec.paused; .*roles are not yours/)

        yield* refuse((write) =>
          write.line === `apply configmaps ${namespace}/stoker-metadata-site`
            ? Effect.succeed(unavailable)
            : forbidden(write)
        )
        yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.patch("site", { spec: { paused: false } })
        const both = yield* Cluster.until(plant.get("site"), (cr) => ready(cr).includes(unavailable.message))
        assert.include(ready(both), "roles are not yours")
        yield* plant.gateway("gateway-1")
        yield* Cluster.until(plant.events, (lines) => lines.some((line) => /^GatewaysDiscovered.*×2$/.test(line)))
        const told = (yield* plant.events).filter((line) => line.startsWith("RBACError"))
        assert.lengthOf(told, 1)
        assert.notMatch(told[0]!, /×/)
        yield* refuse(none)
      })
    )

    it.effect(
      "tries again to add its finalizer when validation refuses the object, instead of waiting for a change",
      () =>
        Effect.gen(function* () {
          const { refuse } = yield* Refusals
          const plant = yield* Cluster.plant("invalid")
          const first = yield* plant.repository.commit({ files: { a: "1" } })
          const tries = yield* Ref.make(0)
          const invalid = new Invalid({ status: 422, message: "is invalid", fields: ["spec.git.repo"] })
          yield* refuse(({ line }) =>
            line === "patch gatewaysyncs invalid/site"
              ? Effect.as(
                  Ref.update(tries, (count) => count + 1),
                  invalid
                )
              : Effect.succeed(undefined)
          )
          yield* plant.create("site", {})
          yield* Cluster.until(Ref.get(tries), (count) => count >= 2)
          yield* refuse(none)
          yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
        })
    )

    it.effect("lets a GatewaySync be deleted where Stoker may not touch roles", () =>
      Effect.gen(function* () {
        const { refuse } = yield* Refusals
        const plant = yield* Cluster.plant("no-roles")
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create("site", {})
        yield* Cluster.until(plant.get("site"), (cr) => cr.status.lastSyncCommit === first)
        yield* refuse(({ line }) =>
          Effect.succeed(/^\w+ role/.test(line) ? new Forbidden({ message: "roles are not yours" }) : undefined)
        )
        yield* plant.client.delete(Names.gatewaySyncs, plant.ref("site"))
        yield* Cluster.until(Effect.flip(plant.get("site")), (error) => JSON.stringify(error).includes("NotFound"))
        yield* refuse(none)
      })
    )
  }
)
