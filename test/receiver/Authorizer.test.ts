import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Layer, Option, Redacted } from "effect"
import { TestClock } from "effect/testing"
import { createHmac } from "node:crypto"
import { Authorizer, type Credentials, lines } from "../../src/receiver/Authorizer.ts"

const secret = "It's a Secret to Everybody"
const redacted = (...texts: ReadonlyArray<string>) => texts.map((text) => Redacted.make(text))

/** Whether any of the credentials fits. */
const isAuthorized = (
  authorizer: (typeof Authorizer)["Service"],
  ...request: Parameters<(typeof Authorizer)["Service"]["authorize"]>
) => Effect.map(authorizer.authorize(...request), Option.isSome)

const asked = (
  credentials: Credentials,
  headers: Readonly<Record<string, string>>,
  body: string | Uint8Array = "Hello, World!"
) =>
  Authorizer.use((authorizer) =>
    isAuthorized(authorizer, { headers, body: typeof body === "string" ? Buffer.from(body) : body })
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
      const request = { headers: { authorization: "Bearer s3cret" }, body: new Uint8Array() }
      assert.isTrue(yield* isAuthorized(authorizer, request))
      assert.isFalse(yield* isAuthorized(authorizer, request, { token: redacted("own") }))
      assert.isFalse(yield* isAuthorized(authorizer, request, { hmac: redacted("own") }))
    }).pipe(Effect.provide(Authorizer.layerOf(both)))
  )
})

describe("configuration", () => {
  const configured = (env: Record<string, string>) =>
    Authorizer.layer.pipe(
      Layer.provide(NodeFileSystem.layer),
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
    )
  const bearer = (token: string) =>
    Authorizer.use((authorizer) =>
      isAuthorized(authorizer, { headers: { authorization: `Bearer ${token}` }, body: new Uint8Array() })
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

  it.effect("nothing set is open, and an empty variable is not set", () =>
    Effect.gen(function* () {
      assert.isTrue(yield* Effect.provide(bearer("x"), configured({})))
      assert.isTrue(yield* Effect.provide(bearer("x"), configured({ WEBHOOK_HMAC_SECRET: "" })))
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
