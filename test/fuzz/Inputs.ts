/** What the fuzzer sends: real payloads with something wrong in them, JSON of the right keys with anything as values, and noise. */
import * as fc from "fast-check"
import { createRequire } from "node:module"

export interface Input {
  readonly path: string
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}

interface Example {
  /** The header that its sender gives it; none where it has none. */
  readonly mark: string
  readonly event: string
  readonly body: unknown
}

const octokit = createRequire(import.meta.url)("@octokit/webhooks-examples") as ReadonlyArray<{
  readonly name: string
  readonly examples: ReadonlyArray<unknown>
}>

const sha = "0123456789abcdef0123456789abcdef01234567"
const url = "https://github.com/acme/plant.git"

/** One of each kind of message that asks for something, beside GitHub's examples. */
const others: ReadonlyArray<Example> = [
  {
    mark: "x-github-event",
    event: "push",
    body: { ref: "refs/heads/main", before: sha, after: sha, repository: { clone_url: url } }
  },
  {
    mark: "x-github-event",
    event: "release",
    body: { action: "published", release: { tag_name: "v2" }, repository: { clone_url: url } }
  },
  {
    mark: "x-gitlab-event",
    event: "Push Hook",
    body: { object_kind: "push", ref: "refs/heads/main", checkout_sha: sha, project: { git_http_url: url } }
  },
  {
    mark: "x-gitlab-event",
    event: "Release Hook",
    body: { object_kind: "release", action: "create", tag: "v2", commit: { id: sha }, project: {} }
  },
  {
    mark: "x-hook-uuid",
    event: "repo:push",
    body: {
      push: { changes: [{ old: null, new: { type: "branch", name: "main", target: { hash: sha } } }] },
      repository: { links: { html: { href: url } } }
    }
  },
  {
    mark: "x-event-key",
    event: "repo:refs_changed",
    body: {
      eventKey: "repo:refs_changed",
      changes: [{ ref: { id: "refs/heads/main" }, fromHash: sha, toHash: sha, type: "UPDATE" }],
      repository: { slug: "plant", project: { key: "acme" }, links: { clone: [{ href: url }] } }
    }
  },
  {
    mark: "x-vss-activityid",
    event: "git.push",
    body: {
      id: "1",
      eventType: "git.push",
      publisherId: "tfs",
      resource: {
        refUpdates: [{ name: "refs/heads/main", oldObjectId: sha, newObjectId: sha }],
        repository: { remoteUrl: url }
      }
    }
  },
  { mark: "", event: "", body: { app: { metadata: { annotations: { "git.ref": "v2" } } } } },
  { mark: "", event: "", body: { freight: { commits: [{ tag: "v2", id: sha, repoURL: url }] } } },
  { mark: "", event: "", body: { ref: "v2", commit: sha, repoURL: url } }
]

const examples: ReadonlyArray<Example> = [
  // As often as the many of GitHub, of which most ask for nothing.
  ...Array.from({ length: 20 }, () => others).flat(),
  ...octokit.flatMap(({ examples, name }) => examples.map((body) => ({ mark: "x-github-event", event: name, body })))
]

/** What has broken receivers before. */
const hostile = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    0,
    -1,
    1.1,
    Number.MAX_VALUE,
    "",
    "<no value>",
    "refs/heads/",
    "refs/heads/refs/heads/main",
    "refs/pull/1/merge",
    "--upload-pack=x",
    "a\nb",
    "a\u0000",
    "\ud800",
    "\u202e",
    "f".repeat(2000),
    "0".repeat(40),
    "?/acme/plant",
    "https://github.com/acme/plant",
    "git@github.com:acme/plant",
    "https://%E0%A4@x/%",
    [],
    {},
    [null],
    [[]],
    JSON.parse('{"__proto__":{"ref":"main"}}'),
    { constructor: {}, toString: 1, length: -1 }
  ),
  fc.jsonValue({ maxDepth: 4, noUnicodeString: false }),
  fc.string({ unit: "binary", maxLength: 40 })
)

/** At one of the places of a value, chosen by a number. */
const changed = (value: unknown, at: number, by: unknown, how: "replace" | "remove" | "wrap" | "repeat"): unknown => {
  if (typeof value !== "object" || value === null) return how === "wrap" ? [value] : by
  // What is bounded is bounded at these.
  if (how === "repeat" && Array.isArray(value)) {
    return Array.from({ length: [2, 17, 257, 1001][at % 4]! }, () => value[0] as unknown)
  }
  const keys = Object.keys(value)
  if (keys.length === 0) return by
  const key = keys[at % keys.length]!
  const inside = (value as Readonly<Record<string, unknown>>)[key]
  const deeper = Math.floor(at / keys.length)
  const isLeaf = typeof inside !== "object" || inside === null || deeper % 3 === 0
  const next = isLeaf ? (how === "wrap" ? { [key]: inside } : by) : changed(inside, Math.floor(deeper / 3), by, how)
  if (Array.isArray(value)) return value.map((one: unknown, index) => (String(index) === key ? next : one))
  const entries = Object.entries(value).flatMap(([name, one]): ReadonlyArray<readonly [string, unknown]> => {
    if (name !== key) return [[name, one]]
    return isLeaf && how === "remove" ? [] : [[name, next]]
  })
  return Object.fromEntries(entries)
}

const mutation = fc.record({
  at: fc.nat(),
  by: hostile,
  how: fc.constantFrom("replace", "remove", "wrap", "repeat")
})

const json = fc
  .record({ example: fc.nat({ max: examples.length - 1 }), mutations: fc.array(mutation, { maxLength: 4 }) })
  .map(({ example, mutations }) => {
    const { body, event, mark } = examples[example]!
    return { mark, event, body: mutations.reduce((value, { at, by, how }) => changed(value, at, by, how), body) }
  })

/** Bytes of a text changed, cut off or put in. */
const scratches = fc.array(
  fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }), how: fc.constantFrom("set", "cut", "insert") }),
  { maxLength: 3 }
)

const scratched = (bytes: Uint8Array, marks: ReadonlyArray<{ at: number; byte: number; how: string }>): Uint8Array =>
  marks.reduce((before, { at, byte, how }) => {
    const index = before.length === 0 ? 0 : at % before.length
    switch (how) {
      case "cut":
        return before.slice(0, index)
      case "insert":
        return Uint8Array.from([...before.slice(0, index), byte, ...before.slice(index)])
      default:
        return before.map((old, position) => (position === index ? byte : old))
    }
  }, bytes)

/** Node sends no others. */
const headerValue = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  maxLength: 60
})

const marks = [
  "x-github-event",
  "x-gitlab-event",
  "x-gitea-event",
  "x-forgejo-event",
  "x-gogs-event",
  "x-event-key",
  "x-hook-uuid",
  "x-vss-activityid"
]

const otherHeaders = fc.dictionary(
  fc.constantFrom(
    "authorization",
    "content-type",
    "content-encoding",
    "idempotency-key",
    "traceparent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-forwarded-for",
    "x-github-delivery",
    "x-gitea-signature",
    "x-gitlab-token",
    "x-hub-signature",
    "x-hub-signature-256"
  ),
  fc.oneof(
    headerValue,
    fc.constantFrom("application/x-www-form-urlencoded", "gzip", "Bearer x", "Basic Og==", "sha256=")
  ),
  { maxKeys: 2 }
)

const path = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom("/webhook/plant/site", "/webhook/plant/own", "/webhook/plant", "/webhook") },
  {
    weight: 1,
    arbitrary: fc
      .array(fc.constantFrom("webhook", "plant", "site", "", ".", "..", "%2F", "%00", "%E0%A4", "__proto__"), {
        maxLength: 5
      })
      .map((parts) => `/${parts.join("/")}`)
  }
)

const message = fc
  .record({
    json,
    scratches,
    // Mostly its own, sometimes another's or none.
    otherMark: fc.option(fc.constantFrom("", ...marks), { nil: undefined, freq: 1 }),
    otherEvent: fc.option(headerValue, { nil: undefined, freq: 1 }),
    isScratched: fc.boolean(),
    isForm: fc.boolean()
  })
  .map(({ isForm, isScratched, json, otherEvent, otherMark, scratches }) => {
    const mark = otherMark !== undefined && otherMark.length % 2 === 0 ? otherMark : json.mark
    const event = otherEvent !== undefined && otherEvent.length % 4 === 0 ? otherEvent : json.event
    const text = JSON.stringify(json.body) ?? ""
    const body = isForm && text.length % 3 === 0 ? new URLSearchParams({ payload: text }).toString() : text
    return {
      body: scratched(new TextEncoder().encode(body), isScratched && body.length % 2 === 0 ? scratches : []),
      headers: mark === "" ? {} : { [mark]: event, ...(mark === "x-hook-uuid" ? { "x-event-key": event } : {}) }
    }
  })

const noise = fc.record({ body: fc.uint8Array({ maxLength: 200 }), headers: fc.constant({}) })

export const input: fc.Arbitrary<Input> = fc
  .record({
    message: fc.oneof({ weight: 9, arbitrary: message }, { weight: 1, arbitrary: noise }),
    otherHeaders,
    path,
    method: fc.oneof({ weight: 9, arbitrary: fc.constant("POST") }, fc.constantFrom("GET", "PUT", "HEAD"))
  })
  .map(({ message: { body, headers }, method, otherHeaders, path }) => ({
    method,
    path,
    headers: { ...otherHeaders, ...headers },
    body
  }))
