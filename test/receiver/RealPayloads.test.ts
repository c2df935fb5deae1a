/**
 * What senders really sent, as other projects have kept it: GitHub's examples by octokit, and those of the other forges
 * out of two Go modules (skipped where there is no Go). Everything that is not in the tables asks for nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { join } from "node:path"
import * as RequestedRef from "../../src/api/RequestedRef.ts"
import { type Headers, read, readBytes } from "./reading.ts"

/** `move v1`, `wake branch main`; or `nothing`. Several changes are one word each. */
const asked = (reading: ReturnType<typeof read>): string => {
  switch (reading._tag) {
    case "Request":
      return reading.deliveries
        .map((one) => (one._tag === "Promotion" ? `move ${one.ref}` : `wake ${one.kind} ${one.ref}`))
        .join(", ")
    case "Ignored":
      assert.isNotEmpty(reading.reason)
      return "nothing"
    case "Invalid":
      return `invalid: ${reading.message}`
  }
}

describe("GitHub, all examples of octokit", () => {
  const examples = createRequire(import.meta.url)("@octokit/webhooks-examples") as ReadonlyArray<{
    readonly name: string
    readonly examples: ReadonlyArray<Readonly<Record<string, unknown>>>
  }>

  /** Which example of an event asks for what. The rest of 329 bodies asks for nothing, with a reason. */
  const table: Readonly<Record<string, string>> = {
    // Each of the examples creates one tag.
    "create 0": "wake tag simple-tag",
    "create 1": "wake tag simple-tag",
    "create 2": "wake tag simple-tag",
    "create 3": "wake tag simple-tag",
    "create 4": "wake tag simple-tag",
    // The other pushes (1, 2, 3, 6) delete a tag.
    "push 0": "wake tag simple-tag",
    "push 4": "wake branch master",
    "push 5": "wake branch master",
    // Three published, one released. Created, edited, deleted and prereleased ones move nothing.
    "release 0": "move 0.0.1",
    "release 10": "move 0.0.1",
    "release 11": "move 0.0.1",
    "release 12": "move 0.0.1"
  }

  const all = examples.flatMap(({ examples, name }) => examples.map((body, index) => ({ name, index, body })))

  it("are 329", () => assert.lengthOf(all, 329))

  it("ask for exactly that", () => {
    const found = all.flatMap(({ body, index, name }) => {
      const what = asked(read(body, { "x-github-event": name, "x-github-delivery": `${name}-${index}` }))
      return what === "nothing" ? [] : [[`${name} ${index}`, what]]
    })
    assert.deepStrictEqual(Object.fromEntries(found), table)
  })

  it("a prerelease moves only who wants prereleases", () => {
    const example = all.find(({ body, name }) => name === "release" && body["action"] === "published")?.body
    const release = { ...(example?.["release"] as object), prerelease: true }
    const reading = read({ ...example, release }, { "x-github-event": "release" })
    assert.strictEqual(reading._tag, "Request")
    const decided = (prereleases: boolean) =>
      RequestedRef.decide(
        reading._tag === "Request" ? reading.deliveries : [],
        {
          annotations: {},
          repository: "git@github.com:codertocat/hello-world",
          specRef: "main",
          prereleases,
          synced: true
        },
        { at: "2026-01-01T00:00:00Z", freshId: "x" }
      )._tag
    assert.deepStrictEqual([decided(true), decided(false)], ["Write", "NotForUs"])
  })

  it("ask for the same without their headers, or for nothing: those are outside the signature", () => {
    const found = all.flatMap(({ body, index, name }) => {
      const reading = read(body)
      return reading._tag === "Request" ? [[`${name} ${index}`, asked(reading)]] : []
    })
    assert.deepStrictEqual(Object.fromEntries(found), table)
  })
})

const module = (path: string): string | undefined => {
  try {
    const found = execFileSync("go", ["mod", "download", "-json", path], { encoding: "utf8", stdio: "pipe" })
    return (JSON.parse(found) as { readonly Dir: string }).Dir
  } catch {
    return undefined
  }
}

/** Folders of bodies of one forge, with its headers for a file. */
interface Folder {
  readonly path: string
  readonly headers: (file: string, body: Readonly<Record<string, unknown>>) => Headers
  /** What a file asks for; every other asks for nothing. */
  readonly asks: Readonly<Record<string, string>>
}

const gitlab = (_: string, body: Readonly<Record<string, unknown>>): Headers => ({
  "x-gitlab-event": typeof body["object_kind"] === "string" ? `${body["object_kind"]} Hook` : "System Hook"
})
const cloud = (file: string): Headers => ({
  "x-hook-uuid": "hook",
  "x-event-key": /^(push|repo-push)/.test(file) ? "repo:push" : file
})
const server = (file: string, body: Readonly<Record<string, unknown>>): Headers => ({
  "x-event-key": typeof body["eventKey"] === "string" ? body["eventKey"] : file
})
const azure = (): Headers => ({ "x-vss-activityid": "activity" })
/** `branch_create.json`, `create-event.json`: the event's name, in the words of GitHub. */
const githubLike =
  (header: string) =>
  (file: string): Headers => {
    const event = /release/.test(file)
      ? "release"
      : /push/.test(file)
        ? "push"
        : /^(create|(branch|tag)_create)/.test(file)
          ? "create"
          : file
    return { [header]: event, "x-github-event": event }
  }

const goScm: ReadonlyArray<Folder> = [
  {
    path: "gitlab",
    headers: gitlab,
    asks: {
      "branch_create.json": "wake branch feature",
      "push.json": "wake branch master",
      "push_merge.json": "wake branch master",
      "push_subgroup.json": "wake branch master",
      "tag_create.json": "wake tag v1.0.0"
    }
  },
  {
    path: "bitbucket",
    headers: cloud,
    asks: {
      "push.json": "wake branch master",
      "push_branch_create.json": "wake branch develop",
      "push_tag_create.json": "wake tag feature/x"
    }
  },
  {
    path: "stash",
    headers: server,
    asks: {
      "push.json": "wake branch master",
      "push_branch_create.json": "wake branch develop",
      "push_tag_create.json": "wake tag v1.1.0",
      "push_v5.json": "wake branch trangineni/devtfvars-1685475548410"
    }
  },
  {
    path: "gitea",
    headers: githubLike("x-gitea-event"),
    asks: {
      "branch_create.json": "wake branch feature",
      "push.json": "wake branch master",
      "tag_create.json": "wake tag v1.0.0"
    }
  },
  {
    path: "gogs",
    headers: githubLike("x-gogs-event"),
    asks: {
      "branch_create.json": "wake branch feature",
      "push.json": "wake branch master",
      "tag_create.json": "wake tag v1.0.0"
    }
  },
  { path: "azure", headers: azure, asks: { "push.json": "wake branch master" } },
  {
    path: "github",
    headers: githubLike("x-github-event"),
    asks: {
      "branch_create.json": "wake branch feature-branch",
      "push.json": "wake branch master",
      "push_branch_create.json": "wake branch feature-branch",
      "push_tag.json": "wake tag v0.0.1",
      "release_published.json": "move v1.0.0",
      "release_released.json": "move v1.0.0",
      "tag_create.json": "wake tag v0.0.1"
    }
  }
]

const playground: ReadonlyArray<Folder> = [
  {
    path: "gitlab",
    headers: gitlab,
    asks: {
      "push-event.json": "wake branch master",
      "release-event.json": "move v1.1",
      "system-push-event.json": "wake branch master",
      "system-tag-event.json": "wake tag v1.0.0",
      "tag-event.json": "wake tag v1.0.0"
    }
  },
  { path: "bitbucket", headers: cloud, asks: { "repo-push.json": "wake branch name-of-branch" } },
  // Its one push deletes a branch.
  { path: "bitbucket-server", headers: server, asks: {} },
  {
    path: "gitea",
    headers: githubLike("x-gitea-event"),
    asks: {
      "create-event.json": "wake branch master",
      "push-event.json": "wake branch master",
      "release-event.json": "move example"
    }
  },
  {
    path: "gogs",
    headers: githubLike("x-gogs-event"),
    asks: {
      // Written by hand: Gogs sends a short name, and that would be short for itself.
      "create-event.json": "wake branch refs/heads/feature-branch",
      "push-event.json": "wake branch develop",
      "release-event.json": "move v1.0.0"
    }
  },
  { path: "azuredevops", headers: azure, asks: { "git.push.json": "wake branch main" } },
  {
    path: "github",
    headers: githubLike("x-github-event"),
    asks: { "create.json": "wake tag 0.0.1", "push.json": "wake branch master", "release.json": "move 0.0.1" }
  }
]

const kept = [
  {
    module: "github.com/drone/go-scm@v1.42.13",
    folder: (path: string) => join("scm/driver", path, "testdata/webhooks"),
    folders: goScm
  },
  {
    module: "github.com/go-playground/webhooks/v6@v6.4.0",
    folder: (path: string) => join("testdata", path),
    folders: playground
  }
]

for (const { folder, folders, module: name } of kept) {
  const root = module(name)
  // Without Go there is nothing to fetch it with.
  describe.skipIf(root === undefined)(`${name}, fetched by Go`, () => {
    it.each(folders)("$path", ({ asks, headers, path }) => {
      const at = join(root ?? "", folder(path))
      const files = readdirSync(at).filter((file) => file.endsWith(".json"))
      assert.isNotEmpty(files)
      const found = files.flatMap((file) => {
        const bytes = readFileSync(join(at, file))
        const body = JSON.parse(bytes.toString()) as Readonly<Record<string, unknown>>
        const what = asked(readBytes(bytes, headers(file, body)))
        return what === "nothing" ? [] : [[file, what]]
      })
      assert.deepStrictEqual(Object.fromEntries(found), asks)
    })
  })
}
