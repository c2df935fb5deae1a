/**
 * Credentials that a GatewaySync brings itself (`spec.webhook.*.secretRef`): they replace the receiver's for it.
 *
 * **Guarantees**
 *
 * - Secrets are read by name, never listed, never watched. What was read counts for a minute, then it is gone.
 * - Those of the GatewaySyncs in the store are kept warm, so that no answer waits for a read, and a guess does not learn
 *   by the time which names there are. A read is waited for only in the first half minute of a GatewaySync, or of the
 *   receiver, and then once for all who ask. A request that offers nothing to compare has none done.
 * - One that fits nobody is looked at every few seconds: somebody is about to make it, and no forge comes again after a 401.
 * - A Secret that is not there, lacks the key, or is not for Stoker to read, fits nobody, and {@link Own.problems} says
 *   why: somebody has to mend it, and nobody else on a shared hook shall wait for that. One that cannot be read for a
 *   cause that passes is no answer to "do they fit?": the request fails with {@link Unproven}, and the next one after
 *   two seconds reads again. So while the API server is away for longer than a minute, a stranger can tell a GatewaySync
 *   with credentials of its own from a name that is none; the right sender comes again.
 */
import { Array, Cache, Data, Effect, Exit, Option, type Redacted, Ref, Schedule, Schema } from "effect"
import * as GatewaySync from "../api/GatewaySync.ts"
import { ApiClient } from "../kubernetes/ApiClient.ts"
import type { ApiError } from "../kubernetes/ApiError.ts"
import * as Resource from "../kubernetes/Resource.ts"
import type { Store } from "../kubernetes/Store.ts"
import { forAll, type NotTaken, soon } from "./AnnotationWriter.ts"
import * as Authorizer from "./Authorizer.ts"

/** Whether credentials fit cannot be told now. Try again. The message is for the log: it names the Secret. */
export class Unproven extends Schema.TaggedError<Unproven>()("Unproven", { message: Schema.String }) {}

/** So many sets share a hook that not all could be compared with. The message is for the log. */
export class TooMany extends Schema.TaggedError<TooMany>()("TooMany", { compared: Schema.Int, sets: Schema.Int }) {
  override get message(): string {
    return `it was compared with ${this.compared} of ${this.sets} sets of credentials only`
  }
}

export interface Own {
  readonly credentials: Authorizer.Credentials
  /** Why some of them fit nobody, for the log. */
  readonly problems: ReadonlyArray<string>
}

export interface OwnCredentials {
  /** Of a GatewaySync that has some (`GatewaySync.hasOwnCredentials`). They fit nobody when nothing is offered. */
  readonly of: (cr: GatewaySync.GatewaySync, offered: ReadonlyArray<Authorizer.Proof>) => Effect.Effect<Own, Unproven>
}

/** Equal texts for GatewaySyncs with the same credentials; none for one that brings none. */
export const setOf = (cr: GatewaySync.GatewaySync): string | undefined =>
  GatewaySync.hasOwnCredentials(cr)
    ? JSON.stringify([cr.metadata.namespace, cr.spec.webhook?.hmac?.secretRef, cr.spec.webhook?.token?.secretRef])
    : undefined

const Secret = Schema.Struct({ data: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)) })
const decode = Schema.decodeUnknownEffect(Secret)
const decodeValue = Schema.decodeEffect(Schema.StringFromBase64)

class Key extends Data.Class<{ readonly namespace: string; readonly name: string; readonly key: string }> {}

/** What a Secret holds under a key. */
interface Held {
  readonly secrets: ReadonlyArray<Redacted.Redacted>
  readonly problem?: string
}

/** Each of them costs a pass over the body, for strangers too, and who may write the Secret is no friend of all others. */
const mostSecrets = 8

const held = (text: string): Held => {
  const secrets = Authorizer.lines(text)
  if (secrets.length === 0) return { secrets, problem: "is empty" }
  return secrets.length <= mostSecrets
    ? { secrets }
    : { secrets: secrets.slice(0, mostSecrets), problem: `has ${secrets.length} lines, of which ${mostSecrets} count` }
}

const unproven =
  ({ name, namespace }: Resource.ObjectRef) =>
  ({ message }: ApiError | NotTaken): Unproven =>
    new Unproven({ message: `Secret ${namespace}/${name} of spec.webhook cannot be read: ${message}` })

const nothing = (problem: string): Effect.Effect<Held> => Effect.succeed({ secrets: [], problem })

const kept = { unread: "2 seconds", read: "1 minute", warm: "30 seconds", missed: "5 seconds" } as const

/** Secrets that fit nobody which are looked at so often. */
const mostMissed = 16

/** Of all namespaces. Those that were not used for longest are read again when they are needed. */
const capacity = 1000

const keysOf = ({ metadata: { namespace }, spec: { webhook } }: GatewaySync.GatewaySync) =>
  (["hmac", "token"] as const).flatMap((kind) => {
    const ref = webhook?.[kind]?.secretRef
    return ref === undefined ? [] : [{ kind, key: new Key({ namespace, name: ref.name, key: ref.key }) }]
  })

/** Lives as long as the scope. */
export const make = Effect.fnUntraced(function* (store: Store<GatewaySync.GatewaySync>) {
  const client = yield* ApiClient

  const read = (secret: Key): Effect.Effect<Held, Unproven> =>
    GatewaySync.isObjectName(secret.name) ? readNamed(secret) : nothing("is in a Secret whose name none can have")

  const readNamed = ({ key, name, namespace }: Key): Effect.Effect<Held, Unproven> =>
    client.get(Resource.secrets, { namespace, name }).pipe(
      soon,
      forAll,
      Effect.flatMap(decode),
      Effect.flatMap(({ data }) =>
        data !== undefined && Object.hasOwn(data, key)
          ? Effect.map(decodeValue(data[key] ?? ""), held)
          : nothing("is not in it")
      ),
      Effect.catchTag("SchemaError", () => nothing("is no text")),
      Effect.catchReasons("ApiError", {
        NotFound: () => nothing("is in a Secret that is not there"),
        Forbidden: () => nothing("is in a Secret that Stoker may not read: it needs the right to get it (RBAC)"),
        Invalid: ({ message }) => nothing(`is in a Secret that the API server does not give: ${message}`)
      }),
      Effect.mapError(unproven({ namespace, name }))
    )

  const cache = yield* Cache.makeWith(read, {
    capacity,
    timeToLive: (exit) => (Exit.isSuccess(exit) ? kept.read : kept.unread)
  })

  /** Each asker stops at the end of its own time; the read goes on while others wait for it. */
  const heldOf = (key: Key): Effect.Effect<Held, Unproven> =>
    Effect.catchTag(soon(Cache.get(cache, key)), "NotTaken", (error) => Effect.fail(unproven(key)(error)))

  const known = store.by(GatewaySync.byOwnCredentials, GatewaySync.everywhere)
  // What cannot be read now stays as it is until its minute is over.
  const refresh = Effect.forEach(
    (key: Key) => Effect.ignore(Effect.flatMap(read(key), (found) => Cache.set(cache, key, found))),
    { concurrency: 4, discard: true }
  )
  const keys = Effect.map(known, (all) => [
    ...new Map(all.flatMap(keysOf).map(({ key }) => [JSON.stringify(key), key])).values()
  ])
  const fitsNobody = (key: Key) =>
    Effect.map(
      Cache.getSuccess(cache, key),
      Option.exists(({ secrets }) => secrets.length === 0)
    )
  const warm = Effect.flatMap(keys, (all) => refresh(all.slice(0, capacity)))
  // Each look begins where the last one ended, so that nobody's many keep others from their turn.
  const looked = yield* Ref.make(0)
  const again = Effect.flatMap(keys, (all) => Effect.filter(all, fitsNobody)).pipe(
    Effect.flatMap((missed) =>
      Ref.modify(looked, (at) => [
        Array.take(Array.rotate(missed, -at), mostMissed),
        missed.length === 0 ? 0 : (at + mostMissed) % missed.length
      ])
    ),
    Effect.flatMap(refresh)
  )
  yield* store.ready.pipe(
    Effect.andThen(
      Effect.all(
        [
          Effect.repeat(Effect.ignore(warm), Schedule.spaced(kept.warm)),
          Effect.repeat(Effect.ignore(again), Schedule.spaced(kept.missed))
        ],
        { concurrency: 2 }
      )
    ),
    Effect.forkScoped
  )

  return {
    of: Effect.fnUntraced(function* (cr, offered) {
      const keys = keysOf(cr)
      const found = yield* Effect.forEach(
        keys,
        ({ key, kind }) =>
          Effect.map(
            offered.length > 0 ? heldOf(key) : Effect.succeed<Held>({ secrets: [] }),
            ({ problem, secrets }) => ({
              credentials: { [kind]: secrets },
              problems:
                problem === undefined
                  ? []
                  : [`the key ${key.key} of Secret ${key.namespace}/${key.name} (spec.webhook.${kind}) ${problem}`]
            })
          ),
        { concurrency: keys.length }
      )
      const own: Own = {
        credentials: Object.assign({}, ...found.map(({ credentials }) => credentials)),
        problems: found.flatMap(({ problems }) => problems)
      }
      return own
    })
  } satisfies OwnCredentials as OwnCredentials
})
