/**
 * One writer a volume. Shared volumes and overlapping roll-outs can put two agents on one data directory; the one whose
 * name stands in `.stoker/owner`, and is kept fresh there, writes. The other waits and says for whom.
 *
 * *Assumptions.* The clocks of the nodes differ by less than the time after which a silent owner counts as gone. Where
 * they differ more the other way (a mark from the future), what counts is that nobody renewed it while we looked. Our own
 * mark that we could not renew for that time counts as anybody's. And a process does not stand still for that time between
 * `confirm` and the last rename after it, which are a moment apart.
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
    /**
     * Succeeds when the volume is ours, and takes it where nobody has it. How often it was taken: while that stays the
     * same, nobody else had it.
     */
    readonly claim: Effect.Effect<number, VolumeOwned | VolumeError>
    /** Fails where it is not ours any more since that claim. Takes nothing. */
    readonly confirm: (claim: number) => Effect.Effect<void, VolumeOwned | VolumeError>
    /** Keeps what is ours; runs for ever. While the disk refuses, the mark grows old like that of a silent owner. */
    readonly renew: Effect.Effect<never>
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

  const taken = yield* Ref.make(0)
  /** When our mark was put there last, by a clock that nobody sets. */
  const signed = yield* Ref.make(Option.none<bigint>())
  const isFresh = Effect.zipWith(Ref.get(signed), Clock.monotonicTimeNanos, (at, now) =>
    Option.exists(at, (at) => now - at < Duration.toNanosUnsafe(patience))
  )

  const read = Effect.gen(function* () {
    const [sight] = yield* volume.look([file])
    return sight?._tag === "File" ? Option.some(Buffer.from(yield* volume.read(file)).toString()) : Option.none()
  })
  const mark = Effect.map(Clock.currentTimeMillis, (at) => JSON.stringify({ pod, uid, at }))
  const noteSigned = Effect.flatMap(Clock.monotonicTimeNanos, (now) => Ref.set(signed, Option.some(now)))
  const take = Ref.updateAndGet(taken, (times) => times + 1)
  const sign = Effect.gen(function* () {
    yield* volume.replace(file, yield* mark)
    // Another may have had it meanwhile, and we may have signed over that: so much may have gone by right in there.
    if (!(yield* isFresh)) yield* take
    yield* noteSigned
  })
  const isOurs = Effect.map(
    read,
    Option.exists((text) => Option.exists(decode(text), (mark) => mark.uid === uid))
  )

  /** Nobody has it: the file system lets one of those who come at once make the file. */
  const first = Effect.gen(function* () {
    yield* volume.makeFolder(folder)
    yield* volume.create(file, Buffer.from(yield* mark))
    yield* noteSigned
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

  /** Ours, and nobody can have found it silent. One of a former process of this pod is as fresh as it says. */
  const isKept = Effect.fnUntraced(function* (at: number | undefined) {
    if (Option.isSome(yield* Ref.get(signed))) return yield* isFresh
    if (at === undefined) return false
    const age = BigInt(Math.max(0, (yield* Clock.currentTimeMillis) - Math.floor(at))) * 1_000_000n
    yield* Ref.set(signed, Option.some((yield* Clock.monotonicTimeNanos) - age))
    return yield* isFresh
  })

  const claim: Effect.Effect<number, VolumeOwned | VolumeError> = Effect.gen(function* () {
    const text = yield* read
    if (Option.isNone(text)) return yield* (yield* first) ? take : claim
    const { at, uid: owner, ...other } = Option.getOrElse(decode(text.value), () => unreadable)
    if (owner === uid && (yield* isKept(at))) return yield* Ref.get(taken)
    if (owner !== uid && !(yield* isSilent(text.value, at))) return yield* new VolumeOwned(other)
    yield* sign
    yield* Effect.sleep(settling)
    return yield* (yield* isOurs) ? take : claim
  })

  const confirm = Effect.fnUntraced(function* (claimed: number) {
    const { pod, uid: owner } = Option.getOrElse(Option.flatMap(yield* read, decode), () => unreadable)
    if (owner !== uid) return yield* new VolumeOwned({ pod })
    if (claimed !== (yield* Ref.get(taken)) || !(yield* isFresh)) return yield* new VolumeOwned(stoodStill)
  })

  const said = yield* Ref.make("")
  const renew = Effect.flatMap(isOurs, (ours) => (ours ? sign : Effect.void)).pipe(
    Effect.andThen(Ref.set(said, "")),
    Effect.catch((error) =>
      Effect.flatMap(Ref.getAndSet(said, error.message), (former) =>
        former === error.message ? Effect.void : Effect.logWarning(error.message)
      )
    ),
    Effect.delay(renewal),
    Effect.forever
  )
  yield* Effect.addFinalizer(() =>
    Effect.ignore(Effect.flatMap(isOurs, (ours) => (ours ? volume.remove(file) : Effect.void)))
  )
  return Owner.of({ claim, confirm, renew })
})

/** This one could not renew its mark for so long that another may have taken the volume. */
const stoodStill = { pod: "that may have come while this one stood still" }
/** Being written this moment, or by a process that was killed then. */
const unreadable = { pod: "that is about to sign", uid: undefined, at: undefined }
