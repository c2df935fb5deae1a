/**
 * Requests to a GatewaySync by annotation, and who wins. Pure: the receiver asks {@link decide} what a delivery writes,
 * the controller asks {@link inForce} which ref to follow and {@link isHandled} whether the remote must be asked.
 *
 * Two kinds of request. A *promotion* (a published release, Argo CD, Kargo, a person) moves the GatewaySync to a ref and
 * overrides `spec.git.ref` until that catches up or is edited to something else. A *push* only wakes those that follow
 * the pushed ref; which commit that is, only the remote can say.
 */
import { Glob, Option, Schema } from "effect"
import * as GitRef from "./GitRef.ts"
import { request as keys } from "./Names.ts"
import * as RepositoryIdentity from "./RepositoryIdentity.ts"

export const Sender = Schema.Literals([
  "github",
  "argocd",
  "kargo",
  "generic",
  "gitlab",
  "bitbucket",
  "gitea",
  "azure-devops"
])
export type Sender = typeof Sender.Type

/** An override of `spec.git.ref`: the `requested-*` annotations. Only `ref` is sure to be there (kubectl may set it). */
export interface Override {
  readonly ref: string
  /** RFC 3339, UTC. */
  readonly at?: string
  readonly by?: string
  readonly commit?: string
  readonly id?: string
  /** The `spec.git.ref` that it overrides. */
  readonly over?: string
}

/** Annotation `stoker.io/pushed`: the last push that woke the GatewaySync. */
export const Pushed = Schema.Struct({
  ref: Schema.NonEmptyString,
  kind: Schema.Literals(["branch", "tag"]),
  before: Schema.optionalKey(Schema.String),
  after: Schema.optionalKey(Schema.String),
  at: Schema.String,
  by: Schema.String,
  id: Schema.NonEmptyString
})
export type Pushed = typeof Pushed.Type

/**
 * One handled delivery: the sender's id and, for releases, a digest of what was signed (the id was not). `push`
 * marks one that only woke.
 */
const Handled = Schema.Struct({
  id: Schema.String,
  digest: Schema.optionalKey(Schema.String),
  push: Schema.optionalKey(Schema.Literal(true))
})
type Handled = typeof Handled.Type

/** How many are remembered of a kind: releases, other promotions, pushes. Many of one make none of another forgotten. */
export const rememberedDeliveries = 32

const PushedJson = Schema.fromJsonString(Pushed)
const DeliveriesJson = Schema.fromJsonString(Schema.Array(Handled))
const decodePushed = Schema.decodeUnknownOption(PushedJson)
const encodePushed = Schema.encodeSync(PushedJson)
const decodeDeliveries = Schema.decodeUnknownOption(DeliveriesJson)
const encodeDeliveries = Schema.encodeSync(DeliveriesJson)

export type Annotations = Readonly<Record<string, string>>

const optional = <K extends string>(key: K, value: string | undefined): { readonly [P in K]?: string } =>
  (value === undefined || value === "" ? {} : { [key]: value }) as { readonly [P in K]?: string }

/** The override that the annotations hold, in force or not. */
export const override = (annotations: Annotations): Override | undefined => {
  const ref = annotations[keys.ref]
  if (ref === undefined || ref === "") return undefined
  return {
    ref,
    ...optional("at", annotations[keys.at]),
    ...optional("by", annotations[keys.by]),
    ...optional("commit", annotations[keys.commit]),
    ...optional("id", annotations[keys.id]),
    ...optional("over", annotations[keys.over])
  }
}

/** The last push; none also when the annotation does not decode, since somebody else may write there. */
export const pushed = (annotations: Annotations): Pushed | undefined =>
  Option.getOrUndefined(decodePushed(annotations[keys.pushed]))

const remembered = (annotations: Annotations): ReadonlyArray<Handled> =>
  Option.getOrElse(decodeDeliveries(annotations[keys.deliveries]), () => [])

// Who wins ------------------------------------------------------------------------------------------------------------

/** The ref to follow, and what must be done to the annotations. */
export interface InForce {
  readonly ref: string
  /** The override, while it is in force. */
  readonly request?: Override
  /**
   * - `adopt`: set by hand, so `requested-over` and `requested-id` are missing: the controller adds them;
   * - `ended`: `spec.git.ref` was edited after the request: the newest writer wins, the override is removed;
   * - `caughtUp`: `spec.git.ref` says the same now: the override is removed once `spec.git.ref` itself resolves.
   */
  readonly fate?: "adopt" | "ended" | "caughtUp"
}

export const inForce = (annotations: Annotations, specRef: string): InForce => {
  const request = override(annotations)
  if (request === undefined) return { ref: specRef }
  if (GitRef.sameVersion(request.ref, specRef)) return { ref: request.ref, request, fate: "caughtUp" }
  if (request.over === undefined || request.id === undefined) return { ref: request.ref, request, fate: "adopt" }
  if (request.over !== specRef) return { ref: specRef, fate: "ended" }
  return { ref: request.ref, request }
}

// Handled or not ------------------------------------------------------------------------------------------------------

const Fingerprint = Schema.fromJsonString(
  Schema.Struct({
    ref: Schema.optionalKey(Schema.String),
    id: Schema.optionalKey(Schema.String),
    pushed: Schema.optionalKey(Schema.String)
  })
)
const decodeFingerprint = Schema.decodeUnknownOption(Fingerprint)
const encodeFingerprint = Schema.encodeSync(Fingerprint)

const marks = (annotations: Annotations) => {
  const request = override(annotations)
  return {
    ...optional("ref", request?.ref),
    ...optional("id", request?.id),
    ...optional("pushed", pushed(annotations)?.id)
  }
}

/** `status.lastHandledRequest`: which requests these annotations hold. Compact JSON, equal for equal requests. */
export const fingerprint = (annotations: Annotations): string => encodeFingerprint(marks(annotations))

/** Whether every request that the annotations hold is one that `status.lastHandledRequest` knows. */
export const isHandled = (annotations: Annotations, lastHandled: string | undefined): boolean => {
  const handled = Option.getOrElse(decodeFingerprint(lastHandled), () => ({}) as ReturnType<typeof marks>)
  const now = marks(annotations)
  return (
    (now.ref === undefined || (now.ref === handled.ref && now.id === handled.id)) &&
    (now.pushed === undefined || now.pushed === handled.pushed)
  )
}

// What a delivery writes ----------------------------------------------------------------------------------------------

interface Delivered {
  readonly by: Sender
  /** What the sender calls the repository that it is about; empty when it does not say. */
  readonly repositories?: ReadonlyArray<RepositoryIdentity.Name>
  /** The sender's id of the delivery; a repeated one is a duplicate. */
  readonly id?: string
}

/** Moves a GatewaySync to a ref. `ref` is legal (`GitRef.validate`). */
export interface Promotion extends Delivered {
  readonly _tag: "Promotion"
  readonly ref: string
  readonly commit?: string
  readonly prerelease?: boolean
  /** By that a release is known again, whatever its id: a digest of signed parts of it. */
  readonly digest?: string
}

/** Wakes those that follow `ref`. */
export interface Push extends Delivered {
  readonly _tag: "Push"
  readonly ref: string
  readonly kind: "branch" | "tag"
  readonly before?: string
  readonly after?: string
}

export type Delivery = Promotion | Push

/** What is known of the GatewaySync that a delivery is for. */
export interface Target {
  readonly annotations: Annotations
  /** `spec.git.repo`. */
  readonly repository: string
  readonly specRef: string
  /** `spec.webhook.refs`. */
  readonly refs?: ReadonlyArray<string>
  /** `spec.webhook.prereleases`. */
  readonly prereleases: boolean
  readonly lastHandledRequest?: string
  readonly lastSyncRef?: string
  readonly lastSyncRefKind?: GitRef.Kind
  readonly lastSyncCommit?: string
  /** Every gateway has what was last handled. */
  readonly synced: boolean
}

/**
 * - `Write`: the annotations change.
 * - `AlreadyHandled`: a delivery that came before, for what is still in force. Nothing is written.
 * - `NotForUs`: nothing is written, and what the sender wanted is not in force.
 */
export type Decision =
  | {
      readonly _tag: "Write"
      /** As in a JSON merge patch of `metadata.annotations`: null removes. */
      readonly annotations: Readonly<Record<string, string | null>>
      /** The ref that is in force then. */
      readonly ref: string
      readonly message?: string
      /**
       * Just this was in force before, so that a sender that posts until the plant has it may be told what was reached
       * before this write. Not so for a branch without a commit: it may have moved since.
       */
      readonly repeats: boolean
    }
  | { readonly _tag: "AlreadyHandled"; readonly ref: string; readonly message: string }
  | {
      readonly _tag: "NotForUs"
      readonly reason: string
      /** About another repository: whatever this GatewaySync follows by now, it is none of its business. */
      readonly isElsewhere?: true
    }

export interface Stamp {
  /** Now: RFC 3339, UTC. */
  readonly at: string
  /** A unique id, for a delivery whose sender gives none. */
  readonly freshId: string
  readonly traceparent?: string
}

const notForUs = (reason: string): Decision => ({ _tag: "NotForUs", reason })

const kindOf = ({ digest, push }: Handled) => (push === true ? "push" : digest === undefined ? "promotion" : "release")

/** A release is known by its digest: its id is whatever the sender says, and must not make another one forgotten. */
const isSame = (a: Handled, b: Handled): boolean =>
  kindOf(a) === kindOf(b) && (a.digest === undefined ? a.id === b.id : a.digest === b.digest)

const remember = (known: ReadonlyArray<Handled>, handled: Handled): string => {
  const others = known.filter((one) => !isSame(one, handled))
  const alike = others.filter((one) => kindOf(one) === kindOf(handled))
  const forgotten = new Set(alike.slice(0, Math.max(0, alike.length + 1 - rememberedDeliveries)))
  return encodeDeliveries([...others.filter((one) => !forgotten.has(one)), handled])
}

const isRepeated = (known: ReadonlyArray<Handled>, delivery: Delivery): boolean =>
  known.some(
    (handled) =>
      handled.id === delivery.id ||
      (delivery._tag === "Promotion" && delivery.digest !== undefined && handled.digest === delivery.digest)
  )

const isPending = (target: Target): boolean =>
  !target.synced || !isHandled(target.annotations, target.lastHandledRequest)

const named = (delivery: Delivery): string => (delivery.id === undefined ? "" : ` (id ${delivery.id})`)

const isAllowed = ({ refs }: Target, ref: string): boolean =>
  refs === undefined || refs.some((glob) => Glob.match(Glob.make(glob), ref))

/** @param known deliveries that the annotations remember */
type Decide<D extends Delivery> = (delivery: D, target: Target, stamp: Stamp, known: ReadonlyArray<Handled>) => Decision

const decidePromotion: Decide<Promotion> = (delivery, target, stamp, known) => {
  const { annotations, refs = [] } = target
  if (!isAllowed(target, delivery.ref)) {
    return notForUs(`the ref "${delivery.ref}" is none of spec.webhook.refs (${refs.join(", ")})`)
  }
  if (delivery.prerelease === true && !target.prereleases) {
    return notForUs(`"${delivery.ref}" is a prerelease; spec.webhook.prereleases lets those through`)
  }
  const current = inForce(annotations, target.specRef)
  const sameRequest = current.request?.ref === delivery.ref
  const follows = GitRef.sameVersion(current.ref, delivery.ref)
  const repeated = isRepeated(known, delivery)
  if (repeated && !follows) {
    return notForUs(`this delivery was handled before${named(delivery)}, and "${current.ref}" was asked for since`)
  }
  if (repeated && !(sameRequest && isPending(target))) {
    return { _tag: "AlreadyHandled", ref: current.ref, message: `this delivery was handled before${named(delivery)}` }
  }
  const renewed = {
    [keys.commit]: delivery.commit ?? null,
    // A repeated delivery must differ from what was handled, or nobody would wake.
    [keys.id]: repeated ? stamp.freshId : (delivery.id ?? stamp.freshId),
    [keys.traceparent]: stamp.traceparent ?? null,
    ...(delivery.id === undefined
      ? {}
      : { [keys.deliveries]: remember(known, { id: delivery.id, ...optional("digest", delivery.digest) }) })
  }
  const repeats =
    follows &&
    target.lastSyncRef !== undefined &&
    GitRef.sameVersion(target.lastSyncRef, delivery.ref) &&
    (delivery.commit === undefined ? target.lastSyncRefKind !== "branch" : delivery.commit === target.lastSyncCommit)
  const write = { _tag: "Write", ref: delivery.ref, repeats } as const
  if (sameRequest) return { ...write, annotations: renewed, message: "ref already set" }
  return {
    ...write,
    annotations: {
      ...renewed,
      [keys.ref]: delivery.ref,
      [keys.at]: stamp.at,
      [keys.by]: delivery.by,
      [keys.over]: target.specRef
    }
  }
}

const decidePush: Decide<Push> = (delivery, target, stamp, known) => {
  const { annotations } = target
  const { ref } = inForce(annotations, target.specRef)
  if (ref !== delivery.ref) {
    return notForUs(`a push to ${delivery.kind} "${delivery.ref}", but this GatewaySync follows "${ref}"`)
  }
  const kind = target.lastSyncRef === ref ? target.lastSyncRefKind : undefined
  if (kind !== undefined && kind !== delivery.kind) {
    return notForUs(
      `a push to ${delivery.kind} "${delivery.ref}", but this GatewaySync follows the ${kind} of that name`
    )
  }
  const repeated = isRepeated(known, delivery)
  if (repeated && !isPending(target)) {
    return { _tag: "AlreadyHandled", ref, message: `this delivery was handled before${named(delivery)}` }
  }
  return {
    _tag: "Write",
    ref,
    repeats: false,
    annotations: {
      [keys.pushed]: encodePushed({
        ref: delivery.ref,
        kind: delivery.kind,
        ...optional("before", delivery.before),
        ...optional("after", delivery.after),
        at: stamp.at,
        by: delivery.by,
        id: repeated ? stamp.freshId : (delivery.id ?? stamp.freshId)
      }),
      [keys.traceparent]: stamp.traceparent ?? null,
      ...(delivery.id === undefined ? {} : { [keys.deliveries]: remember(known, { id: delivery.id, push: true }) })
    },
    ...(repeated ? { message: "this push is known already; the remote is asked again" } : {})
  }
}

const decideOne: Decide<Delivery> = (delivery, ...rest) =>
  delivery._tag === "Promotion" ? decidePromotion(delivery, ...rest) : decidePush(delivery, ...rest)

const says = ({ repositories }: Delivery): boolean => repositories !== undefined && repositories.length > 0

/** Those about the target's repository; where none says so, those that do not say which. */
const about = (deliveries: ReadonlyArray<Delivery>, repository: string): ReadonlyArray<Delivery> => {
  const names = new Set(RepositoryIdentity.names(repository))
  const ours = deliveries.filter(({ repositories = [] }) => repositories.some((name) => names.has(name)))
  return ours.length > 0 ? ours : deliveries.filter((delivery) => !says(delivery))
}

/** Of what is said of one ref only the last counts. */
const lastOfEach = (deliveries: ReadonlyArray<Delivery>): ReadonlyArray<Delivery> => [
  ...new Map(deliveries.map((one) => [`${one._tag === "Push" ? one.kind : ""} ${one.ref}`, one])).values()
]

/**
 * What a message writes on a GatewaySync, or why it writes nothing. A message may hold several deliveries: commits of a
 * freight, of which this GatewaySync's repository may have but one ref; changes of a push, of which the first that is for
 * this GatewaySync counts.
 */
export const decide = (deliveries: ReadonlyArray<Delivery>, target: Target, stamp: Stamp): Decision => {
  const ours = about(deliveries, target.repository)
  if (ours.length === 0) {
    const others = new Set(deliveries.flatMap((delivery) => delivery.repositories?.slice(0, 1) ?? []))
    const named = [...others].slice(0, 3).map(RepositoryIdentity.shown)
    return {
      _tag: "NotForUs",
      reason: `it is about another repository (${named.join(", ")}), not ${RepositoryIdentity.of(target.repository) ?? "that of spec.git.repo"}`,
      isElsewhere: true
    }
  }
  const { ref } = inForce(target.annotations, target.specRef)
  const near = lastOfEach(ours.filter((delivery) => delivery._tag === "Promotion" || delivery.ref === ref))
  const allowed = near.filter((delivery) => delivery._tag === "Push" || isAllowed(target, delivery.ref))
  const asked = [allowed, near, ours.slice(0, 1)].find((some) => some.length > 0) ?? []
  const [first, second] = allowed.filter(({ _tag }) => _tag === "Promotion")
  if (first !== undefined && second !== undefined) {
    return notForUs(
      `it asks for "${first.ref}" and for "${second.ref}" of one repository, and which is meant nobody can tell: send one of them`
    )
  }
  // Once for all of them: it may be long.
  const known = remembered(target.annotations)
  let best: Decision | undefined
  for (const delivery of asked) {
    const decision = decideOne(delivery, target, stamp, known)
    if (decision._tag === "Write") return decision
    if (best === undefined || (best._tag === "NotForUs" && decision._tag === "AlreadyHandled")) best = decision
  }
  return best!
}

/** The annotations after a decision: for deliveries that are merged into one patch. */
export const after = (annotations: Annotations, patch: Readonly<Record<string, string | null>>): Annotations =>
  Object.fromEntries(
    Object.entries({ ...annotations, ...patch }).filter((entry): entry is [string, string] => entry[1] !== null)
  )

/** An operation of a JSON Patch (RFC 6902). */
export type Operation =
  | { readonly op: "test" | "add"; readonly path: string; readonly value: unknown }
  | { readonly op: "remove"; readonly path: string }

const root = "/metadata/annotations"
const pointer = (key: string) => `${root}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`

/** What {@link decide} builds on and somebody else may write: another replica, the controller, kubectl. */
const builtOn = [keys.ref, keys.id, keys.over, keys.pushed, keys.deliveries]

/**
 * The JSON Patch that writes what was decided, and only if it would be decided again: `test` fails (422) when
 * `spec.git.ref` or an annotation that it was built on has changed since. A status that is written meanwhile does not
 * matter, which a resourceVersion would make it.
 */
export const operations = (
  { annotations, specRef }: Pick<Target, "annotations" | "specRef">,
  patch: Readonly<Record<string, string | null>>
): ReadonlyArray<Operation> => {
  const isBare = Object.keys(annotations).length === 0
  // An absent key equals null, but only below a parent that is there.
  const tests = isBare
    ? [{ op: "test", path: root, value: null } as const, { op: "add", path: root, value: {} } as const]
    : builtOn.map((key) => ({ op: "test", path: pointer(key), value: annotations[key] ?? null }) as const)
  const writes = Object.entries(patch).flatMap(([key, value]): ReadonlyArray<Operation> => {
    if (value !== null) return [{ op: "add", path: pointer(key), value }]
    return annotations[key] === undefined ? [] : [{ op: "remove", path: pointer(key) }]
  })
  return [{ op: "test", path: "/spec/git/ref", value: specRef }, ...tests, ...writes]
}

/**
 * The JSON Patch that removes an override, and nothing that came meanwhile: `test` on ref and id fails (422) when a
 * webhook has written since, and then the truth is looked at again.
 */
export const removal = (annotations: Annotations): ReadonlyArray<Operation> => [
  // An id that is absent must be so still: a webhook for the same ref writes only that.
  ...[keys.ref, keys.id].map((key) => ({ op: "test", path: pointer(key), value: annotations[key] ?? null }) as const),
  ...[keys.ref, keys.at, keys.by, keys.commit, keys.id, keys.over]
    .filter((key) => annotations[key] !== undefined)
    .map((key) => ({ op: "remove", path: pointer(key) }) as const)
]
