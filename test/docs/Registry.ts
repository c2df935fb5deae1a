/** A registry on loopback, as much of the OCI distribution API as helm needs to push a chart and to pull it. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Effect, Ref } from "effect"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { formatUrlUnsafe } from "effect/net/NetAddress"
import { createHash } from "node:crypto"
import { createServer } from "node:http"

interface Stored {
  readonly bytes: Uint8Array
  readonly contentType: string
}

const digestOf = (bytes: Uint8Array) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`

/** `127.0.0.1:port`, for as long as the scope lives. */
export const make = Effect.gen(function* () {
  const things = yield* Ref.make<ReadonlyMap<string, Stored>>(new Map())
  const server = yield* NodeHttpServer.make(() => createServer(), { host: "127.0.0.1", port: 0 })
  const put = (key: string, stored: Stored) => Ref.update(things, (all) => new Map(all).set(key, stored))

  yield* server.serve(
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const { pathname, searchParams } = new URL(request.url, "http://registry")
      const [, repository = "", kind, key = ""] = /^\/v2\/(.+)\/(blobs|manifests|tags)\/(.*)$/.exec(pathname) ?? []
      const at = `${repository}/${kind}/`
      const contentType = request.headers["content-type"] ?? "application/octet-stream"
      if (kind === undefined) return HttpServerResponse.empty({ status: 200 })
      if (kind === "tags") {
        const tags = [...(yield* Ref.get(things)).keys()].flatMap((name) =>
          name.startsWith(`${repository}/manifests/`) && !name.includes("sha256:") ? [name.split("/").at(-1)] : []
        )
        return HttpServerResponse.jsonUnsafe({ name: repository, tags })
      }
      switch (request.method) {
        case "POST":
          return HttpServerResponse.empty({ status: 202, headers: { location: `${pathname.replace(/\/$/, "")}/one` } })
        case "PUT": {
          const bytes = new Uint8Array(yield* request.arrayBuffer)
          const digest = digestOf(bytes)
          yield* put(`${at}${digest}`, { bytes, contentType })
          if (kind === "manifests") yield* put(`${at}${key}`, { bytes, contentType })
          const isAsTold = (searchParams.get("digest") ?? digest) === digest
          return HttpServerResponse.empty({
            status: isAsTold ? 201 : 400,
            headers: { location: `/v2/${at}${digest}`, "docker-content-digest": digest }
          })
        }
        default: {
          const found = (yield* Ref.get(things)).get(at + key)
          if (found === undefined) return HttpServerResponse.empty({ status: 404 })
          const headers = { "docker-content-digest": digestOf(found.bytes) }
          return HttpServerResponse.uint8Array(found.bytes, { contentType: found.contentType, headers })
        }
      }
    })
  )
  const { host } = new URL(formatUrlUnsafe(server.address))
  return host
})
