import * as NodeServices from "@effect/platform-node/NodeServices"
import { Context, Effect, FileSystem, Layer, Path } from "effect"
import { execFileSync, spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import * as Http from "node:http"
import * as Https from "node:https"
import type { AddressInfo } from "node:net"
import { listen } from "../Loopback.ts"

/** What the server does with a request instead of serving it. */
export type Fault = (request: Http.IncomingMessage, response: Http.ServerResponse) => boolean

/** A real git server on loopback: `git http-backend` behind node:http, with a counter and a place for faults. */
export interface HttpBackend {
  /** The folder with the bare repositories. */
  readonly root: string
  readonly origin: string
  readonly url: (name: string) => string
  /** `METHOD path?query` of every request so far. */
  readonly requests: Array<string>
  /** Bytes of all answers so far. */
  readonly sent: () => number
  readonly setFault: (fault: Fault | undefined) => void
}

export class GitServer extends Context.Service<GitServer, HttpBackend>()("test/git/GitServer") {
  static readonly layer = Layer.effect(
    GitServer,
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const root = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-test-git-" })
      const requests: Array<string> = []
      let sent = 0
      let fault: Fault | undefined
      const server = yield* Effect.acquireRelease(
        Effect.callback<Http.Server>((resume) => {
          const server = Http.createServer((request, response) => {
            requests.push(`${request.method} ${request.url}`)
            if (fault?.(request, response) !== true) serve(root, request, response, (bytes) => (sent += bytes))
          })
          server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) =>
          Effect.callback<void>((resume) => {
            server.close(() => resume(Effect.void))
            server.closeAllConnections()
          })
      )
      const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      return {
        root,
        origin,
        url: (name) => `${origin}/${name}`,
        requests,
        sent: () => sent,
        setFault: (next) => (fault = next)
      }
    })
  ).pipe(Layer.provide(NodeServices.layer))
}

/** Answers one request as a git server does. Waits for a slow reader. */
export const serve = (
  root: string,
  request: Http.IncomingMessage,
  response: Http.ServerResponse,
  count: (bytes: number) => void
) => {
  const url = new URL(request.url ?? "/", "http://localhost")
  const child = spawn("git", ["http-backend"], {
    env: {
      PATH: process.env["PATH"],
      GIT_PROJECT_ROOT: root,
      GIT_HTTP_EXPORT_ALL: "1",
      GIT_CONFIG_COUNT: "1",
      GIT_CONFIG_KEY_0: "safe.directory",
      GIT_CONFIG_VALUE_0: "*",
      PATH_INFO: decodeURIComponent(url.pathname),
      QUERY_STRING: url.search.slice(1),
      REQUEST_METHOD: request.method,
      CONTENT_TYPE: request.headers["content-type"] ?? "",
      HTTP_CONTENT_ENCODING: request.headers["content-encoding"] ?? "",
      GIT_PROTOCOL: String(request.headers["git-protocol"] ?? ""),
      REMOTE_ADDR: "127.0.0.1"
    },
    stdio: ["pipe", "pipe", "ignore"]
  })
  request.pipe(child.stdin)
  child.stdin.on("error", () => {})
  response.on("close", () => child.kill())
  let head: Buffer | undefined = Buffer.alloc(0)
  child.stdout.on("data", (chunk: Buffer) => {
    if (head === undefined) {
      count(chunk.length)
      if (!response.write(chunk)) {
        child.stdout.pause()
        response.once("drain", () => child.stdout.resume())
      }
      return
    }
    head = Buffer.concat([head, chunk])
    const end = head.indexOf("\r\n\r\n")
    if (end < 0) return
    for (const line of head.subarray(0, end).toString().split("\r\n")) {
      const [name = "", value = ""] = line.split(/: (.*)/)
      if (name === "Status") response.statusCode = Number.parseInt(value, 10)
      else response.setHeader(name, value)
    }
    const body = head.subarray(end + 4)
    head = undefined
    count(body.length)
    response.write(body)
  })
  child.on("close", () => response.end())
}

export const pem = (name: "cert" | "key") =>
  readFileSync(new URL(`../ignition/localhost-tls/${name}.pem`, import.meta.url), "utf8")

/** The same repositories over https, with a certificate of its own for `localhost`. */
export const listenTls = Effect.gen(function* () {
  const { root } = yield* GitServer
  const server = Https.createServer({ key: pem("key"), cert: pem("cert") }, (request, response) =>
    serve(root, request, response, () => {})
  )
  return `https://localhost:${yield* listen(server)}`
})

const author = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]

/** Runs git for the test itself; the output without its last newline. */
export const git = (cwd: string, ...args: ReadonlyArray<string>): string =>
  execFileSync("git", [...author, ...args], {
    cwd,
    env: { PATH: process.env["PATH"], GIT_CONFIG_NOSYSTEM: "1", GIT_CONFIG_GLOBAL: "/dev/null" },
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1 << 26
  })
    .toString()
    .replace(/\n$/, "")

/** A working tree that pushes to a fresh bare repository of the server. */
export const makeRepository = Effect.fnUntraced(function* (name: string) {
  const server = yield* GitServer
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const bare = path.join(server.root, name)
  const work = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-test-work-" })
  git(server.root, "init", "-q", "--bare", bare)
  git(bare, "config", "uploadpack.allowFilter", "true")
  git(work, "init", "-q")
  git(work, "remote", "add", "origin", bare)
  const commit = Effect.fnUntraced(function* (
    files: Readonly<Record<string, string | Uint8Array>>,
    message = "change"
  ) {
    for (const [file, content] of Object.entries(files)) {
      yield* fs.makeDirectory(path.dirname(path.join(work, file)), { recursive: true })
      yield* typeof content === "string"
        ? fs.writeFileString(path.join(work, file), content)
        : fs.writeFile(path.join(work, file), content)
    }
    git(work, "add", "-A")
    git(work, "commit", "-q", "--allow-empty", "-m", message)
    return git(work, "rev-parse", "HEAD")
  })
  const push = (...refs: ReadonlyArray<string>) =>
    Effect.sync(() => git(work, "push", "-q", "--force", "origin", ...(refs.length === 0 ? ["HEAD:main"] : refs)))
  return {
    bare,
    work,
    url: server.url(name),
    commit,
    push,
    git: (...args: ReadonlyArray<string>) => git(work, ...args),
    gitAtServer: (...args: ReadonlyArray<string>) => git(bare, ...args)
  }
})
