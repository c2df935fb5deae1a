/**
 * Whether two URLs name one repository, however they are written: ssh, https or scp form, letter case, default port,
 * user, `.git`, trailing slash. For telling which repository a webhook speaks of; never for connecting, and never for
 * deciding who may use a credential.
 *
 * Look-alikes differ: another host (`github.com.example.org`), a longer name (`site-2`), another port.
 */
import { Brand, Predicate, Result } from "effect"

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

/**
 * What a message and an index call a repository: its identity, or its last two names on any host (`?/acme/plant`). Made
 * here alone, so that no sender's text is taken for one.
 */
export type Name = Brand.Branded<string, "RepositoryName">
const named = Brand.nominal<Name>()

/** None is called so. */
const unknown = named("one of no known form")

const anyHost = /^\?\/[^/\s]+\/[^/\s]+$/

/** How a sender names a repository that does not tell its host. */
export const onAnyHost = (project: string, name: string): Name => {
  const text = `?/${project}/${name}`.toLowerCase()
  return text.length <= longestUrl && anyHost.test(text) ? named(text) : unknown
}

/** Under what a repository of that URL may be spoken of. */
export const names = (url: string): ReadonlyArray<Name> => {
  const identity = of(url)
  if (identity === undefined) return []
  const [name, project, ...rest] = identity.split("/").toReversed()
  return rest.length === 0 || project === undefined || name === undefined
    ? [named(identity)]
    : [named(identity), onAnyHost(project, name)].filter((name) => name !== unknown)
}

/** What the URLs call it by which a sender names a repository; none when it says none. */
export const said = (urls: ReadonlyArray<string | null | undefined>): ReadonlyArray<Name> => [
  ...new Set(urls.flatMap((url) => (Predicate.isNotNullish(url) && url !== "" ? [nameOf(url)] : [])))
]

const nameOf = (url: string): Name => {
  const identity = of(url)
  return identity === undefined ? unknown : named(identity)
}

/** For people, no longer than one looks at. */
export const shown = (name: Name): string => (name.length > 128 ? `${name.slice(0, 128)}…` : name)

/** Name of the index of a store by {@link names}. */
export const index = "repository-name"
