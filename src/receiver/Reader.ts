/**
 * What a message of a sender means. Each sender has a {@link Reader}, a file of its own under `senders/`; `Payload` asks
 * them in order. All of it is pure.
 */
import type { Array } from "effect"
import type * as RequestedRef from "../api/RequestedRef.ts"

/** Header names in lower case. */
export type Headers = Readonly<Record<string, string | undefined>>

/** A message whose body is a JSON object. */
export interface Message {
  /** The forge and its event, when a header tells. */
  readonly event?: { readonly forge: RequestedRef.Sender; readonly name: string }
  /** The sender's id of this delivery. */
  readonly id?: string
  readonly body: Readonly<Record<string, unknown>>
  /** Of the bytes that came. */
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

export interface Reader {
  readonly recognises: (message: Message) => boolean
  readonly read: (message: Message) => Reading
}

export const invalid = (message: string): Invalid => ({ _tag: "Invalid", message })

export const ignored = (sender: RequestedRef.Sender, reason: string): Ignored => ({ _tag: "Ignored", sender, reason })

/** The message is an event of that name; or has no event header at all and its body looks like one. */
export const isEvent = (
  message: Message,
  forge: RequestedRef.Sender,
  name: string,
  looksLike: (body: Message["body"]) => boolean = () => false
): boolean =>
  message.event === undefined ? looksLike(message.body) : message.event.forge === forge && message.event.name === name
