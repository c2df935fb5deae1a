/**
 * One writer a volume. Shared volumes and overlapping roll-outs can put two agents on one data directory; the one whose
 * name stands in `.stoker/owner`, and is kept fresh there, writes. The other waits and says for whom.
 *
 * *Assumptions.* The clocks of the nodes differ by less than the time after which a silent owner counts as gone.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Schema } from "effect"
import { Settings } from "./Settings.ts"
import { Volume, type VolumeError } from "./Volume.ts"

/** How often the owner's name is renewed, and the silence after which another may take the volume. */
export const renewal = Duration.seconds(5)
export const patience = Duration.seconds(30)

/** Another pod's agent writes to this volume. Nothing is written until it ends or is silent for 30 s. */
export class VolumeOwned extends Schema.TaggedError<VolumeOwned>()("VolumeOwned", { pod: Schema.String }) {
  override get message(): string {
    return `the data volume is in use by the agent of pod ${this.pod}; nothing is written until that pod is gone. If it stays, two pods share one volume: give each its own`
  }
}

export class Owner extends Context.Service<
  Owner,
  {
    /** Succeeds when the volume is ours, and takes it where nobody has it. */
    readonly claim: Effect.Effect<void, VolumeOwned | VolumeError>
    /** Keeps what is ours; runs for ever. */
    readonly renew: Effect.Effect<never, VolumeError>
  }
>()("stoker/agent/Owner") {
  /** Gives the volume back with its scope, so that the next pod need not wait. */
  static readonly layer = Layer.effect(
    Owner,
    Effect.suspend(() => make)
  )
}

const Mark = Schema.Struct({
  pod: Schema.String,
  uid: Schema.String,
  /** Epoch milliseconds. */
  at: Schema.Finite
})
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Mark))
const file = ".stoker/owner"

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const volume = yield* Volume
  const pod = `${settings.podNamespace}/${settings.podName}`
  const uid = Option.getOrElse(settings.podUid, () => pod)

  const read = Effect.gen(function* () {
    const [sight] = yield* volume.look([file])
    return sight?._tag === "File" ? decode(Buffer.from(yield* volume.read(file)).toString()) : Option.none()
  })
  const sign = Effect.gen(function* () {
    yield* volume.makeFolder(".stoker")
    yield* volume.replace(file, JSON.stringify({ pod, uid, at: yield* Clock.currentTimeMillis }))
  })

  const claim = Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis
    const mark = yield* read
    if (Option.isSome(mark) && mark.value.uid !== uid && now - mark.value.at < Duration.toMillis(patience)) {
      return yield* new VolumeOwned({ pod: mark.value.pod })
    }
    if (Option.isNone(mark) || mark.value.uid !== uid) yield* sign
  })

  const isOurs = Effect.map(
    read,
    Option.exists((mark) => mark.uid === uid)
  )
  const renew = Effect.forever(
    Effect.delay(
      Effect.flatMap(isOurs, (ours) => (ours ? sign : Effect.void)),
      renewal
    )
  )
  yield* Effect.addFinalizer(() =>
    Effect.ignore(Effect.flatMap(isOurs, (ours) => (ours ? volume.remove(file) : Effect.void)))
  )
  return Owner.of({ claim, renew })
})
