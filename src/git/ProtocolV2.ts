import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { classify, type Remote } from "./GitCommand.ts"
import { GitError, type Reason } from "./GitError.ts"
import * as GitHttp from "./GitHttp.ts"
import * as PktLine from "./PktLine.ts"

/**
 * What answers does not speak protocol 2 as we know it: an older server, one without a feature that was asked for, or no
 * git server at all. Asking first what the server can do may get further.
 */
export class NotUnderstood extends Schema.TaggedError<NotUnderstood>()("NotUnderstood", { detail: Schema.String }) {}

export type Failure = GitError | NotUnderstood

/** A server, and the way to it. */
export interface Server {
  readonly agents: GitHttp.Agents
  readonly remote: Remote
  /** Where the repository is: the remote's own URL, or the one that it has moved to. */
  readonly base: string
}

type Answer<A> = Effect.Effect<Stream.Stream<A, Failure>, Failure, Scope.Scope>

const notUnderstood = (detail: string) => new NotUnderstood({ detail })

const failure = ({ remote }: Server, reason: Reason) => new GitError({ repository: remote.url.display, reason })

const resultType = "application/x-git-upload-pack-result"

/**
 * One command in one request. The capabilities are not asked for first: what is used here every server of protocol 2
 * has, or says by its answer that it has not.
 */
const command = Effect.fnUntraced(function* (
  server: Server,
  name: "ls-refs" | "fetch",
  args: ReadonlyArray<string>
): Effect.fn.Return<Stream.Stream<PktLine.Packet, Failure>, Failure, Scope.Scope> {
  const { body, headers, status } = yield* GitHttp.send(server.agents, server.remote, {
    method: "POST",
    url: `${server.base}/git-upload-pack`,
    headers: {
      "content-type": "application/x-git-upload-pack-request",
      accept: resultType,
      "git-protocol": "version=2"
    },
    body: Buffer.concat([
      PktLine.line(`command=${name}`),
      PktLine.line("agent=stoker"),
      PktLine.mark("delimiter"),
      ...args.map(PktLine.line),
      PktLine.mark("flush")
    ])
  })
  if (status >= 300 && status < 400) return yield* failure(server, { _tag: "Moved", to: "another address" })
  if (status !== 200) {
    const reason = GitHttp.reasonOfStatus(status, headers["retry-after"], server.remote)
    return yield* reason._tag === "Transport" ? notUnderstood(reason.detail) : failure(server, reason)
  }
  if (headers["content-type"] !== resultType) return yield* notUnderstood(`an answer of ${headers["content-type"]}`)
  return PktLine.decode((digits) => notUnderstood(`${JSON.stringify(digits)} is no length of a packet`))(body)
})

/** `ERR <text>` instead of an answer. Where the text says nothing about the repository, it is about the request. */
const refusal = (server: Server, line: string): Failure | undefined => {
  if (!line.startsWith("ERR ")) return undefined
  const reason = classify(line.slice(4), server.remote)
  switch (reason._tag) {
    case "CommitNotFound":
    case "RepositoryNotFound":
    case "Unauthorized":
    case "Forbidden":
      return failure(server, reason)
    default:
      return notUnderstood(line)
  }
}

const cutShort = (server: Server) => failure(server, { _tag: "Transport", detail: "the answer ends too early" })

export interface ServerRef {
  readonly ref: string
  readonly oid: string
  /** What an annotated tag stands for. */
  readonly peeled?: string | undefined
}

const refLine = /^([0-9a-f]{40}|[0-9a-f]{64}) (\S+)(?: (.*))?$/

const readRefs = (server: Server) => (packets: ReadonlyArray<PktLine.Packet>) =>
  Effect.gen(function* () {
    const refs: Array<ServerRef> = []
    for (const packet of packets) {
      if (packet === "flush") return refs
      const text = typeof packet === "string" ? packet : PktLine.textOf(packet)
      const [, oid, ref, attributes = ""] = refLine.exec(text) ?? []
      if (oid === undefined || ref === undefined)
        return yield* refusal(server, text) ?? notUnderstood("no list of refs")
      refs.push({ oid, ref, peeled: /(?:^| )peeled:([0-9a-f]+)/.exec(attributes)?.[1] })
    }
    return yield* packets.length === 0 ? notUnderstood("an empty answer") : cutShort(server)
  })

/** The refs whose names begin with one of the prefixes. */
export const lsRefs = (server: Server, prefixes: ReadonlyArray<string>) =>
  command(server, "ls-refs", ["peel", ...prefixes.map((prefix) => `ref-prefix ${prefix}`)]).pipe(
    Effect.flatMap(Stream.runCollect),
    Effect.flatMap(readRefs(server)),
    Effect.scoped
  )

export interface Fetch {
  /** Ids of commits, or of any other objects. */
  readonly wants: ReadonlyArray<string>
  /** Commits that are here, each without its parents; their objects are not sent again. */
  readonly haves: ReadonlyArray<string>
  /** The commits alone, without their parents. With `haves` the pack is thin: its deltas may build on what they have. */
  readonly shallow: boolean
  readonly blobs: "all" | "none"
}

/** A part of what a fetch gives: commits whose parents are from now on absent (or no longer), and bytes of the pack. */
export type FetchPart =
  | { readonly _tag: "Shallow"; readonly commit: string }
  | { readonly _tag: "Unshallow"; readonly commit: string }
  | { readonly _tag: "Pack"; readonly bytes: Uint8Array }

type Section = "start" | "head" | "pack" | "end"

const readHead = (server: Server, packet: PktLine.Packet): readonly [Section, ReadonlyArray<FetchPart>] | Failure => {
  if (packet === "delimiter") return ["head", []]
  if (typeof packet === "string") return cutShort(server)
  const text = PktLine.textOf(packet)
  if (text === "packfile") return ["pack", []]
  if (text === "shallow-info") return ["head", []]
  const [, word, commit] = /^(shallow|unshallow) ([0-9a-f]{40}|[0-9a-f]{64})$/.exec(text) ?? []
  return commit === undefined
    ? (refusal(server, text) ?? notUnderstood("an unknown section"))
    : ["head", [{ _tag: word === "shallow" ? "Shallow" : "Unshallow", commit }]]
}

/** The pack and the progress come interleaved: the first byte of a packet says which it is. */
const readPack = (server: Server, packet: PktLine.Packet): readonly [Section, ReadonlyArray<FetchPart>] | Failure => {
  if (packet === "flush") return ["end", []]
  if (typeof packet === "string") return notUnderstood("an unknown end of the pack")
  switch (packet[0]) {
    case 1:
      return ["pack", [{ _tag: "Pack", bytes: packet.subarray(1) }]]
    case 2:
      return ["pack", []]
    case 3: {
      const text = PktLine.textOf(packet.subarray(1)).slice(0, 200)
      return failure(server, { _tag: "Transport", detail: `the server says ${JSON.stringify(text)}` })
    }
    default:
      return notUnderstood("an unknown side band")
  }
}

const readParts =
  (server: Server) =>
  (packets: Stream.Stream<PktLine.Packet, Failure>): Stream.Stream<FetchPart, Failure> =>
    packets.pipe(
      Stream.mapAccumEffect(
        (): Section => "start",
        (section, packet): Effect.Effect<readonly [Section, ReadonlyArray<FetchPart | Failure>], Failure> => {
          if (section === "end") return notUnderstood("more than one answer")
          const read = section === "pack" ? readPack(server, packet) : readHead(server, packet)
          return read instanceof NotUnderstood || read instanceof GitError ? Effect.fail(read) : Effect.succeed(read)
        },
        {
          onHalt: (section) => {
            if (section === "end") return []
            return [section === "start" ? notUnderstood("an empty answer") : cutShort(server)]
          }
        }
      ),
      Stream.mapEffect((part) =>
        part._tag === "GitError" || part._tag === "NotUnderstood" ? Effect.fail(part) : Effect.succeed(part)
      )
    )

/**
 * Fetches in one request. A pack that is not whole is a failure of the stream; so are objects that the server has not
 * got, or does not hand out.
 */
export const fetch = (server: Server, request: Fetch): Answer<FetchPart> =>
  Effect.map(
    command(server, "fetch", [
      "ofs-delta",
      "no-progress",
      // Besides: without it a server does not look into the trees of what we have, and sends everything.
      ...(request.haves.length > 0 ? ["thin-pack"] : []),
      ...(request.blobs === "none" ? ["filter blob:none"] : []),
      ...(request.shallow ? ["deepen 1"] : []),
      ...request.haves.map((commit) => `shallow ${commit}`),
      ...request.wants.map((id) => `want ${id}`),
      ...request.haves.map((commit) => `have ${commit}`),
      "done"
    ]),
    readParts(server)
  )

/** An id that no repository has. */
const unknownCommit = "f".repeat(40)

/**
 * Fails with `CommitNotFound` where the server has not got the commit, or does not hand it out. Nothing is packed for the
 * question: a negotiation about what we pretend to have is opened, and not gone on with.
 */
export const checkCommit = (server: Server, commit: string) =>
  command(server, "fetch", [`want ${commit}`, `have ${unknownCommit}`]).pipe(
    Effect.flatMap(Stream.runHead),
    Effect.flatMap((first): Effect.Effect<void, Failure> => {
      if (Option.isNone(first)) return notUnderstood("an empty answer")
      const text = typeof first.value === "string" ? first.value : PktLine.textOf(first.value)
      // Some begin to pack at once: that too says that the commit is there.
      if (text === "acknowledgments" || text === "packfile") return Effect.void
      return refusal(server, text) ?? notUnderstood("an unknown section")
    }),
    Effect.scoped
  )
