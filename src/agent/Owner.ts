/**
 * One writer a volume. Shared volumes and overlapping roll-outs can put two agents on one data directory; the one whose
 * name stands in `.stoker/owner`, and is kept fresh there, writes. The other waits and says for whom.
 *
 * *Assumptions.* The clocks of the nodes differ by less than the time after which a silent owner counts as gone. Where
 * they differ more the other way (a mark from the future), what counts is that nobody renewed it while we looked.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Ref, Schema } from "effect"
import { Settings } from "./Settings.ts"
import { Volume, type VolumeError } from "./Volume.ts"

/** How often the owner's name is renewed, and the silence after which another may take the volume. */
export const renewal = Duration.seconds(5)
export const patience = Duration.seconds(30)
/** After a silent owner's mark was replaced: another that found it silent too has replaced ours by then. */
export const settling = Duration.seconds(1)

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
const folder = ".stoker"
const file = `${folder}/owner`

const make = Effect.gen(function* () {
  const settings = yield* Settings
  const volume = yield* Volume
  const pod = `${settings.podNamespace}/${settings.podName}`
  const uid = Option.getOrElse(settings.podUid, () => pod)
  /** Another's mark as it was found first, and when: by a clock that nobody sets. */
  const watched = yield* Ref.make({ text: "", since: 0n })

  const read = Effect.gen(function* () {
    const [sight] = yield* volume.look([file])
    return sight?._tag === "File" ? Option.some(Buffer.from(yield* volume.read(file)).toString()) : Option.none()
  })
  const mark = Effect.map(Clock.currentTimeMillis, (at) => JSON.stringify({ pod, uid, at }))
  const sign = Effect.flatMap(mark, (text) => volume.replace(file, text))
  const isOurs = Effect.map(
    read,
    Option.exists((text) => Option.exists(decode(text), (mark) => mark.uid === uid))
  )

  /** Nobody has it: the file system lets one of those who come at once make the file. */
  const first = Effect.gen(function* () {
    yield* volume.makeFolder(folder)
    yield* volume.create(file, Buffer.from(yield* mark))
    return true
  }).pipe(
    Effect.catchIf(
      ({ code }) => code === "EEXIST",
      () => Effect.succeed(false)
    )
  )

  const isSilent = Effect.fnUntraced(function* (text: string, at: number | undefined) {
    if (at !== undefined && (yield* Clock.currentTimeMillis) - at >= Duration.toMillis(patience)) return true
    const now = yield* Clock.monotonicTimeNanos
    const { since } = yield* Ref.updateAndGet(watched, (seen) => (seen.text === text ? seen : { text, since: now }))
    return now - since >= Duration.toNanosUnsafe(patience)
  })

  const claim: Effect.Effect<void, VolumeOwned | VolumeError> = Effect.gen(function* () {
    const text = yield* read
    if (Option.isNone(text)) return (yield* first) ? undefined : yield* claim
    const { at, uid: owner, ...other } = Option.getOrElse(decode(text.value), () => unreadable)
    if (owner === uid) return
    if (!(yield* isSilent(text.value, at))) return yield* new VolumeOwned(other)
    yield* sign
    yield* Effect.sleep(settling)
    if (!(yield* isOurs)) return yield* claim
  })

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

/** Being written this moment, or by a process that was killed then. */
const unreadable = { pod: "that is about to sign", uid: undefined, at: undefined }
