import { assert, describe, it } from "@effect/vitest"
import { ByteSize, Effect, Fiber } from "effect"
import { HttpServerRequest } from "effect/http"
import * as BodyReader from "../../src/receiver/BodyReader.ts"

/** A request whose body comes as the test wants it. */
const request = (headers: Readonly<Record<string, string>> = {}) => {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  const body = new ReadableStream<Uint8Array>({
    start: (given) => {
      controller = given
    }
  })
  const web = new Request("http://receiver.test/webhook", {
    method: "POST",
    body,
    headers,
    duplex: "half"
  } as RequestInit)
  return {
    request: HttpServerRequest.fromWeb(web),
    send: (bytes: number) => Effect.sync(() => controller?.enqueue(new Uint8Array(bytes))),
    end: Effect.sync(() => controller?.close())
  }
}

const reader = BodyReader.make({ most: ByteSize.bytes(100), inAll: ByteSize.bytes(250) })

describe("BodyReader", () => {
  it.live("reads what comes in pieces, up to the last byte", () =>
    Effect.gen(function* () {
      const { read } = yield* reader
      const one = request()
      yield* one.send(60)
      yield* one.send(40)
      yield* one.end
      assert.strictEqual((yield* read(one.request)).length, 100)
    })
  )

  it.live("refuses one byte more, also when its length was not announced", () =>
    Effect.gen(function* () {
      const { read } = yield* reader
      const one = request()
      yield* one.send(100)
      yield* one.send(1)
      assert.strictEqual((yield* Effect.flip(read(one.request)))._tag, "TooLong")
      // It never comes to reading it.
      const announced = request({ "content-length": "101" })
      assert.strictEqual((yield* Effect.flip(read(announced.request)))._tag, "TooLong")
    })
  )

  it.live("gives up the one that was begun first when all hold too much, and the others go on", () =>
    Effect.gen(function* () {
      const { read } = yield* reader
      const requests = [request(), request(), request()] as const
      const [slow, second, third] = requests
      yield* slow.send(90)
      const fibers = [yield* Effect.forkChild(read(slow.request))]
      yield* Effect.yieldNow
      yield* second.send(90)
      fibers.push(yield* Effect.forkChild(read(second.request)))
      yield* Effect.yieldNow
      yield* third.send(90)
      fibers.push(yield* Effect.forkChild(read(third.request)))
      assert.strictEqual((yield* Effect.flip(Fiber.join(fibers[0]!)))._tag, "GivenUp")
      yield* second.end
      yield* third.end
      assert.deepStrictEqual([(yield* Fiber.join(fibers[1]!)).length, (yield* Fiber.join(fibers[2]!)).length], [90, 90])
    })
  )

  it.live("what is done or broken off holds nothing any more", () =>
    Effect.gen(function* () {
      const { read } = yield* reader
      const held = request()
      yield* held.send(100)
      const fiber = yield* Effect.forkChild(read(held.request))
      yield* Effect.yieldNow
      for (let round = 0; round < 10; round++) {
        const one = request()
        yield* one.send(100)
        yield* one.end
        yield* read(one.request)
        const broken = request()
        yield* broken.send(100)
        const breaking = yield* Effect.forkChild(read(broken.request))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(breaking)
      }
      yield* held.end
      assert.strictEqual((yield* Fiber.join(fiber)).length, 100)
    })
  )
})
