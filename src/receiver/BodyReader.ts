/**
 * Holds bodies in a bounded memory, each until its request is answered. When all of them hold too much, the longest is
 * given up, of equal ones that which was begun first: to push out an honest delivery, which has kilobytes, strangers would
 * need as many connections as there is room for such. One whose sender is let in is never given up; where those alone
 * hold all that there is, it is the new one that has to come again.
 */
import { ByteSize, Deferred, Effect, Schema } from "effect"
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
    return "too many other bodies waited, and this one was the longest of them"
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
   * @param use tells by `letIn` that its sender may: from then on the body is not given up
   */
  readonly use: <A, E>(
    source: Readable,
    announced: number,
    use: (body: Uint8Array, letIn: Effect.Effect<void>) => Effect.Effect<A, E>
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
    /** Those that may be given up, in the order of their beginnings. */
    const strangers = new Set<Reading>()
    /** Bytes of all. */
    let held = 0

    const giveUpLongest = () => {
      let longest: Reading | undefined
      for (const one of strangers) if (longest === undefined || one.bytes > longest.bytes) longest = one
      longest?.giveUp()
    }
    const hold = (reading: Reading, bytes: number) => {
      reading.bytes += bytes
      held += bytes
      // One is enough: it is no shorter than what has just come.
      if (held > bytesInAll) giveUpLongest()
    }
    const drop = (reading: Reading) => {
      strangers.delete(reading)
      held -= reading.bytes
      reading.bytes = 0
    }

    // By the source's own events: a stream costs as much again as all else that a refused request costs.
    const read = (source: Readable, reading: Reading, givenUp: Deferred.Deferred<never, GivenUp>) =>
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
          reading.giveUp = () => {
            drop(reading)
            Deferred.doneUnsafe(givenUp, Effect.fail(new GivenUp()))
          }
          resume(Effect.succeed(new Uint8Array(Buffer.concat(chunks))))
        }
        const onClose = () => fail(new BrokenOff())
        reading.giveUp = () => fail(new GivenUp())
        strangers.add(reading)
        source.on("data", onData).on("end", onEnd).on("close", onClose).on("error", onClose)
        return Effect.sync(stop)
      })

    return {
      use: (source, announced, use) =>
        Effect.suspend(() => {
          if (announced > mostBytes) return Effect.fail(tooLong)
          const reading: Reading = { bytes: 0, giveUp: () => {} }
          const givenUp = Deferred.makeUnsafe<never, GivenUp>()
          const letIn = Effect.sync(() => {
            strangers.delete(reading)
          })
          return read(source, reading, givenUp).pipe(
            Effect.flatMap((body) =>
              // An empty one holds nothing that others could want. In this order, a use that need not wait runs no race.
              body.length === 0 ? use(body, letIn) : Effect.raceFirst(use(body, letIn), Deferred.await(givenUp))
            ),
            Effect.ensuring(Effect.sync(() => drop(reading)))
          )
        })
    }
  })
