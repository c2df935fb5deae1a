/**
 * Who may send webhooks. A request proves itself by a signature over its bytes or by a token; one that fits is enough.
 *
 * Secrets come from `WEBHOOK_HMAC_SECRET` and `WEBHOOK_BEARER_TOKEN`, and from the files that `WEBHOOK_HMAC_SECRET_FILE`
 * and `WEBHOOK_BEARER_TOKEN_FILE` name: several, one a line, so that an old and a new one overlap. Files are read again
 * when they are older than a second, so a changed secret needs no restart. Nothing configured: everybody may. A secret
 * or file that turns out empty fits nobody; an empty variable is as good as none.
 */
import { Array, Config, Context, Effect, FileSystem, Layer, Option, Redacted } from "effect"
import { createHash, createHmac, timingSafeEqual } from "node:crypto"
import type * as Reader from "./Reader.ts"

/** What is judged: the body as it came, before anything decodes it. */
export interface Signed {
  readonly headers: Reader.Headers
  readonly body: Uint8Array
}

/** Accepted secrets by kind. An absent kind is not configured; an empty list fits nobody. */
export interface Credentials {
  readonly hmac?: ReadonlyArray<Redacted.Redacted>
  readonly token?: ReadonlyArray<Redacted.Redacted>
}

export class Authorizer extends Context.Service<
  Authorizer,
  {
    /** @param own credentials of one GatewaySync, instead of the receiver's */
    readonly isAuthorized: (request: Signed, own?: Credentials) => Effect.Effect<boolean>
  }
>()("stoker/receiver/Authorizer") {
  /** With fixed secrets. */
  static readonly layerOf = (credentials: Credentials) =>
    Layer.succeed(Authorizer, { isAuthorized: (request, own = credentials) => Effect.sync(() => fits(request, own)) })

  static readonly layer = Layer.effect(
    Authorizer,
    Effect.gen(function* () {
      const hmac = yield* source("WEBHOOK_HMAC_SECRET")
      const token = yield* source("WEBHOOK_BEARER_TOKEN")
      if (Option.isNone(hmac) && Option.isNone(token)) {
        yield* Effect.logWarning(
          "no webhook credentials are configured: anybody who reaches the receiver can move gateways. Set WEBHOOK_HMAC_SECRET_FILE or WEBHOOK_BEARER_TOKEN_FILE (chart: webhookReceiver.hmac, webhookReceiver.token)"
        )
      }
      const none = Effect.succeed<ReadonlyArray<Redacted.Redacted>>([])
      const configured = Effect.all({
        hmac: Option.getOrElse(hmac, () => none),
        token: Option.getOrElse(token, () => none)
      }).pipe(
        Effect.map((secrets): Credentials => ({
          ...(Option.isSome(hmac) ? { hmac: secrets.hmac } : {}),
          ...(Option.isSome(token) ? { token: secrets.token } : {})
        }))
      )
      return {
        isAuthorized: (request, own) =>
          Effect.map(own === undefined ? configured : Effect.succeed(own), (credentials) => fits(request, credentials))
      }
    })
  )
}

/** The secrets of one kind, read afresh; none when neither the variable nor its `_FILE` is set. */
const source = Effect.fnUntraced(function* (variable: string) {
  const fileSystem = yield* FileSystem.FileSystem
  const inline = yield* Config.option(Config.Redacted(variable))
  const file = Option.filter(yield* Config.option(Config.String(`${variable}_FILE`)), (path) => path !== "")
  if (Option.isNone(inline) && Option.isNone(file)) return Option.none()
  const fixed = Option.match(inline, { onNone: () => [], onSome: (secret) => lines(Redacted.value(secret)) })
  if (Option.isNone(file)) {
    if (fixed.length === 0) yield* Effect.logWarning(`${variable} holds nothing but newlines, so it fits nobody`)
    return Option.some(Effect.succeed(fixed))
  }
  const read = fileSystem.readFileString(file.value).pipe(
    Effect.map(lines),
    Effect.tap((secrets) =>
      secrets.length === 0
        ? Effect.logWarning(`${variable}_FILE (${file.value}) is empty, so it fits nobody`)
        : Effect.void
    ),
    Effect.catch((error) =>
      Effect.as(
        Effect.logWarning(`${variable}_FILE cannot be read, so it fits nobody: ${error.message}`),
        Array.empty<Redacted.Redacted>()
      )
    ),
    Effect.map((secrets) => Array.appendAll(fixed, secrets))
  )
  return Option.some(yield* Effect.cachedWithTTL(read, "1 second"))
})

/** Secrets, one a line. The newline that `echo` leaves is none of the secret. */
export const lines = (text: string): ReadonlyArray<Redacted.Redacted> =>
  text
    .split(/\r?\n/)
    .filter((line) => line !== "")
    .map((line) => Redacted.make(line))

interface Method {
  readonly kind: "hmac" | "token"
  /** What the request offers; absent when it does not use this method. */
  readonly claim: (headers: Reader.Headers) => string | undefined
  /** What it must have offered if it knows the secret. */
  readonly expected: (secret: string, request: Signed) => string
}

/** `X-Hub-Signature-256: sha256=<hex>`, as GitHub signs. SHA-1 is never looked at. */
const hubSignature: Method = {
  kind: "hmac",
  claim: (headers) => headers["x-hub-signature-256"],
  expected: (secret, { body }) => `sha256=${createHmac("sha256", secret).update(body).digest("hex")}`
}

/** `Authorization: Bearer <token>`; the scheme's letter case does not count (RFC 9110). */
const bearer: Method = {
  kind: "token",
  claim: (headers) => /^bearer +(\S.*)$/i.exec(headers["authorization"] ?? "")?.[1],
  expected: (secret) => secret
}

const methods: ReadonlyArray<Method> = [hubSignature, bearer]

/** Node hands header bytes on as Latin-1. */
const claimed = (text: string): Buffer => Buffer.from(text, "latin1")

const digest = (bytes: Buffer): Buffer => createHash("sha256").update(bytes).digest()

/** In a time that tells neither where they differ nor how long the secret is. */
const isEqual = (claim: string, expected: string): boolean =>
  timingSafeEqual(digest(claimed(claim)), digest(Buffer.from(expected)))

const fits = (request: Signed, credentials: Credentials): boolean => {
  if (credentials.hmac === undefined && credentials.token === undefined) return true
  const verdicts = methods.flatMap((method) => {
    const claim = method.claim(request.headers)
    const secrets = (credentials[method.kind] ?? []).map(Redacted.value).filter((secret) => secret !== "")
    return claim === undefined ? [] : secrets.map((secret) => isEqual(claim, method.expected(secret, request)))
  })
  return verdicts.includes(true)
}
