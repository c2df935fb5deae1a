/** Times of Leases and Events: RFC 3339, UTC, exactly six digits, or the API server refuses them. */
import { DateTime } from "effect"

export const format = (time: DateTime.DateTime): string => DateTime.formatIso(time).replace(/\.(\d{3})Z$/, ".$1000Z")
