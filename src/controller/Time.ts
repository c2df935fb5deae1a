/** Times as Kubernetes writes them: RFC 3339, UTC, whole seconds. */
import { DateTime } from "effect"

export const format = (time: DateTime.DateTime): string => DateTime.formatIso(time).replace(/\.\d+Z$/, "Z")
