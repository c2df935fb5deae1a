/**
 * One hook for many: a delivery for every GatewaySync of the repository that it speaks of.
 *
 * The repository stands in the body, so that is decoded before all credentials are known; what it says is told only to
 * who is authorised for one of those GatewaySyncs, or by the receiver's own credentials. A GatewaySync with credentials
 * of its own takes part only when these fit. Without any credentials, nothing is decoded and no Secret is read.
 *
 * What a stranger may cost is bounded: the body is decoded once, and gone through for {@link mostSets} sets of
 * credentials and {@link mostCompared} at most. So where more sets share a hook, or a body is long, a right one may come
 * too late and be refused; a hook for one GatewaySync is compared with its own alone.
 */
import { Array, ByteSize, Clock, Effect, Option, Result } from "effect"
import type * as GatewaySync from "../api/GatewaySync.ts"
import * as RepositoryIdentity from "../api/RepositoryIdentity.ts"
import * as Resource from "../kubernetes/Resource.ts"
import type { Store, StoreNotReady } from "../kubernetes/Store.ts"
import type { AnnotationWriter } from "./AnnotationWriter.ts"
import * as Answer from "./Answer.ts"
import * as Authorizer from "./Authorizer.ts"
import * as OwnCredentials from "./OwnCredentials.ts"
import type * as Reader from "./Reader.ts"

export interface Options {
  /** With the index {@link RepositoryIdentity.index}. */
  readonly store: Store<GatewaySync.GatewaySync>
  readonly authorizer: (typeof Authorizer.Authorizer)["Service"]
  readonly ownCredentials: OwnCredentials.OwnCredentials
  readonly writer: AnnotationWriter
}

/** The credential that fits, and for whom it does. */
export interface Admitted {
  readonly _tag: "Admitted"
  readonly credential: string
  readonly reading: Reader.Reading
  readonly gatewaySyncs: ReadonlyArray<GatewaySync.GatewaySync>
  /** Others may want it too, and their credentials could not be read. */
  readonly unproven?: OwnCredentials.Unproven
}

/** None fits. */
export interface Refused {
  readonly _tag: "Refused"
  /** What the operator should know of it. */
  readonly detail?: string
}

interface Candidate {
  readonly cr: GatewaySync.GatewaySync
  /** Its own credentials, see {@link OwnCredentials.setOf}. */
  readonly set: string | undefined
}

const hasOwn = (candidate: Candidate): candidate is Candidate & { readonly set: string } => candidate.set !== undefined

/** Sets of own credentials that one message is compared with. */
const mostSets = 256

/** Bytes that are gone through for them, about as long as decoding the longest body takes; the first set is free. */
const mostCompared = Number(ByteSize.mebibytes(16))

/** Secrets that are read at once. */
const mostReads = 16

/** For what could not be read: the comparison takes the same time. */
const nobody: Authorizer.Credentials = { hmac: [] }

const refused = (details: ReadonlyArray<string>): Refused =>
  details.length === 0 ? { _tag: "Refused" } : { _tag: "Refused", detail: details.slice(0, 3).join("; ") }

export const make = ({ authorizer, ownCredentials, store, writer }: Options) => {
  const of = (reading: Reader.Request) =>
    Effect.gen(function* () {
      // The changes of one push share their list.
      const lists = new Set(reading.deliveries.map(({ repositories = [] }) => repositories))
      const said = new Set([...lists].flat())
      const names = new Set([...said].flatMap((one) => RepositoryIdentity.nameIn(one) ?? []))
      const found = yield* Effect.forEach(names, (name) => store.by(RepositoryIdentity.index, name))
      return [...new Map(found.flat().map((cr) => [Resource.key(cr.metadata), cr])).values()]
    })

  /**
   * Which sets of credentials fit; many GatewaySyncs share one, and each is compared once. Who has proved himself, by one
   * of them or before, is compared with all: what is acknowledged is for all whom it fits.
   */
  const compare = Effect.fnUntraced(function* (
    request: Authorizer.Signed,
    candidates: ReadonlyArray<Candidate & { readonly set: string }>,
    isProved: boolean
  ) {
    const sets = [...new Map(candidates.map(({ cr, set }) => [set, cr]))]
    const now = yield* Clock.currentTimeMillis
    const fitting = new Set<string>()
    let problems: ReadonlyArray<string> = []
    let unproven: OwnCredentials.Unproven | undefined
    let compared = 0
    let bytes = 0
    const isEnough = () => !isProved && fitting.size === 0 && (compared >= mostSets || bytes > mostCompared)
    const compareOne = Effect.fnUntraced(function* (
      set: string,
      own: Result.Result<OwnCredentials.Own, OwnCredentials.Unproven>
    ) {
      const credentials = Result.isSuccess(own) ? own.success.credentials : nobody
      bytes += Authorizer.weight(request, credentials, now)
      if (compared > 0 && isEnough()) return
      compared++
      if (Result.isSuccess(own)) problems = [...problems, ...own.success.problems]
      else unproven ??= own.failure
      if (Option.isSome(yield* authorizer.authorize(request, credentials))) fitting.add(set)
    })
    for (const some of Array.chunksOf(sets, mostReads)) {
      if (isEnough()) break
      const read = yield* Effect.forEach(
        some,
        ([set, cr]) =>
          ownCredentials.of(cr, request).pipe(
            Effect.map((own = { credentials: nobody, problems: [] }) => own),
            Effect.result,
            Effect.map((own) => ({ set, own }))
          ),
        { concurrency: mostReads }
      )
      for (const { own, set } of read) yield* compareOne(set, own)
    }
    if (compared < sets.length) {
      problems = [...problems, `it was compared with ${compared} of ${sets.length} sets of credentials only`]
    }
    return { fitting, problems, unproven }
  })

  return {
    /** Fails with `Unproven` when nothing fits, and something that could not be read might. */
    admit: Effect.fnUntraced(function* (
      request: Authorizer.Signed,
      namespace: string | undefined,
      read: () => Reader.Reading
    ): Effect.fn.Return<Admitted | Refused, StoreNotReady | OwnCredentials.Unproven> {
      const byReceiver = yield* authorizer.authorize(request)
      const inScope = (all: ReadonlyArray<GatewaySync.GatewaySync>): ReadonlyArray<Candidate> =>
        all
          .filter(({ metadata }) => namespace === undefined || metadata.namespace === namespace)
          .map((cr) => ({ cr, set: OwnCredentials.setOf(cr) }))
      const own = inScope(yield* store.all).filter(hasOwn)
      if (Option.isNone(byReceiver)) {
        if (own.length === 0 || !Authorizer.offers(request, yield* Clock.currentTimeMillis)) return refused([])
      }
      const reading = read()
      // A message that speaks of no repository, such as a ping, is good with the credentials of any of them.
      const candidates = reading._tag === "Request" ? inScope(yield* of(reading)) : own
      const { fitting, problems, unproven } = yield* compare(
        request,
        candidates.filter(hasOwn),
        Option.isSome(byReceiver)
      )
      const gatewaySyncs = candidates.flatMap(({ cr, set }) =>
        (set === undefined ? Option.isSome(byReceiver) : fitting.has(set)) ? [cr] : []
      )
      const [first] = fitting
      const credential = Option.getOrUndefined(byReceiver) ?? first
      if (credential === undefined) return yield* unproven ?? Effect.succeed(refused(problems))
      return { _tag: "Admitted", credential, reading, gatewaySyncs, ...(unproven === undefined ? {} : { unproven }) }
    }),

    /** Each of them is tried, also when one fails; the writer bounds how many are written at once. */
    deliver: Effect.fnUntraced(function* (reading: Reader.Request, { gatewaySyncs, unproven }: Admitted) {
      if (!reading.deliveries.some(({ repositories = [] }) => repositories.length > 0)) {
        return Answer.namesNoRepository(reading)
      }
      const span = yield* Effect.option(Effect.currentSpan)
      const live = yield* writer.readMany(gatewaySyncs, reading.deliveries)
      const told = yield* Effect.forEach(
        gatewaySyncs,
        ({ metadata: { name, namespace } }) => {
          const ref = { namespace, name }
          return Effect.map(
            Effect.result(writer.write(ref, reading.deliveries, span, live.get(Resource.key(ref)))),
            (result): Answer.Told => ({ ref, result })
          )
        },
        { concurrency: "unbounded" }
      )
      const answer = Answer.toldAll(reading, told)
      return unproven === undefined ? answer : Answer.incomplete(answer, unproven)
    })
  }
}
