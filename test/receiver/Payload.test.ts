import { assert, describe, it } from "@effect/vitest"
import type * as RequestedRef from "../../src/api/RequestedRef.ts"
import { delivery, invalid, lacks, read, readBytes, readText } from "./reading.ts"

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

  it("takes an id from Idempotency-Key, by its digest where it is long or not plain", () => {
    const id = (key: string) => delivery(read({ ref: "v1" }, { "idempotency-key": key })).id
    assert.strictEqual(id("k1"), "k1")
    assert.strictEqual(id("k".repeat(128)), "k".repeat(128))
    assert.isUndefined(id(""))
    const odd = ["k".repeat(129), "k".repeat(130), "deploy 42", "deploy 43", "gr\u00fcn", "a\tb"]
    for (const key of odd) {
      assert.match(id(key) ?? "", /^[\w-]{43}$/)
      assert.strictEqual(id(key), id(key))
    }
    assert.strictEqual(new Set(odd.map(id)).size, odd.length)
  })
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
  ])("%s", (_, bytes) => assert.include(invalid(readBytes(bytes)), "UTF-8"))

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
