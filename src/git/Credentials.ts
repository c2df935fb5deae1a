import * as Redacted from "effect/Redacted"

/** Anonymous. `ca` (PEM) is trusted instead of the system's authorities. */
export interface None {
  readonly _tag: "None"
  readonly ca?: string | undefined
}

/** HTTP basic: a token is the password of some user. */
export interface Basic {
  readonly _tag: "Basic"
  readonly username: string
  readonly password: Redacted.Redacted
  readonly ca?: string | undefined
}

/** A private key (OpenSSH or PEM, without passphrase); with `knownHosts` the server must be one of these. */
export interface Ssh {
  readonly _tag: "Ssh"
  readonly privateKey: Redacted.Redacted
  readonly knownHosts?: string | undefined
}

/** What is shown to a git server. Kept in memory only; to git it goes by environment or private file, never by argv. */
export type Credentials = None | Basic | Ssh

export const none: None = { _tag: "None" }

/** A token as the forges take it: user `x-access-token` unless the Secret says another (Bitbucket, deploy tokens). */
export const token = (
  password: Redacted.Redacted,
  options: { readonly username?: string | undefined; readonly ca?: string | undefined } = {}
): Basic => ({ _tag: "Basic", username: options.username ?? "x-access-token", password, ca: options.ca })

export const ssh = (privateKey: Redacted.Redacted, knownHosts?: string): Ssh => ({
  _tag: "Ssh",
  privateKey,
  knownHosts
})

/** The value of the `Authorization` header, where there is one. */
export const authorization = (credentials: Credentials): Redacted.Redacted | undefined =>
  credentials._tag === "Basic"
    ? Redacted.make(
        // A Secret made with `echo` ends in a newline, which is never part of a token.
        `Basic ${Buffer.from(`${credentials.username}:${Redacted.value(credentials.password).trim()}`).toString("base64")}`,
        { label: "authorization" }
      )
    : undefined
