import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer, Result } from "effect"
import { TestClock } from "effect/testing"
import { perHost, SharedRefs } from "../../src/controller/SharedRefs.ts"
import * as Credentials from "../../src/git/Credentials.ts"
import { ObjectId } from "../../src/git/ObjectId.ts"
import { RemoteRefs } from "../../src/git/RemoteRefs.ts"
import * as RepositoryUrl from "../../src/git/RepositoryUrl.ts"
import { commit, otherCommit } from "./fixtures.ts"

/** A remote that answers when it is let, and the refs that each ls-refs asked for. */
const remote = Effect.gen(function* () {
  const answers = yield* Deferred.make<void>()
  const asked: Array<ReadonlyArray<string>> = []
  const resolveAll: RemoteRefs["Service"]["resolveAll"] = Effect.fnUntraced(function* ({ refs, url }) {
    asked.push(refs)
    if (url.host === "hung") yield* Deferred.await(answers)
    return new Map(refs.map((ref) => [ref, Result.succeed({ ref, kind: "branch", commit: ObjectId.make(commit) })]))
  })
  return {
    asked,
    answer: Deferred.succeed(answers, undefined),
    layer: SharedRefs.layerNoDeps.pipe(Layer.provide(Layer.mock(RemoteRefs, { resolveAll })))
  }
})

const ask = (repository: string, ref: string, credential = "", after = 0) =>
  Effect.gen(function* () {
    const url = yield* Effect.fromResult(RepositoryUrl.parse(repository))
    const shared = yield* SharedRefs
    return yield* shared.ask({ url, credentials: Credentials.none, credential, ref, after })
  })

describe("SharedRefs", () => {
  it.effect("asks one host by so many at once, and others whether that answers or not", () =>
    Effect.gen(function* () {
      const { answer, asked, layer } = yield* remote
      yield* Effect.gen(function* () {
        for (let index = 0; index < perHost + 4; index++)
          yield* Effect.forkScoped(ask("git@hung:a.git", "main", `${index}`))
        yield* TestClock.adjust(10)
        assert.lengthOf(asked, perHost)
        yield* ask("git@healthy:a.git", "main", "", 5)
        yield* answer
        yield* TestClock.adjust(10)
        assert.lengthOf(asked, perHost + 5)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("asks for a commit only when somebody does, and for a name with each question after it", () =>
    Effect.gen(function* () {
      const { asked, layer } = yield* remote
      yield* Effect.gen(function* () {
        const url = "https://git.example.com/a.git"
        yield* TestClock.adjust(10)
        yield* ask(url, commit, "", 5)
        yield* ask(url, "main", "", 10)
        yield* TestClock.adjust(10)
        // Known since; asked for with what somebody else waits for.
        yield* ask(url, "other", "", 15)
        yield* ask(url, commit.toUpperCase(), "", 15)
        yield* TestClock.adjust(10)
        yield* ask(url, otherCommit, "", 25)
      }).pipe(Effect.provide(layer))
      assert.deepStrictEqual(
        asked.map((refs) => [...refs].sort()),
        [
          [commit],
          ["main"],
          ["main", "other"],
          [commit.toUpperCase(), "main", "other"],
          [otherCommit, "main", "other"]
        ].map((refs) => [...refs].sort())
      )
    })
  )
})
