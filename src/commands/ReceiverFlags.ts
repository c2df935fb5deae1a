/** What the webhook receiver takes, as flags of the controller (chart: `webhookReceiver.limits`, `.trustedProxies`). */
import { Duration, Option, Result } from "effect"
import { Flag } from "effect/cli"
import { IpInterface, IpNetwork } from "effect/net"
import * as GoDuration from "../api/GoDuration.ts"
import * as Receiver from "../receiver/Receiver.ts"

/** `10.0.0.0/8, ::1`: networks and addresses; none when one of them is neither. `10.1.2.3/8` is the network around it. */
export const parseNetworks = (text: string): Option.Option<ReadonlyArray<IpNetwork.IpNetwork>> => {
  const parts = text.split(",").map((part) => part.trim())
  return Option.all(
    parts
      .filter((part) => part !== "")
      .map((part) => Result.getSuccess(Result.map(IpInterface.fromString(part), IpNetwork.fromInterface)))
  )
}

const { defaultLimits } = Receiver

const perMinute = (name: string, standard: number, what: string) =>
  Flag.Int(`webhook-receiver-${name}-per-minute`).pipe(
    Flag.withDescription(`${what} in a minute; 0 = any number`),
    Flag.withDefault(standard),
    Flag.filterMap(
      (number) => (number >= 0 ? Option.some(number) : Option.none()),
      () => "a number that is not negative"
    )
  )

const timeout = (name: string, standard: Duration.Duration, what: string) =>
  Flag.String(`webhook-receiver-${name}-timeout`).pipe(
    Flag.withDescription(`How long a client may take ${what}`),
    Flag.withDefault(`${Duration.toSeconds(standard)}s`),
    Flag.filterMap(
      (text) => Option.filter(GoDuration.parse(text), (duration) => Duration.toMillis(duration) >= 1),
      () => "a duration (10s, 1m30s)"
    )
  )

export const flags = {
  failuresPerMinute: perMinute(
    "failures",
    defaultLimits.failuresPerMinute,
    "Attempts with wrong credentials by one address"
  ),
  deliveriesPerMinute: perMinute(
    "deliveries",
    defaultLimits.deliveriesPerMinute,
    "Deliveries by one credential to one path"
  ),
  headerTimeout: timeout("header", defaultLimits.headerTimeout, "for the headers of a request"),
  requestTimeout: timeout("request", defaultLimits.requestTimeout, "for all of a request"),
  idleTimeout: timeout("idle", defaultLimits.idleTimeout, "until its next request"),
  trustedProxies: Flag.String("webhook-receiver-trusted-proxies").pipe(
    Flag.withDescription("Networks of proxies whose X-Forwarded-For is believed, e.g. 10.0.0.0/8,192.168.1.7"),
    Flag.withDefault(""),
    Flag.filterMap(parseNetworks, () => "networks and addresses (10.0.0.0/8, 192.168.1.7), comma-separated")
  )
} as const

export interface Flags extends Receiver.Limits {
  readonly trustedProxies: ReadonlyArray<IpNetwork.IpNetwork>
}

export const options = ({ trustedProxies, ...limits }: Flags): Pick<Receiver.Options, "limits" | "trustedProxies"> => ({
  limits,
  trustedProxies
})
