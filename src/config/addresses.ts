/** Whether two addresses are the same machine, as far as that can be said without asking a name server. */
import { hostname, networkInterfaces } from 'node:os'
import { isLoopback } from '../addresses.ts'

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
