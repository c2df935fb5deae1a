import { assert, describe, it } from "@effect/vitest"
import * as RepositoryIdentity from "../../src/api/RepositoryIdentity.ts"

const plant = "https://github.com/acme/plant"

const isSame = (a: string, b: string): boolean => {
  const identity = RepositoryIdentity.of(a)
  return identity !== undefined && identity === RepositoryIdentity.of(b)
}
/** What a sender calls a repository, and whether one of that URL is meant. */
const isMeant = ([name]: ReadonlyArray<RepositoryIdentity.Name>, url: string): boolean =>
  name !== undefined && RepositoryIdentity.names(url).includes(name)

const same = [
  "https://github.com/acme/plant.git",
  "https://github.com/acme/plant/",
  "https://github.com/Acme/Plant.git/",
  "https://github.com:443/acme/plant",
  "https://user@github.com/acme/plant.git",
  "http://github.com/acme/plant",
  "git@github.com:acme/plant.git",
  "github.com:acme/plant",
  "git@github.com:/acme/plant.git",
  "ssh://git@github.com/acme/plant.git",
  "ssh://git@github.com:22/acme/plant",
  "ssh://git@ssh.github.com:443/acme/plant.git",
  "git://github.com/acme/plant",
  "https://GITHUB.com./acme//plant",
  "https://user:password@github.com/acme/plant.git",
  "SSH://git@github.com/acme/plant.git/",
  "https://github.com/acme%2Fplant",
  "http://github.com:80/acme/plant",
  "git://github.com:9418/acme/plant",
  "  https://github.com/acme/plant\n"
]

const others = [
  "https://github.com/acme/plant-2",
  "https://github.com/acme/plan",
  "https://github.com.evil.example/acme/plant",
  "https://evil.example/github.com/acme/plant",
  "https://github.com:8443/acme/plant",
  "https://github.com@evil.example/acme/plant",
  "https://githubXcom/acme/plant",
  "ssh://git@github.com:2222/acme/plant",
  "https://github.com/acme/plant/tree",
  "https://github.com/acme/plant.git.git.evil",
  "https://github.com/acme.plant",
  "https://api.github.com/acme/plant",
  "ssh://git@github.com:443/acme/plant",
  "https://github.com/acme/plаnt",
  "https://github.com/acme/plantgit",
  "https://github.com/acme/plant.git.git",
  "https://github.com/plan",
  "ssh://git@github.com:80/acme/plant",
  "https://github.com/a..d/x",
  "https://github.com/abcd/x",
  "https://[::1]/acme/plant",
  "https://[::2]/acme/plant"
]

const none = [
  "",
  "plant",
  "/srv/git/plant",
  "file:///srv/git/plant",
  "https://github.com/",
  "a b",
  "ext::sh -c id",
  "x:"
]

describe("RepositoryIdentity", () => {
  it.each(same)("%s is the same repository", (url) => assert.isTrue(isSame(url, plant)))
  it.each(others)("%s is another", (url) => assert.isFalse(isSame(url, plant)))
  it.each(none)("%j is none, not even the same as itself", (url) => assert.isFalse(isSame(url, url)))

  it("knows the two ways of Azure DevOps", () => {
    assert.isTrue(isSame("git@ssh.dev.azure.com:v3/acme/plant/site", "https://acme@dev.azure.com/acme/plant/_git/site"))
    assert.isTrue(isSame("git@ssh.dev.azure.com:v3/org/p%20q/r", "https://org@dev.azure.com/org/p%20q/_git/r"))
  })

  it("keeps an IPv6 host", () => {
    assert.isTrue(isSame("http://[::1]:8080/a.git", "http://[::1]:8080/a"))
    assert.isFalse(isSame("http://[::1]:8080/a", "http://[::2]:8080/a"))
  })

  it("is spoken of by its URL in whatever form, or by its last two names on any host", () => {
    const scm = "https://bitbucket.example/scm/ACME/plant.git"
    assert.isTrue(isMeant(RepositoryIdentity.said(["ssh://git@bitbucket.example/scm/acme/plant"]), scm))
    assert.isTrue(isMeant([RepositoryIdentity.onAnyHost("Acme", "Plant")], scm))
    for (const [project, name] of [
      ["acme", "plant-2"],
      ["scm", "acme"],
      ["scm/acme", "plant"],
      ["", "plant"],
      ["", ""]
    ] as const) {
      assert.isFalse(isMeant([RepositoryIdentity.onAnyHost(project, name)], scm))
    }
  })

  it("is on any host only for who says so: no text of a sender is taken for that", () => {
    for (const url of ["?/acme/plant", "acme/plant", "https://bitbucket.example/acme/plant", ""]) {
      assert.isFalse(isMeant(RepositoryIdentity.said([url]), "https://bitbucket.example/scm/acme/plant.git"))
    }
  })

  it("of no known form is none of those that we have", () => {
    for (const url of ["https://dev.azure.com/acme/the%20plant", "https://git.example/a/b%20c/d%20e", "password"]) {
      assert.isFalse(isMeant(RepositoryIdentity.said(["password"]), url))
      assert.isFalse(isMeant([RepositoryIdentity.onAnyHost("the plant", "x")], url))
    }
  })

  it("is called by each name once, by none where there is no text", () => {
    const told = [plant, null, `${plant}.git`, undefined, "git@github.com:acme/plant.git", ""]
    assert.deepStrictEqual<ReadonlyArray<string>>(RepositoryIdentity.said(told), ["github.com/acme/plant"])
  })

  it("has no other name when its URL has none, or is too short", () => {
    assert.deepStrictEqual(RepositoryIdentity.names("no URL"), [])
    const names: ReadonlyArray<string> = RepositoryIdentity.names("https://git.example/plant")
    assert.deepStrictEqual(names, ["git.example/plant"])
  })

  it("look-alikes differ among themselves", () => {
    const all = [plant, ...others].map(RepositoryIdentity.of)
    assert.lengthOf(new Set(all), all.length)
  })

  it("is shown without what may be a secret, and short", () => {
    const shown = (url: string) => RepositoryIdentity.said([url]).map(RepositoryIdentity.shown).join()
    assert.strictEqual(shown("https://user:password@github.com/acme/plant.git"), "github.com/acme/plant")
    for (const odd of ["user:password@github.com/acme/plant", "password", `https://github.com/${"x".repeat(3000)}`]) {
      assert.strictEqual(shown(odd), "one of no known form")
    }
    assert.isBelow(shown(`https://github.com/${"x".repeat(1000)}`).length, 130)
  })
})
