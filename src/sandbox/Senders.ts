/**
 * What each sender posts to the webhook receiver: its own headers, its own proof of who it is, and its body, cut down to
 * what tells it apart. The sandbox's keys and paste lines are made of this, and the tests of the senders' guides.
 */
import { Redacted } from "effect"
import { createHash, createHmac } from "node:crypto"

export type Headers = Readonly<Record<string, string>>

/** The receiver's two secrets. */
export interface Secrets {
  readonly hmac: Redacted.Redacted
  readonly token: Redacted.Redacted
}

/** What there is to tell of the remote. Commits by their full ids. */
export interface Change {
  readonly repository: string
  /** Of `main`, and what it was before. */
  readonly head: string
  readonly before: string
  readonly tag: string
  /** The commit of the tag. */
  readonly tagged: string
}

export interface Post {
  readonly headers: Headers
  /** The header in which the sender gives each delivery an id of its own; absent: it has none. */
  readonly idHeader?: string
  readonly body: string
}

export interface Sender {
  readonly name: string
  /** Whether it moves a GatewaySync to the tag, or wakes those that follow `main`. */
  readonly does: "moves" | "wakes"
  readonly post: (change: Change, secrets: Secrets) => Post
}

const hmac = (body: string, secrets: Secrets): string =>
  createHmac("sha256", Redacted.value(secrets.hmac)).update(body).digest("hex")

export const bearer = (secrets: Secrets): Headers => ({ Authorization: `Bearer ${Redacted.value(secrets.token)}` })

/** How each forge names an event, and proves over the bytes of the body that it is who may. */
export const forges = {
  github: (event: string, body: string, secrets: Secrets): Headers => ({
    "X-GitHub-Event": event,
    "X-Hub-Signature-256": `sha256=${hmac(body, secrets)}`
  }),
  gitlab: (event: string, _body: string, secrets: Secrets): Headers => ({
    "X-Gitlab-Event": event,
    "X-Gitlab-Token": Redacted.value(secrets.token)
  }),
  gitea: (event: string, body: string, secrets: Secrets): Headers => ({
    "X-Gitea-Event": event,
    "X-Gitea-Signature": hmac(body, secrets),
    // For receivers that know GitHub alone.
    "X-GitHub-Event": event,
    "X-Hub-Signature-256": `sha256=${hmac(body, secrets)}`
  }),
  bitbucket: (event: string, body: string, secrets: Secrets): Headers => ({
    "X-Event-Key": event,
    "X-Hook-UUID": "6f3c1a52-9d0e-4c7b-8a45-2b1f0e9d8c7a",
    // Named as GitHub's for SHA-1, yet it is SHA-256.
    "X-Hub-Signature": `sha256=${hmac(body, secrets)}`
  }),
  /** Its event is in the body. */
  "azure-devops": (_event: string, _body: string, secrets: Secrets): Headers => ({
    "X-Vss-ActivityId": "f9a2c7d4-31b8-4e06-9c5d-7e8b6a504f13",
    Authorization: `Basic ${Buffer.from(`stoker:${Redacted.value(secrets.token)}`).toString("base64")}`
  })
} as const

/** GitHub's push event, as far as anybody reads it. */
export const push = (branch: string, before: string, after: string, url: string) => ({
  ref: `refs/heads/${branch}`,
  before,
  after,
  created: false,
  deleted: false,
  forced: false,
  head_commit: { id: after },
  repository: { clone_url: url }
})

const fromForge = (options: {
  readonly name: string
  readonly does: Sender["does"]
  readonly forge: keyof typeof forges
  readonly event: string
  readonly idHeader?: string
  readonly body: (change: Change) => object
}): Sender => ({
  name: options.name,
  does: options.does,
  post: (change, secrets) => {
    const body = JSON.stringify(options.body(change))
    return {
      headers: forges[options.forge](options.event, body, secrets),
      ...(options.idHeader === undefined ? {} : { idHeader: options.idHeader }),
      body
    }
  }
})

const withToken = (name: string, body: (change: Change) => object): Sender => ({
  name,
  does: "moves",
  post: (change, secrets) => ({ headers: bearer(secrets), body: JSON.stringify(body(change)) })
})

/** In the order in which they are shown: the key of each is the last digit of its place. */
export const senders: ReadonlyArray<Sender> = [
  fromForge({
    name: "GitHub push",
    does: "wakes",
    forge: "github",
    event: "push",
    idHeader: "X-GitHub-Delivery",
    body: ({ before, head, repository }) => push("main", before, head, repository)
  }),
  fromForge({
    name: "GitHub release",
    does: "moves",
    forge: "github",
    event: "release",
    idHeader: "X-GitHub-Delivery",
    body: ({ repository, tag }) => ({
      action: "published",
      release: { tag_name: tag, draft: false, prerelease: false },
      repository: { clone_url: repository }
    })
  }),
  fromForge({
    name: "GitLab push",
    does: "wakes",
    forge: "gitlab",
    event: "Push Hook",
    idHeader: "Idempotency-Key",
    body: ({ before, head, repository }) => ({
      object_kind: "push",
      event_name: "push",
      ref: "refs/heads/main",
      before,
      after: head,
      checkout_sha: head,
      project: { git_http_url: repository }
    })
  }),
  fromForge({
    name: "Gitea push",
    does: "wakes",
    forge: "gitea",
    event: "push",
    idHeader: "X-Gitea-Delivery",
    body: ({ before, head, repository }) => ({
      ref: "refs/heads/main",
      before,
      after: head,
      total_commits: 1,
      head_commit: { id: head },
      repository: { clone_url: repository }
    })
  }),
  fromForge({
    name: "Bitbucket push",
    does: "wakes",
    forge: "bitbucket",
    event: "repo:push",
    idHeader: "X-Request-UUID",
    body: ({ before, head, repository }) => ({
      push: {
        changes: [
          {
            old: { type: "branch", name: "main", target: { hash: before } },
            new: { type: "branch", name: "main", target: { hash: head } },
            closed: false
          }
        ]
      },
      repository: { links: { html: { href: repository } } }
    })
  }),
  fromForge({
    name: "Azure DevOps push",
    does: "wakes",
    forge: "azure-devops",
    event: "git.push",
    body: ({ before, head, repository }) => ({
      // Its ids are in the body, so a repetition is known as one.
      id: uuidOf(head),
      notificationId: 1,
      eventType: "git.push",
      publisherId: "tfs",
      resource: {
        refUpdates: [{ name: "refs/heads/main", oldObjectId: before, newObjectId: head }],
        repository: { remoteUrl: repository }
      }
    })
  }),
  withToken("ArgoCD notification", ({ tag }) => ({ app: { metadata: { annotations: { "git.ref": tag } } } })),
  withToken("Kargo step", ({ repository, tag, tagged }) => ({
    freight: { commits: [{ repoURL: repository, id: tagged, tag }] }
  })),
  {
    name: "CI, signed",
    does: "moves",
    post: ({ tag }, secrets) => {
      const body = JSON.stringify({ ref: tag })
      return {
        headers: { "X-Hub-Signature-256": `sha256=${hmac(body, secrets)}` },
        idHeader: "Idempotency-Key",
        body
      }
    }
  },
  withToken("generic", ({ tag }) => ({ ref: tag }))
]

const uuidOf = (text: string): string =>
  createHash("sha256")
    .update(text)
    .digest("hex")
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, "$1-$2-$3-$4-$5")

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

/** A line for a shell, which prints the answer and its status. Each time it is run, the delivery has another id. */
export const shellLine = (url: string, { body, headers, idHeader }: Post): string =>
  [
    `curl -sS -X POST ${quoted(url)}`,
    ...Object.entries({ "Content-Type": "application/json", ...headers }).map(
      ([name, value]) => `-H ${quoted(`${name}: ${value}`)}`
    ),
    ...(idHeader === undefined ? [] : [`-H "${idHeader}: $(date +%s)-$$"`]),
    `-d ${quoted(body)} -w ' %{http_code}\\n'`
  ].join(" ")
