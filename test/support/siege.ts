/**
 * For attacks: a client that sends exact bytes, an upstream that keeps the exact bytes it gets and answers as it is told, and
 * the whole proxy in between. What a request may look like upstream is written down here, once.
 */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { Test } from 'tap'
import { aProxy, type Proxy, type ProxyOptions, type Stage, UPSTREAM_KEY } from './proxy.ts'

export interface Peer {
  readonly socket: Socket
  readonly text: () => string
  /** How many answers have begun, interim ones not counted. */
  readonly answers: () => number
  readonly statuses: () => number[]
  readonly closed: Promise<void>
  /** Null, or the code of the error that ended the connection. */
  readonly error: () => string | null
  until(condition: () => boolean): Promise<void>
}

/** One request as upstream read it: up to the empty line, since none of ours has a body. */
export interface Heard {
  readonly raw: string
  readonly method: string
  readonly target: string
  readonly headers: readonly (readonly [name: string, value: string])[]
}

export interface Recorder {
  readonly url: string
  /** As the header Host names it. */
  readonly host: string
  readonly heard: Heard[]
  /** Bytes on a connection that are no request. */
  readonly strays: string[]
  /** What it answers from now on; null = nothing, and the connection stays. */
  answer(play: Play | null): void
  readonly sockets: ReadonlySet<Socket>
}

export type Play = (heard: Heard, socket: Socket) => Buffer | string | null

export interface Siege {
  readonly proxy: Proxy
  readonly upstream: Recorder
  readonly open: () => Promise<Peer>
  /** Sends, and waits until the proxy has closed the connection. */
  readonly send: (bytes: string | Buffer) => Promise<Peer>
  /** What the fake upstream has been asked so far, in all. */
  readonly spent: () => Promise<{ readonly credits: number; readonly kept: number }>
}

export const TARGET = '/scrapers/chatgpt'

/** A whole answer, as the vendor documents it. */
export function answerOf(prompt: string, more: Readonly<Record<string, unknown>> = {}): string {
  return JSON.stringify({
    scraper: 'chatgpt',
    status: 'done',
    job_id: 'job_1',
    prompt,
    result: `answer to ${prompt}`,
    country: 'US',
    cached: false,
    credits_used: 3,
    ...more,
  })
}

export function httpOf(body: string | Buffer, { status = '200 OK', headers = '' } = {}): Buffer {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(body)
  const head = `HTTP/1.1 ${status}\r\nContent-Type: application/json\r\n${headers}Content-Length: ${bytes.length}\r\n\r\n`
  return Buffer.concat([Buffer.from(head, 'latin1'), bytes])
}

export const answering: Play = ({ method, target }) => {
  if (method === 'POST') return httpOf('{"status":"pending","job_id":"job-1"}', { status: '202 Accepted' })
  const { pathname, searchParams } = new URL(target, 'http://upstream')
  const last = pathname.split('/').at(-1)
  if (target.startsWith('/jobs/')) return httpOf(JSON.stringify({ job_id: last, status: 'pending' }))
  return httpOf(answerOf(searchParams.get('prompt') ?? '', { scraper: last }))
}

export async function recorder(t: Stage): Promise<Recorder> {
  const heard: Heard[] = []
  const strays: string[] = []
  const sockets = new Set<Socket>()
  let play: Play | null = answering
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    let rest = ''
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
    socket.on('data', (chunk: Buffer) => {
      rest += chunk.toString('latin1')
      for (let end = rest.indexOf('\r\n\r\n'); end !== -1; end = rest.indexOf('\r\n\r\n')) {
        const raw = rest.slice(0, end + 4)
        rest = rest.slice(end + 4)
        const request = read(raw)
        if (!request) {
          strays.push(raw)
          continue
        }
        heard.push(request)
        const answer = play?.(request, socket) ?? null
        if (answer !== null) socket.write(answer)
      }
      if (rest !== '' && !/^[A-Z]/.test(rest)) strays.push(rest)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await once(server, 'close')
  })
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return { url: `http://${host}`, host, heard, strays, sockets, answer: (next) => void (play = next) }
}

function read(raw: string): Heard | null {
  const [line = '', ...lines] = raw.slice(0, -4).split('\r\n')
  const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.1$/.exec(line) ?? []
  if (method === undefined || target === undefined) return null
  const headers = lines.map((header) => {
    const colon = header.indexOf(':')
    return [header.slice(0, colon).toLowerCase(), header.slice(colon + 1).trim()] as const
  })
  return { raw, method, target, headers }
}

/** Everything that upstream may be told, and how often. */
const mayCarry: ReadonlyMap<string, RegExp> = new Map([
  ['host', /^127\.0\.0\.1:\d+$/],
  ['x-api-key', new RegExp(`^${UPSTREAM_KEY}$`)],
  ['accept', /^application\/json$/],
  ['accept-encoding', /^identity$/],
  ['user-agent', /^scrapellm-proxy\/[\d.]+(?:-test)?$/],
  ['x-request-id', /^[\x21-\x7e]{1,128}$/],
  ['traceparent', /^[\da-f]{2}-[\da-f]{32}-[\da-f]{16}-[\da-f]{2}$/],
  ['connection', /^keep-alive$/],
  ['content-length', /^0$/],
])

/** How a request differs from what the proxy itself would write; empty = in nothing. */
export function deviations({ raw, method, target, headers }: Heard, host: string): string[] {
  const found: string[] = []
  if (!/^[\x20-\x7e\r\n]*$/.test(raw)) found.push('bytes that are no text')
  if (method !== 'GET' && method !== 'POST') found.push(`method ${method}`)
  if (!/^\/(?:scrapers\/[a-z_]+(?:\/jobs)?|jobs\/[\w-]+)(?:\?[\w%.~!*'()=&-]*)?$/.test(target)) found.push(target)
  const names = headers.map(([name]) => name)
  for (const name of new Set(names.filter((one, at) => names.indexOf(one) !== at))) found.push(`${name} twice`)
  for (const [name, value] of headers) if (!mayCarry.get(name)?.test(value)) found.push(`${name}: ${value}`)
  for (const name of ['host', 'accept', 'user-agent', 'x-request-id'])
    if (!names.includes(name)) found.push(`no ${name}`)
  if (!names.includes('x-api-key') && !target.startsWith('/jobs/')) found.push('no key')
  if (headers.find(([name]) => name === 'host')?.[1] !== host) found.push('another host')
  if (method === 'GET' && names.includes('content-length')) found.push('a body')
  return found
}

/** The proxy in front of a recording upstream. */
export async function siege(t: Stage, settings = '', options: ProxyOptions = {}): Promise<Siege> {
  const upstream = await recorder(t)
  const proxy = await aProxy(t, settings, { ...options, upstream: upstream.url })
  const port = Number(new URL(proxy.url).port)
  return {
    proxy,
    upstream,
    open: () => openPeer(port),
    send: (bytes) => sendTo(port, bytes),
    async spent() {
      const sum = async (name: string) => Object.values(await proxy.metric(name)).reduce((all, one) => all + one, 0)
      return { credits: await sum('credits_spent_total'), kept: await sum('cache_entries') }
    },
  }
}

export async function sendTo(port: number, bytes: string | Buffer): Promise<Peer> {
  const peer = await openPeer(port)
  peer.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
  await peer.closed
  return peer
}

export async function openPeer(port: number): Promise<Peer> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  const chunks: Buffer[] = []
  let failure: string | null = null
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  socket.on('error', (error: NodeJS.ErrnoException) => (failure = error.code ?? 'error'))
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  await Promise.race([once(socket, 'connect'), closed])
  const text = (): string => Buffer.concat(chunks).toString('latin1')
  const statuses = (): number[] => [...text().matchAll(/HTTP\/1\.1 ([2-5]\d\d) /g)].map(([, status]) => Number(status))
  return {
    socket,
    text,
    statuses,
    answers: () => statuses().length,
    closed,
    error: () => failure,
    async until(condition) {
      while (!condition()) {
        if (socket.destroyed) throw new Error(`The connection was closed after: ${text()}`)
        await Promise.race([once(socket, 'data'), closed])
      }
    },
  }
}

export const get = (target: string, headers = ''): string => `GET ${target} HTTP/1.1\r\nHost: a\r\n${headers}\r\n`

/** The same, and the connection ends with its answer. */
export const getOnce = (target: string, headers = ''): string => get(target, `${headers}Connection: close\r\n`)

export const post = (headers: string, body = ''): string =>
  `POST ${TARGET}/jobs HTTP/1.1\r\nHost: a\r\n${headers}\r\n${body}`

/** A name for a test: what cannot be printed is spelled out. */
export function printable(text: string): string {
  const plain = text.replaceAll(/[^\x20-\x7e]/g, (one) => `\\x${one.charCodeAt(0).toString(16).padStart(2, '0')}`)
  return plain.length > 80 ? `${plain.slice(0, 80)}…` : plain
}

/** 400 (or `status`) as a problem document, the connection closed without a reset, and nothing else said. */
export function mustBeRefused(t: Test, peer: Peer, status: number, name: string): void {
  const [head = '', body = ''] = peer.text().split('\r\n\r\n')
  const isRight =
    new RegExp(`^HTTP/1\\.1 ${status} `).test(head) &&
    /^content-type: application\/problem\+json\r?$/im.test(head) &&
    /^connection: close\r?$/im.test(head) &&
    peer.answers() === 1 &&
    peer.error() === null
  t.ok(isRight, name, isRight ? {} : { text: peer.text().slice(0, 400), error: peer.error() })
  if (body !== '') t.has(JSON.parse(body), { status }, `${name}: a problem document`)
}
