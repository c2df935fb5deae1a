/**
 * What a message of a sender means. Each {@link Sender} is a file of its own under `senders/`; `Payload` asks them in
 * order. All of it is pure.
 */
import type { Array } from "effect"
import { createHash } from "node:crypto"
import type * as RequestedRef from "../api/RequestedRef.ts"

/** Header names in lower case. */
export type Headers = Readonly<Record<string, string | undefined>>

/** A message whose body is a JSON object. */
export interface Message {
  /** The forge and its event, when a header tells; the name is empty where the header is there and names none. */
  readonly event?: { readonly forge: RequestedRef.Sender; readonly name: string }
  /** The sender's id of this delivery. */
  readonly id?: string
  readonly body: Readonly<Record<string, unknown>>
  /** Of the JSON's text, also where a form was wrapped around it: by that a message is known again. */
  readonly digest: string
}

/**
 * Who waits for the answer when the message is not for this GatewaySync. A forge sends everything to everybody, and
 * switches a hook off that fails; a person's promotion must not look done.
 */
export type Patience = "forge" | "person"

/** Asks for something. Several deliveries are alternatives by repository, or changes of one push. */
export interface Request {
  readonly _tag: "Request"
  readonly sender: RequestedRef.Sender
  readonly patience: Patience
  readonly deliveries: Array.NonEmptyReadonlyArray<RequestedRef.Delivery>
  /** Why something else in the message could not be read: said when none of the deliveries is for the GatewaySync. */
  readonly problem?: string
}

/** Understood, and nothing to do. */
export interface Ignored {
  readonly _tag: "Ignored"
  readonly sender: RequestedRef.Sender
  readonly reason: string
}

/** What is missing or wrong, and the usual cause. */
export interface Invalid {
  readonly _tag: "Invalid"
  readonly message: string
}

export type Reading = Request | Ignored | Invalid

/** A header by which a forge's messages are known. */
export interface Mark {
  readonly header: string
  /** Header that names the event; the mark itself when absent. */
  readonly event?: string
  /** Headers that hold the id of a delivery, best first. */
  readonly ids: ReadonlyArray<string>
}

export interface Sender {
  readonly name: RequestedRef.Sender
  /** None: it has no header of its own. */
  readonly marks: ReadonlyArray<Mark>
  /** Whether a body is this sender's that came without a mark of anybody. */
  readonly looksLike: (body: Message["body"]) => boolean
  readonly read: (message: Message) => Reading
}

/** By that a text is known again. */
export const digestOf = (text: string): string => createHash("sha256").update(text).digest("base64url")

export const invalid = (message: string): Invalid => ({ _tag: "Invalid", message })

export const ignored = (sender: RequestedRef.Sender, reason: string): Ignored => ({ _tag: "Ignored", sender, reason })

/** A delivery's id goes into an annotation: by its digest, where it is long or not plain. */
export const idOf = (text: string | undefined): string | undefined => {
  if (text === undefined || text === "") return undefined
  return /^[\u0021-\u007e]{1,128}$/.test(text) ? text : digestOf(text)
}

/** An event of a forge that asks for nothing. */
export const otherEvent = (sender: RequestedRef.Sender, name: string): Ignored =>
  ignored(sender, `the event "${clip(name)}" of ${sender} is nothing to act on`)

/** A text of a sender, as short as it may be in a message. */
export const clip = (text: string): string => (text.length > 64 ? `${text.slice(0, 64)}…` : text)

/** An optional field, absent when there is no value for it. */
export const optional = <K extends string, A>(key: K, value: A | undefined): { readonly [P in K]?: A } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: A }
