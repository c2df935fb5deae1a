import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Layer, Logger, Option, Redacted, Schema } from "effect"
import { TestClock } from "effect/testing"
import { sign } from "@octokit/webhooks-methods"
import type * as Crypto from "node:crypto"
import { createHmac } from "node:crypto"
import { Webhook } from "standardwebhooks"
import { vi } from "vitest"
import { Authorizer, type Credentials, lines, proofs, proofsOf } from "../../src/receiver/Authorizer.ts"
import * as Body from "../../src/receiver/Body.ts"

/** How often a body is gone through: that is what takes time when it is long. */
const digests = vi.hoisted(() => ({ count: 0 }))
vi.mock("node:crypto", async (original) => {
  const crypto = await original<typeof Crypto>()
  const counted: typeof createHmac = (...options) => {
    digests.count++
    return crypto.createHmac(...options)
  }
  return { ...crypto, createHmac: counted }
})

const secret = "It's a Secret to Everybody"
const redacted = (...texts: ReadonlyArray<string>) => texts.map((text) => Redacted.make(text))

/** Whether any of the credentials fits. */
const isAuthorized = (authorizer: (typeof Authorizer)["Service"], request: Body.Received, own?: Credentials) =>
  Effect.map(judged(authorizer, request, own), Option.isSome)

const judged = (authorizer: (typeof Authorizer)["Service"], request: Body.Received, own?: Credentials) =>
  Effect.flatMap(proofsOf(request), (offered) => authorizer.authorize(offered, own))

const asked = (
  credentials: Credentials,
  headers: Readonly<Record<string, string>>,
  body: string | Uint8Array = "Hello, World!"
) =>
  Authorizer.use((authorizer) =>
    isAuthorized(authorizer, Body.received(headers, typeof body === "string" ? Buffer.from(body) : body))
  ).pipe(Effect.provide(Authorizer.layerOf(credentials)))

const hmac = { hmac: redacted(secret) }
const signed = (signature: string) => ({ "x-hub-signature-256": signature })
const hello = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

describe("signatures", () => {
  it.effect.each([
    ["GitHub's own example", "Hello, World!", hello],
    ["an empty body", "", "sha256=66a0c074deaa0f489ead6537e0d32f9a344b90bbeda705b6ed45ecd3b413fb40"],
    ["JSON", '{"ref":"refs/heads/main"}', "sha256=6a42699496d8c4fb346af1c930df527931a321e28ada69dbc5ee82f438517fd2"],
    [
      "a form",
      "payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D",
      "sha256=720493f557150a271b7cfdd9904c5fe4697f30c44588f8b452d36abc47b8796c"
    ],
    ["raw UTF-8", '{"ref":"größe/日本"}', "sha256=03db582a3e16039a0c4b168ab1eb918771580b725c425754eca3ff3559e85727"],
    [
      "the same text escaped",
      '{"ref":"gr\\u00f6\\u00dfe/\\u65e5\\u672c"}',
      "sha256=afb5a0ef4fcefb8f69541a81ff13de6d4e6649ce909361d2b9ecf79ad624b297"
    ],
    [
      "bytes that are no UTF-8",
      Buffer.from("7b22726566223a22fffe227d", "hex"),
      "sha256=615c9a92a5dd57ffe43c8012fd5dbaef9278e6ee032f733ef7c6bde4ce3d5e9a"
    ]
  ] as const)("%s", ([, body, signature]) =>
    Effect.map(asked(hmac, signed(signature), body), (yes) => assert.isTrue(yes))
  )

  it.effect("RFC 4231, case 2", () =>
    Effect.map(
      asked(
        { hmac: redacted("Jefe") },
        signed("sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        "what do ya want for nothing?"
      ),
      (yes) => assert.isTrue(yes)
    )
  )

  it.effect.each<readonly [string, Readonly<Record<string, string>>]>([
    ["none", {}],
    ["an empty one (Gitea without a secret)", signed("sha256=")],
    ["an empty header", signed("")],
    ["63 digits", signed(hello.slice(0, -1))],
    ["65 digits", signed(`${hello}0`)],
    ["upper case", signed(hello.toUpperCase())],
    ["SHA-1 of the same body", signed("sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59")],
    ["SHA-1 in its own header", { "x-hub-signature": "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59" }],
    ["sha512=", signed(hello.replace("sha256", "sha512"))],
    ["blanks around it", signed(` ${hello} `)],
    ["two, one of them right", signed(`${hello}, ${hello}`)],
    ["digits that are no hexadecimal", signed(`sha256=7571zz${hello.slice(13)}`)],
    ["that of another body", signed("sha256=66a0c074deaa0f489ead6537e0d32f9a344b90bbeda705b6ed45ecd3b413fb40")],
    [
      "that of a secret with a newline",
      signed("sha256=59105a2da8182e5e7d6b699ca7f738081e03db4f55149c9af1ec7d424ca3e19c")
    ],
    ["the secret as a token", { authorization: `Bearer ${secret}` }]
  ])("refuses %s", ([, headers]) => Effect.map(asked(hmac, headers), (yes) => assert.isFalse(yes)))
})

describe("tokens", () => {
  const token = { token: redacted("s3cret", "größe") }
  it.effect.each(["Bearer s3cret", "bearer s3cret", "BEARER   s3cret"])("takes %j", (authorization) =>
    Effect.map(asked(token, { authorization }), (yes) => assert.isTrue(yes))
  )

  it.effect("takes a token that is no ASCII, as Node hands its bytes on", () =>
    Effect.map(asked(token, { authorization: `Bearer ${Buffer.from("größe").toString("latin1")}` }), (yes) =>
      assert.isTrue(yes)
    )
  )

  it.effect.each([
    "",
    "Bearer",
    "Bearer ",
    "Bearer s3cre",
    "Bearer s3cret2",
    "Bearer S3CRET",
    "Basic s3cret",
    "s3cret"
  ])("refuses %j", (authorization) => Effect.map(asked(token, { authorization }), (yes) => assert.isFalse(yes)))
})

const json = '{"ref":"refs/heads/main"}'
const ofJson = "6a42699496d8c4fb346af1c930df527931a321e28ada69dbc5ee82f438517fd2"
const form = "payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%7D"
const ofForm = "720493f557150a271b7cfdd9904c5fe4697f30c44588f8b452d36abc47b8796c"
const asForm = { "content-type": "application/x-www-form-urlencoded" }

describe("signatures of other forges", () => {
  it.effect.each<readonly [string, Readonly<Record<string, string>>, string, boolean]>([
    ["Bitbucket, in GitHub's header for SHA-1", { "x-hub-signature": `sha256=${ofJson}` }, json, true],
    ["Gitea, the digits alone", { "x-gitea-signature": ofJson }, json, true],
    ["Gogs, the digits alone", { "x-gogs-signature": ofJson }, json, true],
    ["Gitea's form, over the JSON", { "x-gitea-signature": ofJson, ...asForm }, form, true],
    ["Gitea's form, over the form", { "x-gitea-signature": ofForm, ...asForm }, form, false],
    ["GitHub's form, over the form", { "x-hub-signature-256": `sha256=${ofForm}`, ...asForm }, form, true],
    ["GitHub's form, over the JSON", { "x-hub-signature-256": `sha256=${ofJson}`, ...asForm }, form, false],
    ["Gitea, as GitHub writes it", { "x-gitea-signature": `sha256=${ofJson}` }, json, false],
    ["Bitbucket, the digits alone", { "x-hub-signature": ofJson }, json, false],
    ["Gitea without a secret", { "x-gitea-signature": "", "x-hub-signature-256": "sha256=" }, json, false],
    ["a form that is not UTF-8", { "x-gitea-signature": ofJson, ...asForm }, "payload=%FF%FE", false]
  ])("%s: %s", ([, headers, body, expected]) =>
    Effect.map(asked(hmac, headers, body), (yes) => assert.strictEqual(yes, expected))
  )

  it.effect.prop(
    "whatever octokit signs",
    { key: Schema.NonEmptyString, body: Schema.NonEmptyString },
    ({ body, key }) =>
      Effect.gen(function* () {
        const signature = yield* Effect.promise(() => sign(key, body))
        assert.isTrue(yield* asked({ hmac: redacted(key) }, signed(signature), body))
        const other = `${body}x`
        assert.isFalse(yield* asked({ hmac: redacted(key) }, signed(signature), other))
      })
  )
})

describe("Standard Webhooks", () => {
  const key = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
  const at = 1_614_265_330
  const body = '{"test": 2432232314}'
  const v1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
  const headers = (change: Readonly<Record<string, string>> = {}) => ({
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": String(at),
    "webhook-signature": v1,
    ...change
  })
  const askedAt = (seconds: number, credentials: Credentials, headers: Readonly<Record<string, string>>, text = body) =>
    Effect.andThen(TestClock.setTime(seconds * 1000), asked(credentials, headers, text))
  const encoded = { hmac: redacted(`whsec_${key}`) }

  it.effect("the example of the standard, with and without the secret's prefix", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* askedAt(at, encoded, headers()))
      assert.isTrue(yield* askedAt(at, { hmac: redacted(key) }, headers()))
      assert.isTrue(yield* askedAt(at, { hmac: redacted("another", key) }, headers()))
    })
  )

  it.effect.each([
    [-300, true],
    [300, true],
    [-301, false],
    [301, false]
  ] as const)("a clock that is %i s off: %s", ([off, expected]) =>
    Effect.map(askedAt(at + off, encoded, headers()), (yes) => assert.strictEqual(yes, expected))
  )

  it.effect("one of several signatures is enough, be it of an old key", () =>
    Effect.map(askedAt(at, encoded, headers({ "webhook-signature": `v1,AAAA v1a,BBBB ${v1}` })), (yes) =>
      assert.isTrue(yes)
    )
  )

  it.effect.each<readonly [string, Readonly<Record<string, string>>]>([
    ["another id", { "webhook-id": "msg_2" }],
    ["no id", { "webhook-id": "" }],
    ["another time", { "webhook-timestamp": String(at + 1) }],
    ["no time", { "webhook-timestamp": "" }],
    ["a time that is no number", { "webhook-timestamp": "NaN" }],
    ["a time in milliseconds", { "webhook-timestamp": String(at * 1000) }],
    ["no signature", { "webhook-signature": "" }],
    ["a signature without its version", { "webhook-signature": v1.slice(3) }],
    ["another version", { "webhook-signature": v1.replace("v1", "v2") }],
    ["the ninth of nine", { "webhook-signature": `${"v1,AAAA ".repeat(8)}${v1}` }]
  ])("refuses %s", ([, change]) => Effect.map(askedAt(at, encoded, headers(change)), (yes) => assert.isFalse(yes)))

  it.effect("refuses another body, and another key", () =>
    Effect.gen(function* () {
      assert.isFalse(yield* askedAt(at, encoded, headers(), `${body} `))
      assert.isFalse(yield* askedAt(at, { hmac: redacted("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA") }, headers()))
    })
  )

  it.effect("a secret that is no base64 is the key itself", () =>
    Effect.gen(function* () {
      const signature = new Webhook(secret, { format: "raw" }).sign("msg_1", new Date(at * 1000), body)
      assert.isTrue(yield* askedAt(at, hmac, headers({ "webhook-id": "msg_1", "webhook-signature": signature })))
    })
  )

  it.effect.prop("whatever its own library signs", { body: Schema.NonEmptyString, id: Schema.Int }, ({ body, id }) =>
    Effect.gen(function* () {
      const signature = new Webhook(key).sign(`msg_${id}`, new Date(at * 1000), body)
      const sent = headers({ "webhook-id": `msg_${id}`, "webhook-signature": signature })
      assert.isTrue(yield* askedAt(at, encoded, sent, body))
    })
  )
})

describe("tokens of other forges", () => {
  const token = { token: redacted("s3cret", "with:colon", "größe") }
  const basic = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString("base64")}` })

  it.effect.each<readonly [string, Readonly<Record<string, string>>, boolean]>([
    ["GitLab's header", { "x-gitlab-token": "s3cret" }, true],
    ["GitLab's header, wrong", { "x-gitlab-token": "s3cre" }, false],
    ["GitLab's header, empty", { "x-gitlab-token": "" }, false],
    ["Basic, whatever the user", basic("anybody:s3cret"), true],
    ["Basic without a user", basic(":s3cret"), true],
    ["Basic, a colon in the password", basic("anybody:with:colon"), true],
    ["Basic that is no ASCII", basic("anybody:größe"), true],
    ["Basic, in lower case", { authorization: basic(":s3cret").authorization.replace("Basic", "basic") }, true],
    ["Basic, wrong", basic("anybody:wrong"), false],
    ["Basic, the token as the user", basic("s3cret:"), false],
    ["Basic without a colon", basic("s3cret"), false],
    ["Basic that is no base64", { authorization: "Basic s3cret!" }, false]
  ])("%s", ([, headers, expected]) => Effect.map(asked(token, headers), (yes) => assert.strictEqual(yes, expected)))

  it.effect("the token is no key of signatures, and the other way round", () =>
    Effect.gen(function* () {
      assert.isFalse(yield* asked(hmac, { "x-gitlab-token": secret }))
      assert.isFalse(yield* asked({ token: redacted(secret) }, signed(hello)))
    })
  )
})

describe("what is offered", () => {
  it.each<readonly [Readonly<Record<string, string>>, boolean]>([
    [{}, false],
    [{ authorization: "Digest x" }, false],
    [{ "x-hub-signature-256": "" }, false],
    [{ "webhook-signature": "v1,AAAA", "webhook-id": "a", "webhook-timestamp": "1" }, false],
    [{ "x-hub-signature-256": "sha256=" }, false],
    [{ "x-hub-signature-256": "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59" }, false],
    [{ "x-gitea-signature": "x" }, false],
    [{ "webhook-signature": "v1,AAAA", "webhook-id": "a", "webhook-timestamp": "1000000" }, false],
    [{ "x-hub-signature-256": hello }, true],
    [{ "x-gogs-signature": hello.slice(7) }, true],
    [{ authorization: "Bearer x" }, true],
    [{ "x-gitlab-token": "x" }, true]
  ])("%j: %s", (headers, expected) =>
    assert.strictEqual(proofs(Body.received(headers, new Uint8Array()), 1_000_000_000).length > 0, expected)
  )

  it.effect("tells by which of the credentials, in words that tell nothing of them", () =>
    Effect.gen(function* () {
      const authorizer = yield* Authorizer
      const body = Buffer.from("Hello, World!")
      assert.deepStrictEqual(yield* judged(authorizer, Body.received(signed(hello), body)), Option.some("hmac 1"))
      const headers = { authorization: "Bearer s3cret" }
      assert.deepStrictEqual(yield* judged(authorizer, Body.received(headers, body)), Option.some("token 0"))
      assert.deepStrictEqual(yield* judged(authorizer, Body.received(headers, body), {}), Option.some("open"))
    }).pipe(Effect.provide(Authorizer.layerOf({ hmac: redacted("old", secret), token: redacted("s3cret") })))
  )
})

describe("methods together", () => {
  const both = { hmac: redacted(secret), token: redacted("s3cret") }

  it.effect.each([
    ["a right signature and a wrong token", { ...signed(hello), authorization: "Bearer wrong" }, true],
    ["a wrong signature and a right token", { ...signed("sha256=00"), authorization: "Bearer s3cret" }, true],
    ["both wrong", { ...signed("sha256=00"), authorization: "Bearer wrong" }, false]
  ] as const)("%s: %s", ([, headers, expected]) =>
    Effect.map(asked(both, headers), (yes) => assert.strictEqual(yes, expected))
  )

  it.effect("an old and a new secret are good at the same time", () =>
    Effect.map(asked({ hmac: redacted("new", secret) }, signed(hello)), (yes) => assert.isTrue(yes))
  )

  it.effect("nothing configured is open", () => Effect.map(asked({}, {}), (yes) => assert.isTrue(yes)))

  // HMAC with an empty key is a signature that anybody can make.
  it.effect("an empty secret fits nobody", () =>
    Effect.map(
      Effect.all([
        asked(
          { hmac: redacted("") },
          signed(`sha256=${createHmac("sha256", "").update("Hello, World!").digest("hex")}`)
        ),
        asked({ hmac: [] }, {}),
        asked({ token: redacted("") }, { authorization: "Bearer " })
      ]),
      (all) => assert.deepStrictEqual(all, [false, false, false])
    )
  )

  it.effect("credentials of one GatewaySync replace the receiver's", () =>
    Effect.gen(function* () {
      const authorizer = yield* Authorizer
      const request = Body.received({ authorization: "Bearer s3cret" }, new Uint8Array())
      assert.isTrue(yield* isAuthorized(authorizer, request))
      assert.isFalse(yield* isAuthorized(authorizer, request, { token: redacted("own") }))
      assert.isFalse(yield* isAuthorized(authorizer, request, { hmac: redacted("own") }))
    }).pipe(Effect.provide(Authorizer.layerOf(both)))
  )
})

describe("time", () => {
  const passes = (credentials: Credentials, headers: Readonly<Record<string, string>>) =>
    Effect.gen(function* () {
      const authorizer = yield* Authorizer
      digests.count = 0
      yield* judged(authorizer, Body.received(headers, Buffer.from("Hello, World!")), credentials)
      return digests.count
    }).pipe(Effect.provide(Authorizer.layerOf({})))

  it.effect("is the same whether there is a secret or not, up to two of them", () =>
    Effect.gen(function* () {
      const counts = yield* Effect.forEach(
        [
          { hmac: [] },
          { hmac: redacted("one") },
          { hmac: redacted("one", "two") },
          { hmac: redacted(secret) },
          { token: redacted("token") }
        ],
        (credentials) => passes(credentials, signed(hello))
      )
      assert.deepStrictEqual(counts, [2, 2, 2, 2, 2])
    })
  )
})

describe("configuration", () => {
  const configured = (env: Record<string, string>) =>
    Authorizer.layerConfigured.pipe(
      Layer.provide(NodeFileSystem.layer),
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env, preserveEmptyStrings: true })))
    )
  const bearer = (token: string) =>
    Authorizer.use((authorizer) =>
      isAuthorized(authorizer, Body.received({ authorization: `Bearer ${token}` }, new Uint8Array()))
    )

  it.effect("from the environment, the newline of echo dropped", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* bearer("one"))
      assert.isTrue(yield* bearer("two"))
      assert.isFalse(yield* bearer("three"))
    }).pipe(Effect.provide(configured({ WEBHOOK_BEARER_TOKEN: "one\ntwo\n" })))
  )

  it.effect("a secret of newlines alone is closed, not open", () =>
    Effect.map(bearer(""), (yes) => assert.isFalse(yes)).pipe(Effect.provide(configured({ WEBHOOK_HMAC_SECRET: "\n" })))
  )

  it.effect("an empty file is closed, not open", () =>
    Effect.gen(function* () {
      const file = yield* FileSystem.FileSystem.use((fileSystem) => fileSystem.makeTempFileScoped())
      assert.isFalse(yield* Effect.provide(bearer(""), configured({ WEBHOOK_BEARER_TOKEN_FILE: file })))
    }).pipe(Effect.provide(NodeFileSystem.layer))
  )

  it.effect("a file that is not there is closed, not open", () =>
    Effect.map(bearer("x"), (yes) => assert.isFalse(yes)).pipe(
      Effect.provide(configured({ WEBHOOK_BEARER_TOKEN_FILE: "/nowhere/token" }))
    )
  )

  it.effect("nothing set is open, and an empty variable is a Secret that holds nothing: closed", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* Effect.provide(bearer("x"), configured({})))
      assert.isFalse(yield* Effect.provide(bearer("x"), configured({ WEBHOOK_HMAC_SECRET: "" })))
      assert.isFalse(yield* Effect.provide(bearer(""), configured({ WEBHOOK_BEARER_TOKEN: "" })))
      assert.isFalse(yield* Effect.provide(bearer("x"), configured({ WEBHOOK_HMAC_SECRET_FILE: "" })))
    })
  )

  it.effect.each([
    [{}, "anybody who reaches the receiver can move gateways"],
    [{ WEBHOOK_HMAC_SECRET: "" }, "WEBHOOK_HMAC_SECRET is empty"],
    [{ WEBHOOK_BEARER_TOKEN: "x" }, ""]
  ] as const)("a receiver that is open, or closed to all, says so at its start: %j", ([env, words]) => {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => lines.push(`${logLevel} ${String(message)}`))
    return Effect.gen(function* () {
      assert.strictEqual((yield* Authorizer).isOpen, words.startsWith("anybody"))
      assert.lengthOf(lines, words === "" ? 0 : 1)
      assert.include(lines.join(), words)
      assert.strictEqual(lines.join().startsWith("Warn"), words !== "")
    }).pipe(Effect.provide(configured(env)), Effect.provide(Logger.layer([logger])))
  })

  it.effect("an empty variable of the process is closed as well", () =>
    Effect.gen(function* () {
      yield* Effect.acquireRelease(
        Effect.sync(() => vi.stubEnv("WEBHOOK_HMAC_SECRET", "")),
        () => Effect.sync(() => vi.unstubAllEnvs())
      )
      assert.isFalse(yield* Effect.provide(bearer("x"), Authorizer.layer.pipe(Layer.provide(NodeFileSystem.layer))))
    })
  )

  it.effect("a file is read again when it is older than a second", () =>
    Effect.gen(function* () {
      const fileSystem = yield* FileSystem.FileSystem
      const file = yield* fileSystem.makeTempFileScoped()
      yield* fileSystem.writeFileString(file, "old\r\n")
      yield* Effect.gen(function* () {
        assert.isTrue(yield* bearer("old"))
        yield* fileSystem.writeFileString(file, "new\n")
        assert.isTrue(yield* bearer("old"))
        yield* TestClock.adjust("1001 millis")
        assert.isFalse(yield* bearer("old"))
        assert.isTrue(yield* bearer("new"))
        assert.isTrue(yield* bearer("inline"))
      }).pipe(Effect.provide(configured({ WEBHOOK_BEARER_TOKEN: "inline", WEBHOOK_BEARER_TOKEN_FILE: file })))
    }).pipe(Effect.provide(NodeFileSystem.layer))
  )

  it("a line is a secret, blanks in it included", () =>
    assert.deepStrictEqual(lines("a b\r\n\n c \n").map(Redacted.value), ["a b", " c "]))
})
