/**
 * What is answered: every outcome of a request as a status and a JSON body. Kargo reads the reason of a failure only from
 * JSON; a forge switches a hook off that answers 4xx, so what is not for us is 200 for it.
 */
import { HttpServerResponse } from "effect/http"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as RequestedRef from "../api/RequestedRef.ts"
import type { ApiError } from "../kubernetes/ApiError.ts"
import type { Outcome, WriteError } from "./AnnotationWriter.ts"
import type * as Reader from "./Reader.ts"

/** What is said back, and what the log says of it. */
export interface Answer {
  readonly status: 200 | 202 | 400 | 401 | 404 | 405 | 413 | 415 | 422 | 503
  readonly body: Readonly<Record<string, unknown>>
  readonly headers?: Readonly<Record<string, string>>
  readonly sender?: RequestedRef.Sender
  readonly ref?: string
  /** For the log alone: more than the sender is told. */
  readonly detail?: string
}

export const refused = (status: Answer["status"], error: string, more: Partial<Answer> = {}): Answer => ({
  status,
  body: { error },
  ...more
})

export const unauthorized = refused(
  401,
  "no or wrong credentials: sign the body (X-Hub-Signature-256) or send the token (Authorization: Bearer …)",
  { headers: { "www-authenticate": "Bearer" } }
)

export const notFound = refused(404, "there is no such GatewaySync: the path is /webhook/{namespace}/{name}")

/** `synced: false`, since a Kargo step that waits for `synced` fails for good on an answer without it. */
export const tryAgain = (error: string, detail: string, seconds = 2): Answer => ({
  status: 503,
  body: { error: `${error}; send it again`, synced: false },
  headers: { "retry-after": String(seconds) },
  detail
})

export const failed = (error: WriteError): Answer => {
  switch (error._tag) {
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

export const decided = ({ patience, sender }: Reader.Request, outcome: Outcome): Answer => {
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
      return patience === "forge" ? ignored(sender, decision.reason, before) : refused(422, decision.reason, { sender })
  }
}

export const reported = (cr: GatewaySync.GatewaySync): Answer => {
  const { ref } = RequestedRef.inForce(cr.metadata.annotations, cr.spec.git.ref)
  return {
    status: 200,
    body: {
      ref,
      commit: cr.status.lastSyncRef === ref ? (cr.status.lastSyncCommit ?? null) : null,
      ...progress(cr),
      conditions: cr.status.conditions ?? []
    },
    ref
  }
}

export const respond = ({ body, headers, status }: Answer): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(body, { status, ...(headers === undefined ? {} : { headers }) })

export const broken = tryAgain("the receiver has a fault", "a defect")
