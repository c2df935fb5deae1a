/**
 * `docs/webhook-sync.md`, sentence by sentence: its YAML goes through the real helm and the real API server, its commands
 * through a shell, its JSON to the running receiver, and what it promises is looked for at a gateway.
 *
 * What cannot be had here: a kubelet to port-forward to, a certificate authority and DNS for the Ingress (test/charts has
 * it behind a real nginx). There the objects are checked. `oci://ghcr.io/…` is a registry on loopback.
 */
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem, Option, Path, Schedule, Schema } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { parse } from "yaml"
import * as Names from "../../src/api/Names.ts"
import * as Checkout from "../../src/sandbox/Checkout.ts"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import * as Manifests from "../../src/sandbox/Manifests.ts"
import { manager, namespace, Release } from "../charts/Release.ts"
import * as TheReader from "./Reader.ts"
import { annotations, bearer, often, path, post, Reader, receiver, request, settle, sign, site } from "./Reader.ts"

const service = Effect.flatMap(Release, ({ get }) => get(`/api/v1/namespaces/${namespace}/services/${receiver}`))
const deployment = Effect.flatMap(Release, ({ get }) =>
  get(`/apis/apps/v1/namespaces/${namespace}/deployments/${manager}`)
)

/** The commented lines of an example instead of the one above them: "or from an existing Secret". */
const otherwise = (values: string) => values.replace(/^ +secret: .*\n/m, "").replace(/^( +)# /gm, "$1")

/** Another GatewaySync, which no gateway follows. Answers its path. */
const another = Effect.fnUntraced(function* (where: string, name: string, repo: string, interval?: string) {
  const spec = {
    git: { repo, ref: "v1.0.0" },
    polling: interval === undefined ? { enabled: false } : { enabled: true, interval },
    gateway: { api: { secretName: "api" } },
    sync: { profiles: { default: { mappings: [{ source: "a", destination: "a" }] } } }
  }
  yield* Manifests.apply(
    [
      { apiVersion: "v1", kind: "Namespace", metadata: { name: where } },
      { apiVersion: Names.apiVersion, kind: "GatewaySync", metadata: { name, namespace: where }, spec }
    ],
    where
  )
  return `/apis/${Names.apiVersion}/namespaces/${where}/gatewaysyncs/${name}`
})

const decodeAnnotated = Schema.decodeUnknownEffect(
  Schema.Struct({
    metadata: Schema.Struct({
      generation: Schema.Int,
      annotations: Schema.optionalKey(Schema.Record(Schema.String, Schema.String))
    })
  })
)
const requestedRef = (path: string) =>
  Effect.flatMap(Release, ({ get }) => get(path)).pipe(
    Effect.flatMap(decodeAnnotated),
    Effect.map(({ metadata }) => metadata.annotations?.[Names.request.ref])
  )

/** Where the hosts of the page's commands are. */
const hosts = Effect.gen(function* () {
  const url = yield* (yield* Release).through(receiver)
  return { "https://stoker-webhook.example.com": url, "http://127.0.0.1:9444": url, "curl ": "curl -sS " }
})

/** Runs what helm printed after the install, with these variables. */
const printedCurl = Effect.fnUntraced(function* (variables: Readonly<Record<string, string>>) {
  const { shell } = yield* Reader
  const notes = yield* (yield* Release).helm(["get", "notes", "stoker", "-n", namespace])
  const [command = ""] = /^ +BODY=[\s\S]*?-d "\$BODY"$/m.exec(notes) ?? []
  const given = Object.entries(variables).map(([name, value]) => `${name}='${value}'\n`)
  return yield* shell(`${given.join("")}${command}`, yield* hosts)
})

const isSynced = request("GET", path).pipe(
  Effect.repeat({ until: ({ body }) => body["synced"] === true, schedule: often })
)

layer(TheReader.layer("webhook-sync.md"), { excludeTestServices: true, timeout: "2 minutes" })(
  "the page of webhook sync",
  (it) => {
    const slow = 60_000

    it.effect("Without webhooks Stoker asks the Git server at an interval, every 60 s unless told otherwise.", () =>
      Effect.gen(function* () {
        const { get } = yield* Release
        const spec = {
          git: { repo: "https://example.com/plant.git", ref: "main" },
          gateway: { api: { secretName: "api" } },
          sync: { profiles: { default: { mappings: [{ source: "a", destination: "a" }] } } },
          paused: true
        }
        const plain = { apiVersion: Names.apiVersion, kind: "GatewaySync", metadata: { name: "plain" }, spec }
        yield* Manifests.apply([plain], "default")
        const url = `/apis/${Names.apiVersion}/namespaces/default/gatewaysyncs/plain`
        assert.containsSubset(yield* get(url), { spec: { polling: { enabled: true, interval: "60s" } } })
      })
    )

    it.effect("The receiver is off by default.", () =>
      Effect.gen(function* () {
        assert.isUndefined(yield* service)
        assert.include(JSON.stringify(yield* deployment), '"--webhook-receiver-port=0"')
      })
    )

    it.effect(
      "Turn it on with --set. Enabled without any authentication, every client can trigger a sync.",
      () =>
        Effect.gen(function* () {
          const { page, plant, shell } = yield* Reader
          assert.include(yield* shell(yield* page.block("upgrade")), "has been upgraded. Happy Helming!")
          yield* (yield* Release).rollOut
          assert.strictEqual((yield* post('{"ref": "v2.0.0"}')).status, 202)
          yield* plant.arrives("v2.0.0")
          assert.include(yield* printedCurl({}), '"accepted":true')
          yield* plant.arrives("v1.0.0")
        }),
      slow
    )

    it.effect("The controller listens on port 9444; the chart creates a Service for the receiver by itself.", () =>
      Effect.gen(function* () {
        assert.containsSubset(yield* service, { spec: { ports: [{ port: 9444, targetPort: "receiver" }] } })
        assert.include(JSON.stringify(yield* deployment), '"containerPort":9444')
        assert.include(JSON.stringify(yield* deployment), '"--webhook-receiver-port=9444"')
      })
    )

    it.effect("Port-forward: the Service and its port are there (a kubelet to forward to is not).", () =>
      Effect.gen(function* () {
        const { page } = yield* Reader
        const block = yield* page.block("port-forward")
        const [, where, name, port] = /-n (\S+) svc\/(\S+) 9444:(\d+)/.exec(block) ?? []
        const { get } = yield* Release
        assert.containsSubset(yield* get(`/api/v1/namespaces/${where}/services/${name}`), {
          spec: { ports: [{ port: Number(port) }] }
        })
      })
    )

    for (const [name, by] of [
      ["github", "github"],
      ["argocd", "argocd"],
      ["kargo", "kargo"],
      ["generic", "generic"]
    ] as const) {
      it.effect(
        `The format is recognised by itself (${name}); the request is written as annotations, and synced at once.`,
        () =>
          Effect.gen(function* () {
            const { page, plant } = yield* Reader
            yield* settle
            const { body, status } = yield* post(yield* page.block(`payload ${name}`))
            assert.strictEqual(status, 202, JSON.stringify(body))
            assert.containsSubset(body, { accepted: true, ref: "v2.0.0", synced: false })
            assert.containsSubset(yield* annotations, { [Names.request.ref]: "v2.0.0", [Names.request.by]: by })
            yield* plant.arrives("v2.0.0")
          }),
        slow
      )
    }

    it.effect(
      "A release moves the GatewaySync; an edit of spec.git.ref afterwards wins again.",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          yield* settle
          yield* post('{"ref": "v2.0.0"}')
          yield* plant.arrives("v2.0.0")
          yield* plant.publish("v3.0.0", "refs/tags/v3.0.0")
          yield* plant.merge({ spec: { git: { ref: "v3.0.0" } } })
          yield* plant.arrives("v3.0.0")
        }),
      slow
    )

    it.effect(
      "A push wakes the GatewaySyncs that follow the branch.",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          yield* settle
          yield* plant.merge({ spec: { git: { ref: "main" } } })
          yield* plant.publish("before the push")
          yield* post('{"ref": "main"}')
          yield* plant.arrives("before the push")
          const after = yield* plant.publish("after the push")
          const push = JSON.stringify({ ref: "refs/heads/main", before: "1".repeat(40), after, deleted: false })
          assert.strictEqual((yield* post(push, { "x-github-event": "push" })).status, 202)
          yield* plant.arrives("after the push")
        }),
      slow
    )

    it.effect(
      "{namespace} is the namespace of the GatewaySync, {name} is its name: no other is moved.",
      () =>
        Effect.gen(function* () {
          const { page } = yield* Reader
          assert.include(yield* page.block("endpoint"), "POST /webhook/{namespace}/{name}")
          yield* settle
          const other = yield* another("other-namespace", site.cr, (yield* Reader).plant.repository.url)
          assert.strictEqual((yield* post('{"ref": "v2.0.0"}', {}, `/webhook/other-namespace/${site.cr}`)).status, 202)
          assert.strictEqual(yield* requestedRef(other), "v2.0.0")
          assert.notProperty(yield* annotations, Names.request.ref)
        }),
      slow
    )

    it.effect(
      "POST /webhook/{namespace} and POST /webhook reach every GatewaySync (of the namespace, of the cluster) of the repository: one hook for many.",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          const { url } = plant.repository
          const beside = yield* another(site.namespace, "beside", url)
          const elsewhere = yield* another("other-namespace", "elsewhere", url)
          const stranger = yield* another(site.namespace, "stranger", "https://example.com/another.git")
          for (const [target, tag, reached] of [
            [`/webhook/${site.namespace}`, "v2.0.0", undefined],
            ["/webhook", "v2.1.0", "v2.1.0"]
          ] as const) {
            yield* settle
            yield* plant.publish(tag, `refs/tags/${tag}`)
            const release = { action: "published", release: { tag_name: tag }, repository: { clone_url: url } }
            const { body, status } = yield* post(JSON.stringify(release), {}, target)
            assert.strictEqual(status, 202, JSON.stringify(body))
            yield* plant.arrives(tag)
            assert.strictEqual(yield* requestedRef(beside), tag)
            assert.strictEqual(yield* requestedRef(elsewhere), reached)
            assert.isUndefined(yield* requestedRef(stranger))
          }
        }),
      slow
    )

    it.effect(
      "The answers are those of the table; the same POST can be repeated until it is synced, for a branch with one Idempotency-Key.",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          yield* settle
          const until = post('{"ref": "v2.0.0"}').pipe(
            Effect.repeat({ until: ({ body }) => body["synced"] === true, schedule: often })
          )
          assert.containsSubset(yield* until, {
            status: 202,
            body: { accepted: true, gateways: { synced: 1, total: 1 } }
          })

          const ping = yield* post('{"zen": "Keep it logically awesome.", "hook_id": 1}', { "x-github-event": "ping" })
          yield* plant.publish("of the branch")
          const branch = post('{"ref": "main"}', { "idempotency-key": "one-job" }).pipe(
            Effect.repeat({ until: ({ body }) => body["synced"] === true, schedule: Schedule.spaced("300 millis") })
          )
          assert.containsSubset(yield* branch, { status: 202, body: { ref: "main" } })
          yield* plant.arrives("of the branch")

          const gone = { ref: "refs/heads/main", before: "1".repeat(40), after: "0".repeat(40), deleted: true }
          const other = { ref: "refs/heads/other", before: "1".repeat(40), after: "2".repeat(40), deleted: false }
          const [deleted, unfollowed] = yield* Effect.forEach([gone, other], (push) =>
            post(JSON.stringify(push), { "x-github-event": "push" })
          )
          for (const answer of [ping, deleted!, unfollowed!]) {
            assert.containsSubset(answer, { status: 200, body: { accepted: false } })
            assert.isString(answer.body["reason"])
          }
          const status = (body: string, target = path) => Effect.map(post(body, {}, target), ({ status }) => status)
          assert.strictEqual(yield* status('{"foo": "bar"}'), 400)
          assert.strictEqual(yield* status("no JSON"), 400)
          const freight = { commits: [{ repoURL: "https://example.com/another.git", tag: "v2.0.0" }] }
          assert.strictEqual(yield* status(JSON.stringify({ freight })), 422)
          assert.strictEqual(yield* status('{"ref": "v2.0.0"}', `/webhook/${site.namespace}/nobody`), 404)
          assert.strictEqual((yield* request("PUT", path, "{}")).status, 405)
          assert.strictEqual(yield* status(`{"ref": "v2.0.0", "x": "${"x".repeat(4 * 1024 * 1024)}"}`), 413)
        }),
      slow
    )

    it.effect(
      "Test it with curl.",
      () =>
        Effect.gen(function* () {
          const { page, plant, shell } = yield* Reader
          yield* settle
          yield* post('{"ref": "v2.0.0"}')
          yield* plant.arrives("v2.0.0")
          const answer = yield* shell(yield* page.block("curl"), yield* hosts)
          assert.include(answer, '"accepted":true')
          yield* plant.arrives("v1.0.0")
        }),
      slow
    )

    it.effect(
      "Sync now, whatever is in force: it wakes, and moves nothing.",
      () =>
        Effect.gen(function* () {
          const { page, plant, shell } = yield* Reader
          yield* settle
          yield* plant.publish("v2.0.0, moved", "refs/tags/v2.0.0")
          yield* post('{"ref": "v2.0.0"}')
          yield* plant.arrives("v2.0.0, moved")
          // The tag moves, and nobody says so: nothing but a look at the remote finds it.
          yield* plant.publish("v2.0.0", "refs/tags/v2.0.0")
          yield* shell(yield* page.block("sync now"))
          yield* plant.arrives("v2.0.0")
          assert.containsSubset(yield* annotations, { [Names.request.ref]: "v2.0.0" })

          // Nor does it hold on to what the gateways have, while what the spec says is not there yet.
          yield* settle
          yield* plant.merge({ spec: { git: { ref: "v4.0.0" } } })
          yield* shell(yield* page.block("sync now"))
          yield* plant.publish("v4.0.0", "refs/tags/v4.0.0")
          yield* plant.arrives("v4.0.0")
          assert.notProperty(yield* annotations, Names.request.ref)

          // Two in one second are two, also where date knows no fractions (macOS).
          const posixDate = `date() { case "$*" in *%N*) echo "$(command date +%s)N" ;; *) command date "$@" ;; esac; }\n`
          const ids = yield* Effect.replicateEffect(
            Effect.andThen(
              shell(posixDate + (yield* page.block("sync now"))),
              Effect.map(annotations, (all) => all[Names.request.pushed]?.match(/"id": *"([^"]{8,})"/)?.[1])
            ),
            2
          )
          assert.strictEqual(new Set(ids.filter((id) => id !== undefined)).size, 2, ids.join())
        }),
      slow
    )

    it.effect(
      "Roll back, until spec.git.ref is edited or the next release comes; see what happened.",
      () =>
        Effect.gen(function* () {
          const { page, plant, shell } = yield* Reader
          yield* settle
          yield* post('{"ref": "v2.0.0"}')
          yield* plant.arrives("v2.0.0")
          yield* shell(yield* page.block("roll back"))
          yield* plant.arrives("v1.0.0")
          yield* isSynced
          const looked = yield* shell(yield* page.block("look"))
          assert.match(looked, /my-sync +v1\.0\.0 +1\/1 synced +True/)
          assert.include(looked, "Last Sync Commit:")

          yield* plant.merge({ spec: { git: { ref: "v2.0.0" } } })
          yield* plant.arrives("v2.0.0")
          yield* shell(yield* page.block("roll back"))
          yield* plant.arrives("v1.0.0")
          yield* plant.merge({ spec: { git: { ref: "v3.0.0" } } })
          yield* plant.arrives("v3.0.0")

          yield* shell(yield* page.block("roll back"))
          yield* plant.arrives("v1.0.0")
          yield* post('{"action": "published", "release": {"tag_name": "v2.0.0"}, "by": "the next"}')
          yield* plant.arrives("v2.0.0")
        }),
      slow
    )

    it.effect(
      "A long interval catches a webhook that was missed, webhooks give the instant sync.",
      () =>
        Effect.gen(function* () {
          const { page, plant } = yield* Reader
          yield* settle
          const { spec } = parse(yield* page.block("spec fallback")) as {
            readonly spec: { readonly polling: { readonly enabled: boolean; readonly interval: string } }
          }
          assert.deepStrictEqual(spec, { polling: { enabled: true, interval: "5m" } })
          yield* plant.merge({ spec })
          yield* post('{"ref": "v2.0.0"}')
          yield* plant.arrives("v2.0.0")
          // Nobody waits five minutes here.
          yield* plant.merge({ spec: { git: { ref: "main" }, polling: { ...spec.polling, interval: "1s" } } })
          yield* plant.publish("without a webhook")
          yield* plant.arrives("without a webhook")
        }),
      slow
    )

    it.effect(
      "Turn it on in the chart's values. The receiver checks the header X-Hub-Signature-256.",
      () =>
        Effect.gen(function* () {
          const { configure, page, plant } = yield* Reader
          yield* configure(yield* page.block("values hmac"))
          yield* settle
          const body = '{"ref": "v2.0.0"}'
          assert.strictEqual((yield* post(body)).status, 401)
          assert.strictEqual((yield* post(body, sign(body, "another"))).status, 401)
          assert.strictEqual((yield* post(body, sign('{"ref": "v1.0.0"}', "my-webhook-secret"))).status, 401)
          assert.strictEqual((yield* post(body, sign(body, "my-webhook-secret"))).status, 202)
          yield* plant.arrives("v2.0.0")
        }),
      slow
    )

    it.effect("An inline secret goes into a Secret of the release, never into the pod's spec.", () =>
      Effect.gen(function* () {
        const { get } = yield* Release
        const secret = (yield* get(`/api/v1/namespaces/${namespace}/secrets/${receiver}`)) as object
        assert.containsSubset(secret, { data: { hmac: Buffer.from("my-webhook-secret").toString("base64") } })
        assert.notInclude(JSON.stringify(yield* deployment), "my-webhook-secret")
      })
    )

    it.effect(
      "GitHub: Releases for deploys by tag, Pushes for deploys by branch; the ping is answered 200.",
      () =>
        Effect.gen(function* () {
          const { plant } = yield* Reader
          yield* settle
          const github = (event: string, body: object) => {
            const text = JSON.stringify({ ...body, repository: { clone_url: plant.repository.url } })
            return post(text, {
              ...sign(text, "my-webhook-secret"),
              "x-github-event": event,
              "x-github-delivery": event
            })
          }
          assert.strictEqual((yield* github("ping", { zen: "Design for failure.", hook_id: 1 })).status, 200)
          const release = { tag_name: "v2.0.0", draft: false, prerelease: false }
          assert.strictEqual((yield* github("release", { action: "published", release })).status, 202)
          yield* plant.arrives("v2.0.0")
          yield* plant.merge({ spec: { git: { ref: "main" } } })
          const after = yield* plant.publish("pushed")
          const push = {
            ref: "refs/heads/main",
            before: "1".repeat(40),
            after,
            deleted: false,
            head_commit: { id: after }
          }
          assert.strictEqual((yield* github("push", push)).status, 202)
          yield* plant.arrives("pushed")
        }),
      slow
    )

    it.effect(
      "HMAC inline, or from an existing Secret.",
      () =>
        Effect.gen(function* () {
          const { configure, page } = yield* Reader
          const values = yield* page.block("values hmac inline or existing")
          const stringData = { "webhook-secret": "existing" }
          yield* Manifests.apply(
            [{ apiVersion: "v1", kind: "Secret", metadata: { name: "webhook-hmac" }, stringData }],
            namespace
          )
          const body = '{"ref": "v1.0.0"}'
          for (const [what, secret] of [
            [values, "my-webhook-secret"],
            [otherwise(values), "existing"]
          ] as const) {
            yield* configure(what)
            assert.strictEqual((yield* post(body)).status, 401)
            assert.strictEqual((yield* post(body, sign(body, secret))).status, 202)
            assert.include(yield* printedCurl({ SECRET: secret }), '"accepted":true')
          }
        }),
      slow
    )

    it.effect(
      "Bearer token inline, or from an existing Secret; several in one, a change without a restart.",
      () =>
        Effect.gen(function* () {
          const { configure, page } = yield* Reader
          const fileSystem = yield* FileSystem.FileSystem
          const values = yield* page.block("values token inline or existing")
          const header = yield* page.block("header")
          const withHeader = (token: string) => {
            const [name = "", value = ""] = header.trim().replace("<token>", token).split(": ")
            return Effect.map(post('{"ref": "v1.0.0"}', { [name]: value }), ({ status }) => status)
          }
          yield* configure(values)
          assert.strictEqual((yield* post('{"ref": "v1.0.0"}')).status, 401)
          assert.strictEqual(yield* withHeader("wrong"), 401)
          assert.strictEqual(yield* withHeader("my-token"), 202)
          assert.include(yield* printedCurl({ TOKEN: "my-token" }), '"accepted":true')

          const stringData = { "webhook-token": "old\nnew\n" }
          yield* Manifests.apply(
            [{ apiVersion: "v1", kind: "Secret", metadata: { name: "webhook-token-secret" }, stringData }],
            namespace
          )
          yield* configure(otherwise(values))
          assert.deepStrictEqual(yield* Effect.forEach(["my-token", "old", "new"], withHeader), [401, 202, 202])

          // The kubelet brings what changes in a Secret to the mounted file.
          const { pid } = yield* (yield* Release).rollOut
          const environment = yield* fileSystem.readFileString(`/proc/${pid}/environ`)
          const [, file = ""] = /(?:^|\0)WEBHOOK_BEARER_TOKEN_FILE=([^\0]+)/.exec(environment) ?? []
          yield* fileSystem.writeFileString(file, "new\nnewer\n")
          assert.deepStrictEqual(yield* Effect.forEach(["old", "new", "newer"], withHeader), [401, 202, 202])
        }),
      slow
    )

    it.effect(
      "GET on the same path, with the same bearer token, answers what is in force and changes nothing.",
      () =>
        Effect.gen(function* () {
          const { configure, plant } = yield* Reader
          const { get } = yield* Release
          yield* configure(JSON.stringify({ webhookReceiver: { token: { secret: "my-token" } } }))
          yield* settle
          // The controller may still write the status.
          const wanted = get(plant.gatewaySync).pipe(
            Effect.flatMap(decodeAnnotated),
            Effect.map(({ metadata }) => metadata)
          )
          const before = yield* wanted
          assert.strictEqual((yield* request("GET", path)).status, 401)
          const { body, status } = yield* request("GET", path, undefined, bearer("my-token"))
          assert.strictEqual(status, 200)
          assert.containsSubset(body, { ref: "v1.0.0" })
          assert.deepStrictEqual(Object.keys(body).sort(), ["commit", "conditions", "gateways", "ref", "synced"])
          assert.containsSubset(yield* get(plant.gatewaySync), { status: { lastSyncCommit: body["commit"] } })
          assert.deepStrictEqual(yield* wanted, before)
        }),
      slow
    )

    it.effect(
      "With a token configured, add the header to the curl.",
      () =>
        Effect.gen(function* () {
          const { page, plant, shell } = yield* Reader
          yield* settle
          yield* post('{"ref": "v2.0.0"}', bearer("my-token"))
          yield* plant.arrives("v2.0.0")
          const [, header = ""] = /With a token configured, add `(.*?)`/.exec(page.page) ?? []
          const curl = (yield* page.block("curl")).trimEnd()
          const answer = yield* shell(`TOKEN=my-token\n${curl} ${header}`, yield* hosts)
          assert.include(answer, '"accepted":true')
          yield* plant.arrives("v1.0.0")
          assert.include(yield* shell(curl, yield* hosts), '"error":"no or wrong credentials')
        }),
      slow
    )

    it.effect(
      "With both, either authorises a request: the credentials are checked first, whichever fits.",
      () =>
        Effect.gen(function* () {
          const { configure } = yield* Reader
          const both = { hmac: { secret: "my-webhook-secret" }, token: { secret: "my-token" } }
          yield* configure(JSON.stringify({ webhookReceiver: both }))
          const body = '{"ref": "v1.0.0"}'
          const status = (headers: Readonly<Record<string, string>>, what = body) =>
            Effect.map(post(what, headers), ({ status }) => status)
          assert.strictEqual(yield* status(sign(body, "my-webhook-secret")), 202)
          assert.strictEqual(yield* status(bearer("my-token")), 202)
          assert.strictEqual(yield* status({ ...sign(body, "wrong"), ...bearer("my-token") }), 202)
          assert.strictEqual(yield* status({ ...sign(body, "wrong"), ...bearer("wrong") }), 401)
          assert.strictEqual(yield* status({}, '{"foo": "bar"}'), 401, "before the payload is looked at")
        }),
      slow
    )

    it.effect(
      "Ingress by Helm values: the object is as printed (a certificate authority and DNS are not there).",
      () =>
        Effect.gen(function* () {
          const { configure, page } = yield* Reader
          const { get } = yield* Release
          const values = yield* page.block("values ingress")
          yield* configure(values)
          const { ingress } = (parse(values) as { readonly webhookReceiver: { readonly ingress: Ingress } })
            .webhookReceiver
          const [host] = ingress.hosts
          assert.containsSubset(
            yield* get(`/apis/networking.k8s.io/v1/namespaces/${namespace}/ingresses/${receiver}`),
            {
              metadata: { annotations: ingress.annotations },
              spec: {
                tls: ingress.tls,
                rules: [
                  {
                    host: host!.host,
                    http: { paths: [{ ...host!.paths[0], backend: { service: { name: receiver } } }] }
                  }
                ]
              }
            }
          )
        }),
      slow
    )

    it.effect(
      "To rely on webhooks alone, turn polling off.",
      () =>
        Effect.gen(function* () {
          const { page, plant } = yield* Reader
          const { create, exchanges } = yield* GitServer
          const asked = (name: string) =>
            Effect.map(
              exchanges,
              (all) =>
                all.filter(({ command, repository }) => repository === name && Option.contains(command, "ls-refs"))
                  .length
            )
          yield* settle
          yield* plant.merge({ spec: { git: { ref: "main" }, polling: { enabled: true, interval: "1s" } } })
          yield* plant.publish("polled")
          yield* plant.arrives("polled")

          // Beside it one that is polled: it tells when as much time has gone by as a poll takes.
          const clock = yield* create("clock")
          const commit = yield* clock.commit({ branch: "main", files: { file: "" }, message: "first" })
          yield* clock.setRef("refs/tags/v1.0.0", commit)
          yield* another("other-namespace", "clock", clock.url, "1s")
          const polls = Effect.fnUntraced(function* (times: number) {
            const before = yield* asked(clock.name)
            yield* asked(clock.name).pipe(Effect.repeat({ until: (count) => count >= before + times, schedule: often }))
          })
          yield* plant.merge(parse(yield* page.block("spec no polling")) as object)
          yield* polls(1)
          const before = yield* asked(plant.repository.name)
          const after = yield* plant.publish("by a webhook alone")
          yield* polls(3)
          assert.strictEqual(yield* asked(plant.repository.name), before)

          const push = { ref: "refs/heads/main", before: "1".repeat(40), after, deleted: false }
          assert.strictEqual((yield* post(JSON.stringify(push), { "x-github-event": "push" })).status, 202)
          yield* plant.arrives("by a webhook alone")
          yield* another("other-namespace", "clock", clock.url)
        }),
      slow
    )

    it.effect(
      "429: too many.",
      () =>
        Effect.gen(function* () {
          const { configure } = yield* Reader
          yield* configure(JSON.stringify({ webhookReceiver: { limits: { deliveriesPerMinute: 2 } } }))
          const answers = yield* Effect.replicateEffect(post('{"ref": "v1.0.0"}'), 3)
          assert.deepStrictEqual(
            answers.map(({ status }) => status),
            [202, 202, 429]
          )
          assert.match(String(answers.at(-1)?.headers["retry-after"]), /^\d+$/)
        }),
      slow
    )

    it.effect(
      "503: it could not be stored; send it again.",
      () =>
        Effect.gen(function* () {
          const { configure } = yield* Reader
          const { apiServer } = yield* ControlPlane
          yield* configure("")
          yield* settle
          const url = yield* (yield* Release).through(receiver)
          yield* apiServer.kill
          const refused = yield* HttpClientRequest.post(`${url}${path}`).pipe(
            HttpClientRequest.bodyText('{"ref": "v2.0.0"}'),
            HttpClient.execute
          )
          yield* apiServer.start
          assert.strictEqual(refused.status, 503)
          assert.match(yield* refused.text, /send it again","synced":false/)
          yield* post('{"ref": "v2.0.0"}').pipe(
            Effect.repeat({ until: ({ status }) => status === 202, schedule: often })
          )
          assert.containsSubset(yield* annotations, { [Names.request.ref]: "v2.0.0" })
        }),
      slow
    )

    it.effect("Every block on this page is run, and what it links to is there.", () =>
      Effect.gen(function* () {
        const { page } = yield* Reader
        const paths = yield* Path.Path
        const fileSystem = yield* FileSystem.FileSystem
        const docs = paths.join(yield* Checkout.root, "docs")
        assert.deepStrictEqual(
          (yield* page.unused).map(({ text }) => text),
          []
        )
        const links = [...page.page.matchAll(/\]\(([^)#:]+)\)/g)].map(([, link]) => link!)
        const dead = yield* Effect.filter(links, (link) =>
          Effect.map(fileSystem.exists(paths.join(docs, link)), (exists) => !exists)
        )
        assert.deepStrictEqual(dead, [])
      })
    )
  }
)

interface Ingress {
  readonly annotations: Readonly<Record<string, string>>
  readonly hosts: ReadonlyArray<{ readonly host: string; readonly paths: ReadonlyArray<object> }>
  readonly tls: ReadonlyArray<object>
}
