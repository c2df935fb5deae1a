/**
 * What the API server (or the way to it) answered other than success, by what can be done about it.
 */
import { Effect, Schema } from "effect"

/** No answer: refused, reset, cut off, no such host. Retry with back-off. */
export class Unreachable extends Schema.TaggedError<Unreachable>()("Unreachable", { message: Schema.String }) {}
/** No answer in time. Retry with back-off; a write may have been done. */
export class TimedOut extends Schema.TaggedError<TimedOut>()("TimedOut", { message: Schema.String }) {}
/** 401: the credential is missing, wrong or has expired. */
export class Unauthorized extends Schema.TaggedError<Unauthorized>()("Unauthorized", { message: Schema.String }) {}
/** 403: RBAC. Wait, it may come. */
export class Forbidden extends Schema.TaggedError<Forbidden>()("Forbidden", { message: Schema.String }) {}
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", { message: Schema.String }) {}
/** 409 `Conflict`: another writer was first, or another manager owns the field. Look again. */
export class Conflict extends Schema.TaggedError<Conflict>()("Conflict", { message: Schema.String }) {}
export class AlreadyExists extends Schema.TaggedError<AlreadyExists>()("AlreadyExists", { message: Schema.String }) {}
/**
 * 400, 413, 415, 422: the request itself is at fault, or a JSON Patch `test` failed (see {@link Invalid.isFailedTest}). Do
 * not retry unchanged.
 */
export class Invalid extends Schema.TaggedError<Invalid>()("Invalid", {
  status: Schema.Int,
  message: Schema.String,
  /** What validation refuses, by field. */
  fields: Schema.Array(Schema.String).pipe(Schema.withConstructorDefault(Effect.succeed([])))
}) {
  /** Of a JSON Patch: it does not fit what is there. Somebody wrote meanwhile, look again. */
  get isFailedTest(): boolean {
    return this.status === 422 && this.fields.length === 0
  }
}
/** 410 or `Expired`: the resourceVersion or the `continue` token is too old. List again. */
export class Expired extends Schema.TaggedError<Expired>()("Expired", { message: Schema.String }) {}
/** 504 with cause `ResourceVersionTooLarge`: a resourceVersion from the future (etcd was restored). List afresh. */
export class TooLargeResourceVersion extends Schema.TaggedError<TooLargeResourceVersion>()("TooLargeResourceVersion", {
  message: Schema.String
}) {}
/** 429: come back after `retryAfterMillis`. */
export class TooManyRequests extends Schema.TaggedError<TooManyRequests>()("TooManyRequests", {
  retryAfterMillis: Schema.Finite,
  message: Schema.String
}) {}
/**
 * An apply with a field that the installed CRD lacks, or a wrong type: HTTP 500 without a reason. Retrying does not
 * help: the CRD is older than this program (Helm never upgrades `crds/`).
 */
export class UnknownField extends Schema.TaggedError<UnknownField>()("UnknownField", { message: Schema.String }) {}
/** Any other status: 5xx. Retry with back-off. */
export class ServerError extends Schema.TaggedError<ServerError>()("ServerError", {
  status: Schema.Int,
  message: Schema.String
}) {}
/** 2xx with a body that is no JSON, or not of the expected shape. */
export class Undecodable extends Schema.TaggedError<Undecodable>()("Undecodable", { message: Schema.String }) {}
/** Not sent: this process led, and may do so no more. End it. */
export class NotLeading extends Schema.TaggedError<NotLeading>()("NotLeading", { message: Schema.String }) {}

export const Reason = Schema.Union([
  Unreachable,
  TimedOut,
  Unauthorized,
  Forbidden,
  NotFound,
  Conflict,
  AlreadyExists,
  Invalid,
  Expired,
  TooLargeResourceVersion,
  TooManyRequests,
  UnknownField,
  ServerError,
  Undecodable,
  NotLeading
])
export type Reason = typeof Reason.Type

/** Recover by `Effect.catchReason("ApiError", "NotFound", …)`. */
export class ApiError extends Schema.TaggedError<ApiError>()("ApiError", {
  /** e.g. `PATCH configmaps plant/stoker-metadata-site-1` */
  operation: Schema.String,
  reason: Reason
}) {
  override get message(): string {
    return `${this.operation}: ${this.reason.message}`
  }

  /** Whether the same request may succeed later without anybody's help. */
  get isTransient(): boolean {
    switch (this.reason._tag) {
      case "Unreachable":
      case "TimedOut":
      case "TooManyRequests":
      case "ServerError":
      case "Unauthorized":
        return true
      default:
        return false
    }
  }
}

/** `Status` objects of the API server, as far as they tell cases apart. */
const Status = Schema.Struct({
  reason: Schema.optionalKey(Schema.String),
  message: Schema.optionalKey(Schema.String),
  details: Schema.optionalKey(
    Schema.Struct({
      retryAfterSeconds: Schema.optionalKey(Schema.Finite),
      causes: Schema.optionalKey(
        Schema.Array(
          Schema.Struct({ reason: Schema.optionalKey(Schema.String), field: Schema.optionalKey(Schema.String) })
        )
      )
    })
  )
})
const decodeStatus = Schema.decodeUnknownOption(Status)

/**
 * The reason behind a failed answer, or behind an `ERROR` event of a watch.
 *
 * @param body the decoded body, if it was JSON
 * @param options.hideMessage drops the server's text: a 422 to a write of a Secret carries the whole object in it
 */
export const reasonOf = (
  status: number,
  body: unknown,
  options: { readonly retryAfter?: string | undefined; readonly hideMessage?: boolean } = {}
): Reason => {
  const decoded = decodeStatus(body)
  const details = decoded._tag === "Some" ? decoded.value : {}
  const said = options.hideMessage === true ? undefined : details.message
  const message = said ?? details.reason ?? `HTTP ${status}`
  const causes = details.details?.causes ?? []
  switch (status) {
    case 401:
      return new Unauthorized({ message })
    case 403:
      return new Forbidden({ message })
    case 404:
      return new NotFound({ message })
    case 409:
      return details.reason === "AlreadyExists" ? new AlreadyExists({ message }) : new Conflict({ message })
    case 410:
      return new Expired({ message })
    case 429: {
      const seconds = Number(options.retryAfter ?? details.details?.retryAfterSeconds ?? 1)
      return new TooManyRequests({ retryAfterMillis: Number.isFinite(seconds) ? seconds * 1000 : 1000, message })
    }
    default:
  }
  if (details.reason === "Expired") return new Expired({ message })
  if (causes.some((cause) => cause.reason === "ResourceVersionTooLarge"))
    return new TooLargeResourceVersion({ message })
  if (status === 500 && details.message?.startsWith("failed to create typed patch object") === true) {
    return new UnknownField({
      message: `${message}. The installed CRD is older than this Stoker: apply the chart's crds/ (Helm does not upgrade them)`
    })
  }
  if (status >= 500) return new ServerError({ status, message })
  return new Invalid({
    status,
    message,
    fields: [...new Set(causes.map(({ field, reason }) => field ?? reason ?? "?"))]
  })
}
