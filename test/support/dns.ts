/** A name server for one test: answers A and AAAA questions from a table that the test may change (RFC 1035 section 4). */
import { createSocket } from 'node:dgram'
import type { Test } from 'tap'

/** Addresses, `servfail`, or `silent` (no answer at all); what is not in the table does not exist. */
export type Names = Map<string, readonly string[] | 'servfail' | 'silent'>

const A = 1
const AAAA = 28
const SERVFAIL = 2
const NXDOMAIN = 3

export interface NameServer {
  readonly names: Names
  /** Names that were asked for, in order, each as often as it was. */
  readonly asked: readonly string[]
}

/** On port 53 of `address`, the only one that resolvers ask. */
export async function startNameServer(t: Test, address: string): Promise<NameServer> {
  const names: Names = new Map()
  const asked: string[] = []
  const socket = createSocket('udp4')
  socket.on('message', (query, { port, address: from }) => {
    const { name, type, end } = questionIn(query)
    asked.push(name)
    const known = names.get(name)
    if (known !== 'silent') socket.send(answerTo(query.subarray(0, end), known, type), port, from)
  })
  await new Promise<void>((resolve) => socket.bind(53, address, resolve))
  t.teardown(() => socket.close())
  return { names, asked }
}

function questionIn(query: Buffer) {
  const labels: string[] = []
  let at = 12
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 }
}

function answerTo(question: Buffer, known: readonly string[] | 'servfail' | undefined, type: number): Buffer {
  const addresses = Array.isArray(known) ? (known as readonly string[]) : []
  const records = addresses.map(bytesOf).filter((bytes) => bytes.length === (type === A ? 4 : type === AAAA ? 16 : 0))
  const head = Buffer.from(question)
  const code = known === undefined ? NXDOMAIN : known === 'servfail' ? SERVFAIL : 0
  // An answer, recursion available; one question, so many records, no others.
  head.writeUInt16BE(0x8180 | code, 2)
  head.writeUInt16BE(records.length, 6)
  head.writeUInt32BE(0, 8)
  return Buffer.concat([head, ...records.map((bytes) => recordOf(type, bytes))])
}

function recordOf(type: number, address: Buffer): Buffer {
  const record = Buffer.alloc(12)
  // The name is that of the question, at offset 12; class IN, not to be kept.
  record.writeUInt16BE(0xc00c, 0)
  record.writeUInt16BE(type, 2)
  record.writeUInt16BE(1, 4)
  record.writeUInt32BE(0, 6)
  record.writeUInt16BE(address.length, 10)
  return Buffer.concat([record, address])
}

function bytesOf(address: string): Buffer {
  if (!address.includes(':')) return Buffer.from(address.split('.').map(Number))
  const [head = '', tail = ''] = address.split('::')
  const groups = (text: string): number[] =>
    text
      .split(':')
      .filter(Boolean)
      .map((group) => Number.parseInt(group, 16))
  const [first, last] = [groups(head), groups(tail)]
  const all = [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last]
  return Buffer.from(all.flatMap((group) => [group >> 8, group & 0xff]))
}
