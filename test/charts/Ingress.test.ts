/**
 * The Ingress as the page prints it, carried out by a real nginx with a configuration made from the rendered object: a
 * signed delivery over https must reach the receiver byte for byte, or its signature is worth nothing.
 */
import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, FileSystem, Layer, Result, Schema, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { spawnSync } from "node:child_process"
import { createHmac } from "node:crypto"
import { ControlPlane } from "../../src/sandbox/ControlPlane.ts"
import { GitServer } from "../../src/sandbox/GitServer.ts"
import { freePort, Processes } from "../../src/sandbox/Processes.ts"
import { Toolchain } from "../../src/sandbox/Toolchain.ts"
import * as OneGateway from "./OneGateway.ts"
import * as Page from "./Page.ts"
import { fullname, namespace, Release } from "./Release.ts"

const Ingress = Schema.Struct({
  metadata: Schema.Struct({ annotations: Schema.Record(Schema.String, Schema.String) }),
  spec: Schema.Struct({
    rules: Schema.Array(
      Schema.Struct({
        host: Schema.String,
        http: Schema.Struct({
          paths: Schema.Array(
            Schema.Struct({
              path: Schema.String,
              pathType: Schema.Literal("Prefix"),
              backend: Schema.Struct({ service: Schema.Struct({ name: Schema.String }) })
            })
          )
        })
      })
    ),
    tls: Schema.Array(Schema.Struct({ hosts: Schema.Array(Schema.String), secretName: Schema.String }))
  })
})

const annotation = "nginx.ingress.kubernetes.io"

/** What the controller of `ingress-nginx` makes of an Ingress, as far as the page uses it. */
const configuration = (options: {
  readonly ingress: typeof Ingress.Type
  readonly folder: string
  readonly http: number
  readonly https: number
  readonly backends: Readonly<Record<string, string>>
}) => {
  const { folder, http, https, ingress } = options
  const { annotations } = ingress.metadata
  const redirects = annotations[`${annotation}/ssl-redirect`] === "true"
  const servers = ingress.spec.rules.map(({ host, http: { paths } }) => {
    const isTls = ingress.spec.tls.some(({ hosts }) => hosts.includes(host))
    const locations = paths
      .flatMap(({ backend, path }) =>
        [`= ${path}`, `${path}/`].map(
          (where) => `location ${where} { proxy_pass ${options.backends[backend.service.name]}; }`
        )
      )
      .join("\n")
    const plain = redirects && isTls ? `return 308 https://$host:${https}$request_uri;` : locations
    return `
      server { listen 127.0.0.1:${http}; server_name ${host}; ${plain} }
      server {
        listen 127.0.0.1:${https} ssl;
        server_name ${host};
        ssl_certificate ${folder}/tls.crt;
        ssl_certificate_key ${folder}/tls.key;
        ${locations}
      }`
  })
  return `
    daemon off;
    master_process off;
    pid ${folder}/nginx.pid;
    error_log stderr;
    events {}
    http {
      access_log off;
      client_max_body_size ${annotations[`${annotation}/proxy-body-size`] ?? "1m"};
      ${["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${folder}/${name};`).join("\n")}
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      ${servers.join("\n")}
    }`
}

const words = (text: string) => text.split(" ")

const run = Effect.fnUntraced(function* (command: string, args: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const child = yield* spawner.spawn(ChildProcess.make(command, args, { stdin: "ignore" }))
  const [output, code] = yield* Effect.all([Stream.mkString(Stream.decodeText(child.all)), child.exitCode], {
    concurrency: 2
  })
  if (code !== 0) return yield* Effect.fail(new Error(`${command} ended with ${code}: ${output}`))
  return output
}, Effect.scoped)

const nginx = await Effect.flatMap(Toolchain, ({ find }) => find("nginx")).pipe(
  Effect.provide(Toolchain.layer.pipe(Layer.provide(Processes.layerNoDeps), Layer.provide(NodeServices.layer))),
  Effect.result,
  Effect.runPromise
)
if (Result.isFailure(nginx)) console.error(nginx.failure.message)
const missing = [
  ...(Result.isFailure(nginx) ? ["nginx"] : []),
  ...[
    ["openssl", "version"],
    ["curl", "--version"]
  ].flatMap(([program = "", ...args]) => (spawnSync(program, args).error === undefined ? [] : [program]))
]

const Services = Layer.mergeAll(Release.layer, GitServer.layerNoDeps()).pipe(
  Layer.provideMerge(ControlPlane.layer),
  Layer.provideMerge(NodeServices.layer)
)

const needs = missing.length === 0 ? "" : ` (skipped: needs ${missing.join(", ")} on PATH)`

it.live.runIf(missing.length === 0)(
  `the Ingress redirects to https, and carries a signed delivery byte for byte${needs}`,
  () =>
    Effect.gen(function* () {
      const { chart, get, helm, rollOut, through } = yield* Release
      const fileSystem = yield* FileSystem.FileSystem
      const processes = yield* Processes
      const receiver = `${fullname}-webhook-receiver`
      yield* helm(
        [
          "install",
          "stoker",
          chart,
          "-n",
          namespace,
          "--create-namespace",
          "--set=webhookReceiver.hmac.secret=my-webhook-secret"
        ],
        Page.values("ingress")
      )
      const { repository } = yield* OneGateway.make({ namespace: "my-namespace", cr: "my-sync" })
      yield* rollOut

      const folder = yield* processes.folder("stoker-nginx-")
      yield* run(
        "openssl",
        words(
          `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -keyout ${folder}/tls.key -out ${folder}/tls.crt -subj /CN=stoker.example.com -addext subjectAltName=DNS:stoker.example.com`
        )
      )
      const ingress = yield* Effect.flatMap(
        get(`/apis/networking.k8s.io/v1/namespaces/${namespace}/ingresses/${receiver}`),
        Schema.decodeUnknownEffect(Ingress)
      )
      const [http, https] = yield* Effect.all([freePort, freePort])
      const backends = { [receiver]: yield* through(receiver) }
      yield* fileSystem.writeFileString(
        `${folder}/nginx.conf`,
        configuration({ ingress, folder, http, https, backends })
      )
      const proxy = yield* processes.start({
        name: "nginx",
        command: Result.getOrThrow(nginx),
        args: ["-e", "stderr", "-c", `${folder}/nginx.conf`],
        logFolder: folder
      })

      /** Posts the bytes of a file; answers `status body`. */
      const curl = (scheme: "http" | "https", file: string, secret: string) =>
        Effect.gen(function* () {
          const signature = createHmac("sha256", secret)
            .update(yield* fileSystem.readFile(file))
            .digest("hex")
          const port = scheme === "http" ? http : https
          return yield* run("curl", [
            ...words(`-sS --resolve stoker.example.com:${port}:127.0.0.1 --cacert ${folder}/tls.crt`),
            ...words(`-H X-GitHub-Event:release -H X-GitHub-Delivery:${signature.slice(0, 32)}`),
            ...words(`-H Content-Type:application/json -H X-Hub-Signature-256:sha256=${signature}`),
            ...words(`--data-binary @${file} -w :%{http_code}`),
            `${scheme}://stoker.example.com:${port}/webhook/my-namespace/my-sync`
          ])
        })

      const release = (tag: string, filler: string) =>
        // Bytes that anything in between might "mend": odd spaces, escapes, letters beyond ASCII, a line's end.
        ` {"action" : "published",\r\n\t"release":{"tag_name":"${tag}","draft":false,"prerelease":false,"name":"gr\u00f6\u00dfe / \\u65e5\\u672c \u65e5\u672c ${filler}"}, "repository": {"clone_url":"${repository.url}"}}\n\n`
      const small = `${folder}/small.json`
      yield* fileSystem.writeFileString(small, release("v1.0.0", ""))
      assert.match(
        yield* proxy.awaitReady(curl("https", small, "my-webhook-secret"), "10 seconds"),
        /"ref":"v1.0.0".*\}:20[02]$/
      )
      assert.match(yield* curl("https", small, "another-secret"), /:401$/)
      assert.match(yield* curl("http", small, "my-webhook-secret"), /:308$/)

      // A push of a big repository is more than nginx lets through unless it is told. Another release, or it was handled.
      const large = `${folder}/large.json`
      yield* fileSystem.writeFileString(large, release("v1.1.0", "x".repeat(3 * 1024 * 1024)))
      assert.match(yield* curl("https", large, "my-webhook-secret"), /"ref":"v1.1.0".*\}:20[02]$/)
      const huge = `${folder}/huge.json`
      yield* fileSystem.writeFileString(huge, release("v1.0.0", "x".repeat(5 * 1024 * 1024)))
      assert.match(yield* curl("https", huge, "my-webhook-secret"), /:413$/)
    }).pipe(Effect.scoped, Effect.provide(Services)),
  60_000
)
