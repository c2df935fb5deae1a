import { assert, describe, it } from "@effect/vitest"
import { Option } from "effect"
import * as Client from "../../src/receiver/Client.ts"

describe("a client is counted by", () => {
  it.each([
    ["its address of IPv4", "198.51.100.1", "198.51.100.1"],
    ["that also as Node writes it", "::ffff:198.51.100.1", "198.51.100.1"],
    ["that also in hexadecimal", "::ffff:c633:6401", "198.51.100.1"],
    ["that also behind NAT64", "64:ff9b::198.51.100.1", "64:ff9b::c633:6401"],
    ["the network of an address of IPv6", "2001:db8:0:1:ffff::2", "2001:db8:0:1::/64"],
    ["what is no address, as it is", "fe80::1%eth0", "fe80::1%eth0"]
  ])("%s", (_, address, key) => assert.strictEqual(Client.keyOf(Option.some(address)), key))

  it("nothing, where it has no address", () => assert.strictEqual(Client.keyOf(Option.none()), ""))
})
