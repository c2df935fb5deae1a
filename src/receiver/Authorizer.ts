/**
 * Who may send webhooks. A request proves itself by a signature over its bytes or by a token; one that fits is enough.
 * Both are taken in every form in which a forge sends them (see {@link proofs}).
 *
 * Secrets come from `WEBHOOK_HMAC_SECRET` and `WEBHOOK_BEARER_TOKEN`, and from the files that `WEBHOOK_HMAC_SECRET_FILE`
 * and `WEBHOOK_BEARER_TOKEN_FILE` name: several, one a line, so that an old and a new one overlap. Files are read again
 * when they are older than a second, so a changed secret needs no restart. Nothing configured: everybody may. A
 * variable or a file that turns out empty is a Secret that holds nothing, and fits nobody.
 */
import {
  Array,
  Clock,
  Config,
  ConfigProvider,
  Context,
  Effect,
  FileSystem,
  Layer,
  Option,
  Redacted,
  Result
} from "effect"
import { createHmac, hash, timingSafeEqual } from "node:crypto"
import * as Body from "./Body.ts"
import type * as Reader from "./Reader.ts"

/** What is judged. Its text is looked at only where that is what was signed. */
export type Signed = Body.Received

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
     * @param offered by the request, see {@link proofsOf}
     * @param own credentials of one GatewaySync, instead of the receiver's
     */
    readonly authorize: (offered: ReadonlyArray<Proof>, own?: Credentials) => Effect.Effect<Option.Option<string>>
    /** Whether the receiver itself has no credentials. */
    readonly isOpen: boolean
  }
>()("stoker/receiver/Authorizer") {
  /** With fixed secrets. */
  static readonly layerOf = (credentials: Credentials) =>
    Layer.succeed(Authorizer, {
      authorize: (offered, own = credentials) => Effect.sync(() => fitting(offered, own)),
      isOpen: isOpen(credentials)
    })

  /** By a configuration that tells an empty variable from an absent one. */
  static readonly layerConfigured = Layer.effect(
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
        authorize: (offered: ReadonlyArray<Proof>, own?: Credentials) =>
          Effect.map(own === undefined ? configured : Effect.succeed(own), (secrets) => fitting(offered, secrets)),
        isOpen: Option.isNone(hmac) && Option.isNone(token)
      }
    })
  )

  /** From the environment. */
  static readonly layer = Layer.suspend(() =>
    Layer.provide(
      Authorizer.layerConfigured,
      ConfigProvider.layer(ConfigProvider.fromEnv({ preserveEmptyStrings: true }))
    )
  )
}

/** The secrets of one kind, read afresh; none when neither the variable nor its `_FILE` is set. */
const source = Effect.fnUntraced(function* (variable: string) {
  const fileSystem = yield* FileSystem.FileSystem
  const inline = yield* Config.option(Config.Redacted(variable))
  const file = yield* Config.option(Config.String(`${variable}_FILE`))
  if (Option.isNone(inline) && Option.isNone(file)) return Option.none()
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

/** What a request offers as proof of one kind; a sender that knows the secret has offered one of the expected texts. */
export interface Proof {
  readonly kind: "hmac" | "token"
  readonly claims: ReadonlyArray<string>
  readonly expected: (secret: string) => ReadonlyArray<string>
  /** Bytes that are gone through for each secret. */
  readonly bytes: number
}

/** Values of headers in their one form: what cannot be a proof is not worth the comparison with one. */
const wellFormed = (headers: Reader.Headers, names: ReadonlyArray<string>, form: RegExp): ReadonlyArray<string> =>
  names.flatMap((name) => form.exec(headers[name] ?? "")?.[1] ?? [])

/** Seconds by which a signed time may be off. */
const tolerance = 300

/** Signatures that are looked at; a sender sends one for each of its keys. */
const mostSignatures = 8

/**
 * The signature, in the one of these ways that the request uses, so that each secret costs one pass over it:
 *
 * - Standard Webhooks (GitLab's signing tokens): over id, time and body, so that a captured one gets old;
 * - Gitea and its kin: the digits alone, over the JSON also where a form is wrapped around it. Beside it they send what
 *   looks like GitHub's, over the same;
 * - `sha256=<hex>` over the body: GitHub in `X-Hub-Signature-256`, Bitbucket in the header that GitHub uses for SHA-1,
 *   which is not taken.
 */
const signature = ({ body, headers, text }: Signed, now: number): ReadonlyArray<Proof> => {
  const { "webhook-id": id = "", "webhook-signature": signed = "", "webhook-timestamp": at = "" } = headers
  const standard = signed.split(" ", mostSignatures).flatMap((one) => /^v1,([a-z0-9+/]{43}=)$/i.exec(one)?.[1] ?? [])
  const isDated = id !== "" && /^\d{1,12}$/.test(at) && Math.abs(now / 1000 - Number(at)) <= tolerance
  if (isDated && standard.length > 0) {
    const digest = (key: string | Buffer) =>
      createHmac("sha256", key).update(`${id}.${at}.`, "latin1").update(body).digest("base64")
    const expected = (secret: string) => standardKeys(secret).map(digest)
    return [{ kind: "hmac", claims: standard, expected, bytes: 2 * body.length }]
  }
  const over = (claims: ReadonlyArray<string>, bytes: Uint8Array | string): ReadonlyArray<Proof> => [
    {
      kind: "hmac",
      claims,
      expected: (secret) => [createHmac("sha256", secret).update(bytes).digest("hex")],
      bytes: bytes.length
    }
  ]
  const bare = wellFormed(headers, ["x-gitea-signature", "x-gogs-signature"], /^([0-9a-f]{64})$/)
  if (bare.length > 0 && Body.isForm(headers)) {
    return Result.match(text(), { onFailure: () => [], onSuccess: (json) => over(bare, json) })
  }
  const hub = wellFormed(headers, ["x-hub-signature-256", "x-hub-signature"], /^sha256=([0-9a-f]{64})$/)
  return over([...hub, ...bare], body)
}

/** The key is what the secret encodes: `whsec_<base64>`, or bare base64 as long as the standard wants keys to be. */
const standardKeys = (secret: string): ReadonlyArray<string | Buffer> => {
  const encoded = secret.replace(/^whsec_/, "")
  const key = Buffer.from(encoded, "base64")
  const isEncoded = key.length >= 24 && key.toString("base64").replace(/=+$/, "") === encoded.replace(/=+$/, "")
  return isEncoded ? [key, secret] : [secret]
}

/** The password of `Authorization: Basic`, whatever the user: all that Azure DevOps can send. */
const password = (headers: Reader.Headers): ReadonlyArray<string> =>
  wellFormed(headers, ["authorization"], /^basic +([a-z0-9+/]+=*)$/i).flatMap((encoded) => {
    const text = Buffer.from(encoded, "base64").toString("latin1")
    const colon = text.indexOf(":")
    return colon === -1 ? [] : [text.slice(colon + 1)]
  })

/** The token itself: in GitLab's header, as a password, or as a bearer's, whose letter case does not count (RFC 9110). */
const tokens = ({ headers }: Signed): ReadonlyArray<Proof> => [
  {
    kind: "token",
    claims: [
      ...wellFormed(headers, ["authorization"], /^bearer +(\S.*)$/i),
      ...password(headers),
      ...wellFormed(headers, ["x-gitlab-token"], /^(.+)$/)
    ],
    expected: (secret) => [secret],
    bytes: 0
  }
]

/** Every form in which a forge proves itself, as far as the request uses it. Without any, no Secret need be read. */
export const proofs = (request: Signed, now: number): ReadonlyArray<Proof> =>
  [...signature(request, now), ...tokens(request)].filter(({ claims }) => claims.length > 0)

/** Those of a request that came just now. */
export const proofsOf = (request: Signed): Effect.Effect<ReadonlyArray<Proof>> =>
  Effect.map(Clock.currentTimeMillis, (now) => proofs(request, now))

/** Bytes that {@link fits} goes through. */
export const weight = (offered: ReadonlyArray<Proof>, credentials: Credentials): number =>
  offered.reduce((sum, { bytes, kind }) => sum + bytes * (credentials[kind]?.length ?? 0), 0)

/** Node hands header bytes on as Latin-1. */
const claimed = (text: string): Buffer => Buffer.from(text, "latin1")

/** Not as a buffer at once: Node would allocate each by itself, outside of the heap, which costs a refusal 5 %. */
const digest = (data: string | Buffer): Buffer => Buffer.from(hash("sha256", data, "latin1"), "latin1")

/** Whether a secret is the one, in a time that tells neither where they differ nor how long it is. */
const judge = ({ claims, expected }: Proof): ((secret: string) => boolean) => {
  const offered = claims.map((claim) => digest(claimed(claim)))
  return (secret) => {
    const wanted = expected(secret).map(digest)
    const equal = offered.flatMap((claim) => wanted.map((one) => timingSafeEqual(claim, one))).includes(true)
    // A signature by an empty key is one that anybody can make.
    return equal && secret !== ""
  }
}

/** Whether one of the secrets fits, where how many there are is no secret: one pass for each of them, and no more. */
export const fits = (offered: ReadonlyArray<Proof>, credentials: Credentials): boolean =>
  offered.flatMap((proof) => (credentials[proof.kind] ?? []).map(Redacted.value).map(judge(proof))).includes(true)

/** So many secrets are compared at least, so that no caller learns by the time whether there are any. */
const padding = ["", ""]

const fitting = (offered: ReadonlyArray<Proof>, credentials: Credentials): Option.Option<string> => {
  if (isOpen(credentials)) return Option.some("open")
  const verdicts = offered.flatMap((proof) => {
    const secrets = (credentials[proof.kind] ?? []).map(Redacted.value)
    return [...secrets, ...padding.slice(secrets.length)]
      .map(judge(proof))
      .map((isProved, index) => (isProved ? `${proof.kind} ${index}` : undefined))
  })
  return Option.fromUndefinedOr(verdicts.find((verdict) => verdict !== undefined))
}
