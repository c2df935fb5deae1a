/**
 * What is answered: every outcome of a request as a status and a JSON body. Kargo reads the reason of a failure only from
 * JSON; a forge switches a hook off that answers 4xx, so what is not for us is 200 for it.
 */
import { Result } from "effect"
import { HttpServerResponse } from "effect/http"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as RepositoryIdentity from "../api/RepositoryIdentity.ts"
import * as RequestedRef from "../api/RequestedRef.ts"
import type { ApiError } from "../kubernetes/ApiError.ts"
import type * as Resource from "../kubernetes/Resource.ts"
import type { Outcome, WriteError } from "./AnnotationWriter.ts"
import type { TooMany, Unproven } from "./OwnCredentials.ts"
import type { BodyError } from "./BodyReader.ts"
import type * as Reader from "./Reader.ts"

/** Whose attempt it was that was refused, and how many more of theirs had no line since the last that had. */
export interface Attempt {
  readonly client: string
  readonly unlogged?: number
}

/** What is said back, and what the log says of it. */
export interface Answer {
  readonly status: 200 | 202 | 400 | 401 | 404 | 405 | 413 | 415 | 422 | 429 | 503
  readonly body: Readonly<Record<string, unknown>>
  readonly headers?: Readonly<Record<string, string>>
  readonly sender?: RequestedRef.Sender
  readonly ref?: string
  /** The sender's id. */
  readonly delivery?: string
  /** How many GatewaySyncs of a shared hook it was for. */
  readonly count?: number
  /** For the log alone: more than the sender is told. */
  readonly detail?: string
  /** For the log alone: of who is not let in. */
  readonly attempt?: Attempt
  /** So many of them come that they are counted, and have no line of their own. */
  readonly isNoise?: true
}

export const refused = (status: Answer["status"], error: string, more: Partial<Answer> = {}): Answer => ({
  status,
  body: { error },
  ...more
})

export const unauthorized = refused(
  401,
  "no or wrong credentials: sign the body with the secret (X-Hub-Signature-256), or send the token (Authorization: Bearer …, X-Gitlab-Token, or as the password of Basic)",
  { headers: { "www-authenticate": "Bearer" } }
)

export const encoded = (encoding: string): Answer =>
  refused(415, `send the body as it is, without content-encoding ${encoding.slice(0, 32)}`)

export const tooMany = (seconds: number, what: string): Answer => ({
  status: 429,
  body: { error: `too many ${what}; send it again in ${seconds} s`, synced: false },
  headers: { "retry-after": String(seconds) }
})

export const notFound = refused(404, "there is no such GatewaySync: the path is /webhook/{namespace}/{name}")

/** `synced: false`, since a Kargo step that waits for `synced` fails for good on an answer without it. */
export const tryAgain = (error: string, detail: string, seconds = 2): Answer => ({
  status: 503,
  body: { error: `${error}; send it again`, synced: false },
  headers: { "retry-after": String(seconds) },
  detail
})

/** The request is not let in; with what it is told. Many of them come, so it is no `Error` with a stack. */
export interface Refused {
  readonly _tag: "Refused"
  readonly answer: Answer
}

export type Failure = WriteError | Unproven | TooMany | BodyError | Refused

export const failed = (error: Failure): Answer => {
  switch (error._tag) {
    case "Refused":
      return error.answer
    case "TooLong":
      return refused(413, error.message)
    case "GivenUp":
      return tryAgain(error.message, error.message)
    case "BrokenOff":
      return refused(400, error.message)
    case "Unproven":
      return tryAgain("it cannot be told at the moment whether the credentials fit", error.message)
    case "TooMany":
      return tryAgain(
        "more credentials share this hook than can be compared with one message: use POST /webhook/{namespace}/{name}",
        error.message
      )
    case "ApiError":
      return apiFailed(error)
    case "StoreNotReady":
      return tryAgain("the receiver is starting", error.message)
    case "NotTaken":
      return tryAgain(error.message, error.message)
    case "Unreadable":
      return tryAgain(error.message, error.message, 30)
  }
}

const apiFailed = (error: ApiError): Answer => {
  if (error.reason._tag === "NotFound") return notFound
  const wait =
    error.reason._tag === "TooManyRequests" ? Math.max(1, Math.ceil(error.reason.retryAfterMillis / 1000)) : 2
  const why =
    error.reason._tag === "Forbidden"
      ? "Stoker may not write GatewaySyncs (RBAC: patch on gatewaysyncs.stoker.io)"
      : `the Kubernetes API server did not take it (${error.reason._tag})`
  return tryAgain(why, error.message, wait)
}

/** What every authorised 2xx says of the gateways. */
const progress = (cr: GatewaySync.GatewaySync) => {
  const { gateways, paused, synced } = GatewaySync.progress(cr)
  return { synced, gateways, ...(paused ? { paused } : {}) }
}

export const ignored = (sender: RequestedRef.Sender, reason: string, cr: GatewaySync.GatewaySync): Answer => ({
  status: 200,
  body: { accepted: false, reason, ...progress(cr) },
  sender
})

/** What could not be read may have been what it is for. */
const withProblem = ({ problem }: Reader.Request, reason: string): string =>
  problem === undefined ? reason : `${reason}. Besides, ${problem}`

export const decided = (request: Reader.Request, outcome: Outcome): Answer => {
  const { patience, sender } = request
  const { after, before, decision } = outcome
  switch (decision._tag) {
    case "Write":
      return {
        status: 202,
        body: {
          accepted: true,
          ref: decision.ref,
          ...(decision.message === undefined ? {} : { message: decision.message }),
          ...progress(decision.repeats ? before : after)
        },
        sender,
        ref: decision.ref
      }
    case "AlreadyHandled":
      return patience === "forge"
        ? { ...ignored(sender, decision.message, before), ref: decision.ref }
        : {
            status: 202,
            body: { accepted: true, ref: decision.ref, message: decision.message, ...progress(before) },
            sender,
            ref: decision.ref
          }
    case "NotForUs":
      return patience === "forge"
        ? ignored(sender, decision.reason, before)
        : refused(422, withProblem(request, decision.reason), { sender })
  }
}

/** What became of a delivery at one of many. */
export interface Told {
  readonly ref: Resource.ObjectRef
  readonly result: Result.Result<Outcome, WriteError>
}

const toldOne = (request: Reader.Request, { result }: Told): Answer =>
  Result.isSuccess(result) ? decided(request, result.success) : failed(result.failure)

/** Not for anybody here, in the answer that this sender needs. */
const forNobody = (request: Reader.Request, reason: string, more: Answer["body"] = {}): Answer => {
  const { patience, sender } = request
  const ignored = ignoredHere(sender, reason)
  return patience === "forge"
    ? { ...ignored, body: { ...ignored.body, ...more } }
    : { status: 422, body: { error: withProblem(request, reason), ...more }, sender }
}

/** Understood, and about no GatewaySync in particular. */
export const ignoredHere = (sender: RequestedRef.Sender, reason: string): Answer => ({
  status: 200,
  body: { accepted: false, reason, synced: false, gateways: { synced: 0, total: 0 } },
  sender
})

export const namesNoRepository = (request: Reader.Request): Answer =>
  forNobody(
    request,
    "it names no repository, so it is not clear whom it is for: use POST /webhook/{namespace}/{name}, or give a generic body its `repoURL`"
  )

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, one) => total + one, 0)

/**
 * Each GatewaySync with its outcome. One that did not take it makes all of it a 503, so that the sender tries again;
 * for those that took it already, that is a repetition.
 */
export const toldAll = (request: Reader.Request, told: ReadonlyArray<Told>): Answer => {
  const answers = told
    .map((one) => ({ ref: one.ref, answer: toldOne(request, one) }))
    // Deleted a moment ago.
    .filter(({ answer }) => answer.status !== 404)
  const gatewaysyncs = answers.map(({ answer, ref }) => ({ ...ref, ...answer.body }))
  const failures = answers.filter(({ answer }) => answer.status === 503).map(({ answer }) => answer)
  if (failures.length > 0) {
    const wait = Math.max(...failures.map(({ headers }) => Number(headers?.["retry-after"] ?? 0)))
    const again = tryAgain(
      `${failures.length} of ${answers.length} GatewaySyncs did not take it`,
      [...new Set(failures.map(({ detail }) => detail))].slice(0, 3).join("; "),
      wait
    )
    return { ...again, body: { ...again.body, gatewaysyncs }, sender: request.sender, count: answers.length }
  }
  const accepted = answers.filter(({ answer }) => answer.status === 202).map(({ answer }) => answer)
  const [first] = accepted
  if (first === undefined) {
    const reason = String(
      answers[0]?.answer.body["reason"] ?? answers[0]?.answer.body["error"] ?? nobodyFollows(request)
    )
    return { ...forNobody(request, reason, { gatewaysyncs }), count: answers.length }
  }
  const gateways = told.flatMap(({ result }) =>
    Result.isSuccess(result) && result.success.decision._tag !== "NotForUs"
      ? [GatewaySync.progress(result.success.after).gateways]
      : []
  )
  return {
    status: 202,
    body: {
      accepted: true,
      ref: first.ref,
      synced: accepted.every(({ body }) => body["synced"] === true),
      gateways: {
        synced: sum(gateways.map(({ synced }) => synced)),
        total: sum(gateways.map(({ total }) => total))
      },
      gatewaysyncs
    },
    sender: request.sender,
    count: accepted.length,
    ...(first.ref === undefined ? {} : { ref: first.ref })
  }
}

/** Of a hook for many: there may be others whom it is for, which only another try can tell. They are not named. */
export const incomplete = (answer: Answer, error: Unproven | TooMany): Answer => {
  const again = failed(error)
  return { ...answer, ...again, body: { ...answer.body, accepted: false, ...again.body } }
}

const nobodyFollows = ({ deliveries }: Reader.Request): string => {
  const name = deliveries[0].repositories?.[0]
  return `no GatewaySync has the repository ${name === undefined ? "that it speaks of" : RepositoryIdentity.shown(name)}`
}

/** What a GET shows beside the conditions of the status. */
const unprotected = {
  type: "WebhookProtected",
  status: "False",
  reason: "NoCredentials",
  message:
    "no webhook credentials are configured, so anybody who reaches the receiver can move this GatewaySync: set webhookReceiver.hmac or webhookReceiver.token in the chart, or spec.webhook"
}

export const reported = (cr: GatewaySync.GatewaySync, isOpen: boolean): Answer => {
  const { ref } = RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref)
  return {
    status: 200,
    body: {
      ref,
      commit: cr.status.lastSyncRef === ref ? (cr.status.lastSyncCommit ?? null) : null,
      ...progress(cr),
      conditions: [...(cr.status.conditions ?? []), ...(isOpen ? [unprotected] : [])]
    },
    ref
  }
}

export const respond = ({ body, headers, status }: Answer): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(body, { status, ...(headers === undefined ? {} : { headers }) })

export const broken = tryAgain("the receiver has a fault", "a defect")
