/**
 * GatewaySyncs of an API server, in memory: `get`, `list` and `jsonPatch`, and what tests need to see
 * and to break. What the real one answers is tested in `ApiServer.test.ts`.
 */
import { Context, Effect, Latch, Layer, Option, Schema } from "effect"
import * as GatewaySync from "../../src/api/GatewaySync.ts"
import { ApiClient } from "../../src/kubernetes/ApiClient.ts"
import * as ApiErrors from "../../src/kubernetes/ApiError.ts"
import * as Resource from "../../src/kubernetes/Resource.ts"
import { type Indexes, type Store, StoreNotReady } from "../../src/kubernetes/Store.ts"
import * as RepositoryIdentity from "../../src/api/RepositoryIdentity.ts"
import * as RequestedRef from "../../src/api/RequestedRef.ts"

/** RFC 6902 as the API server does it; undefined when it refuses. An absent `annotations` is none at all. */
const applied = (object: Stored, operations: ReadonlyArray<RequestedRef.Operation>): Stored | undefined => {
  // oxlint-disable-next-line typescript/no-explicit-any -- any JSON
  const copy: any = structuredClone(object)
  if (Object.keys(copy.metadata.annotations).length === 0) delete copy.metadata.annotations
  for (const operation of operations) {
    const keys = operation.path
      .slice(1)
      .split("/")
      .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"))
    const last = keys.pop()!
    const parent = keys.reduce((at, key) => at?.[key], copy)
    if (parent === undefined) return undefined
    if (operation.op === "test" && (parent[last] ?? null) !== operation.value) return undefined
    if (operation.op === "remove" && parent[last] === undefined) return undefined
    if (operation.op === "add") parent[last] = operation.value
    if (operation.op === "remove") delete parent[last]
  }
  copy.metadata.annotations ??= {}
  return copy
}

/** As the controller's store has them. */
const indexes: Indexes<GatewaySync.GatewaySync> = {
  [RepositoryIdentity.index]: (cr) => RepositoryIdentity.names(cr.spec.git.repo),
  [GatewaySync.byOwnCredentials]: GatewaySync.ownCredentialsIn
}

/** As the watch and the writer do it: without the bounds. */
const decode = Schema.decodeUnknownSync(GatewaySync.GatewaySync, { disableChecks: true })

interface Stored {
  readonly metadata: { resourceVersion: string; annotations: RequestedRef.Annotations; readonly [key: string]: unknown }
  readonly spec: object
  readonly status: object
}

export interface Call {
  readonly verb: "get" | "list" | "patch"
  /** Of a list: the namespace, empty for all. */
  readonly key: string
  readonly operations?: ReadonlyArray<RequestedRef.Operation>
}

export class MemoryApi extends Context.Service<
  MemoryApi,
  {
    /**
     * Replaces an object by one with these fields over a plain GatewaySync, in the store as well unless told otherwise.
     * Names are of the namespace `plant` unless they say another (`namespace/name`).
     */
    readonly put: (
      name: string,
      change?: { readonly spec?: object; readonly status?: object; readonly annotations?: Record<string, string> },
      options?: { readonly inStore?: boolean }
    ) => Effect.Effect<void>
    readonly putSecret: (name: string, data: Record<string, string>) => Effect.Effect<void>
    readonly delete: (name: string) => Effect.Effect<void>
    readonly annotations: (name: string) => Effect.Effect<RequestedRef.Annotations>
    /** Calls since the last look. */
    readonly calls: Effect.Effect<ReadonlyArray<Call>>
    /** Waits for so many calls. */
    readonly asked: (count: number) => Effect.Effect<void>
    /** Patches wait while it is closed. */
    readonly gate: Latch.Latch
    /** Waits until so many patches wait at the gate. */
    readonly atGate: (count: number) => Effect.Effect<void>
    /** Waits until an annotation has a value. */
    readonly says: (name: string, key: string, value: string) => Effect.Effect<void>
    /** Waits until the store was asked so often: every request asks once, and the writer once for a patch. */
    readonly lookedUp: (count: number) => Effect.Effect<void>
    /** GatewaySyncs that the store's indexes have found. */
    readonly handedOut: Effect.Effect<number>
    /** The most patches of one object, and of all, that were ever in flight at once. */
    readonly inFlight: Effect.Effect<{ readonly one: number; readonly all: number }>
    /** Every call fails with it until it is none. */
    readonly fault: (reason: Option.Option<ApiErrors.Reason>) => Effect.Effect<void>
    /** Every patch does, or those of one object. */
    readonly refuse: (reason: Option.Option<ApiErrors.Reason>, name?: string) => Effect.Effect<void>
    /** Names of the Secrets that were read since the last look. */
    readonly secretReads: Effect.Effect<ReadonlyArray<string>>
    /** Waits for so many of them. */
    readonly secretsAsked: (count: number) => Effect.Effect<void>
    /** The next patch, or read of a Secret, is a defect. */
    readonly breakOnce: Effect.Effect<void>
    readonly setReady: (ready: boolean) => Effect.Effect<void>
    /** What waits for the first list to be complete begins when it opens; what only asks is told so from the start. */
    readonly listed: Latch.Latch
    /** Reads of Secrets fail with it until it is none. */
    readonly hide: (reason: Option.Option<ApiErrors.Reason>) => Effect.Effect<void>
    /** Reads wait while it is closed. */
    readonly readGate: Latch.Latch
    /** Brings the store to the state of the API server; it lags until then. */
    readonly catchUp: Effect.Effect<void>
    readonly store: Store<GatewaySync.GatewaySync>
  }
>()("test/MemoryApi") {
  static readonly layer = Layer.effectContext(
    Effect.gen(function* () {
      const gate = yield* Latch.make(true)
      const readGate = yield* Latch.make(true)
      const listed = yield* Latch.make(false)
      const objects = new Map<string, Stored>()
      const secrets = new Map<string, Record<string, string>>()
      let mirror = new Map<string, GatewaySync.GatewaySync>()
      let ready = true
      let version = 0
      let calls: Array<Call> = []
      let fault: Option.Option<ApiErrors.Reason> = Option.none()
      let refusal: Option.Option<ApiErrors.Reason> = Option.none()
      let refused: string | undefined
      let secretReads: Array<string> = []
      let hidden: Option.Option<ApiErrors.Reason> = Option.none()
      let broken = false
      const flying = new Map<string, number>()
      let waiting = 0
      let lookups = 0
      let handedOut = 0
      let most = { one: 0, all: 0 }

      const key = (name: string) => (name.includes("/") ? name : `plant/${name}`)
      const fail = (reason: ApiErrors.Reason) => Effect.fail(new ApiErrors.ApiError({ operation: "test", reason }))
      const notFound = fail(new ApiErrors.NotFound({ message: "not found" }))
      const healthy = Effect.suspend(() => (Option.isSome(fault) ? fail(fault.value) : Effect.void))
      const isBroken = () => {
        const was = broken
        broken = false
        return was
      }
      const fly = (name: string, by: number) => {
        flying.set(name, (flying.get(name) ?? 0) + by)
        const all = Array.from(flying.values())
        most = {
          one: Math.max(most.one, ...all),
          all: Math.max(
            most.all,
            all.reduce((sum, count) => sum + count, 0)
          )
        }
      }

      /** By the wall clock, also where tests hold the other one. */
      const until = (reached: () => boolean) =>
        Effect.callback<void>((resume) => {
          const timer = setInterval(() => {
            if (!reached()) return
            clearInterval(timer)
            resume(Effect.void)
          }, 1)
          return Effect.sync(() => clearInterval(timer))
        })

      const unused = () => Effect.die("the receiver has no use for this")
      const client = ApiClient.of({
        get: (resource, ref): Effect.Effect<unknown, ApiErrors.ApiError> =>
          Effect.suspend((): Effect.Effect<unknown, ApiErrors.ApiError> => {
            if (resource.plural === "secrets") {
              secretReads.push(ref.name)
              if (isBroken()) return Effect.die("broken")
              const data = secrets.get(Resource.key(ref))
              const answer = data === undefined ? notFound : Effect.succeed({ data })
              return Effect.andThen(
                readGate.await,
                Effect.suspend(() => (Option.isSome(hidden) ? fail(hidden.value) : answer))
              )
            }
            calls.push({ verb: "get", key: Resource.key(ref) })
            const found = objects.get(Resource.key(ref))
            const answer = found === undefined ? notFound : Effect.succeed(structuredClone(found))
            return Effect.andThen(readGate.await, Effect.andThen(healthy, answer))
          }),
        jsonPatch: (_, ref, operations) => {
          const at = Resource.key(ref)
          const patch = Effect.suspend(() => {
            calls.push({ verb: "patch", key: at, operations: operations as ReadonlyArray<RequestedRef.Operation> })
            const found = objects.get(at)
            if (found === undefined) return notFound
            if (Option.isSome(refusal) && (refused === undefined || refused === at)) return fail(refusal.value)
            if (isBroken()) return Effect.die("broken")
            const patched = applied(found, operations as ReadonlyArray<RequestedRef.Operation>)
            if (patched === undefined) return fail(new ApiErrors.Invalid({ status: 422, message: "a test failed" }))
            patched.metadata.resourceVersion = `${++version}`
            objects.set(at, patched)
            return Effect.succeed(structuredClone(patched))
          })
          return Effect.acquireUseRelease(
            Effect.sync(() => {
              fly(at, 1)
              waiting++
            }),
            () => Effect.andThen(gate.await, Effect.andThen(healthy, patch)),
            () =>
              Effect.sync(() => {
                fly(at, -1)
                waiting--
              })
          )
        },
        list: (_, { namespace = "" }) =>
          Effect.suspend(() => {
            calls.push({ verb: "list", key: namespace })
            const items = structuredClone([...objects.values()])
            return Effect.as(Effect.andThen(readGate.await, healthy), {
              resourceVersion: `${version}`,
              continue: Option.none(),
              items
            })
          }),
        watch: () => {
          throw new Error("the receiver has no use for this")
        },
        create: unused,
        mergePatch: unused,
        apply: unused,
        delete: unused,
        request: unused
      })

      const whenReady = <A>(read: () => A) =>
        Effect.suspend(() =>
          ready ? Effect.succeed(read()) : Effect.fail(new StoreNotReady({ resource: "gatewaysyncs" }))
        )

      const api = MemoryApi.of({
        put: (name, change = {}, { inStore = true } = {}) =>
          Effect.sync(() => {
            const object: Stored = {
              metadata: {
                name: name.split("/").at(-1)!,
                namespace: key(name).split("/")[0]!,
                uid: name,
                resourceVersion: `${++version}`,
                generation: 1,
                annotations: change.annotations ?? {}
              },
              spec: {
                git: { repo: "https://github.com/acme/plant.git", ref: "main" },
                gateway: { api: { secretName: "api" } },
                sync: { profiles: { default: { mappings: [{ source: "a", destination: "b" }] } } },
                ...change.spec
              },
              status: change.status ?? {}
            }
            objects.set(key(name), object)
            if (inStore) mirror.set(key(name), decode(structuredClone(object)))
          }),
        putSecret: (name, data) =>
          Effect.sync(() => {
            secrets.set(
              key(name),
              Object.fromEntries(
                Object.entries(data).map(([field, text]) => [field, Buffer.from(text).toString("base64")])
              )
            )
          }),
        delete: (name) => Effect.sync(() => objects.delete(key(name))),
        annotations: (name) => Effect.sync(() => objects.get(key(name))?.metadata.annotations ?? {}),
        calls: Effect.sync(() => calls.splice(0)),
        gate,
        asked: (count) => until(() => calls.length >= count),
        atGate: (count) => until(() => waiting >= count),
        says: (name, annotation, value) =>
          until(() => objects.get(key(name))?.metadata.annotations[annotation] === value),
        lookedUp: (count) => until(() => lookups >= count),
        handedOut: Effect.sync(() => handedOut),
        inFlight: Effect.sync(() => most),
        fault: (reason) =>
          Effect.sync(() => {
            fault = reason
          }),
        secretReads: Effect.sync(() => secretReads.splice(0)),
        secretsAsked: (count) => until(() => secretReads.length >= count),
        listed,
        readGate,
        hide: (reason) =>
          Effect.sync(() => {
            hidden = reason
          }),
        refuse: (reason, name) =>
          Effect.sync(() => {
            refused = name === undefined ? undefined : key(name)
            refusal = reason
          }),
        breakOnce: Effect.sync(() => {
          broken = true
        }),
        setReady: (next) =>
          Effect.sync(() => {
            ready = next
          }),
        catchUp: Effect.sync(() => {
          mirror = new Map(Array.from(objects, ([at, object]) => [at, decode(structuredClone(object))]))
        }),
        store: {
          ready: listed.await,
          isReady: Effect.sync(() => ready),
          get: (ref) =>
            whenReady(() => {
              lookups++
              return Option.fromNullishOr(mirror.get(Resource.key(ref)))
            }),
          // No request may cost more the more GatewaySyncs there are.
          all: Effect.die("the receiver has no use for this"),
          by: (index, name) =>
            whenReady(() => {
              const found = Array.from(mirror.values()).filter((cr) => indexes[index]?.(cr).includes(name) === true)
              handedOut += found.length
              return found
            })
        }
      })
      calls = []
      return Context.make(ApiClient, client).pipe(Context.add(MemoryApi, api))
    })
  )
}
