import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Effect, Fiber, FileSystem, Layer, Redacted } from "effect"
import { spawn } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import * as Net from "node:net"
import * as Credentials from "../../src/git/Credentials.ts"
import { classify, GitCommand } from "../../src/git/GitCommand.ts"
import { RemoteRefs } from "../../src/git/RemoteRefs.ts"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"
import { GitServer, makeRepository } from "./HttpBackend.ts"

const TestLayer = Layer.mergeAll(GitServer.layer, GitCommand.layer).pipe(Layer.provideMerge(NodeServices.layer))

const secret = "s3cret-marked"

const urlOf = (text: string) => Effect.fromResult(RepositoryUrl.parse(text))

/** The processes whose environment or argv holds the mark. */
const processesWith = (file: "cmdline" | "environ", mark: string) =>
  readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/${file}`, "latin1").includes(mark)
    } catch {
      return false
    }
  })

layer(TestLayer, { excludeTestServices: true })("GitCommand", (it) => {
  it.effect("keeps secrets out of argv and errors, and ends git with all its helpers at the deadline", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const git = yield* GitCommand
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const arrived = Promise.withResolvers<string | undefined>()
      // Takes the request and never answers.
      server.setFault((request) => {
        arrived.resolve(request.headers.authorization)
        return true
      })
      const remote = {
        url: yield* urlOf(server.url("hung.git")),
        credentials: Credentials.token(Redacted.make(secret))
      }
      const header = Buffer.from(`x-access-token:${secret}`).toString("base64")
      const fiber = yield* Effect.forkChild(
        Effect.flip(git.run(["ls-remote", remote.url.href], { remote, deadline: "1 second" }))
      )
      assert.strictEqual(yield* Effect.promise(() => arrived.promise), `Basic ${header}`)
      const helpers = processesWith("cmdline", "remote-http")
      assert.isNotEmpty(helpers)
      for (const mark of [secret, header]) assert.deepStrictEqual(processesWith("cmdline", mark), [])
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(error.reason, { _tag: "Timeout", seconds: 1 })
      assert.notInclude(JSON.stringify(error) + error.message + String(error.stack), secret)
      assert.deepStrictEqual(
        processesWith("cmdline", "remote-http").filter((pid) => helpers.includes(pid)),
        []
      )
    })
  )

  it.effect("sends the header to the URL's own server only", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const git = yield* GitCommand
      const repository = yield* makeRepository("target.git")
      yield* repository.commit({ a: "1" })
      yield* repository.push()
      yield* Effect.addFinalizer(() => Effect.sync(() => server.setFault(undefined)))
      const shown: Array<string | undefined> = []
      server.setFault((request, response) => {
        if (request.url?.startsWith("/moved.git") !== true) {
          shown.push(request.headers.authorization)
          return false
        }
        const location = `${server.origin.replace("127.0.0.1", "localhost")}${request.url.replace("moved", "target")}`
        response.writeHead(301, { location }).end()
        return true
      })
      const url = yield* urlOf(server.url("moved.git"))
      const run = (credentials: Credentials.Credentials) =>
        git.run(["ls-remote", url.href], { remote: { url, credentials } })
      assert.include(Buffer.from(yield* run(Credentials.none)).toString(), "refs/heads/main")
      const error = yield* Effect.flip(run(Credentials.token(Redacted.make(secret))))
      assert.strictEqual(error.reason._tag, "Moved")
      assert.isTrue(shown.every((header) => header === undefined))
    })
  )

  it.effect("sees nothing of the machine: no user configuration, no other protocol, no prompt", () =>
    Effect.gen(function* () {
      const git = yield* GitCommand
      const repository = yield* makeRepository("local.git")
      const origins = Buffer.from(yield* git.run(["config", "--list", "--show-origin"])).toString()
      assert.isTrue(
        origins
          .trim()
          .split("\n")
          .every((line) => line.startsWith("command line:")),
        origins
      )
      const local = yield* Effect.flip(git.run(["ls-remote", repository.bare]))
      assert.include(local.message, "transport 'file' not allowed")
      const ext = yield* Effect.flip(git.run(["ls-remote", "ext::sh -c true"]))
      assert.include(ext.message, "transport 'ext' not allowed")
    })
  )

  it.effect("speaks git://, and tells what is wrong there", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const repository = yield* makeRepository("daemon.git")
      const first = yield* repository.commit({ a: "1" })
      repository.git("tag", "-a", "-m", "t", "main")
      const second = yield* repository.commit({ a: "2" })
      yield* repository.push("HEAD:refs/heads/main", "HEAD:refs/heads/dev", "HEAD:refs/heads/x/dev", "refs/tags/*")
      const daemon = yield* Effect.acquireRelease(
        Effect.callback<{ readonly port: number; readonly end: () => void }>((resume) => {
          // Inetd style: one `git daemon` a connection, so that the port is ours.
          const listener = Net.createServer((socket) => {
            const child = spawn(
              "git",
              ["daemon", "--inetd", "--export-all", `--base-path=${server.root}`, server.root],
              { stdio: ["pipe", "pipe", "ignore"] }
            )
            socket.pipe(child.stdin)
            child.stdout.pipe(socket)
            socket.on("error", () => child.kill())
          })
          listener.listen(0, "127.0.0.1", () =>
            resume(
              Effect.succeed({ port: (listener.address() as Net.AddressInfo).port, end: () => void listener.close() })
            )
          )
        }),
        ({ end }) => Effect.sync(end)
      )
      const refs = yield* RemoteRefs
      const resolve = Effect.fnUntraced(function* (name: string, ref: string) {
        const url = yield* urlOf(`git://127.0.0.1:${daemon.port}/${name}`)
        return yield* refs.resolve({ url, credentials: Credentials.none, ref })
      })
      assert.deepStrictEqual(yield* resolve("daemon.git", "main"), { ref: "main", kind: "tag", commit: first })
      assert.deepStrictEqual(yield* resolve("daemon.git", "dev"), { ref: "dev", kind: "branch", commit: second })
      assert.strictEqual((yield* Effect.flip(resolve("daemon.git", "none"))).reason._tag, "RefNotFound")
      assert.strictEqual((yield* Effect.flip(resolve("missing.git", "dev"))).reason._tag, "RepositoryNotFound")
      const empty = yield* makeRepository("daemon-empty.git")
      assert.include(empty.url, "daemon-empty")
      assert.strictEqual((yield* Effect.flip(resolve("daemon-empty.git", "dev"))).reason._tag, "EmptyRepository")
    }).pipe(Effect.provide(RemoteRefs.layer))
  )

  it.effect("gives ssh a private key file that is gone afterwards, and strict host keys where they are known", () =>
    Effect.gen(function* () {
      const server = yield* GitServer
      const fs = yield* FileSystem.FileSystem
      const repository = yield* makeRepository("over-ssh.git")
      const commit = yield* repository.commit({ a: "1" })
      yield* repository.push()
      // An `ssh` that notes how it was called and runs the far end here.
      const bin = yield* fs.makeTempDirectoryScoped({ prefix: "stoker-test-ssh-" })
      const script = `#!/bin/sh
printf '%s\\n' "$@" > "${bin}/argv"
previous=
for word in "$@"; do
  case "$previous" in -i) cat "$word" > "${bin}/key"; stat -c %a "$word" > "${bin}/mode";; esac
  case "$word" in UserKnownHostsFile=/dev/null) ;; UserKnownHostsFile=*) cat "\${word#*=}" > "${bin}/known";; esac
  previous=$word
done
for last in "$@"; do :; done
cd "${server.root}" && eval "$last"
`
      yield* fs.writeFileString(`${bin}/ssh`, script, { mode: 0o755 })
      const withFakeSsh = Layer.fresh(RemoteRefs.layer).pipe(
        Layer.provide(Layer.fresh(GitCommand.layer)),
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: { PATH: `${bin}:${process.env["PATH"]}` } })))
      )
      const resolve = Effect.fnUntraced(function* (credentials: Credentials.Credentials) {
        const refs = yield* RemoteRefs
        return yield* refs.resolve({ url: yield* urlOf("git@host.local:over-ssh.git"), credentials, ref: "main" })
      }, Effect.provide(withFakeSsh))
      const read = (name: string) => readFileSync(`${bin}/${name}`, "utf8")

      const key = `-----BEGIN KEY-----\r\n${secret}\r\n-----END KEY-----`
      const known = "host.local ssh-ed25519 AAAA"
      const resolved = yield* resolve(Credentials.ssh(Redacted.make(key), known))
      assert.strictEqual(resolved.commit, commit)
      assert.strictEqual(read("key"), `-----BEGIN KEY-----\n${secret}\n-----END KEY-----\n`)
      assert.strictEqual(read("mode"), "600\n")
      assert.strictEqual(read("known"), `${known}\n`)
      assert.include(read("argv"), "StrictHostKeyChecking=yes")
      assert.notInclude(read("argv"), secret)
      const keyFile = /-i\n(.*)\n/.exec(read("argv"))?.[1] ?? ""
      assert.isNotEmpty(keyFile)
      assert.isFalse(yield* fs.exists(keyFile))
      yield* resolve(Credentials.ssh(Redacted.make(key)))
      assert.include(read("argv"), "StrictHostKeyChecking=no")
    })
  )

  it.effect("reads what git and ssh say", () =>
    Effect.sync(() => {
      const said: ReadonlyArray<readonly [string, string]> = [
        ["fatal: unable to access 'https://h/': Could not resolve host: h", "NoSuchHost"],
        ["ssh: Could not resolve hostname h: Name or service not known", "NoSuchHost"],
        ["fatal: unable to access 'http://h/': Failed to connect to h port 1: Connection refused", "Refused"],
        ["ssh: connect to host h port 22: Connection refused", "Refused"],
        ["fatal: unable to access 'https://h/': SSL certificate problem: self-signed certificate", "Tls"],
        ["fatal: unable to access 'https://h/': server certificate verification failed. CAfile: none", "Tls"],
        ["fatal: could not read Username for 'https://h': terminal prompts disabled", "Unauthorized"],
        ["git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", "Unauthorized"],
        ["fatal: unable to access 'https://h/': The requested URL returned error: 403", "Forbidden"],
        ["Host key verification failed.\nfatal: Could not read from remote repository.", "HostKey"],
        ["fatal: repository 'https://h/a.git/' not found", "RepositoryNotFound"],
        ["ERROR: Repository not found.\nfatal: Could not read from remote repository.", "RepositoryNotFound"],
        ["fatal: '/a.git' does not appear to be a git repository", "RepositoryNotFound"],
        [`fatal: remote error: upload-pack: not our ref ${"a".repeat(40)}`, "CommitNotFound"],
        [`error: Server does not allow request for unadvertised object ${"a".repeat(40)}`, "CommitNotFound"],
        ["fatal: couldn't find remote ref refs/heads/x", "RefNotFound"],
        ["fatal: https://h/a/info/refs not valid: is this a git repository?", "NotAGitServer"],
        ["error: RPC failed; curl 56 Recv failure\nfatal: early EOF", "Transport"],
        ["fatal: write error: No space left on device\nfatal: unpack-objects failed, packfile", "Command"],
        ["fatal: bad object refs/stoker/applied", "Damaged"],
        ["fatal: not a git repository: '/x'", "Damaged"],
        ["ssh: connect to host h port 22: Connection timed out", "Timeout"],
        ["something new", "Command"]
      ]
      for (const [text, tag] of said) assert.strictEqual(classify(text, undefined)._tag, tag, text)
    })
  )
})
