/**
 * Looks at upstream: does its name resolve, does a connection open, is our clock its clock, does it take our keys. Asks nothing that costs a
 * credit: what cannot be known without is said to be so.
 */
import { lookup } from 'node:dns/promises'
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls, type SecureContext, type TLSSocket } from 'node:tls'
import type { Config } from '../config/schema.ts'
import { believing } from '../world/authority.ts'
import { exchange, type Answered } from './exchange.ts'
import { fine, finding, type Finding } from './finding.ts'

type Upstream = Config['upstream']

interface Way {
  readonly url: string
  /** Null = whom Node believes anyway. */
  readonly believe: SecureContext | null
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
  environment: Environment,
): Promise<Finding[]> {
  const url = new URL(upstream.url)
  const believe = upstream.ca === undefined ? null : believing(upstream.ca)
  const name = await examineName(url.hostname)
  if (name.status === 'fail') return [name, ...aboutProxies(environment)]
  const connection = await examineConnection(url, believe, upstream.connectTimeout)
  if (connection.status === 'fail') return [name, connection, ...aboutProxies(environment)]
  return [name, connection, ...(await examineAnswers({ url: upstream.url, believe }, upstream.keys, check))]
}

type Environment = Readonly<Record<string, string | undefined>>

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

/** Somebody who set them expects them to be used. */
function aboutProxies(environment: Environment): Finding[] {
  const set = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy'].find((one) => environment[one])
  if (set === undefined) return []
  const text = `${set} is set, and not used: calls to upstream go directly`
  return [
    finding('warn', 'upstream proxy', text, 'let this machine reach upstream directly, or through a transparent proxy'),
  ]
}

async function examineConnection(url: URL, believe: Way['believe'], limitMs: number): Promise<Finding> {
  const startedAt = Date.now()
  const isTls = url.protocol === 'https:'
  try {
    const socket = await opened(url, isTls, believe, limitMs)
    const tookMs = Date.now() - startedAt
    const daysLeft = isTls ? certificateDays(socket as TLSSocket) : null
    socket.destroy()
    const text = `${url.host} answers ${isTls ? 'with TLS ' : ''}after ${tookMs} ms`
    if (daysLeft === null || daysLeft > SHORT_CERTIFICATE_DAYS) return fine('upstream connection', text)
    const soon = `${text}, but its certificate ends in ${daysLeft} days`
    return finding('warn', 'upstream connection', soon, 'it is not yours to renew: see whether it has been by then')
  } catch (error) {
    return finding(
      'fail',
      'upstream connection',
      `no connection to ${url.host} (${codeOf(error)})`,
      connectionAdvice(codeOf(error)),
    )
  }
}

function connectionAdvice(code: string): string {
  if (/CERT|SELF_SIGNED|UNABLE_TO|ALTNAME|EPROTO|SSL|TLS/.test(code))
    return 'trust in it is missing: update the CA certificates of this machine, or give yours as upstream.ca'
  if (code === 'ETIMEDOUT') return 'something swallows it: let this machine out through the firewall or network policy'
  return 'check upstream.url, and that this machine may connect to it (firewall, network policy)'
}

function opened(url: URL, isTls: boolean, believe: Way['believe'], limitMs: number): Promise<Socket> {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const port = url.port === '' ? (isTls ? 443 : 80) : Number(url.port)
  return new Promise((resolve, reject) => {
    const secure = {
      rejectUnauthorized: true,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...(believe ? { secureContext: believe } : {}),
    }
    const socket = isTls ? connectTls({ host, port, ...secure }) : connectTcp({ host, port })
    socket.setTimeout(limitMs, () => socket.destroy(Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })))
    socket.once('error', reject)
    socket.once(isTls ? 'secureConnect' : 'connect', () => resolve(socket))
  })
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
    const text = `no answer (${codeOf(error)})`
    return [
      finding(
        'fail',
        'upstream answer',
        text,
        'check that upstream.url is where the API is, and look at its status page',
      ),
    ]
  }
}

function ask({ url, believe }: Way, { path, headers }: Probe): Promise<Answered> {
  return exchange({ url: url + path, headers, limitMs: PATIENCE_MS, believe })
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
