/**
 * Whether two URLs name one repository, however they are written: ssh, https or scp form, letter case, default port,
 * user, `.git`, trailing slash. For telling which repository a webhook speaks of; never for connecting, and never for
 * deciding who may use a credential.
 *
 * Look-alikes differ: another host (`github.com.example.org`), a longer name (`site-2`), another port.
 */
import { Result } from "effect"

const defaultPorts: Readonly<Record<string, string>> = { https: "443", http: "80", ssh: "22", git: "9418" }

/** Hosts of the forges that listen for ssh under another name (port 443, for firewalls). */
const sshAliases: Readonly<Record<string, string>> = {
  "ssh.github.com": "github.com",
  "altssh.gitlab.com": "gitlab.com",
  "altssh.bitbucket.org": "bitbucket.org",
  "ssh.dev.azure.com": "dev.azure.com"
}

const urlPattern = /^([a-z]+):\/\/(?:[^@/]*@)?(\[[0-9a-f:.]+\]|[^@/:[\]]+)(?::(\d*))?(\/[^?#]*)$/i
const scpPattern = /^(?:[^@/:]+@)?(\[[0-9a-f:.]+\]|[^@/:[\]]+):(?!\/\/)([^?#]+)$/i

const unescape = (path: string): string =>
  // A stray % is legal in a scp path; then the text stands for itself.
  Result.getOrElse(
    Result.try(() => decodeURIComponent(path)),
    () => path
  )

const identity = (scheme: string, host: string, port: string, path: string): string => {
  const lower = host.toLowerCase().replace(/\.$/, "")
  const alias = scheme === "ssh" ? sshAliases[lower] : undefined
  const plain = unescape(path)
    .toLowerCase()
    .replace(/\/{2,}/g, "/")
    .replace(/^\/|\/$/g, "")
    .replace(/\.git$/, "")
    .replace(/\/$/, "")
  // Azure writes one repository as v3/org/project/repo for ssh and as org/project/_git/repo for https.
  const azure = alias === "dev.azure.com" ? plain.replace(/^v3\/([^/]+)\/([^/]+)\/([^/]+)$/, "$1/$2/_git/$3") : plain
  const shownPort = port === "" || port === defaultPorts[scheme] || alias !== undefined ? "" : `:${port}`
  return `${alias ?? lower}${shownPort}/${azure}`
}

const anyHost = /^\?\/[^/\s]+\/[^/\s]+$/

/** How a sender names a repository that does not tell its host: `?/project/name`. */
export const onAnyHost = (project: string, name: string): string => `?/${project}/${name}`.toLowerCase()

/** Longer ones are none. */
const longestUrl = 2048

/** Equal texts for equal repositories, e.g. `github.com/acme/plant`; undefined for what is no URL of a git server. */
export const of = (url: string): string | undefined => {
  if (url.length > longestUrl) return undefined
  const text = url.trim()
  if (/[\s\u0000-\u001f\u007f]/.test(text)) return undefined
  const parts = urlPattern.exec(text)
  if (parts !== null) {
    const [, scheme = "", host = "", port = "", path = ""] = parts
    const known = scheme.toLowerCase()
    return Object.hasOwn(defaultPorts, known) && path.replaceAll("/", "") !== ""
      ? identity(known, host, port, path)
      : undefined
  }
  const scp = scpPattern.exec(text)
  if (scp === null) return undefined
  const [, host = "", path = ""] = scp
  // user:password@host/path, a URL without its scheme.
  if (/^[^/]*@/.test(path)) return undefined
  return path.replaceAll("/", "") === "" ? undefined : identity("ssh", host, "", path)
}

/** Under what a repository of that URL may be spoken of: its identity, and its last two names on any host. */
export const names = (url: string): ReadonlyArray<string> => {
  const identity = of(url)
  if (identity === undefined) return []
  const [name, project, ...rest] = identity.split("/").toReversed()
  return rest.length === 0 || project === undefined || name === undefined
    ? [identity]
    : [identity, onAnyHost(project, name)]
}

/** The one of {@link names} that a sender has used: a URL in whatever form, or {@link onAnyHost}. */
export const nameIn = (said: string): string | undefined =>
  said.length <= longestUrl && anyHost.test(said) ? said.toLowerCase() : of(said)

/** For people: never as it was written, since a URL may hold a password, and no longer than one looks at. */
export const shown = (said: string): string => {
  const name = nameIn(said) ?? "one of no known form"
  return name.length > 128 ? `${name.slice(0, 128)}…` : name
}

/** Name of the index of a store by {@link names}. */
export const index = "repository-name"

/** @param said as a sender names a repository */
export const speaksOf = (said: string, url: string): boolean => {
  const name = nameIn(said)
  return name !== undefined && names(url).includes(name)
}

/** Whether two URLs name one repository. */
export const isSame = (a: string, b: string): boolean => {
  const left = of(a)
  return left !== undefined && left === of(b)
}
