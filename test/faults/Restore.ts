/** An etcd that is set back to an earlier copy, as an administrator does after a disaster. */
import { Effect, FileSystem, Path } from "effect"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"

/** Copies etcd. The effect that it answers sets it back to that copy, once: what was written since never happened. */
export const snapshot = Effect.gen(function* () {
  const { apiServer, etcd } = yield* ControlPlane
  const client = yield* ApiClient
  const fileSystem = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = path.dirname(etcd.logFile)
  const [data, copy] = [path.join(folder, "etcd"), path.join(folder, "etcd-copy")]
  const whileDown = <E, R>(change: Effect.Effect<void, E, R>) =>
    Effect.gen(function* () {
      yield* apiServer.kill
      yield* etcd.stop
      yield* change
      yield* etcd.start
      yield* apiServer.start
    })
  yield* whileDown(fileSystem.copy(data, copy))
  return Effect.gen(function* () {
    // So many that the API server, which writes at its start, does not come to where watches were.
    const map = yield* client.create(
      Resource.configMaps,
      "default",
      { metadata: { generateName: "later-" } },
      { fieldManager: "test" }
    )
    const { name } = (map as { readonly metadata: { readonly name: string } }).metadata
    yield* Effect.forEach(
      Array.from({ length: 200 }, (_, index) => String(index)),
      (count) =>
        client.mergePatch(
          Resource.configMaps,
          { namespace: "default", name },
          { data: { count } },
          { fieldManager: "test" }
        )
    )
    yield* whileDown(Effect.andThen(fileSystem.remove(data, { recursive: true }), fileSystem.rename(copy, data)))
  })
})
