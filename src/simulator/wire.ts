// Writes a reply to the socket, whole or broken in the way its step names. Knows nothing of scripts or money.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import type { Reply } from './replies.ts'
import type { StepDetail, StepKind } from './step.ts'
import type { Timers } from './timers.ts'

export interface Line {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly timers: Timers
  /** Called before the simulator itself breaks the connection. */
  readonly breaking: () => void
  /** Hands over how a stalled body ends, for release(). */
  readonly stalled: (finish: () => void) => void
}

const HUGE_BYTES = 32 * 1024 * 1024
const DRIP_MS = 50
const CHUNK_BYTES = 64 * 1024

type Sender = (line: Line, reply: Reply, step: StepDetail) => void

const SILENT: Partial<Record<StepKind, (line: Line) => void>> = {
  'reset-before-charge': reset,
  'reset-after-charge': reset,
  garbage,
}

const SENDERS: Partial<Record<StepKind, Sender>> = {
  truncated: (line, reply) => cutOff(line, reply, { 'Content-Length': Buffer.byteLength(reply.body) }),
  'truncated-chunked': (line, reply) => cutOff(line, reply, { 'Transfer-Encoding': 'chunked' }),
  stall,
  drip,
  huge,
  gzip: ({ res }, reply) => whole(res, reply, gzipSync(reply.body), { 'Content-Encoding': 'gzip' }),
}

/** Returns the status that goes out; null when none does. */
export function send(line: Line, step: StepDetail, reply: Reply): number | null {
  const silent = SILENT[step.kind]
  if (silent !== undefined) {
    line.breaking()
    silent(line)
    return null
  }
  const sender = SENDERS[step.kind]
  if (sender === undefined) whole(line.res, reply, Buffer.from(reply.body), {})
  else sender(line, reply, step)
  return reply.status
}

function whole(res: ServerResponse, reply: Reply, body: Buffer, headers: Readonly<Record<string, string>>): void {
  head(res, reply, { 'Content-Length': String(body.length), ...headers })
  res.end(body)
}

function head(res: ServerResponse, reply: Reply, headers: Readonly<Record<string, string | number>>): void {
  // setHeader and not writeHead's object: a script's own header replaces ours whatever its case.
  for (const [name, value] of [...Object.entries(headers), ...Object.entries(reply.headers)]) res.setHeader(name, value)
  res.writeHead(reply.status)
}

function reset({ req }: Line): void {
  req.socket.resetAndDestroy()
}

function garbage({ req }: Line): void {
  req.socket.end('This is not HTTP\r\n\r\n')
}

function cutOff(line: Line, reply: Reply, headers: Readonly<Record<string, string | number>>): void {
  line.breaking()
  head(line.res, reply, headers)
  // destroySoon sends what was written, then a FIN: the peer sees an end of file in the middle of the body.
  line.res.write(firstHalf(reply.body), () => line.req.socket.destroySoon())
}

function stall({ res, stalled }: Line, reply: Reply): void {
  head(res, reply, { 'Content-Length': Buffer.byteLength(reply.body) })
  const start = firstHalf(reply.body)
  res.write(start)
  stalled(() => res.end(reply.body.slice(start.length)))
}

function drip({ res, timers }: Line, reply: Reply, step: StepDetail): void {
  const everyMs = step.kind === 'drip' ? step.everyMs : undefined
  head(res, reply, {})
  res.write(firstHalf(reply.body))
  res.on(
    'close',
    timers.every(everyMs ?? DRIP_MS, () => res.write(' ')),
  )
}

function huge({ res }: Line, reply: Reply, step: StepDetail): void {
  const bytes = step.kind === 'huge' ? step.bytes : undefined
  head(res, reply, {})
  Readable.from(hugeParts(reply.body, bytes ?? HUGE_BYTES)).pipe(res)
}

function* hugeParts(body: string, bytes: number): Generator<string> {
  // Padding inside the last object member keeps the whole thing valid JSON.
  yield `${body.slice(0, -1)},"padding":"`
  for (let sent = 0; sent <= bytes; sent += CHUNK_BYTES) yield 'x'.repeat(CHUNK_BYTES)
  yield '"}'
}

function firstHalf(body: string): string {
  return body.slice(0, Math.ceil(body.length / 2))
}
