/**
 * Requests to the API server: one pool of kept-alive connections, every failure as a tagged reason, deadlines on all.
 *
 * Objects are sent and answered as plain JSON. Callers decode what they read by a Schema that names just those fields,
 * and write by patch or apply only: an object that was decoded is never sent back, so nothing that a newer CRD added is
 * ever dropped.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { Context, Duration, Effect, Layer, Option, Redacted, Schema, Scope, Stream } from "effect"
import { HttpBody, HttpClient, HttpClientRequest, type HttpClientResponse, type HttpMethod } from "effect/http"
import { promisify } from "node:util"
import { gunzip } from "node:zlib"
import * as ApiErrors from "./ApiError.ts"
import { ApiError } from "./ApiError.ts"
import { KubeConfig, type Tls } from "./KubeConfig.ts"
import * as Resource from "./Resource.ts"

/** Which objects of a collection. */
export interface Selection {
  /** All namespaces when absent. */
  readonly namespace?: string | undefined
  readonly labelSelector?: string | undefined
  readonly fieldSelector?: string | undefined
}

export interface WriteOptions {
  readonly fieldManager: string
  readonly subresource?: "status" | undefined
}

/** One page of a list. */
export interface Page {
  readonly resourceVersion: string
  readonly continue: Option.Option<string>
  readonly items: ReadonlyArray<unknown>
}

/** How long a request other than a watch may take, its body included. */
export const requestDeadline = Duration.seconds(30)

export class ApiClient extends Context.Service<
  ApiClient,
  {
    readonly get: (resource: Resource.Resource, ref: Resource.ObjectRef) => Effect.Effect<unknown, ApiError>
    /** One page, gzipped on the way (an order of magnitude for pods). */
    readonly list: (
      resource: Resource.Resource,
      options: Selection & {
        readonly limit?: number | undefined
        readonly continue?: string | undefined
        /** On the first page only: the API server refuses it with `continue`. */
        readonly resourceVersion?: string | undefined
      }
    ) => Effect.Effect<Page, ApiError>
    /** The lines of a watch, one JSON event each; ends cleanly when the API server ends it. No idle time-out: see `Watcher`. */
    readonly watch: (
      resource: Resource.Resource,
      options: Selection & { readonly resourceVersion: string; readonly timeoutSeconds: number }
    ) => Stream.Stream<string, ApiError>
    readonly create: (
      resource: Resource.Resource,
      namespace: string,
      body: object,
      options: WriteOptions
    ) => Effect.Effect<unknown, ApiError>
    /** JSON merge patch (RFC 7386): never creates, never conflicts unless the body says a resourceVersion. */
    readonly mergePatch: (
      resource: Resource.Resource,
      ref: Resource.ObjectRef,
      body: object,
      options: WriteOptions
    ) => Effect.Effect<unknown, ApiError>
    /** JSON Patch (RFC 6902). A failed `test` is `Invalid` with status 422. */
    readonly jsonPatch: (
      resource: Resource.Resource,
      ref: Resource.ObjectRef,
      operations: ReadonlyArray<object>,
      options: WriteOptions
    ) => Effect.Effect<unknown, ApiError>
    /** Server-side apply with force, always of the full set that the manager owns. Creates the object when it is absent. */
    readonly apply: (
      resource: Resource.Resource,
      ref: Resource.ObjectRef,
      body: object,
      options: WriteOptions
    ) => Effect.Effect<unknown, ApiError>
    readonly delete: (
      resource: Resource.Resource,
      ref: Resource.ObjectRef,
      options?: { readonly uid?: string; readonly resourceVersion?: string }
    ) => Effect.Effect<void, ApiError>
    /** Any other request, e.g. `TokenReview`. `path` is absolute; the body is `application/json` unless told. */
    readonly request: (
      method: HttpMethod.HttpMethod,
      path: string,
      body?: object,
      contentType?: string
    ) => Effect.Effect<unknown, ApiError>
  }
>()("stoker/kubernetes/ApiClient") {
  /** On a connection pool of its own. */
  static readonly layer = Layer.effect(
    ApiClient,
    Effect.suspend(() => make)
  )
}

const PageSchema = Schema.Struct({
  metadata: Schema.Struct({
    resourceVersion: Schema.String,
    continue: Schema.optionalKey(Schema.String)
  }),
  items: Schema.NullOr(Schema.Array(Schema.Unknown))
})
const decodePage = Schema.decodeUnknownEffect(PageSchema)

const inflate = promisify(gunzip)
const decoder = new TextDecoder()

interface Body {
  readonly contentType: string
  readonly json: object
}

interface Call {
  readonly method: HttpMethod.HttpMethod
  readonly path: string
  readonly query?: Readonly<Record<string, string | undefined>>
  readonly body?: Body
  readonly gzip?: boolean
  readonly operation: string
  readonly hideMessage: boolean
}

const make = Effect.gen(function* () {
  const config = yield* KubeConfig
  const scope = yield* Effect.scope
  const connect = Effect.fnUntraced(function* (tls: Tls) {
    const agent = yield* NodeHttpClient.makeAgent({
      keepAlive: true,
      // Without a delay probe a connection that a firewall forgot is found out only by a time-out.
      keepAliveMsecs: 15_000,
      maxFreeSockets: 32,
      ...tls
    })
    // Made, not built from its layer: layers are shared, and another's HTTP client has other authorities and no pool.
    const http = yield* Effect.provideService(NodeHttpClient.makeNodeHttp, NodeHttpClient.HttpAgent, agent)
    return { tls, http }
  }, Scope.provide(scope))
  let pool = yield* connect(yield* config.tls)
  /** When the authorities change, over new connections; those of before finish what they have. */
  const exchange = (request: HttpClientRequest.HttpClientRequest) =>
    config.tls.pipe(
      Effect.flatMap((tls) =>
        tls === pool.tls ? Effect.succeed(pool) : Effect.map(connect(tls), (next) => (pool = next))
      ),
      Effect.flatMap(({ http }) => http.execute(request))
    )

  const send = Effect.fnUntraced(
    function* (call: Call) {
      const authorization = yield* config.authorization
      let request = HttpClientRequest.make(call.method)(config.server + call.path).pipe(
        HttpClientRequest.setHeader("accept", "application/json"),
        HttpClientRequest.setHeader("user-agent", "stoker")
      )
      for (const [name, value] of Object.entries(call.query ?? {})) {
        if (value !== undefined) request = HttpClientRequest.setUrlParam(request, name, value)
      }
      if (call.gzip === true) request = HttpClientRequest.setHeader(request, "accept-encoding", "gzip")
      if (Option.isSome(authorization)) {
        request = HttpClientRequest.setHeader(request, "authorization", Redacted.value(authorization.value))
      }
      if (call.body !== undefined) {
        request = HttpClientRequest.setBody(
          request,
          HttpBody.text(JSON.stringify(call.body.json), call.body.contentType)
        )
      }
      return yield* Effect.mapError(exchange(request), unreachable(call))
    },
    // Our own spans say more than one a request, and the API server takes no part in traces.
    Effect.provideService(HttpClient.TracerDisabledWhen, () => true)
  )

  const bytes = (call: Call, response: HttpClientResponse.HttpClientResponse) =>
    response.arrayBuffer.pipe(
      Effect.mapError(unreachable(call)),
      Effect.flatMap((buffer) =>
        response.headers["content-encoding"] === "gzip"
          ? Effect.tryPromise({ try: () => inflate(buffer), catch: (cause) => undecodable(call, cause) })
          : Effect.succeed(new Uint8Array(buffer))
      )
    )

  const json = (call: Call, response: HttpClientResponse.HttpClientResponse) =>
    bytes(call, response).pipe(
      Effect.flatMap((body) =>
        Effect.try({
          try: () => JSON.parse(decoder.decode(body)) as unknown,
          catch: (cause) => undecodable(call, cause)
        })
      )
    )

  const failure = (call: Call, response: HttpClientResponse.HttpClientResponse) =>
    json(call, response).pipe(
      Effect.orElseSucceed(() => undefined),
      Effect.flatMap((body) =>
        Effect.fail(
          new ApiError({
            operation: call.operation,
            reason: ApiErrors.reasonOf(response.status, body, {
              retryAfter: response.headers["retry-after"],
              hideMessage: call.hideMessage
            })
          })
        )
      )
    )

  const isOk = (response: HttpClientResponse.HttpClientResponse) => response.status >= 200 && response.status < 300

  /** Once more with a fresh token after a 401: it may have been rotated since it was read. */
  const attempt = <A>(
    call: Call,
    use: (response: HttpClientResponse.HttpClientResponse) => Effect.Effect<A, ApiError>
  ): Effect.Effect<A, ApiError> => {
    const once = Effect.flatMap(send(call), (response) => (isOk(response) ? use(response) : failure(call, response)))
    return once.pipe(Effect.catchReason("ApiError", "Unauthorized", () => Effect.andThen(config.renew, once)))
  }

  const execute = (call: Call): Effect.Effect<unknown, ApiError> =>
    attempt(call, (response) => json(call, response)).pipe(
      Effect.timeoutOrElse({
        duration: requestDeadline,
        orElse: () =>
          Effect.fail(
            new ApiError({
              operation: call.operation,
              reason: new ApiErrors.TimedOut({
                message: `no answer within ${Duration.toSeconds(requestDeadline)} s`
              })
            })
          )
      })
    )

  const describe = (
    method: string,
    resource: Resource.Resource,
    target: {
      readonly namespace?: string | undefined
      readonly name?: string
      readonly subresource?: string | undefined
    }
  ) => ({
    operation: `${method} ${resource.plural}${target.subresource === undefined ? "" : `/${target.subresource}`} ${[target.namespace, target.name].filter((part) => part !== undefined).join("/") || "(all namespaces)"}`,
    path: Resource.path(resource, target),
    hideMessage: resource.plural === "secrets"
  })

  const write =
    (contentType: string) =>
    (
      resource: Resource.Resource,
      ref: Resource.ObjectRef,
      body: object,
      options: WriteOptions & { readonly force?: boolean }
    ) =>
      execute({
        method: "PATCH",
        ...describe("PATCH", resource, { ...ref, subresource: options.subresource }),
        query: { fieldManager: options.fieldManager, force: options.force === true ? "true" : undefined },
        body: { contentType, json: body }
      })

  return ApiClient.of({
    get: (resource, ref) => execute({ method: "GET", ...describe("GET", resource, ref) }),
    list: (resource, options) => {
      const call: Call = {
        method: "GET",
        ...describe("LIST", resource, { namespace: options.namespace }),
        gzip: true,
        query: {
          labelSelector: options.labelSelector,
          fieldSelector: options.fieldSelector,
          limit: options.limit === undefined ? undefined : String(options.limit),
          continue: options.continue,
          resourceVersion: options.resourceVersion
        }
      }
      return execute(call).pipe(
        Effect.flatMap((body) => Effect.mapError(decodePage(body), (cause) => undecodable(call, cause))),
        Effect.map((page) => ({
          resourceVersion: page.metadata.resourceVersion,
          continue: Option.fromNullishOr(page.metadata.continue).pipe(Option.filter((token) => token !== "")),
          items: page.items ?? []
        }))
      )
    },
    watch: (resource, options) => {
      const call: Call = {
        method: "GET",
        ...describe("WATCH", resource, { namespace: options.namespace }),
        query: {
          watch: "true",
          allowWatchBookmarks: "true",
          labelSelector: options.labelSelector,
          fieldSelector: options.fieldSelector,
          resourceVersion: options.resourceVersion,
          timeoutSeconds: String(options.timeoutSeconds)
        }
      }
      return Stream.unwrap(Effect.map(attempt(call, Effect.succeed), (response) => response.stream)).pipe(
        Stream.mapError((error) => (error instanceof ApiError ? error : unreachable(call)(error))),
        Stream.decodeText(),
        Stream.splitLines
      )
    },
    create: (resource, namespace, body, options) =>
      execute({
        method: "POST",
        ...describe("POST", resource, { namespace }),
        query: { fieldManager: options.fieldManager },
        body: { contentType: "application/json", json: body }
      }),
    mergePatch: write("application/merge-patch+json"),
    jsonPatch: write("application/json-patch+json"),
    apply: (resource, ref, body, options) =>
      write("application/apply-patch+yaml")(
        resource,
        ref,
        {
          apiVersion: Resource.apiVersion(resource),
          kind: resource.kind,
          ...body,
          metadata: { ...(body as { readonly metadata?: object }).metadata, name: ref.name, namespace: ref.namespace }
        },
        { ...options, force: true }
      ),
    delete: (resource, ref, options = {}) =>
      Effect.asVoid(
        execute({
          method: "DELETE",
          ...describe("DELETE", resource, ref),
          body: {
            contentType: "application/json",
            json: {
              apiVersion: "v1",
              kind: "DeleteOptions",
              ...(options.uid === undefined && options.resourceVersion === undefined ? {} : { preconditions: options })
            }
          }
        })
      ),
    request: (method, path, body, contentType = "application/json") =>
      execute({
        method,
        path,
        operation: `${method} ${path.split("?", 1)[0]}`,
        hideMessage: false,
        ...(body === undefined ? {} : { body: { contentType, json: body } })
      })
  })
})

const unreachable = (call: Call) => (cause: unknown) =>
  new ApiError({
    operation: call.operation,
    reason: new ApiErrors.Unreachable({ message: `the API server did not answer: ${innermost(cause)}` })
  })

const undecodable = (call: Call, cause: unknown) =>
  new ApiError({
    operation: call.operation,
    reason: new ApiErrors.Undecodable({
      message: `the answer is not what the API server would say: ${call.hideMessage ? "" : innermost(cause)}`
    })
  })

/** The text at the bottom of a chain of causes (`ECONNREFUSED …`), without the request that higher levels quote. */
const innermost = (cause: unknown): string => {
  let at = cause
  while (at instanceof Error) {
    const reason: unknown = (at as { readonly reason?: unknown }).reason
    const next: unknown = reason instanceof Error ? reason : at.cause
    if (!(next instanceof Error)) break
    at = next
  }
  return at instanceof Error ? at.message : String(at)
}
