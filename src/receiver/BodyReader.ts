/**
 * Reads bodies into a bounded memory. When all that are being read at once hold too much, the one that was begun first
 * is given up: an honest sender is done in a moment, one that holds its body back is the oldest soon.
 */
import { ByteSize, Effect, Schema } from "effect"
import type { Readable } from "node:stream"

/** The body is longer than one may be. */
export class TooLong extends Schema.TaggedError<TooLong>()("TooLong", { most: Schema.String }) {
  override get message(): string {
    return `the body is longer than ${this.most}`
  }
}

/** The body was given up in favour of others. Send it again, at once. */
export class GivenUp extends Schema.TaggedError<GivenUp>()("GivenUp", {}) {
  override get message(): string {
    return "the body came too slowly while others waited"
  }
}

/** The sender has stopped in the middle. */
export class BrokenOff extends Schema.TaggedError<BrokenOff>()("BrokenOff", {}) {
  override get message(): string {
    return "the body broke off"
  }
}

export type BodyError = TooLong | GivenUp | BrokenOff

export interface BodyReader {
  /** @param announced bytes as the sender says; 0 when it does not */
  readonly read: (source: Readable, announced: number) => Effect.Effect<Uint8Array, BodyError>
}

interface Reading {
  bytes: number
  readonly giveUp: () => void
}

export interface Options {
  /** Of one body. A longer one is refused, never cut. */
  readonly most: ByteSize.ByteSize
  /** Of all that are being read. */
  readonly inAll: ByteSize.ByteSize
}

export const make = ({ inAll, most }: Options): Effect.Effect<BodyReader> =>
  Effect.sync(() => {
    const [mostBytes, bytesInAll] = [Number(most), Number(inAll)]
    const tooLong = new TooLong({ most: ByteSize.format(most) })
    // In the order of their beginnings.
    const readings = new Set<Reading>()
    let held = 0

    const hold = (reading: Reading, bytes: number) => {
      reading.bytes += bytes
      held += bytes
      for (const oldest of readings) {
        if (held <= bytesInAll) return
        oldest.giveUp()
      }
    }
    const drop = (reading: Reading) => {
      if (readings.delete(reading)) held -= reading.bytes
    }

    // By the source's own events: a stream costs as much again as all else that a refused request costs.
    const read = (source: Readable) =>
      Effect.callback<Uint8Array, BodyError>((resume) => {
        const chunks: Array<Buffer> = []
        const stop = () => {
          source.off("data", onData).off("end", onEnd).off("close", onClose).off("error", onClose)
          drop(reading)
        }
        const fail = (error: BodyError) => {
          stop()
          source.pause()
          resume(Effect.fail(error))
        }
        const onData = (chunk: Buffer) => {
          if (reading.bytes + chunk.length > mostBytes) return fail(tooLong)
          chunks.push(chunk)
          hold(reading, chunk.length)
        }
        const onEnd = () => {
          stop()
          resume(Effect.succeed(new Uint8Array(Buffer.concat(chunks))))
        }
        const onClose = () => fail(new BrokenOff())
        const reading: Reading = { bytes: 0, giveUp: () => fail(new GivenUp()) }
        readings.add(reading)
        source.on("data", onData).on("end", onEnd).on("close", onClose).on("error", onClose)
        return Effect.sync(stop)
      })

    return { read: (source, announced) => (announced > mostBytes ? Effect.fail(tooLong) : read(source)) }
  })
