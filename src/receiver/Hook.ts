/**
 * One hook for many: a delivery for every GatewaySync of the repository that it speaks of.
 *
 * The repository stands in the body, so that is decoded before all credentials are known; what it says is told only to
 * who is authorised for one of those GatewaySyncs, or by the receiver's own credentials. A GatewaySync with credentials
 * of its own takes part only when these fit. Without any credentials, nothing is decoded and no Secret is read.
 *
 * What one message may cost is bounded: the body is decoded once, and gone through for as much as {@link mostBytes} allows.
 * Where more credentials share a hook, those that fitted before are looked at first, and who is found in none of those
 * that were looked at is told to use the hook for one GatewaySync, which is compared with its own alone.
 */
import { Array, ByteSize, Clock, Effect, Option, Result } from "effect"
import * as GatewaySync from "../api/GatewaySync.ts"
import * as RepositoryIdentity from "../api/RepositoryIdentity.ts"
import * as Resource from "../kubernetes/Resource.ts"
import type { Store, StoreNotReady } from "../kubernetes/Store.ts"
import type { AnnotationWriter } from "./AnnotationWriter.ts"
import * as Answer from "./Answer.ts"
import * as Authorizer from "./Authorizer.ts"
import * as OwnCredentials from "./OwnCredentials.ts"
import type * as Reader from "./Reader.ts"

export interface Options {
  /** With the indexes {@link RepositoryIdentity.index} and {@link GatewaySync.byOwnCredentials}. */
  readonly store: Store<GatewaySync.GatewaySync>
  readonly authorizer: (typeof Authorizer.Authorizer)["Service"]
  readonly ownCredentials: OwnCredentials.OwnCredentials
  readonly writer: AnnotationWriter
}

/** Credentials that might fit could not be read, or were not looked at. */
export type Doubt = OwnCredentials.Unproven | OwnCredentials.TooMany

/** The credential that fits, and for whom it does. */
export interface Admitted {
  readonly _tag: "Admitted"
  readonly credential: string
  readonly reading: Reader.Reading
  readonly gatewaySyncs: ReadonlyArray<GatewaySync.GatewaySync>
  /** Others may want it too. */
  readonly doubt?: Doubt
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

/** Sets of own credentials that the message of a stranger is compared with. */
const mostSets = 256

/**
 * Bytes that are gone through for them: of a stranger about as long as decoding the longest body takes, and less than
 * half a second in all of who has proved himself. The first set is free.
 */
const mostBytes = { stranger: Number(ByteSize.mebibytes(16)), proved: Number(ByteSize.mebibytes(256)) }

/** Milliseconds that are waited for Secrets before no more of them are read: senders hang up after ten seconds. */
const longestWait = 2000

/** Secrets that are read at once. */
const mostReads = 16

/** Sets that fitted which are remembered. */
const mostFitted = 1024

const refused = (details: ReadonlyArray<string>): Refused =>
  details.length === 0 ? { _tag: "Refused" } : { _tag: "Refused", detail: details.slice(0, 3).join("; ") }

export const make = ({ authorizer, ownCredentials, store, writer }: Options) => {
  /** @param index of all that may take it, or of those alone that bring credentials */
  const of = (reading: Reader.Request, index: string) =>
    Effect.gen(function* () {
      // The changes of one push share their list.
      const lists = new Set(reading.deliveries.map(({ repositories = [] }) => repositories))
      const names = new Set([...lists].flat())
      const found = yield* Effect.forEach(names, (name) => store.by(index, name))
      return [...new Map(found.flat().map((cr) => [Resource.key(cr.metadata), cr])).values()]
    })

  /** Sets that fitted, the latest last. */
  const fitted = new Set<string>()
  const remember = (set: string) => {
    fitted.delete(set)
    fitted.add(set)
    const [oldest = set] = fitted
    if (fitted.size > mostFitted) fitted.delete(oldest)
  }

  /**
   * Which sets of credentials fit; many GatewaySyncs share one, and each is compared once. Who has proved himself, by one
   * of them or before, is compared with all: what is acknowledged is for all whom it fits.
   */
  const compare = Effect.fnUntraced(function* (
    offered: ReadonlyArray<Authorizer.Proof>,
    candidates: ReadonlyArray<Candidate & { readonly set: string }>,
    isProved: boolean
  ) {
    const [others, first] = Array.partition([...new Map(candidates.map(({ cr, set }) => [set, cr]))], (one) =>
      fitted.has(one[0]) ? Result.fail(one) : Result.succeed(one)
    )
    const sets = [...first, ...others]
    const fitting = new Set<string>()
    const problems: Array<string> = []
    let unproven: OwnCredentials.Unproven | undefined
    let [compared, bytes, waited] = [0, 0, 0]
    const isKnown = () => isProved || fitting.size > 0
    const isEnough = (more: number) =>
      compared > 0 &&
      (bytes + more > (isKnown() ? mostBytes.proved : mostBytes.stranger) || (!isKnown() && compared >= mostSets))
    comparing: for (const some of Array.chunksOf(sets, mostReads)) {
      if (waited > longestWait || isEnough(0)) break
      const begun = yield* Clock.currentTimeMillis
      const read = yield* Effect.forEach(
        some,
        ([set, cr]) => Effect.map(Effect.result(ownCredentials.of(cr, offered)), (own) => ({ set, own })),
        { concurrency: mostReads }
      )
      waited += (yield* Clock.currentTimeMillis) - begun
      for (const { own, set } of read) {
        if (Result.isFailure(own)) {
          unproven ??= own.failure
          compared++
          continue
        }
        const { credentials, problems: why } = own.success
        const weight = Authorizer.weight(offered, credentials)
        if (isEnough(weight)) break comparing
        compared++
        bytes += weight
        problems.push(...why)
        if (Authorizer.fits(offered, credentials)) {
          fitting.add(set)
          remember(set)
        }
        // Others are served between two passes over a long body.
        yield* Effect.yieldNow
      }
    }
    const tooMany = compared < sets.length ? new OwnCredentials.TooMany({ compared, sets: sets.length }) : undefined
    return { fitting, problems, doubt: unproven ?? tooMany }
  })

  return {
    /** Fails when nothing fits, and something that could not be read, or was not looked at, might. */
    admit: Effect.fnUntraced(function* (
      request: Authorizer.Signed,
      namespace: string | undefined,
      read: () => Reader.Reading
    ): Effect.fn.Return<Admitted | Refused, StoreNotReady | Doubt> {
      const offered = yield* Authorizer.proofsOf(request)
      const byReceiver = yield* authorizer.authorize(offered)
      const inScope = (all: ReadonlyArray<GatewaySync.GatewaySync>): ReadonlyArray<Candidate> =>
        all
          .filter(({ metadata }) => namespace === undefined || metadata.namespace === namespace)
          .map((cr) => ({ cr, set: OwnCredentials.setOf(cr) }))
      const own = store.by(GatewaySync.byOwnCredentials, namespace ?? GatewaySync.everywhere)
      if (Option.isNone(byReceiver) && (offered.length === 0 || (yield* own).length === 0)) return refused([])
      const reading = read()
      // A message that speaks of no repository, such as a ping, is good with the credentials of any of them.
      const index = Option.isSome(byReceiver) ? RepositoryIdentity.index : GatewaySync.byOwnCredentials
      const candidates = inScope(yield* reading._tag === "Request" ? of(reading, index) : own)
      const { doubt, fitting, problems } = yield* compare(
        offered,
        offered.length === 0 ? [] : candidates.filter(hasOwn),
        Option.isSome(byReceiver)
      )
      const gatewaySyncs = candidates.flatMap(({ cr, set }) =>
        (set === undefined ? Option.isSome(byReceiver) : fitting.has(set)) ? [cr] : []
      )
      const [first] = fitting
      const credential = Option.getOrUndefined(byReceiver) ?? first
      if (credential === undefined) return yield* doubt ?? Effect.succeed(refused(problems))
      return { _tag: "Admitted", credential, reading, gatewaySyncs, ...(doubt === undefined ? {} : { doubt }) }
    }),

    /** Each of them is tried, also when one fails; the writer bounds how many are written at once. */
    deliver: Effect.fnUntraced(function* (reading: Reader.Request, { doubt, gatewaySyncs }: Admitted) {
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
      return doubt === undefined ? answer : Answer.incomplete(answer, doubt)
    })
  }
}
