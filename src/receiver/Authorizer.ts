/**
 * Who may send webhooks. A request proves itself by a signature over its bytes or by a token; one that fits is enough.
 * Both are taken in every form in which a forge sends them (see {@link Method}).
 *
 * Secrets come from `WEBHOOK_HMAC_SECRET` and `WEBHOOK_BEARER_TOKEN`, and from the files that `WEBHOOK_HMAC_SECRET_FILE`
 * and `WEBHOOK_BEARER_TOKEN_FILE` name: several, one a line, so that an old and a new one overlap. Files are read again
 * when they are older than a second, so a changed secret needs no restart. Nothing configured: everybody may. A secret
 * or file that turns out empty fits nobody; an empty variable is as good as none.
 */
import { Array, Clock, Config, Context, Effect, FileSystem, Layer, Option, Redacted, Result } from "effect"
import { createHash, createHmac, timingSafeEqual } from "node:crypto"
import * as Body from "./Body.ts"
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

/** Nothing is configured: whoever reaches the receiver may. */
export const isOpen = ({ hmac, token }: Credentials): boolean => hmac === undefined && token === undefined

export class Authorizer extends Context.Service<
  Authorizer,
  {
    /**
     * Which of the credentials fits, as a word that tells nothing of it (`hmac 0`, or `open`); none when none does.
     *
     * @param own credentials of one GatewaySync, instead of the receiver's
     */
    readonly authorize: (request: Signed, own?: Credentials) => Effect.Effect<Option.Option<string>>
    /** Whether the receiver itself has no credentials. */
    readonly isOpen: boolean
  }
>()("stoker/receiver/Authorizer") {
  /** With fixed secrets. */
  static readonly layerOf = (credentials: Credentials) =>
    Layer.succeed(Authorizer, {
      authorize: (request, own = credentials) =>
        Effect.map(Clock.currentTimeMillis, (now) => fitting(request, own, now)),
      isOpen: isOpen(credentials)
    })

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
        authorize: Effect.fnUntraced(function* (request: Signed, own?: Credentials) {
          return fitting(request, own ?? (yield* configured), yield* Clock.currentTimeMillis)
        }),
        isOpen: Option.isNone(hmac) && Option.isNone(token)
      }
    })
  )
}

/** The secrets of one kind, read afresh; none when neither the variable nor its `_FILE` is set. */
const source = Effect.fnUntraced(function* (variable: string) {
  const fileSystem = yield* FileSystem.FileSystem
  const inline = yield* Config.option(Config.Redacted(variable))
  // Configuration takes an empty variable for an absent one. Here it is a Secret that holds nothing: then nobody may in.
  const isEmpty = yield* Effect.sync(() => process.env[variable] === "")
  const file = Option.filter(yield* Config.option(Config.String(`${variable}_FILE`)), (path) => path !== "")
  if (Option.isNone(inline) && Option.isNone(file) && !isEmpty) return Option.none()
  const fixed = Option.match(inline, { onNone: () => [], onSome: (secret) => lines(Redacted.value(secret)) })
  if (Option.isNone(file)) {
    if (fixed.length === 0) yield* Effect.logWarning(`${variable} is empty, so it fits nobody`)
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

/** A way in which a sender proves that it knows a secret. */
interface Method {
  readonly kind: "hmac" | "token"
  /** What the request offers; empty when it does not use this method, or when that is too old. */
  readonly claims: (request: Signed, now: number) => ReadonlyArray<string>
  /** What it must have offered if it knows the secret. */
  readonly expected: (secret: string, request: Signed) => ReadonlyArray<string>
}

const header =
  (name: string) =>
  ({ headers }: Signed): ReadonlyArray<string> => {
    const value = headers[name]
    return value === undefined || value === "" ? [] : [value]
  }

const sha256 = (secret: string | Buffer, bytes: Uint8Array) => createHmac("sha256", secret).update(bytes)

/** `sha256=<hex>`: GitHub in `X-Hub-Signature-256`, Bitbucket in the header that GitHub uses for SHA-1. */
const hubSignature = (name: string): Method => ({
  kind: "hmac",
  claims: header(name),
  expected: (secret, { body }) => [`sha256=${sha256(secret, body).digest("hex")}`]
})

/** Gitea and its kin: the digits alone, and over the JSON also where that is wrapped in a form. */
const bareSignature = (name: string): Method => ({
  kind: "hmac",
  claims: header(name),
  expected: (secret, { body, headers }) => {
    if (!Body.isForm(headers)) return [sha256(secret, body).digest("hex")]
    const json = Result.getOrElse(Body.text(headers, body), () => "")
    return [sha256(secret, Buffer.from(json)).digest("hex")]
  }
})

/** Seconds by which a signed time may be off. */
const tolerance = 300

/** Signatures that are looked at; a sender sends one for each of its keys. */
const mostSignatures = 8

/** Standard Webhooks (GitLab's signing tokens): over id, time and body, so that a captured one gets old. */
const standardWebhooks: Method = {
  kind: "hmac",
  claims: ({ headers }, now) => {
    const at = headers["webhook-timestamp"] ?? ""
    if ((headers["webhook-id"] ?? "") === "") return []
    if (!/^\d{1,12}$/.test(at) || Math.abs(now / 1000 - Number(at)) > tolerance) return []
    return (headers["webhook-signature"] ?? "").split(" ", mostSignatures).filter((claim) => claim.startsWith("v1,"))
  },
  expected: (secret, { body, headers }) =>
    standardKeys(secret).map((key) => {
      const signature = createHmac("sha256", key)
        .update(`${headers["webhook-id"] ?? ""}.${headers["webhook-timestamp"] ?? ""}.`, "latin1")
        .update(body)
      return `v1,${signature.digest("base64")}`
    })
}

/** The key is what the secret encodes: `whsec_<base64>`, or bare base64 as long as the standard wants keys to be. */
const standardKeys = (secret: string): ReadonlyArray<string | Buffer> => {
  const encoded = secret.replace(/^whsec_/, "")
  const key = Buffer.from(encoded, "base64")
  const isEncoded = key.length >= 24 && key.toString("base64").replace(/=+$/, "") === encoded.replace(/=+$/, "")
  return isEncoded ? [key, secret] : [secret]
}

/** `Authorization: Bearer <token>`; the scheme's letter case does not count (RFC 9110). */
const bearer: Method = {
  kind: "token",
  claims: ({ headers }) => Array.fromNullishOr(/^bearer +(\S.*)$/i.exec(headers["authorization"] ?? "")?.[1]),
  expected: (secret) => [secret]
}

/** `Authorization: Basic`, whatever the user: all that Azure DevOps can send. */
const basic: Method = {
  kind: "token",
  claims: ({ headers }) => {
    const encoded = /^basic +([a-z0-9+/]+=*)$/i.exec(headers["authorization"] ?? "")?.[1]
    if (encoded === undefined) return []
    const text = Buffer.from(encoded, "base64").toString("latin1")
    const colon = text.indexOf(":")
    return colon === -1 ? [] : [text.slice(colon + 1)]
  },
  expected: (secret) => [secret]
}

const gitlabToken: Method = { kind: "token", claims: header("x-gitlab-token"), expected: (secret) => [secret] }

/** SHA-1 is in none of them. */
const methods: ReadonlyArray<Method> = [
  hubSignature("x-hub-signature-256"),
  hubSignature("x-hub-signature"),
  bareSignature("x-gitea-signature"),
  bareSignature("x-gogs-signature"),
  standardWebhooks,
  bearer,
  basic,
  gitlabToken
]

/** Whether the request offers anything at all: without, no Secret need be read. */
export const offers = (request: Signed, now: number): boolean =>
  methods.some((method) => method.claims(request, now).length > 0)

/** Node hands header bytes on as Latin-1. */
const claimed = (text: string): Buffer => Buffer.from(text, "latin1")

const digest = (bytes: Buffer): Buffer => createHash("sha256").update(bytes).digest()

/** In a time that tells neither where they differ nor how long the secret is. */
const isEqual = (claim: string, expected: string): boolean =>
  timingSafeEqual(digest(claimed(claim)), digest(Buffer.from(expected)))

/** So many secrets are compared at least, so that no caller learns by the time whether there are any. */
const padding = ["", ""]

const fitting = (request: Signed, credentials: Credentials, now: number): Option.Option<string> => {
  if (isOpen(credentials)) return Option.some("open")
  const verdicts = methods.flatMap((method) => {
    const claims = method.claims(request, now)
    if (claims.length === 0) return []
    const secrets = (credentials[method.kind] ?? []).map(Redacted.value)
    return [...secrets, ...padding.slice(secrets.length)].map((secret, index) => {
      const expected = method.expected(secret, request)
      const equal = claims.map((claim) => expected.map((one) => isEqual(claim, one)).includes(true)).includes(true)
      // A signature by an empty key is one that anybody can make.
      return equal && secret !== "" ? `${method.kind} ${index}` : undefined
    })
  })
  return Option.fromUndefinedOr(verdicts.find((verdict) => verdict !== undefined))
}
