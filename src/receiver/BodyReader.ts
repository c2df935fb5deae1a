/**
 * Holds bodies in a bounded memory, each until its request is answered. When all of them hold too much, the one that was
 * begun first is given up: an honest sender is done in a moment, one that holds its body back is the oldest soon. One
 * that is given up while it is written is written all the same, and its repetition is harmless.
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
    return "too many other bodies waited, and this one had for longest"
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
  /**
   * Reads a body, and holds it while it is used.
   *
   * @param announced bytes as the sender says; 0 when it does not
   */
  readonly use: <A, E>(
    source: Readable,
    announced: number,
    use: (body: Uint8Array) => Effect.Effect<A, E>
  ) => Effect.Effect<A, E | BodyError>
}

interface Reading {
  bytes: number
  giveUp: () => void
}

export interface Options {
  /** Of one body. A longer one is refused, never cut. */
  readonly most: ByteSize.ByteSize
  /** Of all that are being read or used. */
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
    const read = (source: Readable, reading: Reading) =>
      Effect.callback<Uint8Array, BodyError>((resume) => {
        const chunks: Array<Buffer> = []
        const stop = () => {
          source.off("data", onData).off("end", onEnd).off("close", onClose).off("error", onClose)
        }
        const fail = (error: BodyError) => {
          stop()
          drop(reading)
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
        reading.giveUp = () => fail(new GivenUp())
        readings.add(reading)
        source.on("data", onData).on("end", onEnd).on("close", onClose).on("error", onClose)
        return Effect.sync(stop)
      })

    /** Fails when the body is given up. */
    const givenUp = (reading: Reading) =>
      Effect.callback<never, GivenUp>((resume) => {
        reading.giveUp = () => {
          drop(reading)
          resume(Effect.fail(new GivenUp()))
        }
      })

    return {
      use: (source, announced, use) =>
        Effect.suspend(() => {
          if (announced > mostBytes) return Effect.fail(tooLong)
          const reading: Reading = { bytes: 0, giveUp: () => {} }
          return read(source, reading).pipe(
            Effect.flatMap((body) => (body.length === 0 ? use(body) : Effect.raceFirst(givenUp(reading), use(body)))),
            Effect.ensuring(Effect.sync(() => drop(reading)))
          )
        })
    }
  })
