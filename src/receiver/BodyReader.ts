/**
 * Reads bodies into a bounded memory. When all that are being read at once hold too much, the one that was begun first
 * is given up: an honest sender is done in a moment, one that holds its body back is the oldest soon.
 */
import { ByteSize, Deferred, Effect, Schema, Stream } from "effect"
import type { HttpServerError, HttpServerRequest } from "effect/http"

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

export interface BodyReader {
  readonly read: (
    request: HttpServerRequest.HttpServerRequest
  ) => Effect.Effect<Uint8Array, TooLong | GivenUp | HttpServerError.HttpServerError>
}

interface Reading {
  bytes: number
  readonly givenUp: Deferred.Deferred<never, GivenUp>
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
    // In the order of their beginnings.
    const readings = new Set<Reading>()
    let held = 0

    const hold = (reading: Reading, bytes: number) =>
      Effect.suspend(() => {
        if (!readings.has(reading)) return Effect.void
        reading.bytes += bytes
        held += bytes
        const excess: Array<Reading> = []
        for (const oldest of readings) {
          if (held <= bytesInAll) break
          drop(oldest)
          excess.push(oldest)
        }
        return Effect.forEach(excess, ({ givenUp }) => Deferred.fail(givenUp, new GivenUp()), { discard: true })
      })

    const drop = (reading: Reading) => {
      if (readings.delete(reading)) held -= reading.bytes
    }

    const collect = (request: HttpServerRequest.HttpServerRequest, reading: Reading) =>
      Effect.suspend(() => {
        const chunks: Array<Uint8Array> = []
        return request.stream.pipe(
          Stream.runForEach((chunk) => {
            chunks.push(chunk)
            return reading.bytes + chunk.length > mostBytes
              ? Effect.fail(new TooLong({ most: ByteSize.format(most) }))
              : hold(reading, chunk.length)
          }),
          Effect.map(() => new Uint8Array(Buffer.concat(chunks)))
        )
      })

    return {
      read: Effect.fnUntraced(function* (request) {
        const announced = Number(request.headers["content-length"] ?? 0)
        if (announced > mostBytes) return yield* new TooLong({ most: ByteSize.format(most) })
        const reading: Reading = { bytes: 0, givenUp: yield* Deferred.make<never, GivenUp>() }
        return yield* Effect.acquireUseRelease(
          Effect.sync(() => readings.add(reading)),
          () => Effect.raceFirst(collect(request, reading), Deferred.await(reading.givenUp)),
          () => Effect.sync(() => drop(reading))
        )
      })
    }
  })
