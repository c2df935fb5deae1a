/** Whatever is sent: no crash, no 5xx, no write, and the next honest delivery is taken. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Logger, Queue, References } from "effect"
import type { HttpServer } from "effect/http"
import { IpNetwork } from "effect/net"
import { TestClock } from "effect/testing"
import { MemoryApi } from "./MemoryApi.ts"
import { connect, type Connection } from "./raw.ts"
import { bearer, both, type Options, run, signature, written } from "./running.ts"
import { type Answer, post, send } from "./send.ts"

const mebibyte = 1024 * 1024
const status = ({ status }: Answer) => status

/** After it, nothing was written, and an honest delivery is taken. */
const harmless = <A, E>(
  attack: Effect.Effect<A, E, MemoryApi | HttpServer.HttpServer>,
  options: Options = { credentials: both }
) =>
  run(
    Effect.gen(function* () {
      yield* attack
      assert.deepStrictEqual(yield* written, [])
      assert.strictEqual((yield* post({ ref: "v2" }, { headers: bearer })).status, 202)
    }),
    options
  )

const body = '{"ref":"v2"}'
const head = (...lines: ReadonlyArray<string>) =>
  [`POST /webhook/plant/site HTTP/1.1`, "Host: receiver.test", ...lines, "", ""].join("\r\n")
const authorization = `Authorization: ${bearer.authorization}`

describe("headers", () => {
  it.live("two signatures, one of them right, are none", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          const good = `X-Hub-Signature-256: ${signature(body)["x-hub-signature-256"]}`
          yield* connection.write(head("X-Hub-Signature-256: sha256=00", good, `Content-Length: ${body.length}`) + body)
          assert.match(yield* connection.answered(/\}$/), /^HTTP\/1\.1 401 /)
        })
      )
    )
  )

  it.live("of two tokens the first counts", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(
            head("Authorization: Bearer wrong", authorization, `Content-Length: ${body.length}`) + body
          )
          assert.match(yield* connection.answered(/\}$/), /^HTTP\/1\.1 401 /)
        })
      )
    )
  )

  it.live.each([
    ["two lengths", ["Content-Length: 12", "Content-Length: 13"], 400],
    ["a length and chunks", ["Content-Length: 12", "Transfer-Encoding: chunked"], 400],
    ["a length that is no number", ["Content-Length: x"], 400],
    ["a negative length", ["Content-Length: -1"], 400],
    ["a line without a colon", ["nonsense"], 400],
    ["a blank before the colon", ["Content-Length : 12"], 400],
    ["more than 16 KiB of them", [`X-Flood: ${"x".repeat(17 * 1024)}`], 431],
    ["a thousand long ones", Array.from({ length: 1000 }, (_, index) => `X-${index}: ${"x".repeat(100)}`), 431]
  ] as const)("%s: refused, and the connection closed", ([, lines, expected]) =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(head(authorization, ...lines) + body)
          assert.match(yield* connection.closed, new RegExp(`^HTTP/1\\.1 ${expected} `))
        })
      )
    )
  )

  it.live("a header whose name is a prototype's is none", () =>
    harmless(
      Effect.map(
        send({ body, headers: { ["__proto__"]: "x", constructor: "x", "x-github-event": "" } }),
        ({ status }) => assert.strictEqual(status, 401)
      )
    )
  )
})

describe("bodies", () => {
  it.live.each([
    ["25 MiB, announced", 25 * mebibyte],
    ["one byte more than 4 MiB", 4 * mebibyte + 1]
  ] as const)("%s: 413", ([, length]) =>
    harmless(
      Effect.map(send({ body: new Uint8Array(length), headers: bearer }), (answer) =>
        assert.strictEqual(status(answer), 413)
      )
    )
  )

  it.live("more than 4 MiB in chunks, without a length: 413", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          const chunk = "x".repeat(mebibyte)
          yield* connection.write(head(authorization, "Transfer-Encoding: chunked"))
          for (let sent = 0; sent <= 4; sent++) yield* connection.write(`${mebibyte.toString(16)}\r\n${chunk}\r\n`)
          assert.match(yield* connection.answered(/\}$/), /^HTTP\/1\.1 413 /)
        })
      )
    )
  )

  it.live("one that is too long is not asked for by 100-continue", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(head(authorization, "Expect: 100-continue", `Content-Length: ${5 * mebibyte}`))
          assert.match(yield* connection.answered(/\}/), /^HTTP\/1\.1 413 /)
        })
      )
    )
  )

  it.live("one that waits for 100-continue is asked for, and taken", () =>
    run(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(head(authorization, "Expect: 100-continue", `Content-Length: ${body.length}`))
          assert.match(yield* connection.answered(/Continue/), /^HTTP\/1\.1 100 /)
          yield* connection.write(body)
          assert.match(yield* connection.answered(/\}$/), /HTTP\/1\.1 202 /)
        })
      ),
      { credentials: both }
    )
  )

  it.live("one that breaks off is nothing", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(head(authorization, "Content-Length: 1000") + body)
          yield* connection.end
          yield* connection.closed
        })
      )
    )
  )

  it.live("what is longer than it says is another request, and no good one", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const connection = yield* connect
        yield* connection.write(`${head(authorization, `Content-Length: ${body.length}`)}${body}{"ref":"v3"}`)
        assert.match(yield* connection.closed, /HTTP\/1\.1 400 [^]*$/)
        assert.strictEqual((yield* post({ ref: "v4" }, { headers: bearer })).status, 202)
        // The first was a good one, and may have been taken as well.
        const annotations = yield* MemoryApi.use((api) => api.annotations("site"))
        assert.notInclude(Object.values(annotations), "v3")
      })
    ).pipe((test) => run(test, { credentials: both }))
  )

  it.live.each(["gzip", "br", "deflate", "zstd", "gzip, identity", "GZIP"])("in content-encoding %s: 415", (encoding) =>
    harmless(
      Effect.map(send({ body, headers: { ...bearer, "content-encoding": encoding } }), ({ status }) =>
        assert.strictEqual(status, 415)
      )
    )
  )
})

describe("slow ones", () => {
  it.live("headers that do not end: 408, and the connection closed", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write("POST /webhook/plant/site HTTP/1.1\r\nX-Slow: ")
          assert.match(yield* connection.closed, /^HTTP\/1\.1 408 /)
        })
      ),
      { credentials: both, limits: { headerTimeout: Duration.millis(50) } }
    )
  )

  it.live("a body that does not end: the connection closed", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(head(authorization, "Content-Length: 1000") + body)
          const text = yield* connection.closed
          assert.notMatch(text, /HTTP\/1\.1 [25]0/)
        })
      ),
      { credentials: both, limits: { requestTimeout: Duration.millis(100) } }
    )
  )

  it.live("a connection that says nothing is closed", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.closed
        })
      ),
      { credentials: both, limits: { headerTimeout: Duration.millis(50) } }
    )
  )

  it.live("a connection that has its answer and says no more is closed", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect
          yield* connection.write(head("Content-Length: 0"))
          assert.match(yield* connection.closed, /^HTTP\/1\.1 401 /)
        })
      ),
      { credentials: both, limits: { idleTimeout: Duration.millis(50) } }
    )
  )

  describe("strangers who hold more than 64 MiB", () => {
    /** They hold back the last byte, until the scope ends. The first of them that has to go says that all is full. */
    const flood = Effect.gen(function* () {
      const connections = yield* Effect.replicateEffect(connect, 18)
      const bytes = new Uint8Array(4 * mebibyte - 1)
      for (const { write } of connections) {
        yield* write(head(`Content-Length: ${4 * mebibyte}`))
        yield* write(bytes)
      }
      const told = yield* Effect.raceAllFirst(connections.map(({ answered }) => answered(/\}$/)))
      assert.match(told, /^HTTP\/1\.1 503 [^]*too many other bodies[^]*synced":false/)
    })

    it.live("are in nobody's way who comes while they hold it", () =>
      run(
        Effect.scoped(
          Effect.gen(function* () {
            yield* flood
            assert.strictEqual((yield* post({ ref: "v2" }, { headers: bearer })).status, 202)
          })
        ),
        { credentials: both }
      )
    )

    it.live("push out nobody who is let in and waits for the patch", () =>
      run(
        Effect.scoped(
          Effect.gen(function* () {
            const api = yield* MemoryApi
            yield* api.gate.close
            // Longer than theirs.
            const longest = body.padEnd(4 * mebibyte)
            const honest = yield* Effect.forkChild(send({ body: longest, headers: bearer }))
            yield* api.atGate(1)
            yield* flood
            yield* api.gate.open
            assert.strictEqual((yield* Fiber.join(honest)).status, 202)
          })
        ),
        { credentials: both }
      )
    )

    it.live("push out nobody whose credentials are being read", () =>
      run(
        Effect.scoped(
          Effect.gen(function* () {
            const api = yield* MemoryApi
            yield* api.putSecret("hook", { secret: "k" })
            yield* api.put("own", { spec: { webhook: { hmac: { secretRef: { name: "hook", key: "secret" } } } } })
            yield* api.readGate.close
            const request = { path: "/webhook/plant/own", body, headers: signature(body, "k") }
            const honest = yield* Effect.forkChild(send(request))
            yield* api.secretsAsked(1)
            yield* flood
            yield* api.readGate.open
            assert.strictEqual((yield* Fiber.join(honest)).status, 202)
          })
        ),
        { credentials: both }
      )
    )

    it.live("push out nobody who is let in while all are listed", () =>
      run(
        Effect.scoped(
          Effect.gen(function* () {
            const api = yield* MemoryApi
            const git = { repo: "https://github.com/acme/plant.git", ref: "other" }
            for (let index = 0; index < 40; index++) yield* api.put(`c${index}`, { spec: { git } })
            yield* api.readGate.close
            const push = { ref: "refs/heads/main", before: "a".repeat(40), after: "b".repeat(40) }
            const headers = { ...bearer, "x-github-event": "push" }
            const message = { ...push, repository: { clone_url: git.repo } }
            const honest = yield* Effect.forkChild(post(message, { path: "/webhook", headers }))
            yield* api.asked(1)
            yield* flood
            yield* api.readGate.open
            assert.strictEqual((yield* Fiber.join(honest)).status, 202)
          })
        ),
        { credentials: both }
      )
    )

    it.live("hold no more of bodies that came in full and wait for a Secret", () =>
      run(
        Effect.gen(function* () {
          const api = yield* MemoryApi
          yield* api.put("own", { spec: { webhook: { token: { secretRef: { name: "hook", key: "token" } } } } })
          yield* api.readGate.close
          const body = new Uint8Array(4 * mebibyte)
          const guess = send({ path: "/webhook/plant/own", body, headers: { "x-gitlab-token": "guess" } })
          const guesses = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(guess))
          const first = yield* Effect.raceAllFirst(guesses.map(Fiber.join))
          assert.strictEqual(first.status, 503)
          assert.include(first.body["error"], "too many other bodies")
          // While the others wait.
          assert.strictEqual((yield* post({ ref: "v2" }, { headers: bearer })).status, 202)
          yield* api.readGate.open
          const answers = yield* Effect.forEach(guesses, Fiber.join)
          assert.deepStrictEqual([...new Set(answers.map(status))].toSorted(), [401, 503])
        }),
        { credentials: both }
      )
    )
  })

  it.live("200 that hold a connection each are in nobody's way", () =>
    harmless(
      Effect.scoped(
        Effect.gen(function* () {
          const connections = yield* Effect.replicateEffect(connect, 200)
          yield* Effect.forEach(connections, ({ write }) => write(head(authorization, "Content-Length: 1000")))
          assert.strictEqual((yield* send({ method: "GET", headers: bearer })).status, 200)
        })
      )
    )
  )
})

describe("paths", () => {
  const none = [
    "/webhook/",
    "/webhook//",
    "/webhook//site",
    "/webhook/plant/",
    "/webhook/plant/site/",
    "/webhook/plant//site",
    "//webhook/plant/site",
    "/WEBHOOK/plant/site",
    "/webhook/plant/Site",
    "/webhook/plant/../plant/site",
    "/webhook/plant/%2e%2e",
    "/webhook/plant%2Fsite",
    "/webhook/plant/site%00",
    "/webhook/plant/site%0d%0aX-A:1",
    "/webhook/plant/%E0%A4",
    "/webhook/plant/.",
    "/webhook/plant/..",
    "/webhook/%2e",
    `/webhook/plant/${"n".repeat(254)}`,
    "/webhook/plant/__proto__"
  ]
  it.live.each(none)("%s names nothing: 404, and the API server hears nothing of it", (path) =>
    harmless(
      Effect.gen(function* () {
        assert.strictEqual((yield* send({ path, body, headers: bearer })).status, 404)
        assert.deepStrictEqual(yield* MemoryApi.use((api) => api.calls), [])
      })
    )
  )

  it.live.each([
    "/webhook/plant/%73ite",
    "/webhook/plant/site?x=1",
    "/webhook/plant/site;x=1",
    "/webhook/plant/site#x"
  ])("%s is another way to write the same", (path) =>
    run(
      Effect.map(send({ path, body, headers: bearer }), ({ status }) => assert.strictEqual(status, 202)),
      { credentials: both }
    )
  )
})

describe("too many", () => {
  const guess = send({ body, headers: { authorization: "Bearer guess" } })

  it.effect("wrong credentials: 429 with the time to wait, and right ones are taken all the while", () =>
    run(
      Effect.gen(function* () {
        const answers = yield* Effect.replicateEffect(guess, 8)
        assert.deepStrictEqual(answers.map(status), [401, 401, 401, 401, 401, 429, 429, 429])
        const last = answers.at(-1)!
        assert.strictEqual(last.headers["retry-after"], "12")
        assert.propertyVal(last.body, "synced", false)
        assert.strictEqual((yield* send({ body, headers: bearer })).status, 202)
        assert.strictEqual((yield* send({ body, headers: signature(body) })).status, 202)
        yield* TestClock.adjust("12 seconds")
        assert.deepStrictEqual([status(yield* guess), status(yield* guess)], [401, 429])
      }),
      { credentials: both, limits: { failuresPerMinute: 5 } }
    )
  )

  it.live("an attack and honest deliveries at once: each of those is taken", () =>
    run(
      Effect.gen(function* () {
        const attack = Effect.replicateEffect(guess, 300, { concurrency: 32 })
        const honest = Effect.forEach(
          Array.from({ length: 50 }, (_, index) => index),
          (index) => post({ ref: `v${index}` }, { headers: bearer })
        )
        const [attacked, sent] = yield* Effect.all([attack, honest], { concurrency: 2 })
        assert.deepStrictEqual([...new Set(sent.map(status))], [202])
        assert.deepStrictEqual([...new Set(attacked.map(status))].toSorted(), [401, 429])
      }),
      { credentials: both, limits: { failuresPerMinute: 10 } }
    )
  )

  it.live("hang-ups have a line by their address, and who is let in has one however many they were", () =>
    Effect.gen(function* () {
      const lines = yield* Queue.unbounded<object>()
      const logger = Logger.make(({ fiber, message }) => {
        Queue.offerUnsafe(lines, { message, ...fiber.getRef(References.CurrentLogAnnotations) })
      })
      const line = { message: ["webhook sender hung up before it was answered"], client: "127.0.0.1", name: "site" }
      const hangUp = <A, E>(text: string, after: (connection: Connection) => Effect.Effect<A, E>) =>
        Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* connect
            yield* connection.write(text)
            yield* after(connection)
          })
        )
      yield* run(
        Effect.gen(function* () {
          const api = yield* MemoryApi
          yield* hangUp(head("Expect: 100-continue", "Content-Length: 50"), ({ answered }) => answered(/Continue/))
          assert.deepInclude(yield* Queue.take(lines), line)
          yield* api.gate.close
          yield* hangUp(head(authorization, `Content-Length: ${body.length}`) + body, () => api.atGate(1))
          assert.deepInclude(yield* Queue.take(lines), line)
          yield* api.gate.open
        }),
        { credentials: both, logger, limits: { failuresPerMinute: 1 } }
      )
    })
  )

  it.live("unknown GatewaySyncs look the same", () =>
    run(
      Effect.gen(function* () {
        const unknown = send({ body, path: "/webhook/plant/nobody", headers: { authorization: "Bearer guess" } })
        const told = (answer: Answer) => [answer.status, answer.text, answer.headers["retry-after"]]
        const answers = yield* Effect.all([guess, unknown, guess, unknown])
        assert.deepStrictEqual(told(answers[0]), told(answers[1]))
        assert.deepStrictEqual(told(answers[2]), told(answers[3]))
      }),
      { credentials: both, limits: { failuresPerMinute: 2 } }
    )
  )

  const from = (address: string) =>
    send({ body, headers: { authorization: "Bearer guess", "x-forwarded-for": address } })

  it.live("behind a trusted proxy each client has its own count", () =>
    run(
      Effect.gen(function* () {
        const answers = yield* Effect.all([
          from("198.51.100.1"),
          from("198.51.100.1"),
          from("198.51.100.2"),
          // What the client claims stands left of what the proxy has seen.
          from("203.0.113.9, 198.51.100.1")
        ])
        assert.deepStrictEqual(answers.map(status), [401, 429, 401, 429])
      }),
      {
        credentials: both,
        limits: { failuresPerMinute: 1 },
        trustedProxies: [IpNetwork.fromStringUnsafe("127.0.0.0/8")]
      }
    )
  )

  it.live("addresses of IPv6 are counted by their network, of which one client has all", () =>
    run(
      Effect.gen(function* () {
        const answers = yield* Effect.all(["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"].map(from))
        assert.deepStrictEqual(answers.map(status), [401, 429, 401])
      }),
      {
        credentials: both,
        limits: { failuresPerMinute: 1 },
        trustedProxies: [IpNetwork.fromStringUnsafe("127.0.0.0/8")]
      }
    )
  )

  it.live("nobody else's X-Forwarded-For is believed", () =>
    run(
      Effect.gen(function* () {
        const answers = yield* Effect.all([from("198.51.100.1"), from("198.51.100.2")])
        assert.deepStrictEqual(answers.map(status), [401, 429])
      }),
      { credentials: both, limits: { failuresPerMinute: 1 } }
    )
  )

  it.live("deliveries by one credential to one GatewaySync: 429, and no other is concerned", () =>
    run(
      Effect.gen(function* () {
        yield* MemoryApi.use((api) => api.put("other"))
        const to = (name: string, headers: Record<string, string> = bearer) =>
          Effect.map(send({ body, path: `/webhook/plant/${name}`, headers }), status)
        assert.deepStrictEqual(yield* Effect.all([to("site"), to("site"), to("site")]), [202, 202, 429])
        assert.deepStrictEqual(yield* Effect.all([to("other"), to("site", signature(body))]), [202, 202])
        const refused = yield* send({ body, headers: bearer })
        assert.propertyVal(refused.body, "synced", false)
        assert.strictEqual(refused.headers["retry-after"], "30")
      }),
      { credentials: both, limits: { deliveriesPerMinute: 2 } }
    )
  )

  /** Lines of the log that are told by default. */
  const lines = Effect.fnUntraced(function* <E>(attack: Effect.Effect<unknown, E, MemoryApi | HttpServer.HttpServer>) {
    const told: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      told.push(`${logLevel} ${String(message)}`)
    })
    const options = { credentials: both, logger, limits: { failuresPerMinute: 2 } }
    yield* run(attack, options).pipe(Effect.provideService(References.MinimumLogLevel, "Info"))
    return told
  })

  it.live.each([
    ["guesses", Effect.replicateEffect(guess, 5)],
    ["other methods", Effect.replicateEffect(send({ method: "DELETE" }), 5)],
    [
      "what comes before the receiver is ready",
      Effect.andThen(
        MemoryApi.use((api) => api.setReady(false)),
        Effect.replicateEffect(guess, 5)
      )
    ],
    ["a GET of all", Effect.replicateEffect(send({ method: "GET", path: "/webhook" }), 5)],
    [
      "bodies that are too long",
      Effect.replicateEffect(Effect.exit(send({ headers: { "content-length": 5 * mebibyte } })), 5)
    ],
    [
      "bodies that break off",
      Effect.replicateEffect(
        Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* connect
            yield* connection.write(head("Content-Length: 1000") + body)
            yield* connection.end
            yield* connection.closed
          })
        ),
        5
      )
    ]
  ] as const)("of %s only the first are news in the log", ([, attack]) =>
    Effect.map(lines(attack), (told) => assert.lengthOf(told, 2))
  )

  it.live("what is refused of who is let in is news all the while", () =>
    Effect.map(lines(Effect.replicateEffect(send({ body: "{", headers: bearer }), 5)), (told) =>
      assert.lengthOf(told, 5)
    )
  )
})
