/**
 * Looks at upstream: which way leads there, does its name resolve, does a connection open, is our clock its clock, does it take our keys.
 * Asks nothing that costs a credit: what cannot be known without is said to be so.
 */
import { lookup } from 'node:dns/promises'
import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import { routeText, routeTo, type Route } from '../config/route.ts'
import type { Config } from '../config/schema.ts'
import { trusting } from '../world/authority.ts'
import { createClock } from '../world/clock.ts'
import { createDial, DialError } from '../world/dial.ts'
import { exchange, type Answered } from './exchange.ts'
import { fine, finding, type Finding } from './finding.ts'

type Upstream = Config['upstream']

/** How upstream is reached. */
interface Way {
  readonly url: string
  /** Rejects with a DialError. */
  readonly open: () => Promise<Socket>
  /** The outbound proxy that is asked instead of upstream; null = upstream itself, perhaps through a tunnel. */
  readonly relay: Route['proxy']
}

interface Probe {
  /** To be asked for with GET. */
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
}

interface Reply {
  readonly status: number
  readonly body: string
}

/** `refused` is an invalid key or an account without credits; `untold`: it cannot be known without spending some. */
type Standing = 'accepted' | 'refused' | 'spent' | 'limited' | 'blocked' | 'untold' | 'unwell'

/** How upstream is asked about a key for nothing; null stands for a key that nobody has. */
export interface KeyCheck {
  readonly probe: (secret: string | null) => Probe
  readonly standingOf: (reply: Reply, nobodys: Reply) => Standing
}

const PATIENCE_MS = 10_000
const DAY_MS = 86_400_000
/** Upstream's clock is told in whole seconds, and the way takes its time. */
const TOLERABLE_SKEW_MS = 5_000
const SHORT_CERTIFICATE_DAYS = 7

export async function examineUpstream(
  upstream: Upstream,
  check: KeyCheck,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<Finding[]> {
  const url = new URL(upstream.url)
  const route = routeTo(upstream, environment)
  const way = wayOf(upstream, url, route)
  const proxy = fine('upstream proxy', `calls to upstream go ${routeText(route)}`)
  // Behind a proxy it is the proxy that must know the name.
  const names = route.proxy === null ? [await examineName(url.hostname)] : []
  if (names.some(({ status }) => status === 'fail')) return [proxy, ...names]
  const connection = await examineConnection(url, way)
  if (connection.status === 'fail') return [proxy, ...names, connection]
  return [proxy, ...names, connection, ...(await examineAnswers(way, upstream.keys, check))]
}

function wayOf({ ca, connectTimeout }: Upstream, target: URL, { proxy }: Route): Way {
  const trusted = trusting(ca === undefined ? null : readFileSync(ca, 'utf8'))
  const dial = createDial({ target, proxy, connectTimeoutMs: connectTimeout, trusted: () => trusted }, createClock())
  return {
    url: target.origin,
    open: () => new Promise((resolve, reject) => dial((error, socket) => (error ? reject(error) : resolve(socket)))),
    relay: target.protocol === 'http:' ? proxy : null,
  }
}

async function examineName(host: string): Promise<Finding> {
  // An IPv6 address is in brackets only in a URL.
  const bare = host.replace(/^\[(.*)\]$/, '$1')
  try {
    const addresses = await lookup(bare, { all: true })
    return fine('upstream name', `${host} is ${addresses.map(({ address }) => address).join(', ')}`)
  } catch (error) {
    const text = `${host} is not known (${codeOf(error)})`
    return finding('fail', 'upstream name', text, 'check upstream.url, and the DNS of this machine or container')
  }
}

async function examineConnection(url: URL, { open }: Way): Promise<Finding> {
  const startedAt = Date.now()
  const isTls = url.protocol === 'https:'
  try {
    const socket = await open()
    const tookMs = Date.now() - startedAt
    const daysLeft = socket instanceof TLSSocket ? certificateDays(socket) : null
    socket.destroy()
    const text = `${url.host} answers ${isTls ? 'with TLS ' : ''}after ${tookMs} ms`
    if (daysLeft === null || daysLeft > SHORT_CERTIFICATE_DAYS) return fine('upstream connection', text)
    const soon = `${text}, but its certificate ends in ${daysLeft} days`
    return finding('warn', 'upstream connection', soon, 'it is not yours to renew: see whether it has been by then')
  } catch (error) {
    const { text, advice = usualAdvice } = causeOf(error)
    return finding('fail', 'upstream connection', `no connection to ${url.host} (${text})`, advice)
  }
}

function causeOf(error: unknown): { readonly text: string; readonly advice?: string | undefined } {
  if (!(error instanceof DialError)) return { text: codeOf(error) }
  const { reason, code } = error
  return { text: code === null ? reason : `${reason}, ${code}`, advice: adviceFor[reason] }
}

const usualAdvice = 'check upstream.url, and that this machine may connect to it (firewall, network policy)'

const adviceFor: Partial<Record<DialError['reason'], string>> = {
  'tls-unknown-ca': 'trust in it is missing: update the CA certificates of this machine, or give yours as upstream.ca',
  'tls-self-signed': 'its certificate is signed by itself: give it as upstream.ca, if it is your own gateway',
  'tls-expired': 'its certificate has expired, or the clock of this machine is wrong: compare the clock first',
  'tls-wrong-host': 'its certificate is for another host: check upstream.url, and what answers for it on this network',
  tls: 'it does not speak TLS as expected: check upstream.url; for a gateway of your own, its certificate and upstream.ca',
  'outbound-proxy': 'check the outbound proxy: its address, user name and password, and that it lets this host through',
  'connect-timeout': 'something swallows it: let this machine out through the firewall or network policy',
  local: 'this process or machine has run out of something (open files, ports), or a local firewall forbids it',
}

function certificateDays(socket: TLSSocket): number {
  return Math.floor((Date.parse(socket.getPeerCertificate().valid_to) - Date.now()) / DAY_MS)
}

async function examineAnswers(way: Way, keys: Upstream['keys'], { probe, standingOf }: KeyCheck): Promise<Finding[]> {
  try {
    const nobodys = await ask(way, probe(null))
    const found = [aboutClock(nobodys.skewMs)]
    for (const { name, secret } of keys) {
      const standing = standingOf(await ask(way, probe(secret.reveal())), nobodys)
      found.push(aboutKey(name, standing))
    }
    return found
  } catch (error) {
    const { text, advice = 'check that upstream.url is where the API is, and look at its status page' } = causeOf(error)
    return [finding('fail', 'upstream answer', `no answer (${text})`, advice)]
  }
}

async function ask({ url, open, relay }: Way, { path, headers }: Probe): Promise<Answered> {
  const socket = await open()
  const credentials = relay?.authorization ? { 'proxy-authorization': relay.authorization } : {}
  const over = { socket, isRelayed: relay !== null }
  try {
    const answered = await exchange({
      url: url + path,
      headers: { ...headers, ...credentials },
      limitMs: PATIENCE_MS,
      over,
    })
    if (relay && answered.status === 407) throw new DialError({ reason: 'outbound-proxy', code: '407' })
    return answered
  } finally {
    socket.destroy()
  }
}

function aboutClock(skewMs: number | null): Finding {
  if (skewMs === null)
    return finding(
      'note',
      'clock',
      'upstream does not say what time it is',
      'keep the clock right by NTP: budgets end their days by it',
    )
  const seconds = Math.round(Math.abs(skewMs) / 1000)
  if (Math.abs(skewMs) <= TOLERABLE_SKEW_MS) return fine('clock', "the same as upstream's")
  const text = `${seconds} s ${skewMs > 0 ? 'ahead of' : 'behind'} upstream's`
  return finding('warn', 'clock', text, 'set it by NTP: budgets end their days, and answers their lives, by it')
}

function aboutKey(name: string, standing: Standing): Finding {
  const thing = `key ${name}`
  switch (standing) {
    case 'accepted':
      return fine(thing, 'accepted by upstream; whether it has credits left cannot be seen without spending some')
    case 'refused':
      return finding(
        'fail',
        thing,
        'refused by upstream: not valid, or without credits',
        'compare it with the one in your account there, and look at its credits',
      )
    case 'spent':
      return finding('fail', thing, 'has no credits left', 'buy some, or wait for the end of the billing cycle')
    case 'limited':
      return finding('warn', thing, 'has just been asked too often: nothing else can be seen', 'try again in a minute')
    case 'blocked':
      return finding(
        'fail',
        thing,
        'blocked before upstream looked at it (403, 407, 451, or a firewall page)',
        'check whether the address of this machine, a firewall or an outbound proxy is in the way',
      )
    case 'untold':
      return finding(
        'note',
        thing,
        'whether upstream takes it cannot be seen without spending credits',
        'ask one question, and look for "upstream key rests" in the log',
      )
    case 'unwell':
      return finding(
        'warn',
        thing,
        'nothing can be seen: upstream is not well',
        'try again in a few minutes, and look at its status page',
      )
    default:
      return standing satisfies never
  }
}

/** The word of the system for what went wrong. */
function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown'
  if (error.name === 'AbortError' || error.name === 'TimeoutError') return 'ETIMEDOUT'
  const { code } = error as { readonly code?: unknown }
  return typeof code === 'string' ? code : error.message
}
