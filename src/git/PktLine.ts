import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"

/** Frames without content: `flush` ends a message, `delimiter` parts its sections, `end` parts answers. */
export type Mark = "flush" | "delimiter" | "end"

/** One frame of git's wire format. */
export type Packet = Uint8Array | Mark

/** Longest frame in bytes, its four digits included. */
const maxLength = 65_520

const marks: ReadonlyArray<Mark> = ["flush", "delimiter", "end"]

const digitsOf = (length: number): string => length.toString(16).padStart(4, "0")

export const mark = (mark: Mark): Buffer => Buffer.from(digitsOf(marks.indexOf(mark)))

/** A line of text, at most 65 515 bytes, with the newline that git ends lines with. */
export const line = (text: string): Buffer => Buffer.from(`${digitsOf(Buffer.byteLength(text) + 5)}${text}\n`)

/** The text of a packet, without the newline at its end. */
export const textOf = (packet: Uint8Array): string => Buffer.from(packet).toString().replace(/\n$/, "")

export interface Split {
  /** Views of the bytes. */
  readonly packets: ReadonlyArray<Packet>
  /** The beginning of a packet whose rest is still to come. */
  readonly rest: Buffer
}

/** The whole packets at the head of the bytes. A failure says what is there instead of a length. */
export const split = (bytes: Buffer): Result.Result<Split, string> => {
  const packets: Array<Packet> = []
  let offset = 0
  while (bytes.length - offset >= 4) {
    const digits = bytes.toString("latin1", offset, offset + 4)
    const length = /^[0-9a-f]{4}$/i.test(digits) ? Number.parseInt(digits, 16) : maxLength + 1
    const mark = marks[length]
    if (mark === undefined && (length < 4 || length > maxLength)) return Result.fail(digits)
    if (mark === undefined && bytes.length - offset < length) break
    packets.push(mark ?? bytes.subarray(offset + 4, offset + length))
    offset += mark === undefined ? length : 4
  }
  return Result.succeed({ packets, rest: bytes.subarray(offset) })
}

/** Takes bytes apart as they come, holding back one packet at most. What ends within a packet ends before it. */
export const decode =
  <E2>(onMalformed: (digits: string) => E2) =>
  <E, R>(bytes: Stream.Stream<Uint8Array, E, R>): Stream.Stream<Packet, E | E2, R> =>
    Stream.mapAccumEffect(
      bytes,
      (): Buffer => Buffer.alloc(0),
      (held, chunk) => {
        const result = split(Buffer.concat([held, chunk]))
        return Result.isSuccess(result)
          ? Effect.succeed([result.success.rest, result.success.packets] as const)
          : Effect.fail(onMalformed(result.failure))
      }
    )
