import { Effect } from "effect"
import { spawn } from "node:child_process"
import type { EventEmitter } from "node:events"
import type { AddressInfo } from "node:net"
import ssh2, { type Authentication, type Channel, type Client } from "ssh2"

export const generateKey = () => ssh2.utils.generateKeyPairSync("ed25519")

/**
 * A real ssh server on loopback that serves the bare repositories of a folder to the holder of one key, with whatever
 * protocol the client asks for. @param publicKey may change
 */
export const makeSshServer = Effect.fnUntraced(function* (root: string, publicKey: () => string) {
  const hostKey = generateKey()
  const clients = new Set<Client>()

  const authenticate = (attempt: Authentication) => {
    const { blob, hashAlgo, signature } = attempt
    const key = ssh2.utils.parseKey(publicKey())
    const isKnown = attempt.method === "publickey" && attempt.key.data.equals(key.getPublicSSH())
    const isSigned = signature === undefined || (blob !== undefined && key.verify(blob, signature, hashAlgo) === true)
    if (isKnown && isSigned) attempt.accept()
    else attempt.reject(["publickey"])
  }

  const onSession = (accept: () => EventEmitter) => {
    const session = accept()
    let protocol = ""
    session.on(
      "env",
      (acceptVariable: (() => void) | undefined, _: unknown, variable: { key: string; val: string }) => {
        if (variable.key === "GIT_PROTOCOL") protocol = variable.val
        acceptVariable?.()
      }
    )
    session.on("exec", (acceptCommand: () => Channel, _: unknown, { command }: { command: string }) => {
      const channel = acceptCommand()
      const name = /^git-upload-pack '\/(.*)'$/.exec(command)?.[1] ?? "nothing"
      const child = spawn("git", ["-c", "safe.directory=*", "upload-pack", `${root}/${name}`], {
        env: {
          PATH: process.env["PATH"],
          GIT_PROTOCOL: protocol,
          GIT_CONFIG_NOSYSTEM: "1",
          GIT_CONFIG_GLOBAL: "/dev/null"
        }
      })
      child.stdin.on("error", () => {})
      channel.on("error", () => {})
      channel.pipe(child.stdin)
      child.stdout.pipe(channel, { end: false })
      child.stderr.pipe(channel.stderr, { end: false })
      child.on("close", (code) => {
        channel.exit(code ?? 1)
        channel.end()
      })
    })
  }

  const server = new ssh2.Server({ hostKeys: [hostKey.private] }, (client) => {
    clients.add(client)
    client.on("close", () => clients.delete(client))
    client.on("error", () => {})
    client.on("authentication", authenticate)
    client.on("session", onSession)
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const client of clients) client.end()
      })
  )
  const { port } = server.address() as AddressInfo
  return {
    url: (name: string) => `ssh://git@127.0.0.1:${port}/${name}`,
    /** A line of `known_hosts` with this public key. */
    knownHost: (publicKey: string) => `[127.0.0.1]:${port} ${publicKey}`,
    hostKey: hostKey.public
  }
})
