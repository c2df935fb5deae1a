import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as GitRef from "../../src/api/GitRef.ts"

const legal = [
  "main",
  "v2.0.0",
  "feature/x",
  "a/b.c/d",
  "größe/日本",
  "x#1",
  "100%",
  "refs/heads/main",
  "f".repeat(GitRef.maxLength),
  "0123456789abcdef0123456789abcdef01234567",
  "@x",
  "x@"
]

const illegal: ReadonlyArray<readonly [string, string]> = [
  ["", "empty"],
  ["f".repeat(10 * 1024), "longer"],
  ["é".repeat(GitRef.maxLength / 2 + 1), "longer"],
  ["a b", "blank"],
  ["a\nb", "control"],
  ["a\u0000b", "control"],
  ["a\u007fb", "control"],
  ["a\u202eb", "direction"],
  ["a\ud800b", "Unicode"],
  ["--upload-pack=x", '"-"'],
  ["-x", '"-"'],
  ["x~1", "~"],
  ["x^{}", "^"],
  ["x:y", ":"],
  ["x?", "?"],
  ["*", "*"],
  ["a[b", "["],
  ["a\\b", "\\"],
  ["a..b", ".."],
  ["a@{1}", "@{"],
  ["@", "names no"],
  ["HEAD", "names no"],
  ["0".repeat(40), "names no"],
  ["0".repeat(64), "names no"],
  ["a.", '"."'],
  ["/a", '"/"'],
  ["a/", '"/"'],
  ["a//b", '"//"'],
  ["a/.b", '"."'],
  [".a", '"."'],
  ["a.lock", ".lock"],
  ["a.lock/b", ".lock"]
]

describe("GitRef", () => {
  it.each(legal)("takes %j", (ref) => assert.deepStrictEqual(GitRef.validate(ref), Result.succeed(ref)))

  it.each(illegal)("refuses %j and says why", (ref, why) => {
    const result = GitRef.validate(ref)
    assert.isTrue(Result.isFailure(result))
    assert.include(Result.isFailure(result) ? result.failure : "", why)
  })

  it.each([
    ["main", { ref: "main" }],
    ["refs/heads/main", { ref: "main", kind: "branch" }],
    ["refs/tags/v1", { ref: "v1", kind: "tag" }],
    ["refs/heads/refs/heads/main", { ref: "refs/heads/main", kind: "branch" }]
  ] as const)("reads %s", (text, expected) => assert.deepStrictEqual(GitRef.read(text), Result.succeed(expected)))

  it.each(["refs/pull/1/merge", "refs/notes/x", "refs/heads/", "refs/heads//x", "refs/tags/-x", "refs/"])(
    "reads no ref in %s",
    (text) => assert.isTrue(Result.isFailure(GitRef.read(text)))
  )

  it.each([
    ["v2.0.0", "2.0.0", true],
    ["2.0.0", "2.0.0", true],
    ["v2.0.0", "2.0.1", false],
    // Two branches, not two ways to write a version.
    ["vnext", "next", true],
    ["vv2", "v2", false]
  ] as const)("%s and %s are the same version: %s", (a, b, expected) => {
    assert.strictEqual(GitRef.sameVersion(a, b), expected)
    assert.strictEqual(GitRef.sameVersion(b, a), expected)
  })

  it("tells full commit ids from names", () => {
    assert.isTrue(GitRef.isCommit("0123456789abcdef0123456789abcdef01234567"))
    assert.isFalse(GitRef.isCommit("0123456789ABCDEF0123456789abcdef01234567"))
    assert.isFalse(GitRef.isCommit("0123456789abcdef0123456789abcdef0123456"))
    assert.isTrue(GitRef.isCommit("a".repeat(64)))
    for (const length of [41, 63, 65]) assert.isFalse(GitRef.isCommit("a".repeat(length)))
  })
})
