import { assert, describe, it } from "@effect/vitest"
import type * as RequestedRef from "../../src/api/RequestedRef.ts"
import * as Payload from "../../src/receiver/Payload.ts"

const commit = (digit: string) => digit.repeat(40)
const zeros = commit("0")

type Headers = Readonly<Record<string, string>>
const encoder = new TextEncoder()
const read = (body: unknown, headers: Headers = {}) => Payload.read(headers, encoder.encode(JSON.stringify(body)))
const readText = (text: string, headers: Headers = {}) => Payload.read(headers, encoder.encode(text))

const github = (event: string): Headers => ({ "x-github-event": event, "x-github-delivery": "guid-1" })

const deliveries = (reading: ReturnType<typeof Payload.read>): ReadonlyArray<RequestedRef.Delivery> => {
  if (reading._tag !== "Request") throw new Error(`no request: ${JSON.stringify(reading)}`)
  return reading.deliveries
}
const delivery = (reading: ReturnType<typeof Payload.read>) => deliveries(reading)[0]!

/** Why it is invalid, or ignored. */
const invalid = (reading: ReturnType<typeof Payload.read>): string => {
  if (reading._tag !== "Invalid") throw new Error(`not invalid: ${JSON.stringify(reading)}`)
  return reading.message
}
const ignored = (reading: ReturnType<typeof Payload.read>): string => {
  if (reading._tag !== "Ignored") throw new Error(`not ignored: ${JSON.stringify(reading)}`)
  return reading.reason
}
const lacks = (text: string, words: ReadonlyArray<string>) => words.filter((word) => !text.includes(word))

const repository = {
  clone_url: "https://github.com/acme/plant.git",
  ssh_url: "git@github.com:acme/plant.git",
  html_url: "https://github.com/acme/plant"
}
const pushBody = {
  ref: "refs/heads/main",
  before: commit("a"),
  after: commit("b"),
  created: false,
  deleted: false,
  head_commit: { id: commit("b") },
  repository
}

describe("the four formats of the page, without any event header", () => {
  it.each<readonly [RequestedRef.Sender, string, object]>([
    ["github", "forge", { action: "published", release: { tag_name: "v2.0.0" } }],
    ["argocd", "person", { app: { metadata: { annotations: { "git.ref": "v2.0.0" } } } }],
    ["kargo", "person", { freight: { commits: [{ tag: "v2.0.0" }] } }],
    ["generic", "person", { ref: "v2.0.0" }]
  ])("%s", (sender, patience, body) => {
    const reading = read(body)
    const found = delivery(reading)
    assert.deepInclude(found, { _tag: "Promotion", by: sender, ref: "v2.0.0" })
    assert.isUndefined(found.id)
    assert.propertyVal(reading, "sender", sender)
    assert.propertyVal(reading, "patience", patience)
  })

  it("the first match wins", () => {
    const generic = { ref: "generic" }
    const kargo = { ...generic, freight: { commits: [{ tag: "kargo" }] } }
    const argocd = { ...kargo, app: { metadata: { annotations: { "git.ref": "argocd" } } } }
    const release = { ...argocd, action: "published", release: { tag_name: "github" } }
    assert.deepStrictEqual(
      [generic, kargo, argocd, release].map((body) => delivery(read(body)).ref),
      ["generic", "kargo", "argocd", "github"]
    )
  })

  it("takes an id from Idempotency-Key, unless it is no id", () => {
    assert.strictEqual(delivery(read({ ref: "v1" }, { "idempotency-key": "k1" })).id, "k1")
    assert.isUndefined(delivery(read({ ref: "v1" }, { "idempotency-key": "k".repeat(129) })).id)
    assert.isUndefined(delivery(read({ ref: "v1" }, { "idempotency-key": "a\nb" })).id)
  })
})

describe("GitHub", () => {
  const release = {
    action: "published",
    release: { tag_name: "v2.0.0", draft: false, prerelease: false, target_commitish: "main" },
    repository
  }

  it("a published release", () => {
    const found = delivery(read(release, github("release")))
    assert.deepInclude(found, {
      _tag: "Promotion",
      by: "github",
      ref: "v2.0.0",
      id: "guid-1",
      prerelease: false,
      repositories: Object.values(repository)
    })
  })

  it("a release's digest is that of its bytes", () => {
    const digest = (body: unknown) => (delivery(read(body, github("release"))) as RequestedRef.Promotion).digest
    assert.strictEqual(digest(release), digest({ ...release }))
    assert.notStrictEqual(digest(release), digest({ ...release, action: "released" }))
  })

  it("`released` moves too, a prerelease says that it is one", () => {
    assert.strictEqual(delivery(read({ ...release, action: "released" }, github("release"))).ref, "v2.0.0")
    const pre = { ...release, release: { ...release.release, prerelease: true } }
    assert.deepInclude(delivery(read(pre, github("release"))), { prerelease: true })
  })

  it.each(["unpublished", "created", "edited", "deleted", "prereleased", ""])("a release %s is ignored", (action) =>
    assert.include(ignored(read({ ...release, action }, github("release"))), "published")
  )

  it("a draft is ignored", () =>
    assert.include(ignored(read({ ...release, release: { tag_name: "v2", draft: true } }, github("release"))), "draft"))

  it("a push to a branch", () =>
    assert.deepStrictEqual(delivery(read(pushBody, github("push"))), {
      _tag: "Push",
      by: "github",
      ref: "main",
      kind: "branch",
      repositories: Object.values(repository),
      before: commit("a"),
      after: commit("b"),
      id: "guid-1"
    }))

  it("a push of a new annotated tag: the commit, not the tag's own id, and no before", () => {
    const found = delivery(
      read(
        { ...pushBody, ref: "refs/tags/v2", before: zeros, after: commit("c"), head_commit: { id: commit("b") } },
        github("push")
      )
    )
    assert.deepInclude(found, { _tag: "Push", ref: "v2", kind: "tag", after: commit("b") })
    assert.notProperty(found, "before")
  })

  it("a branch that is called refs/heads/main", () =>
    assert.strictEqual(
      delivery(read({ ...pushBody, ref: "refs/heads/refs/heads/main" }, github("push"))).ref,
      "refs/heads/main"
    ))

  it("a push without a header is one by its before and after", () =>
    assert.deepInclude(delivery(read(pushBody)), { _tag: "Push", by: "generic", ref: "main", kind: "branch" }))

  it.each([
    ["the flag", { ...pushBody, deleted: true, head_commit: null }],
    ["the zeros", { ref: "refs/heads/main", before: commit("a"), after: zeros }]
  ])("a deletion by %s is ignored", (_, body) => assert.include(ignored(read(body, github("push"))), "deleted"))

  it.each(["refs/notes/commits", "refs/pull/1/merge", "refs/heads/a..b"])("a push to %s is ignored", (ref) =>
    assert.include(ignored(read({ ...pushBody, ref }, github("push"))), "ref")
  )

  it.each([
    ["a short ref", { ...pushBody, ref: "main" }],
    ["a ref that is no text", { ...pushBody, ref: { name: "main" } }],
    ["no ref", { before: commit("a") }]
  ])("a push with %s is invalid", (_, body) => assert.include(invalid(read(body, github("push"))), "ref"))

  it("create of a tag wakes, of a branch by its short name too", () => {
    const body = { ref: "v2", ref_type: "tag", master_branch: "main", pusher_type: "user", repository }
    assert.deepInclude(delivery(read(body, github("create"))), { _tag: "Push", ref: "v2", kind: "tag", id: "guid-1" })
    assert.deepInclude(delivery(read({ ...body, ref_type: "branch" }, github("create"))), { kind: "branch" })
    assert.include(ignored(read({ ...body, ref_type: "repository" }, github("create"))), "neither")
  })

  it("ping says that the hook works", () =>
    assert.include(ignored(read({ zen: "Keep it simple.", hook_id: 1 }, github("ping"))), "works"))

  it.each(["delete", "workflow_dispatch", "code_scanning_alert", "deployment", "push, push"])(
    "%s is ignored although there is a ref in it",
    (event) => assert.include(ignored(read({ ref: "main", ref_type: "branch" }, github(event))), event)
  )

  it("its form encoding reads like its JSON", () => {
    const form = new URLSearchParams({ payload: JSON.stringify(pushBody) }).toString()
    const headers = { ...github("push"), "content-type": "application/x-www-form-urlencoded" }
    assert.deepStrictEqual(delivery(readText(form, headers)), delivery(read(pushBody, github("push"))))
    assert.include(invalid(readText("a=b", headers)), "payload")
  })

  it("JSON that curl calls a form is JSON", () =>
    assert.strictEqual(
      delivery(readText('{"ref":"a=b"}', { "content-type": "application/x-www-form-urlencoded" })).ref,
      "a=b"
    ))
})

describe("forges that are not read yet", () => {
  it.each<readonly [string, Headers, object]>([
    ["gitlab", { "x-gitlab-event": "Job Hook" }, { object_kind: "build", ref: "main" }],
    ["gitea", { "x-gitea-event": "push", "x-github-event": "push" }, pushBody],
    ["bitbucket", { "x-event-key": "repo:push" }, { push: { changes: [] } }],
    ["azure-devops", { "x-vss-activityid": "1" }, { eventType: "git.push", resource: { refUpdates: [] } }]
  ])("%s is ignored, never taken for something else", (sender, headers, body) => {
    const reading = read(body, headers)
    assert.strictEqual(reading._tag, "Ignored")
    assert.propertyVal(reading, "sender", sender)
  })
})

describe("Kargo", () => {
  const kargo = (...commits: ReadonlyArray<unknown>) => read({ freight: { commits } })

  it("each commit is about its repository", () =>
    assert.deepStrictEqual(
      deliveries(
        kargo(
          { repoURL: "https://github.com/acme/other.git", id: commit("a"), tag: "v1" },
          { repoURL: "git@github.com:acme/plant.git", id: commit("b"), tag: "v2" }
        )
      ),
      [
        {
          _tag: "Promotion",
          by: "kargo",
          ref: "v1",
          repositories: ["https://github.com/acme/other.git"],
          commit: commit("a")
        },
        {
          _tag: "Promotion",
          by: "kargo",
          ref: "v2",
          repositories: ["git@github.com:acme/plant.git"],
          commit: commit("b")
        }
      ]
    ))

  it.each([
    ["no tag", { id: commit("b"), branch: "main" }],
    ["an empty tag", { id: commit("b"), tag: "" }],
    ["a null tag", { id: commit("b"), tag: null }],
    ["the names of the expressions", { ID: commit("b") }]
  ])("a commit with %s is asked for by its id", (_, one) =>
    assert.deepInclude(delivery(kargo(one)), { ref: commit("b"), commit: commit("b") })
  )

  it("a commit with the names of the expressions", () =>
    assert.deepInclude(delivery(kargo({ Tag: "v2", ID: commit("b"), RepoURL: "https://x.example/a" })), {
      ref: "v2",
      repositories: ["https://x.example/a"]
    }))

  it("a commit that was not found is passed over when another was", () =>
    assert.strictEqual(delivery(kargo(null, { tag: "v2" })).ref, "v2"))

  it.each<readonly [string, ReadonlyArray<unknown>, string, string]>([
    ["nothing found", [null], "commits[0]", "commitFrom"],
    ["nothing in it", [], "empty", "Warehouse"],
    ["neither tag nor id", [{}], "commits[0].tag", "Warehouse"],
    ["a number for a tag", [{ tag: 1.1 }], "commits[0].tag", "1.1"],
    ["text", ["v2"], "commits[0]", "tag"],
    ["an illegal tag", [{ tag: "-x" }], "commits[0].tag", '"-"'],
    ["more than any freight has", Array.from({ length: 1000 }, () => null), "256", "commits"]
  ])("%s is invalid", (_, commits, ...words) => assert.deepStrictEqual(lacks(invalid(kargo(...commits)), words), []))

  it("commits that are no list are invalid", () => assert.include(invalid(read({ freight: { commits: {} } })), "list"))
})

describe("a ref that cannot be one", () => {
  it.each<[string, unknown, string, string?]>([
    ["a number", 1.1, "1.1", "quotes"],
    ["a boolean", true, "true", "quotes"],
    ["empty", "", "empty", "variable"],
    ["null", null, "missing", "variable"],
    ["an object", {}, "no text"],
    ["a list", ["v1"], "no text"],
    ["<no value>", "<no value>", "template"],
    ["a control character", "a\nb", "control"],
    ["NUL", "a\u0000", "control"],
    ["an option", "--upload-pack=x", '"-"'],
    ["10 KiB", "f".repeat(10 * 1024), "longer"],
    ["a lone surrogate", "\ud800", "Unicode"],
    ["pull requests", "refs/pull/1/merge", "refs/heads/"]
  ])("%s", (_, ref, first, second = first) => {
    const message = invalid(read({ ref }))
    assert.deepStrictEqual(lacks(message, ['"ref"', first, second]), [])
    // Whatever was sent is not sent back.
    assert.isBelow(message.length, 300)
  })

  it("says of a missing annotation of Argo CD where it belongs", () =>
    assert.deepStrictEqual(
      lacks(invalid(read({ app: { metadata: { annotations: { "git.ref": "<no value>" } } } })), [
        'app.metadata.annotations["git.ref"]',
        "Argo CD Application"
      ]),
      []
    ))

  it("bare refs/heads/x and refs/tags/x are shortened", () => {
    assert.deepInclude(delivery(read({ ref: "refs/heads/main" })), { _tag: "Promotion", ref: "main", by: "generic" })
    assert.deepInclude(delivery(read({ ref: "refs/tags/v1" })), { _tag: "Promotion", ref: "v1" })
  })

  it("a generic commit is taken, and checked", () => {
    assert.deepInclude(delivery(read({ ref: "main", commit: commit("a") })), { commit: commit("a") })
    for (const wrong of ["abc", 1, zeros, {}]) assert.include(invalid(read({ ref: "main", commit: wrong })), "commit")
  })
})

describe("hostile bodies", () => {
  it.each([
    ["nothing", "", "empty"],
    ["blanks", " \n", "empty"],
    ["no JSON", "hello", "not JSON"],
    ["cut off", '{"ref":"ma', "not JSON"],
    ["garbage behind", '{"ref":"main"} x', "not JSON"],
    ["null", "null", "no object"],
    ["a list", "[]", "no object"],
    ["a text", '"main"', "no object"],
    ["a number", "1", "no object"],
    ["no ref", '{"foo":"bar"}', "no ref found"],
    ["wrong types", '{"release":[],"app":[],"freight":[]}', "no ref found"],
    ["annotations null", '{"app":{"metadata":{"annotations":null}}}', "no ref found"],
    ["a prototype", '{"__proto__":{"ref":"main"}}', "no ref found"],
    ["deep lists", "[".repeat(500_000) + "]".repeat(500_000), "deeper"],
    ["deep objects", `{"a":`.repeat(100_000), "deeper"],
    ["a tag that is null", '{"release":{"tag_name":null}}', "missing"]
  ])("%s", (_, text, word) => assert.include(invalid(readText(text)), word))

  it.each([
    ["invalid UTF-8", Uint8Array.from(Buffer.from("7b22726566223a22fffe227d", "hex"))],
    ["UTF-16", Uint8Array.from(Buffer.from('\ufeff{"ref":"main"}', "utf16le"))]
  ])("%s", (_, bytes) => assert.include(invalid(Payload.read({}, bytes)), "UTF-8"))

  it("a byte order mark is no fault", () => assert.strictEqual(delivery(readText('\ufeff{"ref":"main"}')).ref, "main"))

  it("brackets in texts do not nest", () =>
    assert.strictEqual(delivery(readText(`{"a":"${'\\"[{'.repeat(500)}","ref":"main"}`)).ref, "main"))

  it("the last of two refs counts, as for JSON.parse", () =>
    assert.strictEqual(delivery(readText('{"ref":"a","ref":"b"}')).ref, "b"))

  it("many keys are none of our business", () => {
    const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, index) => [`k${index}`, index]))
    assert.strictEqual(delivery(read({ ...many, ref: "main" })).ref, "main")
  })
})
