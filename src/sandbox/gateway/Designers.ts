import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** A Designer session as the API shows it; `uptime`, `lastcomm` and `timeout` in milliseconds. */
export const Designer = Schema.Struct({
  id: Schema.String,
  user: Schema.String,
  project: Schema.optionalKey(Schema.String),
  address: Schema.optionalKey(Schema.String),
  timezone: Schema.optionalKey(Schema.String),
  uptime: Schema.optionalKey(Schema.Finite)
})
export type Designer = typeof Designer.Type

/** The open Designer sessions. */
export interface Designers {
  readonly list: Effect.Effect<ReadonlyArray<Designer>>
  readonly add: (designer: Designer) => Effect.Effect<void>
  readonly remove: (id: string) => Effect.Effect<boolean>
}

export const make: Effect.Effect<Designers> = Effect.sync(() => {
  const open = new Map<string, Designer>()
  return {
    list: Effect.sync(() => [...open.values()]),
    add: (designer) =>
      Effect.sync(() => {
        open.set(designer.id, designer)
      }),
    remove: (id) => Effect.sync(() => open.delete(id))
  }
})
