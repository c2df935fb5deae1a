import { assert, describe, it } from "@effect/vitest"
import { Duration, Option } from "effect"
import { IpNetwork } from "effect/net"
import { options, parseNetworks } from "../../src/commands/ReceiverFlags.ts"

const formatted = (text: string) => Option.map(parseNetworks(text), (all) => all.map(IpNetwork.format))

it("each limit is handed on", () => {
  const limits = {
    failuresPerMinute: 1,
    deliveriesPerMinute: 2,
    headerTimeout: Duration.seconds(3),
    requestTimeout: Duration.seconds(4),
    idleTimeout: Duration.seconds(5)
  }
  const trustedProxies = [IpNetwork.fromStringUnsafe("10.0.0.0/8")]
  assert.deepStrictEqual(options({ ...limits, trustedProxies }), { limits, trustedProxies })
})

describe("trusted proxies", () => {
  it.each<readonly [string, ReadonlyArray<string>]>([
    ["", []],
    ["10.0.0.0/8", ["10.0.0.0/8"]],
    ["10.0.0.0/8, 192.168.1.7", ["10.0.0.0/8", "192.168.1.7/32"]],
    ["10.1.2.3/8,fe80::1/64", ["10.0.0.0/8", "fe80::/64"]],
    ["::1,fd00::/8", ["::1/128", "fd00::/8"]]
  ])("%j", (text, networks) => assert.deepStrictEqual(formatted(text), Option.some(networks)))

  it.each(["proxy", "10.0.0.0/33", "10.0.0.1/8,x", "300.0.0.1"])("%j are none", (text) =>
    assert.deepStrictEqual(formatted(text), Option.none())
  )
})
