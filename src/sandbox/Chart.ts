/**
 * The Helm chart of this repository, rendered by the real helm.
 */
import { Effect, Path, Schema, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import * as Checkout from "./Checkout.ts"
import * as Manifests from "./Manifests.ts"
import { Toolchain } from "./Toolchain.ts"

/** helm did not render the chart. Not retried. */
export class ChartError extends Schema.TaggedError<ChartError>()("ChartError", { output: Schema.String }) {
  override get message(): string {
    return `helm did not render the chart: ${this.output.trim()}`
  }
}

export const release = "stoker"
export const namespace = "stoker-system"

/** @param values `key=value`, as after `--set` */
export const render = Effect.fnUntraced(function* (values: ReadonlyArray<string>) {
  const helm = yield* (yield* Toolchain).find("helm")
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const chart = path.join(yield* Checkout.root, "charts", "stoker-operator")
  const args = ["template", release, chart, "--namespace", namespace, "--include-crds", "--no-hooks"]
  const [output, errors, code] = yield* Effect.scoped(
    Effect.gen(function* () {
      const handle = yield* spawner.spawn(
        ChildProcess.make(helm, [...args, ...values.flatMap((value) => ["--set", value])], { stdin: "ignore" })
      )
      return yield* Effect.all(
        [
          Stream.mkString(Stream.decodeText(handle.stdout)),
          Stream.mkString(Stream.decodeText(handle.stderr)),
          handle.exitCode
        ],
        { concurrency: 3 }
      )
    })
  )
  if (code !== 0) return yield* new ChartError({ output: errors })
  return yield* Manifests.parse(output)
})
