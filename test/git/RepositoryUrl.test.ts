import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"

const parsed = (text: string) => Result.getOrThrow(RepositoryUrl.parse(text))
const refused = (text: string) => Result.getOrThrow(Result.flip(RepositoryUrl.parse(text)))

describe("RepositoryUrl", () => {
  it.effect("reads every form that git servers have", () =>
    Effect.sync(() => {
      const cases = [
        ["https://GitHub.com/Org/Repo.git/", "Http", "https://github.com/Org/Repo.git"],
        ["http://git.local:3000/a/b", "Http", "http://git.local:3000/a/b"],
        ["https://org@dev.azure.com/org/p%20q/_git/r", "Http", "https://dev.azure.com/org/p%20q/_git/r"],
        ["http://[::1]:3000/a", "Http", "http://[::1]:3000/a"],
        ["ssh://git@host.local:7999/proj/repo.git", "Ssh", "ssh://git@host.local:7999/proj/repo.git"],
        ["git@github.com:org/repo.git", "Ssh", "git@github.com:org/repo.git"],
        ["github.com:org/repo.git", "Ssh", "github.com:org/repo.git"],
        ["git://host/a.git", "Git", "git://host/a.git"]
      ] as const
      for (const [text, tag, href] of cases) {
        const url = parsed(text)
        assert.deepStrictEqual([url._tag, url.href], [tag, href])
        assert.notInclude(url.display, "@")
      }
    })
  )

  it.effect("refuses a secret in the URL and says where it belongs, without repeating it", () =>
    Effect.sync(() => {
      for (const text of [
        "https://user:s3cret@github.com/org/repo",
        "https://:s3cret@github.com/org/repo",
        "https://ghp_s3cret0000@github.com/org/repo",
        "https://glpat-s3cret@gitlab.com/org/repo",
        "ssh://git:s3cret@github.com/org/repo",
        "http://user:s3cret@github.com:x/org/repo",
        "ftp://user:s3cret@github.com/org/repo",
        "user:s3cret@github.com/org/repo"
      ]) {
        const error = refused(text)
        assert.notInclude(error.message, "s3cret", text)
        assert.notInclude(JSON.stringify(error), "s3cret", text)
      }
      const error = refused("https://user:s3cret@github.com/org/repo")
      assert.strictEqual(error.reason._tag, "SecretInUrl")
      assert.include(error.message, "spec.git.auth.token.secretRef")
      assert.strictEqual(error.next, "edit")
    })
  )

  it.effect("refuses what is no git server, and what could be read as an option", () =>
    Effect.sync(() => {
      for (const text of [
        "",
        "  ",
        "/srv/git/a.git",
        "./a",
        "C:\\a",
        "file:///srv/git/a.git",
        "ext::sh -c id",
        "ext::sh",
        "fd::3",
        "ftp://h/a",
        "https://",
        "https://host",
        "https://host/",
        "https://host/a?b",
        "https://host/a#b",
        "https://host/a b",
        "https://host/a\nb",
        "https://host/a%0ab",
        "ssh://-oProxyCommand=id/a",
        "ssh://-x@host/a",
        "-x@host:a",
        "-oProxyCommand=id:a",
        "host:-x",
        "git@host:",
        "git://user@host/a",
        "https://ho$t/a"
      ]) {
        assert.strictEqual(refused(text).reason._tag, "UnsupportedUrl", text)
      }
    })
  )
})
