import * as Schema from "effect/Schema"

/** No address for the host name. */
const NoSuchHost = Schema.TaggedStruct("NoSuchHost", { host: Schema.String })
/** The host answers, but nothing listens on the port. */
const Refused = Schema.TaggedStruct("Refused", { host: Schema.String })
/** The server's certificate is not trusted, or TLS could not be agreed on. */
const Tls = Schema.TaggedStruct("Tls", { detail: Schema.String })
/** The server wants credentials, or does not take these (HTTP 401, ssh "Permission denied"). */
const Unauthorized = Schema.TaggedStruct("Unauthorized", { sent: Schema.Literals(["nothing", "token", "key"]) })
/** The credentials are known and may not read this repository (HTTP 403). */
const Forbidden = Schema.TaggedStruct("Forbidden", {})
/** The ssh host key is not the one in `knownHosts`. */
const HostKey = Schema.TaggedStruct("HostKey", {})
/** No such repository, or hidden from these credentials (HTTP 404). */
const RepositoryNotFound = Schema.TaggedStruct("RepositoryNotFound", {})
/** The repository has no such branch or tag. */
const RefNotFound = Schema.TaggedStruct("RefNotFound", { ref: Schema.String })
/** The text can be no branch, tag or commit. */
const InvalidRef = Schema.TaggedStruct("InvalidRef", { ref: Schema.String })
/** The server does not hand out this commit, and the ref is elsewhere by now. */
const CommitNotFound = Schema.TaggedStruct("CommitNotFound", { commit: Schema.String, detail: Schema.String })
/** The repository has no commit yet. */
const EmptyRepository = Schema.TaggedStruct("EmptyRepository", {})
/** No answer within the deadline; without `seconds`, within the deadline of git or ssh itself. */
const Timeout = Schema.TaggedStruct("Timeout", { seconds: Schema.optionalKey(Schema.Finite) })
/** Something answers, but it does not speak git's smart protocol. */
const NotAGitServer = Schema.TaggedStruct("NotAGitServer", { detail: Schema.String })
/** The server sends us to another address, where the credentials must not follow. */
const Moved = Schema.TaggedStruct("Moved", { to: Schema.String })
/** The server asks for patience (HTTP 429). */
const RateLimited = Schema.TaggedStruct("RateLimited", { retryAfterSeconds: Schema.optionalKey(Schema.Finite) })
/** Any other trouble on the way. */
const Transport = Schema.TaggedStruct("Transport", { detail: Schema.String })
/** No URL that Stoker takes. */
const UnsupportedUrl = Schema.TaggedStruct("UnsupportedUrl", { detail: Schema.String })
/** A password or token inside the URL. */
const SecretInUrl = Schema.TaggedStruct("SecretInUrl", {})
/** The local clone is broken. */
const Damaged = Schema.TaggedStruct("Damaged", { detail: Schema.String })
/** `git` itself: missing, or failed in a way that is not the server's. */
const Command = Schema.TaggedStruct("Command", { detail: Schema.String })

export const Reason = Schema.Union([
  NoSuchHost,
  Refused,
  Tls,
  Unauthorized,
  Forbidden,
  HostKey,
  RepositoryNotFound,
  RefNotFound,
  InvalidRef,
  CommitNotFound,
  EmptyRepository,
  Timeout,
  NotAGitServer,
  Moved,
  RateLimited,
  Transport,
  UnsupportedUrl,
  SecretInUrl,
  Damaged,
  Command
])
export type Reason = typeof Reason.Type

/**
 * Anything that keeps us from a repository. `message` names the repository, the cause and the way out; it holds no
 * secret. `next` says what the caller should do: `retry` (it can pass, or be put right outside the cluster) or `edit`
 * (it depends on the resource alone, so that nothing changes before somebody edits that).
 */
export class GitError extends Schema.TaggedError<GitError>()("GitError", {
  /** The repository as shown to people: no user info. */
  repository: Schema.String,
  reason: Reason
}) {
  override get message(): string {
    const next = this.next === "retry" ? "Stoker tries again." : "Stoker waits for the edit."
    return `${this.repository}: ${explain(this.reason)} ${next}`
  }

  get next(): "retry" | "edit" {
    switch (this.reason._tag) {
      case "InvalidRef":
      case "UnsupportedUrl":
      case "SecretInUrl":
        return "edit"
      default:
        return "retry"
    }
  }
}

const unauthorized = {
  nothing:
    "the server asks for credentials and none are configured (a private or misspelt repository). Add spec.git.auth.",
  token:
    "the server does not take the credentials. Renew the token in the Secret of spec.git.auth; it may be expired or revoked.",
  key: "the server does not take the ssh key. Register its public half there, or renew the Secret of spec.git.auth.sshKey."
}

const explain = (reason: Reason): string => {
  switch (reason._tag) {
    case "NoSuchHost":
      return `no address found for ${reason.host}. Check the host in spec.git.repo and the cluster's DNS.`
    case "Refused":
      return `${reason.host} refuses the connection. Is the server up, is the port in spec.git.repo right, is a network policy in the way?`
    case "Tls":
      return `no trusted TLS connection (${reason.detail}). For a private CA put its certificate under ca.crt into the Secret that spec.git.auth names (token, or githubApp beside the App's key).`
    case "Unauthorized":
      return unauthorized[reason.sent]
    case "Forbidden":
      return "these credentials may not read the repository (403). Give the token read access to its contents."
    case "HostKey":
      return "the server's ssh host key is not the one in spec.git.auth.sshKey.knownHosts. Make sure that it is the right server, then renew that Secret."
    case "RepositoryNotFound":
      return "no such repository, or not visible to these credentials (404). Check spec.git.repo and the token's access."
    case "RefNotFound":
      return `no branch or tag "${reason.ref}". Push it, or change the ref${
        reason.ref.startsWith("refs/") ? ` (write it short, as ${reason.ref.replace(/^refs\/(heads|tags)\//, "")})` : ""
      }.`
    case "InvalidRef":
      return `${JSON.stringify(reason.ref)} can be no branch, tag or full commit id. Correct it where it stands: in spec.git.ref, or in the annotation stoker.io/requested-ref.`
    case "CommitNotFound":
      return `the server does not hand out commit ${reason.commit} (${reason.detail}). It may have been rewritten away, or the server has not got it yet.`
    case "EmptyRepository":
      return "the repository is empty. Push a first commit."
    case "Timeout":
      return `no answer ${reason.seconds === undefined ? "in time" : `within ${reason.seconds} s`}. The server is slow or unreachable: check it, and network policies and proxies on the way.`
    case "NotAGitServer":
      return `no git repository answers there (${reason.detail}). Take the clone URL for spec.git.repo, not the web page's.`
    case "Moved":
      return `the server sends us on to ${reason.to}, where the credentials are not taken along. Put that address into spec.git.repo.`
    case "RateLimited":
      return `the server asks for patience (429${
        reason.retryAfterSeconds === undefined ? "" : `, ${reason.retryAfterSeconds} s`
      }). Poll less often: spec.polling.interval.`
    case "Transport":
      return `the connection failed (${reason.detail}).`
    case "UnsupportedUrl":
      return `${reason.detail}. Use https://, http://, ssh://, git@host:path or git:// in spec.git.repo.`
    case "SecretInUrl":
      return "the URL holds a password or token. Take it out of spec.git.repo, put it into a Secret and name that in spec.git.auth.token.secretRef."
    case "Damaged":
      return `the local clone is damaged (${reason.detail}). It is replaced by a fresh one.`
    case "Command":
      return `git failed (${reason.detail}).`
  }
}
