/**
 * A network of the test's own: a network namespace for the program under test, joined by one wire to the test. The program sees
 * no other network, and asks for names at the test's end of the wire. Needs root on Linux.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

export interface Network {
  /** The test's end of the wire; name servers and upstreams listen here. */
  readonly near: string
  /** Where the program is. */
  readonly far: string
  /** Another address of the network, by its last number; 1 and 2 are taken. */
  address(number: number): string
  /** The test answers for this address as well. */
  add(address: string): void
  /** The program's side of the wire knows no route to it, and says so: `ip route add KIND ADDRESS` there. */
  forbid(kind: 'prohibit' | 'unreachable', address: string): void
  /** The program has asked the wire who has this address, and was not answered. */
  isSought(address: string): boolean
  /** Command and arguments that run another command in the program's network. */
  inside(command: readonly string[]): readonly [string, ...string[]]
}

/** RFC 2544 sets these addresses aside for tests of networks. */
const prefix = '198.18'

let made = 0

export function aNetwork(t: Test): Network {
  const id = process.pid % 250
  const name = `scrapellm-${process.pid}-${made}`
  // Names of network devices have 15 characters at most.
  const wire = `slp${process.pid % 1_000_000}-${made++}`
  const address = (number: number): string => `${prefix}.${id}.${number}`
  const folder = mkdtempSync(join(tmpdir(), 'network-'))
  const resolver = join(folder, 'resolv.conf')
  writeFileSync(resolver, `nameserver ${address(1)}\noptions timeout:1 attempts:1\n`)
  const ip = (...args: readonly string[]): string => execFileSync('ip', args, { encoding: 'utf8' })
  const there = (...args: readonly string[]): string => ip('-netns', name, ...args)

  ip('netns', 'add', name)
  t.teardown(() => {
    // The wire goes with the namespace at its end.
    ip('netns', 'del', name)
    rmSync(folder, { recursive: true, force: true })
  })
  ip('link', 'add', wire, 'type', 'veth', 'peer', 'name', 'upstream', 'netns', name)
  ip('address', 'add', `${address(1)}/24`, 'dev', wire)
  ip('link', 'set', wire, 'up')
  there('address', 'add', `${address(2)}/24`, 'dev', 'upstream')
  there('link', 'set', 'upstream', 'up')
  there('link', 'set', 'lo', 'up')

  return {
    near: address(1),
    far: address(2),
    address,
    add: (one) => void ip('address', 'add', `${one}/24`, 'dev', wire),
    forbid: (kind, one) => void there('route', 'add', kind, one),
    isSought: (one) => there('neigh', 'show', one).includes('INCOMPLETE'),
    // `ip netns exec` gives a mount namespace as well, so that only this command sees the other resolv.conf.
    inside: (command) => [
      'ip',
      'netns',
      'exec',
      name,
      'sh',
      '-c',
      `mount --bind ${resolver} /etc/resolv.conf && exec "$@"`,
      'sh',
      ...command,
    ],
  }
}
