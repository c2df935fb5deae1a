import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"

/**
 * What follows from a failure.
 *
 * - `retry`: chance; the same again soon is likely to work.
 * - `wait`: the gateway is on its way to another state; ask again, with patience.
 * - `stall`: nothing changes until a person does something; the message says what.
 */
export type Next = "retry" | "wait" | "stall"

const seconds = (millis: number) => Duration.format(Duration.millis(millis))

/** No process listens on the gateway's port. */
export class Refused extends Schema.TaggedError<Refused>()("Refused", {}) {
  readonly next = "wait"
  override get message() {
    return "connection refused: the gateway is down or has not opened its port yet; Stoker asks again until it answers"
  }
}

/** The connection broke before the answer was complete. `code` is Node's, as in `ECONNRESET`. */
export class ConnectionLost extends Schema.TaggedError<ConnectionLost>()("ConnectionLost", {
  code: Schema.String
}) {
  readonly next = "retry"
  override get message() {
    return `the connection broke before the answer was complete (${this.code}): the gateway may be restarting; Stoker asks again`
  }
}

/** No complete answer within the deadline, in milliseconds. */
export class Timeout extends Schema.TaggedError<Timeout>()("Timeout", { after: Schema.Finite }) {
  readonly next = "retry"
  override get message() {
    return `no complete answer within ${seconds(this.after)}: the gateway is overloaded or hangs; Stoker asks again`
  }
}

/** 503: the gateway process runs, its context does not. */
export class NotRunning extends Schema.TaggedError<NotRunning>()("NotRunning", {}) {
  readonly next = "wait"
  override get message() {
    return "the gateway is starting, stopping or faulted (503); Stoker waits until it runs, its own log says more"
  }
}

/** The gateway sends everyone to its set-up pages. */
export class Commissioning extends Schema.TaggedError<Commissioning>()("Commissioning", {}) {
  readonly next = "wait"
  override get message() {
    return (
      "the gateway waits to be commissioned: open its web page, or give it ACCEPT_IGNITION_EULA, an edition and an admin account; " +
      "a module whose licence or certificate nobody accepted keeps it there as well. Stoker waits until it runs"
    )
  }
}

/** 3xx. Never followed: the POST would become a GET, and the token would go along. Only the host of the target is kept. */
export class Redirect extends Schema.TaggedError<Redirect>()("Redirect", {
  status: Schema.Int,
  host: Schema.String
}) {
  readonly next = "stall"
  override get message() {
    return (
      `the gateway redirects to ${this.host} (${this.status}), which is never followed: where it forces HTTPS ` +
      "set spec.gateway.tls and the HTTPS port, where something else listens on this port correct spec.gateway.port"
    )
  }
}

/** 401: the gateway does not know the token. */
export class Unauthorized extends Schema.TaggedError<Unauthorized>()("Unauthorized", {
  tokenName: Schema.String
}) {
  readonly next = "stall"
  override get message() {
    return (
      `the gateway does not know the API token "${this.tokenName}" (401): either its resource ignition/api-token/${this.tokenName} ` +
      "was written after the gateway started (tokens are read at boot only: restart the gateway), or the secret is not the one whose hash lies there"
    )
  }
}

/** 403: the gateway knows the token and does not let it do this. */
export class Forbidden extends Schema.TaggedError<Forbidden>()("Forbidden", {
  tokenName: Schema.String,
  secure: Schema.Boolean
}) {
  readonly next = "stall"
  override get message() {
    return (
      `the gateway knows the API token "${this.tokenName}" but does not allow this (403): give one of its security levels access, read and write in ` +
      "ignition/security-properties (commissioning resets that file; best kept in config/resources/external)" +
      (this.secure ? "" : "; a token with secureChannelRequired also needs HTTPS: set spec.gateway.tls")
    )
  }
}

/** 404: no such route, which a gateway answers before it looks at the token. */
export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", {}) {
  readonly next = "stall"
  override get message() {
    return "there is no such route (404): the gateway is older than Ignition 8.3, or another program listens on this port"
  }
}

/** 408: the lock did not become free within the time we gave. */
export class LockTimeout extends Schema.TaggedError<LockTimeout>()("LockTimeout", {}) {
  readonly next = "retry"
  override get message() {
    return "the scan lock did not become free in time (408): a scan is running; Stoker asks again"
  }
}

/** 409: somebody else holds the lock. `remaining` in seconds, where the gateway told. */
export class LockHeld extends Schema.TaggedError<LockHeld>()("LockHeld", {
  actor: Schema.optional(Schema.String),
  remaining: Schema.optional(Schema.Finite)
}) {
  readonly next = "wait"
  override get message() {
    const until = this.remaining === undefined ? "" : `, for ${this.remaining} s more at most`
    return `the scan lock is held by ${this.actor ?? "somebody else"} (409)${until}; Stoker asks again`
  }
}

/** The scan was accepted but did not end within the deadline, in milliseconds. */
export class ScanUnfinished extends Schema.TaggedError<ScanUnfinished>()("ScanUnfinished", {
  after: Schema.Finite
}) {
  readonly next = "retry"
  override get message() {
    return `the gateway took the request but its scan did not end within ${seconds(this.after)}; Stoker scans again`
  }
}

/** Anything but 200 with the JSON of this route. The body is never repeated. */
export class UnexpectedAnswer extends Schema.TaggedError<UnexpectedAnswer>()("UnexpectedAnswer", {
  status: Schema.Int,
  detail: Schema.String
}) {
  readonly next = "retry"
  override get message() {
    return `unexpected answer (${this.status}): ${this.detail}; Stoker asks again, and if it stays so, see the gateway's log`
  }
}

/** Our own API key cannot be used. `detail` never holds any of it. */
export class TokenUnusable extends Schema.TaggedError<TokenUnusable>()("TokenUnusable", {
  detail: Schema.String
}) {
  readonly next = "stall"
  override get message() {
    return `the API key cannot be used: ${this.detail}; the Secret of spec.gateway.api must hold name:secret as the gateway generated it`
  }
}

const Reason = Schema.Union([
  Refused,
  ConnectionLost,
  Timeout,
  NotRunning,
  Commissioning,
  Redirect,
  Unauthorized,
  Forbidden,
  NotFound,
  LockTimeout,
  LockHeld,
  ScanUnfinished,
  UnexpectedAnswer,
  TokenUnusable
])

/** Why a request to a gateway came to nothing: what was asked (`request`), of whom (`gateway`), and the `reason`. */
export class GatewayError extends Schema.TaggedError<GatewayError>()("GatewayError", {
  gateway: Schema.String,
  request: Schema.String,
  reason: Reason
}) {
  override get message() {
    return `${this.request} at ${this.gateway}: ${this.reason.message}`
  }
  get next(): Next {
    return this.reason.next
  }
}

export type GatewayErrorReason = GatewayError["reason"]
