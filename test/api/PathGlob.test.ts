import { assert, describe, it } from "@effect/vitest"
import { Option } from "effect"
import * as PathGlob from "../../src/api/PathGlob.ts"

describe("PathGlob.excludes", () => {
  for (const [pattern, path, expected] of [
    // The defaults of every GatewaySync.
    ["**/.git/", ".git/config", true],
    ["**/.git/", "a/.git/hooks/x", true],
    ["**/.git/", "a/.github/x", false],
    ["**/.gitkeep", "projects/.gitkeep", true],
    ["**/.resources/**", "projects/.resources/x", true],
    // A folder that matches takes everything below along.
    ["**/node_modules", "a/node_modules/b/c.json", true],
    ["a/**", "a", true],
    ["a/**", "b/a", false],
    ["config/local/**", "config/local/x/y", true],
    ["config/local/**", "config/locale/x", false],
    ["*.json", "x.json", true],
    ["*.json", ".versions.json", true],
    ["*.json", "a/x.json", false],
    ["a/*", "a/b/c", true],
    ["View (1)/**", "View (1)/view.json", true],
    ["?", "😀", true],
    ["{a}", "a", true],
    ["{a,b}.txt", "b.txt", true],
    ["a[0-9]", "a5", true],
    ["a/**/b", "a/b", true],
    ["a/./b", "a/b", true],
    ["**", "anything/at/all", true],
    // What glob libraries do not agree on, as doublestar has it.
    ["**.json", "a/b.json", false],
    ["**.json", "b.json", true],
    ["a[^b]c", "axc", true],
    ["a[^b]c", "abc", false],
    ["a/**/", "a", true],
    ["a/**/", "a/b/c", true],
    ["*", "a", true],
    ["{a,b}/**", "b/c", true],
    ["a{1..3}", "a1..3", true],
    // Not as doublestar: no class takes a slash, a POSIX class is one, and "./" is nothing.
    ["a[^b]c", "a/c", false],
    ["[[:digit:]]", "5", true],
    ["./a", "a", true]
  ] as const) {
    it(`"${pattern}" ${expected ? "takes" : "leaves"} "${path}"`, () => {
      assert.strictEqual(PathGlob.excludes([pattern])(path), expected)
    })
  }

  it("takes a path that any of the patterns takes", () => {
    const excluded = PathGlob.excludes(["x/**", "**/*.bak"])
    assert.deepStrictEqual(["x/1", "y/2.bak", "y/2"].map(excluded), [true, true, false])
  })
})

describe("PathGlob.problem", () => {
  for (const pattern of ["", "a\\", "{a", "[ab", "a}", "[]", "[]a]"]) {
    it(`refuses "${pattern}", as doublestar does`, () => {
      assert.isTrue(Option.isSome(PathGlob.problem(pattern)))
    })
  }
  for (const pattern of ["**/.git/", "{a,b}", "[a-z]", "a\\*", "[[:digit:]]"]) {
    it(`takes "${pattern}"`, () => {
      assert.isTrue(Option.isNone(PathGlob.problem(pattern)))
    })
  }
})
