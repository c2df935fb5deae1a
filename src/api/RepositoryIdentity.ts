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

/** Equal texts for equal repositories, e.g. `github.com/acme/plant`; undefined for what is no URL of a git server. */
export const of = (url: string): string | undefined => {
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
  return path.replaceAll("/", "") === "" ? undefined : identity("ssh", host, "", path)
}

export const isSame = (a: string, b: string): boolean => {
  const left = of(a)
  return left !== undefined && left === of(b)
}
