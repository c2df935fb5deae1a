/** GitHub `ping`: what it sends when a hook is set up. */
import * as Reader from "../Reader.ts"

export const reader: Reader.Reader = {
  recognises: (message) => Reader.isEvent(message, "github", "ping"),
  read: () => Reader.ignored("github", "ping: the hook works")
}
