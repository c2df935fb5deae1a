/**
 * `docs/senders/`: each body goes to the running receiver as its sender sends it, the commands through a shell. Of ArgoCD
 * and Kargo, which cannot be had here, the templates are filled in by hand.
 */
import { assert, layer } from "@effect/vitest"
import { Cause, Effect, Exit, FileSystem, Path, Redacted, Struct } from "effect"
import { parse } from "yaml"
import * as Checkout from "../../src/sandbox/Checkout.ts"
import * as Senders from "../../src/sandbox/Senders.ts"
import { Release } from "../charts/Release.ts"
import * as Blocks from "./Blocks.ts"
import * as TheReader from "./Reader.ts"
import { bearer, often, path, post, Reader, receiver, request, settle } from "./Reader.ts"

const page = Effect.fnUntraced(function* (name: string) {
  const paths = yield* Path.Path
  return yield* Blocks.read(paths.join(yield* Checkout.root, "docs", "senders", `${name}.md`))
})

const [secret, token] = ["my-webhook-secret", "my-token"]
const credentials = JSON.stringify({ webhookReceiver: { hmac: { secret }, token: { secret: token } } })

/** The event that each forge is set up to send. */
const events = {
  github: "release",
  gitlab: "Release Hook",
  bitbucket: "repo:push",
  gitea: "release",
  "azure-devops": ""
} as const

const secrets: Senders.Secrets = { hmac: Redacted.make(secret), token: Redacted.make(token) }

layer(TheReader.layer("senders/README.md"), { excludeTestServices: true, timeout: "2 minutes" })(
  "the guides to senders",
  (it) => {
    const slow = 60_000

    it.effect(
      "the receiver takes a signature and a token",
      () =>
        Effect.gen(function* () {
          yield* (yield* Reader).configure(credentials)
          assert.strictEqual((yield* post('{"ref": "v1.0.0"}')).status, 401)
        }),
      slow
    )

    for (const name of Struct.keys(events)) {
      const isRelease = !["bitbucket", "azure-devops"].includes(name)
      it.effect(
        `${name}: its ${isRelease ? "release moves" : "push wakes"} the GatewaySync`,
        () =>
          Effect.gen(function* () {
            const { plant } = yield* Reader
            const { block, unused } = yield* page(name)
            yield* settle
            const body = (yield* block(isRelease ? "release" : "push")).replace(
              "https://bitbucket.org/example/plant",
              plant.repository.url
            )
            if (!isRelease) {
              yield* plant.merge({ spec: { git: { ref: "main" } } })
              yield* post('{"ref": "main"}', bearer(token))
              yield* plant.publish(`pushed to ${name}`)
            }
            const answer = yield* post(body, Senders.forges[name](events[name], body, secrets))
            assert.containsSubset(answer, { status: 202, body: { accepted: true } }, JSON.stringify(answer.body))
            yield* plant.arrives(isRelease ? "v2.0.0" : `pushed to ${name}`)
            assert.deepStrictEqual(yield* unused, [])
          }),
        slow
      )
    }

    it.effect(
      "argocd: what the template prints moves the GatewaySync; without the annotation it says so",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          const { block, unused } = yield* page("argocd")
          yield* settle
          const map = parse(yield* block("notifications")) as Readonly<Record<string, string>>
          const service = parse(map["service.webhook.stoker"]!) as { readonly url: string; readonly headers: unknown }
          assert.strictEqual(service.url, "https://stoker.example.com/webhook/my-namespace/my-sync")
          assert.deepStrictEqual(service.headers, [
            { name: "Content-Type", value: "application/json" },
            { name: "Authorization", value: "Bearer $stoker-webhook-token" }
          ])
          assert.notInclude(map["trigger.on-stoker-sync"], "oncePer")
          const template = parse(map["template.stoker-sync"]!) as {
            readonly webhook: { readonly stoker: { readonly method: string; readonly body: string } }
          }
          const { body, method } = template.webhook.stoker
          assert.strictEqual(method, "POST")
          const application = parse(yield* block("application")) as {
            readonly metadata: { readonly annotations: Readonly<Record<string, string>> }
          }
          const send = (ref: unknown) =>
            post(
              body.replace(/\{\{ index .app.metadata.annotations "git.ref" \| toJson \}\}/, JSON.stringify(ref)),
              bearer(token)
            )
          const missing = yield* send(null)
          assert.strictEqual(missing.status, 400)
          assert.include(String(missing.body["error"]), "git.ref")
          assert.strictEqual((yield* send(application.metadata.annotations["git.ref"])).status, 202)
          yield* plant.arrives("v2.0.0")
          assert.deepStrictEqual(yield* unused, [])
        }),
      slow
    )

    it.effect(
      "kargo: the step posts until it is synced, and its expressions read our answers",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          const { block, unused } = yield* page("kargo")
          yield* settle
          const [step] = parse(yield* block("step")) as ReadonlyArray<{
            readonly config: Readonly<Record<string, string>>
          }>
          const { body, errorExpression, failureExpression, method, successExpression } = step!.config
          assert.strictEqual(method, "POST")
          // What Kargo v1.11 was seen to take; an expression ends at its first "}}".
          assert.strictEqual(body!.indexOf("}}"), body!.trimEnd().length - 2)
          // Kargo tells the commit that its Warehouse saw: synced means that one, not whatever the tag is by now.
          const id = yield* plant.publish("v2.0.0", "refs/tags/v2.0.0")
          const commit = (repoURL: string) => JSON.stringify({ repoURL, id, tag: "v2.0.0" })
          const send = (repoURL: string) =>
            post(
              body!
                .trim()
                .replace(/^\$\{\{ quote\(|\) \}\}$/g, "")
                .replace(/commitFrom\(".*?"\)/, commit(repoURL)),
              bearer(token)
            )
          assert.strictEqual(successExpression, "response.status == 202 && response.body.synced == true")
          yield* send(plant.repository.url).pipe(
            Effect.repeat({
              until: ({ body, status }) => status === 202 && body["synced"] === true,
              schedule: often
            })
          )
          yield* plant.arrives("v2.0.0")

          assert.strictEqual(errorExpression, "response.body.error")
          const failures = /\[(.*)\]/.exec(failureExpression!)![1]!.split(", ").map(Number)
          const another = yield* send("https://github.com/example/another.git")
          const unauthorized = yield* post('{"ref": "v2.0.0"}')
          for (const { body, headers, status } of [another, unauthorized]) {
            assert.include(failures, status)
            assert.isString(body["error"])
            assert.match(String(headers["content-type"]), /^application\/json/)
          }
          assert.deepStrictEqual(yield* unused, [])
        }),
      slow
    )

    /** A block of the CI's guide in a shell; `changes` are made to its text. */
    const job = Effect.fnUntraced(function* (name: string, changes: Readonly<Record<string, string>> = {}) {
      const { shell } = yield* Reader
      const url = yield* (yield* Release).through(receiver)
      const { block } = yield* page("ci")
      const variables = `TOKEN=${token} SECRET=${secret} CI_JOB_ID=${name}-${Object.values(changes).join("-")}`
      return yield* shell(`${variables}\n${yield* block(name)}`, {
        "https://stoker.example.com": url,
        "sleep 2": "sleep 0.5",
        ...changes
      })
    })

    for (const name of ["token", "signed", "wait"]) {
      it.effect(
        `ci: curl, ${name}`,
        () =>
          Effect.gen(function* () {
            const { plant } = yield* Reader
            yield* settle
            yield* job(name)
            yield* plant.arrives("v2.0.0")
          }),
        slow
      )
    }

    it.effect(
      "ci: curl, wait, ends when the gateways have the branch",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          yield* settle
          yield* plant.publish("of the branch")
          yield* job("wait", { "REF=v2.0.0": "REF=main" })
          const { body } = yield* request("GET", path, undefined, bearer(token))
          assert.containsSubset(body, { ref: "main", synced: true })
          yield* plant.arrives("of the branch")
        }),
      slow
    )

    it.effect.each([
      ["401", { $TOKEN: "wrong" }, "no or wrong credentials"],
      ["400", { "REF=v2.0.0": "REF=" }, "ref"],
      ["404", { "/my-sync": "/nobody" }, "there is no such GatewaySync"]
    ] as const)("ci: curl, wait, ends with the answer when it is %s", ([, changes, error]) =>
      Effect.gen(function* () {
        yield* settle
        const exit = yield* Effect.exit(job("wait", changes))
        assert.isTrue(Exit.isFailure(exit))
        assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", `{"error":"`)
        assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", error)
      })
    )

    it.effect("every guide is listed, and every link leads somewhere", () =>
      Effect.gen(function* () {
        const paths = yield* Path.Path
        const fileSystem = yield* FileSystem.FileSystem
        const folder = paths.join(yield* Checkout.root, "docs", "senders")
        const guides = (yield* fileSystem.readDirectory(folder)).filter((file) => file !== "README.md").sort()
        const readme = yield* fileSystem.readFileString(paths.join(folder, "README.md"))
        const links = [...readme.matchAll(/\]\(([^)#]+)/g)].map(([, link]) => link!)
        assert.deepStrictEqual(links.filter((link) => !link.includes("/")).sort(), guides)
        for (const link of links) assert.isTrue(yield* fileSystem.exists(paths.join(folder, link)), link)
      })
    )
  }
)
