/** What a host name or address says about where it leads. Pure. */
import { BlockList, isIP, isIPv4 } from 'node:net'

// A block list takes IPv4 addresses that are written as IPv6 (`::ffff:127.0.0.1`) for what they are.
const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/** Where clouds keep the credentials of a machine. */
const metadata = new BlockList()
metadata.addSubnet('169.254.0.0', 16, 'ipv4')
metadata.addAddress('100.100.100.200', 'ipv4')
metadata.addSubnet('fe80::', 10, 'ipv6')
metadata.addAddress('fd00:ec2::254', 'ipv6')

/** Reached from this machine only: an address, with or without brackets, or `localhost`. Any other name may lead anywhere. */
export function isLoopback(host: string): boolean {
  return /^localhost\.?$/i.test(host) || isIn(loopback, host)
}

export function isMetadata(host: string): boolean {
  return /^metadata(\.google\.internal)?\.?$/i.test(host) || isIn(metadata, host)
}

/** The host of `host:port`, in lower case and without brackets. */
export function hostOf(authority: string): string {
  return unbracketed(authority.replace(/:\d*$/, '')).toLowerCase()
}

function isIn(block: BlockList, host: string): boolean {
  const address = unbracketed(host)
  return isIP(address) !== 0 && block.check(address, isIPv4(address) ? 'ipv4' : 'ipv6')
}

function unbracketed(host: string): string {
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host
}
