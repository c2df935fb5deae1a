/** Whom failed attempts are counted by, where nothing else is known of a sender. */
import { Option, Result } from "effect"
import { IpNetwork, NetAddress } from "effect/net"

/** NAT64 (RFC 6052): each of its addresses is another one of IPv4. */
const nat64 = IpNetwork.fromStringUnsafe("64:ff9b::/96")

const keyOfIpv6 = (ip: NetAddress.Ipv6Address): Result.Result<string, unknown> => {
  const address = NetAddress.toCanonical(ip)
  return NetAddress.isIpv4Address(address) || IpNetwork.contains(nat64, address)
    ? Result.succeed(NetAddress.formatIp(address))
    : Result.map(IpNetwork.fromAddress(address, 64), IpNetwork.format)
}

/** An address of IPv4, also where it is written as one of IPv6; of IPv6 its network, since who has one address has that. */
export const keyOf = (address: Option.Option<string>): string =>
  Option.match(address, {
    onNone: () => "",
    onSome: (text) =>
      text.includes(":")
        ? Result.getOrElse(Result.flatMap(NetAddress.ipv6FromString(text), keyOfIpv6), () => text)
        : text
  })
