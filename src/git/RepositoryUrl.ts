import * as Result from "effect/Result"
import { GitError } from "./GitError.ts"

interface Common {
  /** What git is given. No secret in it; for ssh with the user. */
  readonly href: string
  /** What people see: no user info. */
  readonly display: string
}

/** Smart HTTP. `origin` is scheme, host and port. */
export interface Http extends Common {
  readonly _tag: "Http"
  readonly origin: string
  readonly host: string
  /** The user of the URL, as Azure DevOps writes it in front of the host. */
  readonly user: string | undefined
}

export interface Ssh extends Common {
  readonly _tag: "Ssh"
  readonly host: string
}

/** The anonymous `git://` daemon. */
export interface Git extends Common {
  readonly _tag: "Git"
  readonly host: string
}

export type RepositoryUrl = Http | Ssh | Git

type Scheme = "https" | "http" | "ssh" | "git"

const schemePattern = /^([a-z][a-z0-9+.-]*):\/\//i
const scpPattern = /^(?:([^@/:\s]+)@)?(\[[^\]\s]+\]|[^@/:[\]\s]+):(?!\/\/|:)(.+)$/
const hostPattern = /^(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?)$/i
const userPattern = /^[a-z0-9_.~+][a-z0-9_.~+-]*$/i
/** Tokens of the big forges, which some people put where the user name belongs. */
const tokenPattern = /^(?:gh[a-z]_|github_pat_|glpat-|gldt-|ATCTT|ATBB|[a-z0-9]{52}$)/

const refuse = (repository: string, detail: string) =>
  Result.fail(new GitError({ repository, reason: { _tag: "UnsupportedUrl", detail } }))

const secretInUrl = (repository: string) => Result.fail(new GitError({ repository, reason: { _tag: "SecretInUrl" } }))

const decode = (path: string): string => {
  // A stray % is legal in a scp path; then the text stands for itself.
  const decoded = Result.try(() => decodeURIComponent(path))
  return Result.isSuccess(decoded) ? decoded.success : path
}

const fromUrl = (text: string, scheme: Scheme): Result.Result<RepositoryUrl, GitError> => {
  const shown = withoutUserInfo(text)
  // The URL parser knows ports and dots only of web schemes: borrow one, and put the own scheme back.
  const web = scheme === "https" || scheme === "http"
  const parsed = URL.parse(web ? text : text.replace(schemePattern, "http://"))
  if (parsed === null) return refuse(shown, "this is no URL")
  if (parsed.password !== "" || tokenPattern.test(decode(parsed.username))) return secretInUrl(shown)
  if (parsed.search !== "" || parsed.hash !== "") return refuse(shown, "a repository URL has no ? and no #")
  if (!hostPattern.test(parsed.hostname)) return refuse(shown, "the host is no host name")
  // "http" lets the parser drop 80, which is a port like any other for ssh and git.
  const port = web
    ? parsed.port
    : (/^[^/]*:(\d+)$/.exec(text.replace(schemePattern, "").split("/")[0] ?? "")?.[1] ?? "")
  const path = parsed.pathname
  if (path.replaceAll("/", "") === "") return refuse(shown, "the path of the repository is missing")
  if (/%0|%1|%7f/i.test(path)) return refuse(shown, "the path holds a control character")
  const host = parsed.hostname
  const user = parsed.username === "" ? undefined : decode(parsed.username)
  if (user !== undefined && !userPattern.test(user)) return refuse(shown, "the user name is not usable")
  const authority = `${host}${port === "" ? "" : `:${port}`}`
  const bare = `${scheme}://${authority}${path}`
  switch (scheme) {
    case "https":
    case "http":
      return Result.succeed({
        _tag: "Http",
        href: bare.replace(/\/+$/, ""),
        display: bare,
        origin: `${scheme}://${authority}`,
        host,
        user
      })
    case "ssh": {
      const at = user === undefined ? "" : `${user}@`
      return Result.succeed({ _tag: "Ssh", href: `ssh://${at}${authority}${path}`, display: bare, host })
    }
    case "git":
      return user === undefined
        ? Result.succeed({ _tag: "Git", href: bare, display: bare, host })
        : refuse(shown, "git:// knows no users")
  }
}

const fromScp = (user: string | undefined, host: string, path: string): Result.Result<RepositoryUrl, GitError> => {
  const display = `${host}:${path}`
  // user:password@host/path, a URL without its scheme.
  if (/^[^/]*@/.test(path)) return secretInUrl(withoutUserInfo(display))
  if (!hostPattern.test(host)) return refuse(display, "the host is no host name")
  if (user !== undefined && tokenPattern.test(user)) return secretInUrl(display)
  if (user !== undefined && !userPattern.test(user)) return refuse(display, "the user name is not usable")
  if (path.startsWith("-") || path.startsWith("\\")) return refuse(display, "the path is not usable")
  if (path.replaceAll("/", "") === "") return refuse(display, "the path of the repository is missing")
  return Result.succeed({
    _tag: "Ssh",
    href: `${user === undefined ? "" : `${user}@`}${display}`,
    display,
    host
  })
}

/** Drops everything up to the last @ of the authority, for text that may hold a secret. */
const withoutUserInfo = (text: string): string =>
  text.replace(/^([a-z][a-z0-9+.-]*:\/\/)?[^/]*@/i, (_, scheme: string | undefined) => scheme ?? "").slice(0, 200)

/**
 * Reads `spec.git.repo`: https, http, ssh (`ssh://` and `git@host:path`) or `git://`.
 *
 * Refused, with what to do instead: a password or token in the URL, local paths, `file://` and remote helpers, user
 * info that could be read as an option, query and fragment. Whether two URLs name one repository, `RepositoryIdentity`
 * tells.
 */
export const parse = (text: string): Result.Result<RepositoryUrl, GitError> => {
  const trimmed = text.trim()
  if (trimmed === "") return refuse("spec.git.repo", "it is empty")
  if (/[\s\u0000-\u001f\u007f]/.test(trimmed)) {
    return refuse("spec.git.repo", "a repository URL holds no spaces and no control characters")
  }
  const scheme = schemePattern.exec(trimmed)?.[1]?.toLowerCase()
  switch (scheme) {
    case "https":
    case "http":
    case "ssh":
    case "git":
      return fromUrl(trimmed, scheme)
    case undefined: {
      const scp = scpPattern.exec(trimmed)
      return scp?.[2] === undefined || scp[3] === undefined
        ? refuse(withoutUserInfo(trimmed), "this is no URL of a git server")
        : fromScp(scp[1], scp[2], scp[3])
    }
    default:
      return refuse(withoutUserInfo(trimmed), `${scheme}:// is not supported`)
  }
}
