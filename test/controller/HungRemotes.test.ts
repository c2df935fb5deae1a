/** Git servers, and a GitHub, that take a connection and never say a word. */
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Layer, Ref } from "effect"
import * as NodeNet from "node:net"
import * as Names from "../../src/api/Names.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import * as FakeGitHub from "../git/FakeGitHub.ts"
import * as Cluster from "./Cluster.ts"
import { listen } from "../Loopback.ts"

/** How many applies were under way at once, at most: in all, and of one object. */
class Busiest extends Context.Service<Busiest, Ref.Ref<{ readonly all: number; readonly one: number }>>()(
  "test/controller/Busiest"
) {}

const counting = Layer.effectContext(
  Effect.gen(function* () {
    const client = yield* ApiClient
    const busiest = yield* Ref.make({ all: 0, one: 0 })
    const flying = new Map<string, number>()
    const fly = (object: string, by: number) => {
      const now = (flying.get(object) ?? 0) + by
      if (now === 0) flying.delete(object)
      else flying.set(object, now)
      const all = flying.values().reduce((sum, count) => sum + count, 0)
      return Ref.update(busiest, (most) => ({ all: Math.max(most.all, all), one: Math.max(most.one, now) }))
    }
    const apply: ApiClient["Service"]["apply"] = (resource, ref, ...rest) => {
      const object = `${resource.plural} ${Resource.key(ref)}`
      return Effect.acquireUseRelease(
        Effect.suspend(() => fly(object, 1)),
        () => client.apply(resource, ref, ...rest),
        () => Effect.suspend(() => fly(object, -1))
      )
    }
    return Context.make(ApiClient, ApiClient.of({ ...client, apply })).pipe(Context.add(Busiest, busiest))
  })
)

/** A server that answers nothing, and how many connections it holds. */
const silentServer = Effect.gen(function* () {
  const sockets = new Set<NodeNet.Socket>()
  const server = NodeNet.createServer((socket) => {
    sockets.add(socket)
    socket.on("close", () => sockets.delete(socket))
    socket.on("error", () => undefined)
  })
  const port = yield* listen(server)
  return { url: `http://127.0.0.1:${port}`, connections: () => sockets.size }
})

layer(Cluster.over(Cluster.controller, counting), { excludeTestServices: true, timeout: "2 minutes" })(
  "git servers that never answer",
  (it) => {
    it.effect("hold up their own GatewaySyncs and nobody else's, and make no writes pile up", () =>
      Effect.gen(function* () {
        const plant = yield* Cluster.plant("hung")
        const busiest = yield* Busiest
        const first = yield* plant.repository.commit({ files: { a: "1" } })
        yield* plant.create("healthy", {})
        yield* Cluster.until(plant.get("healthy"), (cr) => cr.status.lastSyncCommit === first)

        const servers = yield* Effect.replicateEffect(silentServer, 12)
        const hung = servers.flatMap(({ url }, index) => [`${url}/a-${index}.git`, `${url}/b-${index}.git`])
        const { privateKey } = yield* FakeGitHub.make
        yield* plant.client.create(
          Resource.secrets,
          "hung",
          { metadata: { name: "app" }, stringData: { key: privateKey } },
          { fieldManager: "test" }
        )
        /** Half of them ask GitHub for a token before. */
        const auth = (repo: string, index: number) => ({
          githubApp: {
            appId: 1,
            installationId: index + 1,
            privateKeySecretRef: { name: "app", key: "key" },
            apiBaseURL: new URL(repo).origin
          }
        })
        yield* Effect.forEach(
          hung,
          (repo, index) =>
            plant.create(`hung-${index}`, {
              git: { repo, ref: "main", ...(repo.includes("/b-") ? { auth: auth(repo, index) } : {}) }
            }),
          { concurrency: 8 }
        )
        yield* Cluster.until(
          Effect.sync(() => servers.filter(({ connections }) => connections() > 0).length),
          (asked) => asked >= 4
        )

        const second = yield* plant.repository.commit({ files: { a: "2" } })
        yield* plant.annotate("healthy", {
          [Names.request.pushed]: JSON.stringify({ ref: "main", kind: "branch", at: "now", by: "github", id: "one" })
        })
        yield* Cluster.until(plant.get("healthy"), (cr) => cr.status.lastSyncCommit === second)
        yield* Cluster.until(
          Effect.sync(() => servers.reduce((sum, { connections }) => sum + connections(), 0)),
          (held) => held === hung.length
        )
        const most = yield* Ref.get(busiest)
        assert.isAtMost(most.all, 8)
        assert.strictEqual(most.one, 1)
      })
    )
  }
)
