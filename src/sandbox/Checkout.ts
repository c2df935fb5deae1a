/** Where the repository lies: the sandbox needs files of it that are not part of the bundle (chart, Go modules). */
import { Effect, FileSystem, Path, Schema } from "effect"

/** The sandbox was started from somewhere outside a checkout of the repository. Not retried. */
export class CheckoutNotFound extends Schema.TaggedError<CheckoutNotFound>()("CheckoutNotFound", {
  from: Schema.String
}) {
  override get message(): string {
    return (
      `The sandbox needs files of its repository, and no folder above ${this.from} has a package.json named "stoker". ` +
      `Run it from a checkout: npm start`
    )
  }
}

const Package = Schema.fromJsonString(Schema.Struct({ name: Schema.optionalKey(Schema.String) }))
const decodePackage = Schema.decodeUnknownEffect(Package)

/** The repository's root folder, found upwards from this module: `src/sandbox` and `dist/chunks` both lie in it. */
export const root: Effect.Effect<string, CheckoutNotFound, FileSystem.FileSystem | Path.Path> = Effect.gen(
  function* () {
    const fileSystem = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const from = path.dirname(yield* Effect.orDie(path.fromFileUrl(new URL(import.meta.url))))

    const isRoot = (folder: string) =>
      fileSystem.readFileString(path.join(folder, "package.json")).pipe(
        Effect.flatMap(decodePackage),
        Effect.map(({ name }) => name === "stoker"),
        Effect.orElseSucceed(() => false)
      )
    const search = (folder: string): Effect.Effect<string, CheckoutNotFound> =>
      Effect.flatMap(isRoot(folder), (found) => {
        if (found) return Effect.succeed(folder)
        const parent = path.dirname(folder)
        return parent === folder ? Effect.fail(new CheckoutNotFound({ from })) : search(parent)
      })
    return yield* search(from)
  }
)
