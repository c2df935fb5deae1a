import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, Schema, Stream } from "effect"
import * as PktLine from "../../src/git/PktLine.ts"

const Packets = Schema.Array(
  Schema.Union([Schema.String.check(Schema.isMaxLength(1000)), Schema.Literals(["flush", "delimiter", "end"])])
)

const bytesOf = (packets: ReadonlyArray<PktLine.Packet | string>) =>
  Buffer.concat(
    packets.map((packet) => {
      if (packet === "flush" || packet === "delimiter" || packet === "end") return PktLine.mark(packet)
      return PktLine.line(String(packet))
    })
  )

const shown = (packet: PktLine.Packet) => (typeof packet === "string" ? packet : PktLine.textOf(packet))

describe("PktLine", () => {
  it("writes lengths as git does", () => {
    assert.strictEqual(PktLine.line("want x").toString(), "000bwant x\n")
    assert.strictEqual(PktLine.line("ü").toString(), "0007ü\n")
    assert.strictEqual(PktLine.mark("flush").toString(), "0000")
    assert.strictEqual(PktLine.mark("delimiter").toString(), "0001")
    assert.strictEqual(PktLine.mark("end").toString(), "0002")
  })

  it.effect.prop(
    "reads what it wrote, however the bytes are cut",
    { packets: Packets, size: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 40 })) },
    ({ packets, size }) =>
      Effect.gen(function* () {
        const bytes = bytesOf(packets)
        const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
          bytes.subarray(index * size, (index + 1) * size)
        )
        const read = yield* Stream.fromIterable(chunks).pipe(
          PktLine.decode((digits) => digits),
          Stream.runCollect
        )
        assert.deepStrictEqual(
          read.map(shown),
          packets.map((packet) => packet.toWellFormed())
        )
      })
  )

  it("knows what is no packet, and keeps back what is not whole", () => {
    for (const bytes of ["0003", "fff1", "<html>", "00 4", "+001", "0x10"]) {
      assert.deepStrictEqual(PktLine.split(Buffer.from(`0000${bytes}`)), Result.fail(bytes.slice(0, 4)))
    }
    const cut = Result.getOrThrow(PktLine.split(Buffer.from("0006a\n000bwan")))
    assert.deepStrictEqual(cut.packets.map(shown), ["a"])
    assert.strictEqual(cut.rest.toString(), "000bwan")
    const longest = PktLine.line("x".repeat(65_515))
    assert.lengthOf(Result.getOrThrow(PktLine.split(longest)).packets, 1)
    assert.lengthOf(Result.getOrThrow(PktLine.split(longest.subarray(0, -1))).packets, 0)
  })
})
