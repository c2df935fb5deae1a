/** The part of GitHub's API that gives tokens to Apps. */
import { Effect } from "effect"
import { createVerify, generateKeyPairSync } from "node:crypto"
import { createServer, type RequestListener } from "node:http"
import { createServer as createTlsServer } from "node:https"
import { listen } from "../Loopback.ts"

export interface FakeGitHub {
  readonly url: string
  /** PEM (PKCS#1), as GitHub gives it. */
  readonly privateKey: string
  /** Claims of every request whose signature was right. */
  readonly claims: ReadonlyArray<{ readonly iss: string; readonly iat: number; readonly exp: number }>
  /** What is answered from now on to a request with the right signature. */
  readonly answer: (status: number, body: object) => void
}

const makeOver = Effect.fnUntraced(function* (tls?: { readonly key: string; readonly cert: string }) {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    privateKeyEncoding: { type: "pkcs1", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" }
  })
  const claims: Array<FakeGitHub["claims"][number]> = []
  let next = { status: 404, body: {} }
  const answer: RequestListener = (request, response) => {
    const [head = "", payload = "", signature = ""] = (request.headers.authorization ?? "").slice(7).split(".")
    const isRight = createVerify("RSA-SHA256")
      .update(`${head}.${payload}`)
      .verify(publicKey, Buffer.from(signature, "base64url"))
    const isKnown = request.method === "POST" && request.url === "/app/installations/42/access_tokens"
    if (isRight) claims.push(JSON.parse(Buffer.from(payload, "base64url").toString()))
    const { body, status } = isRight ? (isKnown ? next : { status: 404, body: {} }) : { status: 401, body: {} }
    response.writeHead(status, { "content-type": "application/json" })
    response.end(JSON.stringify(body))
  }
  const server = tls === undefined ? createServer(answer) : createTlsServer(tls, answer)
  const port = yield* listen(server)
  const github: FakeGitHub = {
    url: `${tls === undefined ? "http://127.0.0.1" : "https://localhost"}:${port}`,
    privateKey,
    claims,
    answer: (status, body) => {
      next = { status, body }
    }
  }
  return github
})

export const make = makeOver()

/** Over https, as `localhost`, with a certificate. */
export const makeTls = makeOver
