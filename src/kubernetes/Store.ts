/**
 * A mirror of a collection, kept by one writer (`Reflector`) and read by many.
 *
 * Nothing is read from it before the first list is complete: such a read fails instead of giving an empty answer. A list
 * swaps the whole content at once; what vanished meanwhile is announced as deleted, and what came back under the same
 * name with another UID as a new object.
 */
import { Deferred, Effect, Option, Schema } from "effect"
import * as Resource from "./Resource.ts"
import type { Event, Identity } from "./Watcher.ts"

/** The first list is not complete yet. Wait, or say "try again". */
export class StoreNotReady extends Schema.TaggedError<StoreNotReady>()("StoreNotReady", {
  resource: Schema.String
}) {
  override get message(): string {
    return `the ${this.resource} have not been listed yet`
  }
}

/** One object's change. Absent `before`: it is new; absent `after`: it is gone. */
export interface Change<A> {
  readonly ref: Resource.ObjectRef
  readonly before: A | undefined
  readonly after: A | undefined
}

/** Index name to the values under which an object is found. */
export type Indexes<A> = Readonly<Record<string, (object: A) => ReadonlyArray<string>>>

export interface Store<A> {
  /** Waits until the first list is complete. */
  readonly ready: Effect.Effect<void>
  readonly isReady: Effect.Effect<boolean>
  readonly get: (ref: Resource.ObjectRef) => Effect.Effect<Option.Option<A>, StoreNotReady>
  readonly all: Effect.Effect<ReadonlyArray<A>, StoreNotReady>
  readonly by: (index: string, value: string) => Effect.Effect<ReadonlyArray<A>, StoreNotReady>
}

export interface Writer<A> {
  readonly store: Store<A>
  /** Takes the events of a watcher and says what changed, in order. */
  readonly write: (events: ReadonlyArray<Event<A>>) => Effect.Effect<ReadonlyArray<Change<A>>>
  /**
   * Takes the API server's answer to a write of our own, so that the next look does not see what was there before it.
   * Answers what changed: somebody else's write may be in it too, and the watch, which brings the same version later,
   * announces it no more. Only an object that is known under this UID is replaced, so an answer that comes after the
   * deletion brings nothing back to life.
   */
  readonly acknowledge: (id: Identity, object: A) => Effect.Effect<ReadonlyArray<Change<A>>>
}

interface Entry<A> {
  readonly id: Identity
  readonly object: A
  /** Known from an answer: the watch may still bring older versions. */
  readonly acknowledged?: boolean
}

export const make = Effect.fnUntraced(function* <A>(
  resource: Resource.Resource,
  indexes: Indexes<A> = {}
): Effect.fn.Return<Writer<A>> {
  const latch = yield* Deferred.make<void>()
  let ready = false
  let entries = new Map<string, Entry<A>>()
  /** What a list has brought so far. */
  let incoming: Map<string, Entry<A>> | undefined
  const tables = new Map(Object.keys(indexes).map((name) => [name, new Map<string, Set<string>>()]))

  const index = (key: string, object: A, change: "add" | "remove") => {
    for (const [name, values] of Object.entries(indexes)) {
      const table = tables.get(name)!
      for (const value of values(object)) {
        const keys = table.get(value)
        if (change === "add") {
          if (keys === undefined) table.set(value, new Set([key]))
          else keys.add(key)
        } else if (keys !== undefined) {
          keys.delete(key)
          if (keys.size === 0) table.delete(value)
        }
      }
    }
  }

  const set = (entry: Entry<A>, changes: Array<Change<A>>) => {
    const key = Resource.key(entry.id)
    const before = entries.get(key)
    if (before !== undefined) index(key, before.object, "remove")
    entries.set(key, entry)
    index(key, entry.object, "add")
    // Found again unchanged by a list: nothing to tell.
    if (
      before !== undefined &&
      before.id.uid === entry.id.uid &&
      before.id.resourceVersion === entry.id.resourceVersion
    )
      return
    if (before !== undefined && before.id.uid !== entry.id.uid) {
      changes.push({ ref: ref(before.id), before: before.object, after: undefined })
      changes.push({ ref: ref(entry.id), before: undefined, after: entry.object })
      return
    }
    changes.push({ ref: ref(entry.id), before: before?.object, after: entry.object })
  }

  const remove = (key: string, changes: Array<Change<A>>) => {
    const before = entries.get(key)
    if (before === undefined) return
    entries.delete(key)
    index(key, before.object, "remove")
    changes.push({ ref: ref(before.id), before: before.object, after: undefined })
  }

  const write = (events: ReadonlyArray<Event<A>>) =>
    Effect.suspend(() => {
      const changes: Array<Change<A>> = []
      let done = false
      for (const event of events) {
        switch (event._tag) {
          case "Init":
            incoming = new Map()
            break
          case "InitApply":
            incoming?.set(Resource.key(event.id), event)
            break
          case "InitDone": {
            const listed = incoming ?? new Map<string, Entry<A>>()
            incoming = undefined
            for (const key of Array.from(entries.keys())) if (!listed.has(key)) remove(key, changes)
            for (const entry of listed.values()) set({ id: entry.id, object: entry.object }, changes)
            done = true
            break
          }
          case "Apply": {
            const known = entries.get(Resource.key(event.id))
            const stale =
              known?.acknowledged === true &&
              known.id.uid === event.id.uid &&
              isOlder(event.id.resourceVersion, known.id.resourceVersion)
            if (!stale) set({ id: event.id, object: event.object }, changes)
            break
          }
          case "Delete":
            remove(Resource.key(event.id), changes)
            break
          case "Invalid":
            // The last good version stays; in a list, too, an object that is still there must not count as deleted.
            if (event.initial && Option.isSome(event.id)) {
              const known = entries.get(Resource.key(event.id.value))
              if (known !== undefined && known.id.uid === event.id.value.uid)
                incoming?.set(Resource.key(known.id), known)
            }
            break
          case "Failed":
            break
        }
      }
      if (!done || ready) return Effect.succeed(changes)
      ready = true
      return Effect.as(Deferred.succeed(latch, undefined), changes)
    })

  const acknowledge = (id: Identity, object: A) =>
    Effect.sync((): ReadonlyArray<Change<A>> => {
      const key = Resource.key(id)
      const known = entries.get(key)
      if (known === undefined || known.id.uid !== id.uid || !isOlder(known.id.resourceVersion, id.resourceVersion)) {
        return []
      }
      index(key, known.object, "remove")
      entries.set(key, { id, object, acknowledged: true })
      index(key, object, "add")
      return [{ ref: ref(id), before: known.object, after: object }]
    })

  const whenReady = <B>(read: () => B): Effect.Effect<B, StoreNotReady> =>
    Effect.suspend(() =>
      ready ? Effect.succeed(read()) : Effect.fail(new StoreNotReady({ resource: resource.plural }))
    )

  return {
    write,
    acknowledge,
    store: {
      ready: Deferred.await(latch),
      isReady: Effect.sync(() => ready),
      get: (target) => whenReady(() => Option.fromNullishOr(entries.get(Resource.key(target))?.object)),
      all: whenReady(() => Array.from(entries.values(), (entry) => entry.object)),
      by: (name, value) =>
        whenReady(() => Array.from(tables.get(name)?.get(value) ?? [], (key) => entries.get(key)!.object))
    }
  }
})

const ref = (id: Identity): Resource.ObjectRef => ({ namespace: id.namespace, name: id.name })

/** Kubernetes compares them as numbers since 1.35, and has always made them as such; what is none is never older. */
const isOlder = (a: string, b: string): boolean =>
  /^\d+$/.test(a) && /^\d+$/.test(b) && (a.length === b.length ? a < b : a.length < b.length)
