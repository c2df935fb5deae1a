/**
 * One hook for many: a delivery for every GatewaySync of the repository that it speaks of.
 *
 * The repository stands in the body, so that is decoded before all credentials are known; what it says is told only to
 * who is authorised for one of those GatewaySyncs, or by the receiver's own credentials. A GatewaySync with credentials
 * of its own takes part only when these fit. Without any credentials, nothing is decoded and no Secret is read.
 */
import { Clock, Effect, Option } from "effect"
import type * as GatewaySync from "../api/GatewaySync.ts"
import * as RepositoryIdentity from "../api/RepositoryIdentity.ts"
import * as Resource from "../kubernetes/Resource.ts"
import type { Store, StoreNotReady } from "../kubernetes/Store.ts"
import type { AnnotationWriter } from "./AnnotationWriter.ts"
import * as Answer from "./Answer.ts"
import * as Authorizer from "./Authorizer.ts"
import type { OwnCredentials } from "./OwnCredentials.ts"
import type * as Reader from "./Reader.ts"

export interface Options {
  /** With the index {@link RepositoryIdentity.index}. */
  readonly store: Store<GatewaySync.GatewaySync>
  readonly authorizer: (typeof Authorizer.Authorizer)["Service"]
  readonly ownCredentials: OwnCredentials
  readonly writer: AnnotationWriter
}

/** The credential that fits, and for whom it does. */
export interface Admitted {
  readonly credential: string
  readonly reading: Reader.Reading
  readonly gatewaySyncs: ReadonlyArray<GatewaySync.GatewaySync>
}

/** Sets of own credentials that are tried for a message that speaks of no repository, such as a ping. */
const mostTried = 64

const hasOwn = ({ spec }: GatewaySync.GatewaySync): boolean =>
  spec.webhook?.hmac !== undefined || spec.webhook?.token !== undefined

export const make = ({ authorizer, ownCredentials, store, writer }: Options) => {
  const of = (reading: Reader.Request) =>
    Effect.gen(function* () {
      const said = new Set(reading.deliveries.flatMap(({ repositories = [] }) => repositories))
      const names = new Set([...said].flatMap((one) => RepositoryIdentity.nameIn(one) ?? []))
      const found = yield* Effect.forEach(names, (name) => store.by(RepositoryIdentity.index, name))
      return [...new Map(found.flat().map((cr) => [Resource.key(cr.metadata), cr])).values()]
    })

  return {
    /** @param read decodes the body */
    admit: Effect.fnUntraced(function* (
      request: Authorizer.Signed,
      namespace: string | undefined,
      read: () => Reader.Reading
    ): Effect.fn.Return<Option.Option<Admitted>, StoreNotReady> {
      const byReceiver = yield* authorizer.authorize(request)
      const inScope = (cr: GatewaySync.GatewaySync) => namespace === undefined || cr.metadata.namespace === namespace
      const own = (yield* store.all).filter((cr) => hasOwn(cr) && inScope(cr))
      if (Option.isNone(byReceiver)) {
        if (own.length === 0 || !Authorizer.offers(request, yield* Clock.currentTimeMillis)) return Option.none()
      }
      const reading = read()
      const candidates = reading._tag === "Request" ? (yield* of(reading)).filter(inScope) : own.slice(0, mostTried)
      // Many of them share one Secret, and a body may be long: each set of credentials is compared once.
      const tried = new Map<string, Option.Option<string>>()
      const gatewaySyncs: Array<GatewaySync.GatewaySync> = []
      for (const cr of candidates) {
        if (!hasOwn(cr)) {
          if (Option.isSome(byReceiver)) gatewaySyncs.push(cr)
          continue
        }
        const key = JSON.stringify([cr.metadata.namespace, cr.spec.webhook?.hmac, cr.spec.webhook?.token])
        const verdict = tried.get(key) ?? (yield* authorizer.authorize(request, yield* ownCredentials(cr)))
        tried.set(key, verdict)
        if (Option.isSome(verdict)) gatewaySyncs.push(cr)
      }
      const credential = Option.orElse(byReceiver, () => Option.liftPredicate("own", () => gatewaySyncs.length > 0))
      return Option.map(credential, (credential) => ({ credential, reading, gatewaySyncs }))
    }),

    /** Each of them is tried, also when one fails; the writer bounds how many are written at once. */
    deliver: Effect.fnUntraced(function* (reading: Reader.Request, gatewaySyncs: Admitted["gatewaySyncs"]) {
      if (!reading.deliveries.some(({ repositories = [] }) => repositories.length > 0)) {
        return Answer.namesNoRepository(reading)
      }
      const span = yield* Effect.option(Effect.currentSpan)
      const told = yield* Effect.forEach(
        gatewaySyncs,
        ({ metadata: { name, namespace } }) =>
          Effect.map(
            Effect.result(writer.write({ namespace, name }, reading.deliveries, span)),
            (result): Answer.Told => ({ ref: { namespace, name }, result })
          ),
        { concurrency: "unbounded" }
      )
      return Answer.toldAll(reading, told)
    })
  }
}
