import { assert, describe, it } from "@effect/vitest"
import { ByteSize, Effect, Fiber } from "effect"
import { PassThrough, type Readable } from "node:stream"
import * as BodyReader from "../../src/receiver/BodyReader.ts"

/** A body that comes as the test wants it. */
const sender = () => {
  const source = new PassThrough()
  return {
    source,
    send: (bytes: number) => Effect.sync(() => source.write(new Uint8Array(bytes))),
    end: Effect.sync(() => source.end()),
    breakOff: Effect.sync(() => source.destroy())
  }
}

/** Until what was written has been read. */
const settled = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

const reader = BodyReader.make({ most: ByteSize.bytes(100), inAll: ByteSize.bytes(250) })
const reading = Effect.map(reader, ({ use }) => ({
  use,
  /** One that has come, and is used from now on. */
  waiting: Effect.fnUntraced(function* (bytes: number, isLetIn = false) {
    const one = sender()
    yield* one.send(bytes)
    yield* one.end
    const wait = (_: Uint8Array, letIn: Effect.Effect<void>) =>
      Effect.andThen(isLetIn ? letIn : Effect.void, Effect.never)
    const fiber = yield* Effect.forkChild(use(one.source, 0, wait))
    yield* settled
    return fiber
  }),
  read: (source: Readable, announced: number) => use(source, announced, Effect.succeed)
}))

describe("BodyReader", () => {
  it.live("reads what comes in pieces, up to the last byte", () =>
    Effect.gen(function* () {
      const { read } = yield* reading
      const one = sender()
      yield* one.send(60)
      yield* one.send(40)
      yield* one.end
      assert.strictEqual((yield* read(one.source, 0)).length, 100)
    })
  )

  it.live("refuses one byte more, also when its length was not announced", () =>
    Effect.gen(function* () {
      const { read } = yield* reading
      const one = sender()
      yield* one.send(100)
      yield* one.send(1)
      assert.strictEqual((yield* Effect.flip(read(one.source, 0)))._tag, "TooLong")
      // It never comes to reading it.
      const announced = sender()
      assert.strictEqual((yield* Effect.flip(read(announced.source, 101)))._tag, "TooLong")
    })
  )

  it.live("gives up the one that was begun first when all hold too much, and the others go on", () =>
    Effect.gen(function* () {
      const { read } = yield* reading
      const [slow, second, third] = [sender(), sender(), sender()] as const
      yield* slow.send(90)
      const fibers = [yield* Effect.forkChild(read(slow.source, 0))]
      yield* settled
      yield* second.send(90)
      fibers.push(yield* Effect.forkChild(read(second.source, 0)))
      yield* settled
      yield* third.send(90)
      fibers.push(yield* Effect.forkChild(read(third.source, 0)))
      assert.strictEqual((yield* Effect.flip(Fiber.join(fibers[0]!)))._tag, "GivenUp")
      yield* second.end
      yield* third.end
      assert.deepStrictEqual([(yield* Fiber.join(fibers[1]!)).length, (yield* Fiber.join(fibers[2]!)).length], [90, 90])
    })
  )

  it.live("what is done or broken off holds nothing any more", () =>
    Effect.gen(function* () {
      const { read } = yield* reading
      const held = sender()
      yield* held.send(100)
      const fiber = yield* Effect.forkChild(read(held.source, 0))
      yield* settled
      for (let round = 0; round < 10; round++) {
        const one = sender()
        yield* one.send(100)
        yield* one.end
        yield* read(one.source, 0)
        const broken = sender()
        yield* broken.send(100)
        const breaking = yield* Effect.forkChild(read(broken.source, 0))
        yield* settled
        yield* Fiber.interrupt(breaking)
      }
      yield* held.end
      assert.strictEqual((yield* Fiber.join(fiber)).length, 100)
    })
  )

  it.live("one that breaks off is none", () =>
    Effect.gen(function* () {
      const { read } = yield* reading
      const one = sender()
      yield* one.send(10)
      const fiber = yield* Effect.forkChild(read(one.source, 100))
      yield* settled
      yield* one.breakOff
      assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "BrokenOff")
    })
  )

  const stillWaits = (fibers: ReadonlyArray<Fiber.Fiber<unknown, unknown>>) =>
    fibers.map((fiber) => fiber.pollUnsafe() === undefined)

  it.live("what waits for its answer counts as well: of equal ones the oldest goes, and what it held is free", () =>
    Effect.gen(function* () {
      const { waiting } = yield* reading
      const fibers = yield* Effect.forEach([90, 90, 90, 90], (bytes) => waiting(bytes))
      for (const fiber of fibers.slice(0, 2)) {
        assert.strictEqual((yield* Effect.flip(Fiber.join(fiber)))._tag, "GivenUp")
      }
      assert.deepStrictEqual(stillWaits(fibers.slice(2)), [true, true])
    })
  )

  it.live("the longest goes, however many there are of them: a short one is in nobody's way", () =>
    Effect.gen(function* () {
      const { waiting } = yield* reading
      const short = yield* waiting(10)
      const long = yield* Effect.forEach([100, 100, 100, 90, 90], (bytes) => waiting(bytes))
      assert.deepStrictEqual(stillWaits([short, ...long]), [true, false, false, false, true, true])
    })
  )

  it.live("who is let in is not given up, also when that leaves no room: then the new one goes", () =>
    Effect.gen(function* () {
      const { read, waiting } = yield* reading
      const letIn = [yield* waiting(100, true), yield* waiting(50, true)]
      const stranger = yield* waiting(90)
      letIn.push(yield* waiting(50, true))
      assert.deepStrictEqual(stillWaits([...letIn, stranger]), [true, true, true, false])
      const one = sender()
      yield* one.send(60)
      yield* one.end
      assert.strictEqual((yield* Effect.flip(read(one.source, 0)))._tag, "GivenUp")
      // What they held is free once they are answered.
      yield* Effect.forEach(letIn, Fiber.interrupt)
      const next = yield* Effect.forEach([100, 100, 50], (bytes) => waiting(bytes))
      assert.deepStrictEqual(stillWaits(next), [true, true, true])
    })
  )
})
