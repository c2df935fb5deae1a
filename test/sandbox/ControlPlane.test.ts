import { NodeServices } from "@effect/platform-node"
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, FileSystem, Option, Redacted, Schedule, Schema, Stream } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { fileURLToPath } from "node:url"

const Review = Schema.Struct({
  status: Schema.Struct({ userInfo: Schema.Struct({ username: Schema.String }) })
})

/** A zombie does not count: whether the system's first process collects it is not ours. */
const isAlive = Effect.fnUntraced(function* (pid: number) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const state = yield* spawner.string(ChildProcess.make("ps", ["-o", "stat=", "-p", `${pid}`]))
  return /^[^Z\s]/.test(state)
})

layer(ControlPlane.layer, { excludeTestServices: true })("ControlPlane", (it) => {
  const create = Effect.fnUntraced(function* (path: string, body: unknown) {
    const { admin } = yield* ControlPlane
    const response = yield* admin.execute(HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(path), body))
    assert.strictEqual(response.status, 201, yield* response.text)
  })
  const statusOf = Effect.fnUntraced(function* (path: string) {
    const { admin } = yield* ControlPlane
    return (yield* admin.get(path)).status
  })

  it.effect("answers its administrator", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* statusOf("/api/v1/namespaces/default"), 200)
    })
  )

  it.effect("issues tokens of ServiceAccounts, and RBAC holds for them", () =>
    Effect.gen(function* () {
      const { admin, issueServiceAccountToken } = yield* ControlPlane
      yield* create("/api/v1/namespaces", { metadata: { name: "tokens" } })
      yield* create("/api/v1/namespaces/tokens/serviceaccounts", { metadata: { name: "agent" } })
      const { token } = yield* issueServiceAccountToken("tokens", "agent")
      const asAgent = HttpClient.mapRequest(admin, HttpClientRequest.bearerToken(token))
      const review = yield* asAgent
        .execute(
          HttpClientRequest.bodyJsonUnsafe(
            HttpClientRequest.post("/apis/authentication.k8s.io/v1/selfsubjectreviews"),
            { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" }
          )
        )
        .pipe(Effect.flatMap(HttpClientResponse.schemaBodyJson(Review)))
      assert.strictEqual(review.status.userInfo.username, "system:serviceaccount:tokens:agent")
      assert.strictEqual((yield* asAgent.get("/api/v1/namespaces/tokens/secrets")).status, 403)
    })
  )

  it.effect("writes kubeconfigs that only their owner can read", () =>
    Effect.gen(function* () {
      const { caData, kubeconfigFor, url } = yield* ControlPlane
      const fileSystem = yield* FileSystem.FileSystem
      const file = yield* kubeconfigFor("system:user", { token: Redacted.make("t") }, "tokens")
      const text = yield* fileSystem.readFileString(file)
      assert.include(text, url)
      assert.include(text, Buffer.from(caData).toString("base64"))
      assert.strictEqual(Number((yield* fileSystem.stat(file)).mode) & 0o777, 0o600)
    }).pipe(Effect.provide(NodeServices.layer))
  )

  it.effect("keeps its objects over a kill of the API server, and answers custom resources when it is started", () =>
    Effect.gen(function* () {
      const { apiServer } = yield* ControlPlane
      yield* create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
        metadata: { name: "things.test.stoker.io" },
        spec: {
          group: "test.stoker.io",
          scope: "Namespaced",
          names: { plural: "things", singular: "thing", kind: "Thing" },
          versions: [
            {
              name: "v1",
              served: true,
              storage: true,
              schema: { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } }
            }
          ]
        }
      })
      const before = yield* apiServer.pid
      yield* apiServer.kill
      assert.isTrue(Option.isNone(yield* apiServer.pid))
      yield* Effect.flip(statusOf("/readyz"))
      yield* apiServer.start
      assert.notDeepEqual(yield* apiServer.pid, before)
      assert.strictEqual(yield* statusOf("/apis/test.stoker.io/v1/things"), 200)
    })
  )

  it.effect("forgets its history when it is compacted", () =>
    Effect.gen(function* () {
      const { compact } = yield* ControlPlane
      const exactly = "/api/v1/namespaces?resourceVersion=1&resourceVersionMatch=Exact"
      yield* compact
      assert.strictEqual(yield* statusOf(exactly), 410)
    })
  )
})

describe("ControlPlane", () => {
  it.live(
    "leaves no process and no folder behind when its scope closes",
    () =>
      Effect.gen(function* () {
        const fileSystem = yield* FileSystem.FileSystem
        const { pids, file } = yield* Effect.gen(function* () {
          const { adminKubeconfig, apiServer, etcd } = yield* ControlPlane
          const pids = yield* Effect.all([apiServer.pid, etcd.pid])
          return { pids: pids.flatMap(Option.toArray), file: adminKubeconfig }
        }).pipe(Effect.provide(ControlPlane.layer))
        assert.strictEqual(pids.length, 2)
        assert.deepStrictEqual(yield* Effect.forEach(pids, isAlive), [false, false])
        assert.isFalse(yield* fileSystem.exists(file))
      }).pipe(Effect.provide(NodeServices.layer)),
    60_000
  )

  it.live(
    "leaves no process and no folder behind when its owner is killed",
    () =>
      Effect.gen(function* () {
        const fileSystem = yield* FileSystem.FileSystem
        const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
        const owner = yield* spawner.spawn(
          ChildProcess.make(process.execPath, [fileURLToPath(new URL("owner.ts", import.meta.url))], {
            stderr: "inherit"
          })
        )
        const ready = yield* owner.stdout.pipe(
          Stream.decodeText(),
          Stream.splitLines,
          Stream.runHead,
          Effect.flatMap(Effect.fromOption),
          Effect.flatMap(
            Schema.decodeUnknownEffect(
              Schema.fromJsonString(
                Schema.Struct({ pids: Schema.Array(Schema.Number), adminKubeconfig: Schema.String })
              )
            )
          )
        )
        assert.deepStrictEqual(yield* Effect.forEach(ready.pids, isAlive), [true, true])
        yield* owner.kill({ killSignal: "SIGKILL" })
        const left = Effect.all([
          Effect.map(Effect.filter(ready.pids, isAlive), (alive) => alive.length > 0),
          fileSystem.exists(ready.adminKubeconfig)
        ])
        const [processes, folder] = yield* left.pipe(
          Effect.repeat({ schedule: Schedule.spaced("50 millis"), until: (found) => !found.includes(true) }),
          Effect.timeout("20 seconds")
        )
        assert.isFalse(processes)
        assert.isFalse(folder)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
    60_000
  )
})
