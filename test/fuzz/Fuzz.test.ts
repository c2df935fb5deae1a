import { describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import * as Properties from "./Properties.ts"

/** Another one every time; a failure prints it, and `npm run fuzz -- --seed` takes it. */
const options = Effect.gen(function* () {
  const seed = yield* Random.nextIntBetween(0, 2 ** 31 - 1)
  yield* Effect.sync(() => console.log(`fuzz: seed ${seed}`))
  return { runs: 2000, seed }
})

describe("fuzz", () => {
  it.live("whatever comes is read without an exception", () => Effect.map(options, Properties.decoders))
  it.live("whatever comes to a receiver is answered, and writes nothing without credentials", () =>
    Effect.flatMap(options, Properties.receiver)
  )
})
