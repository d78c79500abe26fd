/** What an address or host name is, as far as that can be said without asking a name server. */
import { BlockList, isIP, isIPv4 } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'

/** A connection to `host` arrives where somebody listens on `own`. */
export function isSameHost(host: string, own: string): boolean {
  const everywhere = new Set(['0.0.0.0', '::'])
  const isLocalName = (one: string): boolean => one === 'localhost' || one.endsWith('.localhost')
  const isHere = isLoopback(host) || isLocalName(host) || everywhere.has(host)
  if (everywhere.has(own)) return isHere || ownNames().has(host)
  if (host === own) return true
  if (isLoopback(own)) return isLocalName(host) || everywhere.has(host) || (isLocalName(own) && isHere)
  return ownNames().has(own) && host === hostname().toLowerCase()
}

/** Addresses of this machine, and its name. */
function ownNames(): ReadonlySet<string> {
  const addresses = Object.values(networkInterfaces()).flatMap((all = []) => all.map(({ address }) => address))
  return new Set([hostname().toLowerCase(), ...addresses])
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/** Where clouds keep the credentials of a machine. */
const metadata = new BlockList()
metadata.addSubnet('169.254.0.0', 16, 'ipv4')
metadata.addAddress('100.100.100.200', 'ipv4')
metadata.addSubnet('fe80::', 10, 'ipv6')
metadata.addAddress('fd00:ec2::254', 'ipv6')

export function isLoopback(host: string): boolean {
  return host.toLowerCase() === 'localhost' || isIn(loopback, host)
}

export function isMetadata(host: string): boolean {
  return /^metadata(\.google\.internal)?\.?$/i.test(host) || isIn(metadata, host)
}

function isIn(block: BlockList, host: string): boolean {
  return isIP(host) !== 0 && block.check(host, isIPv4(host) ? 'ipv4' : 'ipv6')
}
