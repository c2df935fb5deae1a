/** Whom failed attempts are counted by, where nothing else is known of a sender. */
import { Option, Result } from "effect"
import { IpNetwork, NetAddress } from "effect/net"

const networkOf = (address: string): Result.Result<string, unknown> =>
  Result.map(
    Result.flatMap(NetAddress.ipv6FromString(address), (ip) => IpNetwork.fromAddress(ip, 64)),
    IpNetwork.format
  )

/** An address of IPv4, also where it is written as one of IPv6; of IPv6 its network, since who has one address has that. */
export const keyOf = (address: Option.Option<string>): string =>
  Option.match(address, {
    onNone: () => "",
    onSome: (text) => (text.includes(":") && !text.includes(".") ? Result.getOrElse(networkOf(text), () => text) : text)
  })
