/**
 * What replicas tell each other to spare each other a try: heard at once, or read when the subscription stands. A hint may be
 * lost, late, doubled, forged or from another version: it is bounded, taken for a name that is known here or not at all,
 * and never more than a reason to wait.
 */
import type { Clock, Random, SharedScript, SharedStore } from '../ports.ts'

export interface Gossip {
  /** Holds for `leftMs` from now. A note is visible ASCII without spaces. */
  tell(name: string, note: string, leftMs: number): void
  /** Reads what holds for a name that was not known before. */
  look(name: string): void
  close(): void
}

export interface GossipPorts {
  readonly store: SharedStore
  readonly clock: Clock
  readonly random: Random
  /** What the hints are about; others have their own. */
  readonly topic: string
  /** All that hints can be about, now. */
  readonly names: () => readonly string[]
  /** No hint holds longer, whatever it says. */
  readonly maxLeftMs: () => number
  readonly heard: (name: string, note: string, leftMs: number) => void
}

/** KEYS: the hint that lasts longest. ARGV: channel, message, ttl. */
const tellScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return redis.call('PUBLISH', ARGV[1], ARGV[2])`,
}

/** KEYS: as above. Reply: the message, and for how long it still holds. */
const readScript: SharedScript = {
  numberOfKeys: 1,
  replies: 'text',
  lua: `return { redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]) }`,
}

const messageForm = /^1 ([\w-]{1,64}) (\d{1,12}) (\S{1,64}) ([\x21-\x7e]{1,256})$/
const LONGEST_MESSAGE = 512

interface Message {
  readonly from: string
  readonly leftMs: number
  readonly name: string
  readonly note: string
}

export function createGossip(ports: GossipPorts): Gossip {
  const { store, clock, random, topic, names, maxLeftMs, heard } = ports
  const self = random.id()
  const channel = `hints:${topic}`
  /** What this replica has told and still holds: a store that was away may not have heard it. */
  const told = new Map<string, { readonly note: string; readonly until: number }>()
  const subscription = store.subscribe(channel, {
    onMessage: (text) => take(text, Number.POSITIVE_INFINITY, null),
    onSubscribed: () => void catchUp(),
  })
  // The subscription has a connection of its own, which may be there before one can ask, or after.
  const stopListening = store.onState((state) => {
    if (state === 'up') void catchUp()
  })

  function tell(name: string, note: string, leftMs: number): void {
    told.set(name, { note, until: clock.now() + leftMs })
    void pass(name, note, leftMs)
  }

  async function pass(name: string, note: string, leftMs: number): Promise<void> {
    const ttlMs = Math.ceil(Math.min(leftMs, maxLeftMs()))
    const message = `1 ${self} ${ttlMs} ${name} ${note}`
    await store.run(tellScript, [keyOf(name)], [store.channelName(channel), message, ttlMs])
  }

  async function catchUp(): Promise<void> {
    for (const name of names()) await look(name)
    for (const [name, { note, until }] of told) {
      if (until > clock.now()) await pass(name, note, until - clock.now())
      else told.delete(name)
    }
  }

  async function look(name: string): Promise<void> {
    const read = await store.run(readScript, [keyOf(name)], [])
    const [text, leftMs] = read.kind === 'known' && Array.isArray(read.value) ? read.value : []
    if (typeof text === 'string') take(text, Number(leftMs), name)
  }

  /** `about`: the name under which it was kept. */
  function take(text: string, keptMs: number, about: string | null): void {
    const message = read(text)
    if (!message || message.from === self || !names().includes(message.name)) return
    if (about !== null && message.name !== about) return
    const leftMs = Math.min(message.leftMs, keptMs, maxLeftMs())
    if (leftMs > 0) heard(message.name, message.note, leftMs)
  }

  function keyOf(name: string): string {
    return `hints:{${topic}/${name}}`
  }

  return {
    tell,
    look: (name) => void look(name),
    close() {
      stopListening()
      subscription.close()
    },
  }
}

function read(text: string): Message | null {
  const found = text.length <= LONGEST_MESSAGE ? messageForm.exec(text) : null
  if (!found) return null
  const [, from = '', leftMs, name = '', note = ''] = found
  return { from, leftMs: Number(leftMs), name, note }
}
