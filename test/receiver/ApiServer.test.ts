/** The receiver against a real API server, with the rights that it needs and no others. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber, FileSystem, Layer, Logger, Option, Path, Redacted, Schedule, Schema } from "effect"
import { HttpClientRequest, HttpClientResponse } from "effect/http"
import { parse } from "yaml"
import * as GatewaySync from "../../src/api/GatewaySync.ts"
import { gatewaySyncs, request as keys } from "../../src/api/Names.ts"
import * as RepositoryIdentity from "../../src/api/RepositoryIdentity.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import { KubeConfig } from "../../src/kubernetes/KubeConfig.ts"
import * as Reflector from "../../src/kubernetes/Reflector.ts"
import * as Store from "../../src/kubernetes/Store.ts"

import { Authorizer } from "../../src/receiver/Authorizer.ts"
import * as Receiver from "../../src/receiver/Receiver.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { post, send } from "./send.ts"

const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
const rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/plant"
const collection = "/apis/stoker.io/v1alpha1/namespaces/plant/gatewaysyncs"

const create = Effect.fnUntraced(function* (path: string, body: object) {
  const { admin } = yield* ControlPlane
  const response = yield* admin.execute(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(path), body))
  assert.strictEqual(response.status, 201, yield* response.text)
})

const mergePatch = Effect.fnUntraced(function* (path: string, body: object) {
  const { admin } = yield* ControlPlane
  const response = yield* admin.execute(
    HttpClientRequest.patch(`${collection}/${path}`).pipe(
      HttpClientRequest.bodyText(JSON.stringify(body), "application/merge-patch+json")
    )
  )
  assert.strictEqual(response.status, 200, yield* response.text)
})

const Object = Schema.Struct({
  metadata: Schema.Struct({ annotations: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)) })
})
const annotations = Effect.fnUntraced(function* (name: string) {
  const { admin } = yield* ControlPlane
  const { metadata } = yield* admin
    .get(`${collection}/${name}`)
    .pipe(Effect.flatMap(HttpClientResponse.schemaBodyJson(Object)))
  return metadata.annotations ?? {}
})

const gatewaySync = (name: string, repo = "https://github.com/acme/plant.git") =>
  create(collection, {
    apiVersion: "stoker.io/v1alpha1",
    kind: "GatewaySync",
    metadata: { name },
    spec: {
      git: { repo, ref: "main" },
      gateway: { api: { secretName: "api" } },
      sync: { profiles: { default: { mappings: [{ source: "a", destination: "b" }] } } }
    }
  })

const serviceAccount = Effect.fnUntraced(function* (name: string, verbs: ReadonlyArray<string>) {
  yield* create("/api/v1/namespaces/plant/serviceaccounts", { metadata: { name } })
  yield* create(`${rbac}/roles`, {
    metadata: { name },
    rules: [{ apiGroups: ["stoker.io"], resources: ["gatewaysyncs"], verbs }]
  })
  yield* create(`${rbac}/rolebindings`, {
    metadata: { name },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name },
    subjects: [{ kind: "ServiceAccount", name, namespace: "plant" }]
  })
})

const Plant = Layer.effectDiscard(
  Effect.gen(function* () {
    const { admin } = yield* ControlPlane
    const path = yield* Path.Path
    const file = path.join(import.meta.dirname, "../../crds/stoker.io_gatewaysyncs.yaml")
    yield* create(crds, parse(yield* (yield* FileSystem.FileSystem).readFileString(file)) as object)
    yield* create("/api/v1/namespaces", { metadata: { name: "plant" } })
    yield* admin
      .get(collection)
      .pipe(Effect.flatMap(HttpClientResponse.filterStatusOk), Effect.retry(Schedule.spaced("20 millis")))
    yield* serviceAccount("receiver", ["get", "list", "watch", "patch"])
    yield* serviceAccount("reader", ["get", "list", "watch"])
  })
).pipe(
  Layer.provideMerge(ControlPlane.layer),
  Layer.provideMerge(NodeServices.layer),
  Layer.provideMerge(Logger.layer([]))
)

/** Calls of a receiver to the API server, other than list and watch. */
const counting = (calls: Array<string>) =>
  Layer.effect(
    ApiClient,
    Effect.map(ApiClient, (client) =>
      ApiClient.of({
        ...client,
        get: (...args) => Effect.suspend(() => (calls.push("get"), client.get(...args))),
        jsonPatch: (...args) => Effect.suspend(() => (calls.push("patch"), client.jsonPatch(...args)))
      })
    )
  )

/** A replica of the receiver with a store that is kept by a watch, as in the controller. */
const replica = (
  options: {
    readonly calls?: Array<string>
    /** Requested refs as its watch tells them. */
    readonly seen?: Array<string | undefined>
    readonly account?: string
  } = {}
) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const writer = yield* Store.make<GatewaySync.GatewaySync>(gatewaySyncs, {
        [RepositoryIdentity.index]: (cr) => RepositoryIdentity.names(cr.spec.git.repo),
        [GatewaySync.byOwnCredentials]: GatewaySync.ownCredentialsIn
      })
      yield* Effect.forkScoped(
        Reflector.run(
          writer,
          { resource: gatewaySyncs, schema: GatewaySync.GatewaySync, namespace: "plant" },
          ({ after }) => Effect.sync(() => options.seen?.push(after?.metadata.annotations[keys.ref]))
        )
      )
      yield* writer.store.ready
      return Receiver.serve({ store: writer.store, port: 0, host: "127.0.0.1" })
    })
  ).pipe(
    Layer.provide(Authorizer.layerOf({})),
    Layer.provide(counting(options.calls ?? [])),
    Layer.provide(ApiClient.layer),
    Layer.provide(
      Layer.effect(
        KubeConfig,
        Effect.gen(function* () {
          const { caData, issueServiceAccountToken, url } = yield* ControlPlane
          const { token } = yield* issueServiceAccountToken("plant", options.account ?? "receiver")
          return {
            server: url,
            namespace: "plant",
            tls: Effect.succeed({ ca: caData }),
            authorization: Effect.succeed(Option.some(Redacted.make(`Bearer ${Redacted.value(token)}`))),
            renew: Effect.void
          }
        })
      )
    )
  )

const path = (name: string) => ({ path: `/webhook/plant/${name}` })

layer(Plant, { excludeTestServices: true, timeout: "60 seconds" })("Receiver and a real API server", (it) => {
  it.effect("a delivery is one patch, and in etcd when it is answered", () =>
    Effect.gen(function* () {
      const calls: Array<string> = []
      const seen: Array<string | undefined> = []
      yield* gatewaySync("one")
      yield* Effect.gen(function* () {
        yield* post({ ref: "v1" }, path("one"))
        assert.strictEqual((yield* annotations("one"))[keys.ref], "v1")
        // A delivery that comes before the watch has told of the last one is read live.
        yield* Effect.sync(() => seen.includes("v1")).pipe(
          Effect.repeat({ schedule: Schedule.spaced("2 millis"), until: (known) => known })
        )
        calls.splice(0)
        assert.strictEqual((yield* post({ ref: "v2" }, path("one"))).status, 202)
        assert.deepStrictEqual(calls, ["patch"])
        assert.strictEqual((yield* annotations("one"))[keys.ref], "v2")
      }).pipe(Effect.provide(replica({ calls, seen })))
    })
  )

  it.effect("64 at once on one: each 202, few patches, one of the last refs is there", () =>
    Effect.gen(function* () {
      const calls: Array<string> = []
      yield* gatewaySync("busy")
      yield* Effect.gen(function* () {
        const refs = Array.from({ length: 64 }, (_, index) => `v${index}`)
        const answers = yield* Effect.forEach(refs, (ref) => post({ ref }, path("busy")), { concurrency: "unbounded" })
        assert.deepStrictEqual([...new Set(answers.map(({ status }) => status))], [202])
        assert.include(refs, (yield* annotations("busy"))[keys.ref])
        assert.isBelow(calls.filter((call) => call === "patch").length, 32)
      }).pipe(Effect.provide(replica({ calls })))
    })
  )

  it.effect("two replicas at once lose none of each other's memory of deliveries", () =>
    Effect.gen(function* () {
      yield* gatewaySync("shared")
      const calls: Array<string> = []
      const release = (index: number) =>
        post(
          { action: "published", release: { tag_name: `v${index}` } },
          {
            ...path("shared"),
            headers: { "x-github-event": "release", "x-github-delivery": `id-${index}` }
          }
        )
      const half = (from: number) =>
        Effect.forEach(
          Array.from({ length: 15 }, (_, index) => from + index),
          release
        ).pipe(Effect.provide(replica({ calls })))
      const answers = (yield* Effect.all([half(0), half(15)], { concurrency: 2 })).flat()
      assert.deepStrictEqual([...new Set(answers.map(({ status }) => status))], [202])
      const remembered = JSON.parse((yield* annotations("shared"))[keys.deliveries]!) as ReadonlyArray<{ id: string }>
      assert.deepStrictEqual(
        new Set(remembered.map(({ id }) => id)),
        new Set(Array.from({ length: 30 }, (_, index) => `id-${index}`))
      )
    })
  )

  it.effect("the spec.git.ref that a request overrides is that of the very moment", () =>
    Effect.gen(function* () {
      yield* gatewaySync("edited")
      yield* Effect.forEach(["a", "b", "c", "d"], (ref) =>
        Effect.gen(function* () {
          yield* mergePatch("edited", { spec: { git: { ref } } })
          assert.strictEqual((yield* post({ ref: `over-${ref}` }, path("edited"))).status, 202)
          assert.strictEqual((yield* annotations("edited"))[keys.over], ref)
        })
      ).pipe(Effect.provide(replica()))
    })
  )

  it.effect("a controller that writes status all the time is no reason to fail", () =>
    Effect.gen(function* () {
      yield* gatewaySync("noisy")
      yield* Effect.gen(function* () {
        const noise = yield* Effect.forEach(
          Array.from({ length: 100 }, (_, index) => index),
          (profileCount) => mergePatch("noisy/status", { status: { profileCount } })
        ).pipe(Effect.forkChild)
        const answers = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, index) => `v${index}`),
          (ref) => post({ ref }, path("noisy"))
        )
        assert.deepStrictEqual([...new Set(answers.map(({ status }) => status))], [202])
        assert.strictEqual((yield* annotations("noisy"))[keys.ref], "v19")
        yield* Fiber.interrupt(noise)
      }).pipe(Effect.provide(replica()))
    })
  )

  it.effect("one hook for 100 GatewaySyncs: each has it when it is answered, and a repetition is harmless", () =>
    Effect.gen(function* () {
      const names = Array.from({ length: 100 }, (_, index) => `many-${index}`)
      yield* Effect.forEach(names, (name) => gatewaySync(name, "git@git.example:acme/many.git"), { concurrency: 8 })
      yield* Effect.gen(function* () {
        const publish = post(
          {
            action: "published",
            release: { tag_name: "v2" },
            repository: { clone_url: "https://git.example/acme/many.git" }
          },
          { path: "/webhook", headers: { "x-github-event": "release", "x-github-delivery": "guid-1" } }
        )
        const first = yield* publish
        assert.strictEqual(first.status, 202)
        assert.lengthOf(first.body["gatewaysyncs"] as ReadonlyArray<unknown>, 100)
        const taken = yield* Effect.forEach(names, annotations, { concurrency: 8 })
        assert.deepStrictEqual([...new Set(taken.map((found) => found[keys.ref]))], ["v2"])
        assert.strictEqual((yield* publish).status, 202)
        const again = yield* Effect.forEach(names, annotations, { concurrency: 8 })
        assert.deepStrictEqual(
          again.map((found) => found[keys.at]),
          taken.map((found) => found[keys.at])
        )
      }).pipe(Effect.provide(replica()))
    })
  )

  it.effect("unknown is 404, and stays so", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* post({ ref: "v1" }, path("nobody"))).status, 404)
      assert.strictEqual((yield* send({ method: "GET", ...path("nobody") })).status, 404)
    }).pipe(Effect.provide(replica()))
  )

  it.effect("without the right to patch: 503 that names it, and nothing is written", () =>
    Effect.gen(function* () {
      yield* gatewaySync("forbidden")
      const answer = yield* post({ ref: "v1" }, path("forbidden"))
      assert.strictEqual(answer.status, 503)
      assert.include(answer.body["error"], "patch on gatewaysyncs.stoker.io")
      assert.notProperty(yield* annotations("forbidden"), keys.ref)
    }).pipe(Effect.provide(replica({ account: "reader" })))
  )

  it.effect("the API server dies and comes back: 503 meanwhile, then 202", () =>
    Effect.gen(function* () {
      const { apiServer } = yield* ControlPlane
      yield* gatewaySync("survivor")
      yield* Effect.gen(function* () {
        yield* post({ ref: "v1" }, path("survivor"))
        yield* apiServer.kill
        const away = yield* post({ ref: "v2" }, path("survivor"))
        assert.strictEqual(away.status, 503)
        assert.propertyVal(away.body, "synced", false)
        yield* apiServer.start
        assert.strictEqual((yield* post({ ref: "v3" }, path("survivor"))).status, 202)
        assert.strictEqual((yield* annotations("survivor"))[keys.ref], "v3")
      }).pipe(Effect.provide(replica()))
    })
  )
})
