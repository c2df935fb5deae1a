import * as NodeStream from "@effect/platform-node/NodeStream"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as NodeHttp from "node:http"
import * as NodeHttps from "node:https"
import * as Credentials from "./Credentials.ts"
import { proxyVariables, type Remote } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"

export interface Request {
  readonly method: "GET" | "POST"
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body?: Uint8Array | undefined
}

interface Head {
  readonly url: string
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
}

/** An answer read to its end. */
export interface Response extends Head {
  readonly body: ReadonlyArray<Uint8Array>
}

/** An answer whose body is still on its way. An answer that is cut short is a failure, never a short body. */
export interface Incoming extends Head {
  readonly body: Stream.Stream<Uint8Array, GitError>
}

/** Longest answer taken whole: a full ref advertisement of 20 000 refs is 1.6 MB. */
const maxBody = 64 * 1024 * 1024
const maxRedirects = 5
/** Without a byte for this long, a server is taken for gone. (One that packs says so every 5 s.) */
export const Patience = Context.Reference("stoker/git/GitHttp/Patience", { defaultValue: () => Duration.seconds(30) })

/** The proxies of our environment, as Node's agents take them. */
export const proxyEnv = Effect.gen(function* () {
  const proxies = yield* Effect.orDie(proxyVariables)
  const proxy = (...names: ReadonlyArray<string>) =>
    [...names, "all_proxy", "ALL_PROXY"].flatMap((name) => proxies[name] ?? [])[0]
  return {
    http_proxy: proxy("http_proxy"),
    https_proxy: proxy("https_proxy", "HTTPS_PROXY"),
    no_proxy: proxies["no_proxy"] ?? proxies["NO_PROXY"]
  }
})

/** Keep-alive connections, through the proxies of our environment, which end with the scope. */
export const makeAgents = Effect.gen(function* () {
  const options = {
    keepAlive: true,
    // For idle sockets; a request has its own deadline. (Node's default agent cuts silent servers off after 5 s.)
    timeout: Duration.toMillis("2 minutes"),
    proxyEnv: yield* proxyEnv
  }
  return yield* Effect.acquireRelease(
    Effect.sync(() => ({ "http:": new NodeHttp.Agent(options), "https:": new NodeHttps.Agent(options) })),
    (agents) =>
      Effect.sync(() => {
        agents["http:"].destroy()
        agents["https:"].destroy()
      })
  )
})

export type Agents = Effect.Success<typeof makeAgents>

/**
 * Sends one request and gives the answer when its head is there; with the scope the answer ends, wherever it is. The
 * credentials go along only to the origin of the remote's own URL, and no redirect is followed.
 */
export const send = Effect.fnUntraced(function* (
  agents: Agents,
  remote: Remote,
  request: Request
): Effect.fn.Return<Incoming, GitError, Scope.Scope> {
  const url = new URL(request.url)
  const patience = yield* Patience
  const { credentials } = remote
  const fail = (reason: Reason) => new GitError({ repository: remote.url.display, reason })
  const authorization =
    url.origin === new URL(remote.url.href).origin ? Credentials.authorization(credentials) : undefined
  const secure = url.protocol === "https:"
  const options: NodeHttps.RequestOptions = {
    method: request.method,
    agent: agents[secure ? "https:" : "http:"],
    headers: {
      ...request.headers,
      ...(request.body === undefined ? {} : { "content-length": request.body.length }),
      ...(authorization === undefined ? {} : { authorization: Redacted.value(authorization) })
    },
    ...(secure && credentials._tag !== "Ssh" && credentials.ca !== undefined ? { ca: credentials.ca } : {})
  }

  /** Again where a kept connection turns out to be closed by the server, as it may at any moment. */
  const attempt: Effect.Effect<NodeHttp.IncomingMessage, GitError, Scope.Scope> = Effect.suspend(() =>
    Effect.flatMap(
      Effect.acquireRelease(
        Effect.sync(() => (secure ? NodeHttps : NodeHttp).request(url, options)),
        (outgoing) => Effect.sync(() => outgoing.destroy())
      ),
      (outgoing) =>
        Effect.callback((resume) => {
          outgoing.on("error", (error) =>
            resume(outgoing.reusedSocket && isReset(error) ? attempt : fail(reasonOf(error, url.host)))
          )
          let answer: NodeHttp.IncomingMessage | undefined
          outgoing.on("response", (incoming) => {
            answer = incoming
            resume(Effect.succeed(incoming))
          })
          outgoing.setTimeout(Duration.toMillis(patience), () => (answer ?? outgoing).destroy(new Silence(patience)))
          outgoing.end(request.body)
        })
    )
  )
  const incoming = yield* attempt
  return {
    url: url.href,
    status: incoming.statusCode ?? 0,
    headers: Object.fromEntries(
      Object.entries(incoming.headers).map(([name, value]) => [name, String(value)] as const)
    ),
    body: NodeStream.fromReadable({ evaluate: () => incoming, onError: (error) => fail(reasonOf(error, url.host)) })
  }
})

/** The same, read to the end. */
const sendWhole = Effect.fnUntraced(function* (agents: Agents, remote: Remote, request: Request) {
  const { body, ...head } = yield* send(agents, remote, request)
  const whole = yield* Stream.runFoldEffect(
    body,
    () => ({ chunks: [] as Array<Uint8Array>, size: 0 }),
    (state, chunk) => {
      state.size += chunk.length
      state.chunks.push(chunk)
      const detail = `an answer of more than ${maxBody} bytes`
      return state.size > maxBody
        ? Effect.fail(new GitError({ repository: remote.url.display, reason: { _tag: "Transport", detail } }))
        : Effect.succeed(state)
    }
  )
  const response: Response = { ...head, body: whole.chunks }
  return response
}, Effect.scoped)

/**
 * The HTTP side of one conversation with a git server.
 *
 * Credentials go with the first request (no 401 round trip), and only to the URL's own origin. Redirects are followed
 * on GET only, as git does, and the rest of the conversation goes where they led; with credentials never to another
 * origin, from https never to http. An answer is read to its end before it is handed on.
 */
export const conversation = Effect.fnUntraced(function* (agents: Agents, remote: Remote) {
  const base = remote.url.href
  const fail = (reason: Reason) => new GitError({ repository: remote.url.display, reason })
  const isAnonymous = Credentials.authorization(remote.credentials) === undefined
  const movedBase = yield* Ref.make(base)

  const follow = Effect.fnUntraced(function* (request: Request) {
    const suffix = request.url.slice(base.length)
    let url = new URL(request.url)
    for (let hop = 0; hop <= maxRedirects; hop++) {
      const response = yield* sendWhole(agents, remote, { ...request, url: url.href })
      const location = response.headers["location"]
      if (response.status < 300 || response.status > 399 || location === undefined) return response
      const target = URL.parse(location, url)
      if (target === null || !target.href.endsWith(suffix)) {
        return yield* fail({ _tag: "NotAGitServer", detail: "it redirects to another page, perhaps to log in" })
      }
      const to = target.href.slice(0, -suffix.length)
      const leavesOrigin = !isAnonymous && target.origin !== url.origin
      if (leavesOrigin || (url.protocol === "https:" && target.protocol !== "https:")) {
        return yield* fail({ _tag: "Moved", to: target.origin + target.pathname.replace(/\/info\/refs$/, "") })
      }
      yield* Ref.set(movedBase, to)
      url = target
    }
    return yield* fail({ _tag: "NotAGitServer", detail: `more than ${maxRedirects} redirects` })
  })

  const exchange = (request: Request): Effect.Effect<Response, GitError> =>
    request.method === "GET"
      ? follow(request)
      : Effect.flatMap(Ref.get(movedBase), (to) =>
          sendWhole(agents, remote, { ...request, url: to + request.url.slice(base.length) })
        )

  return { exchange, location: Ref.get(movedBase) }
})

/** What every conversation begins with: it says what the server can do, and where it is now. */
export const discovery = (remote: Remote): Request => ({
  method: "GET",
  url: `${remote.url.href}/info/refs?service=git-upload-pack`,
  headers: { "git-protocol": "version=2" }
})

/** Where the repository is now, when the server redirects from its URL. */
export const locate = Effect.fnUntraced(
  function* (agents: Agents, remote: Remote) {
    const { exchange, location } = yield* conversation(agents, remote)
    const { headers, status } = yield* exchange(discovery(remote))
    if (status !== 200) {
      const reason = reasonOfStatus(status, headers["retry-after"], remote)
      return yield* new GitError({ repository: remote.url.display, reason })
    }
    return yield* location
  },
  (effect, _, remote) =>
    Effect.timeoutOrElse(effect, {
      duration: "30 seconds",
      orElse: () => new GitError({ repository: remote.url.display, reason: { _tag: "Timeout", seconds: 30 } })
    })
)

/** The server went silent in the middle of a conversation. */
class Silence extends Error {
  readonly lasted: Duration.Duration
  constructor(lasted: Duration.Duration) {
    super()
    this.lasted = lasted
  }
}

const codeOf = (error: unknown): string =>
  Predicate.hasProperty(error, "code") && typeof error.code === "string" ? error.code : ""

const isReset = (error: unknown): boolean => ["ECONNRESET", "EPIPE"].includes(codeOf(error))

/** Codes of connections that are not trusted, or no TLS. */
export const tlsCode = /^(?:ERR_TLS_|ERR_SSL_|CERT_|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|HOSTNAME_MISMATCH|EPROTO$)/

/** What went wrong below HTTP. */
const reasonOf = (error: unknown, host: string): Reason => {
  const code = codeOf(error)
  if (error instanceof Silence) return { _tag: "Timeout", seconds: Duration.toSeconds(error.lasted) }
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return { _tag: "NoSuchHost", host }
  if (code === "ECONNREFUSED") return { _tag: "Refused", host }
  if (tlsCode.test(code)) return { _tag: "Tls", detail: code }
  if (code.startsWith("HPE_")) return { _tag: "NotAGitServer", detail: "what answers is not HTTP" }
  return { _tag: "Transport", detail: code === "" && error instanceof Error ? error.message : code }
}

/** The reason behind an HTTP status that is not 200. */
export const reasonOfStatus = (status: number, retryAfter: string | undefined, remote: Remote): Reason => {
  switch (status) {
    // Azure DevOps says 203 with its login page.
    case 203:
    case 401:
      return { _tag: "Unauthorized", sent: remote.credentials._tag === "Basic" ? "token" : "nothing" }
    case 403:
      return { _tag: "Forbidden" }
    case 404:
    case 410:
      return { _tag: "RepositoryNotFound" }
    case 429: {
      const seconds = Number(retryAfter)
      return { _tag: "RateLimited", ...(Number.isFinite(seconds) ? { retryAfterSeconds: seconds } : {}) }
    }
    default:
      return { _tag: "Transport", detail: `HTTP ${status}` }
  }
}
