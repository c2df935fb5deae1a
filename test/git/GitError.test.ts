import { assert, describe, it } from "@effect/vitest"
import { GitError, type Reason } from "../../src/git/GitError.ts"

const error = (reason: Reason) => new GitError({ repository: "https://git.example.com/plant.git", reason })

describe("GitError", () => {
  it("waits for an edit only where the resource alone is at fault", () => {
    const next = (...reasons: ReadonlyArray<Reason>) => new Set(reasons.map((reason) => error(reason).next))
    assert.deepStrictEqual(
      next({ _tag: "InvalidRef", ref: "a b" }, { _tag: "SecretInUrl" }, { _tag: "UnsupportedUrl", detail: "no" }),
      new Set(["edit"])
    )
    assert.deepStrictEqual(
      next(
        // A forge may send everybody elsewhere for an hour.
        { _tag: "Moved", to: "https://elsewhere.example.com" },
        { _tag: "Unauthorized", sent: "token" },
        { _tag: "RepositoryNotFound" },
        { _tag: "RefNotFound", ref: "v1" }
      ),
      new Set(["retry"])
    )
  })

  it("says both places where a ref that can be none may stand", () => {
    const { message } = error({ _tag: "InvalidRef", ref: "a b" })
    assert.include(message, "spec.git.ref")
    assert.include(message, "stoker.io/requested-ref")
  })
  it("says where the certificate of a private CA is read from, for a token and for an App", () => {
    const { message } = error({ _tag: "Tls", detail: "SELF_SIGNED_CERT_IN_CHAIN" })
    assert.match(message, /ca\.crt into the Secret that spec\.git\.auth names \(token, or githubApp/)
  })
})
