/** `npm run fuzz -- [--runs N] [--seed N]`: the fuzzer by hand, as long as one likes. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Console, Effect, Option, Random } from "effect"
import { Command, Flag } from "effect/cli"
import * as Properties from "./Properties.ts"

const command = Command.make(
  "fuzz",
  {
    runs: Flag.Int("runs").pipe(Flag.withDescription("Inputs for each property"), Flag.withDefault(100_000)),
    only: Flag.Literals("only", ["decoders", "receiver"]).pipe(
      Flag.withDescription("One property instead of both"),
      Flag.optional
    ),
    seed: Flag.Int("seed").pipe(Flag.withDescription("That of a former run"), Flag.optional)
  },
  Effect.fnUntraced(function* ({ only, runs, seed: given }) {
    const seed = Option.isSome(given) ? given.value : yield* Random.nextIntBetween(0, 2 ** 31 - 1)
    yield* Console.log(`seed ${seed}, ${runs} inputs for each property`)
    const wanted = (property: string) => Option.isNone(only) || only.value === property
    if (wanted("decoders")) {
      yield* Effect.sync(() => Properties.decoders({ runs, seed }))
      yield* Console.log("decoders: nothing found")
    }
    if (wanted("receiver")) {
      yield* Properties.receiver({ runs, seed })
      yield* Console.log("receiver: nothing found")
    }
  })
)

NodeRuntime.runMain(
  Command.runWith(command, { version: "1" })(process.argv.slice(2)).pipe(Effect.provide(NodeServices.layer))
)
