/**
 * Which way leads to upstream: directly, or through an outbound proxy that `upstream.proxy` or the environment names. Variables are
 * read as curl and Go read them: by the scheme of upstream, lower case before upper case, `NO_PROXY` by host, suffix, address or CIDR.
 */
import { BlockList, isIP, isIPv4 } from 'node:net'
import type { Config } from './schema.ts'

export interface Route {
  /** Null = upstream is connected to directly. */
  readonly proxy: {
    /** Scheme, host and port. */
    readonly url: string
    /** Value of `Proxy-Authorization`; null = the URL has no credentials. */
    readonly authorization: string | null
  } | null
  /** The setting or variable that decided; null = nothing names a proxy. */
  readonly because: string | null
}

type Upstream = Pick<Config['upstream'], 'url'> & Partial<Pick<Config['upstream'], 'proxy'>>
type Environment = Readonly<Record<string, string | undefined>>

export function routeTo(upstream: Upstream, environment: Environment): Route {
  const { text, because } = sourceOf(upstream, environment)
  return { proxy: text === null ? null : readProxy(text), because }
}

/** The variable that decides, where it does not hold the URL of an HTTP proxy; null = all is well. */
export function wrongVariable(upstream: Upstream, environment: Environment): string | null {
  const { text, because } = sourceOf(upstream, environment)
  return text !== null && readProxy(text) === null ? because : null
}

/** For people: no credentials. */
export function routeText({ proxy, because }: Route): string {
  const way = proxy ? `through ${proxy.url}` : 'directly'
  return because === null ? way : `${way} (${because})`
}

function sourceOf({ url, proxy }: Upstream, environment: Environment) {
  if (proxy !== undefined) return { text: proxy === false ? null : proxy, because: 'upstream.proxy' }
  const target = new URL(url)
  const names = target.protocol === 'https:' ? ['https_proxy', 'HTTPS_PROXY'] : ['http_proxy', 'HTTP_PROXY']
  const name = names.find((one) => environment[one])
  if (name === undefined) return { text: null, because: null }
  const exception = ['no_proxy', 'NO_PROXY'].find((one) => environment[one])
  const isExcepted = exception !== undefined && matchesAny(target, environment[exception] ?? '')
  return isExcepted ? { text: null, because: exception } : { text: environment[name] ?? '', because: name }
}

function readProxy(text: string): Route['proxy'] {
  // `proxy:3128` without a scheme is common in these variables.
  const url = URL.parse(/^\w+:\/\//.test(text) ? text : `http://${text}`)
  if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '') return null
  return { url: url.origin, authorization: basicOf(url) }
}

/** RFC 7617. */
function basicOf({ username, password }: URL): string | null {
  if (username === '' && password === '') return null
  return `Basic ${Buffer.from(`${decoded(username)}:${decoded(password)}`).toString('base64')}`
}

/** A percent sign that encodes nothing stands for itself. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function matchesAny(target: URL, exceptions: string): boolean {
  const host = bare(target.hostname)
  const port = target.port === '' ? (target.protocol === 'https:' ? '443' : '80') : target.port
  return exceptions
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .some((entry) => matches(host, port, entry.toLowerCase()))
}

function matches(host: string, port: string, entry: string): boolean {
  if (entry === '*') return true
  const [, name = entry, wanted] = /^(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(entry) ?? []
  if (wanted !== undefined && wanted !== port) return false
  const pattern = bare(name)
  if (isIP(host) !== 0) return pattern === host || isInNetwork(host, pattern)
  const domain = pattern.replace(/^\*?\./, '')
  return host.endsWith(`.${domain}`) || (!pattern.startsWith('*.') && host === domain)
}

function isInNetwork(host: string, pattern: string): boolean {
  const [address = '', bits = ''] = pattern.split('/')
  const most = isIPv4(address) ? 32 : 128
  if (isIP(address) === 0 || isIP(address) !== isIP(host) || !/^\d{1,3}$/.test(bits) || Number(bits) > most)
    return false
  const network = new BlockList()
  const family = isIPv4(address) ? 'ipv4' : 'ipv6'
  network.addSubnet(address, Number(bits), family)
  return network.check(host, family)
}

/** Brackets are for URLs; a dot at the end names the same host. */
function bare(host: string): string {
  return host
    .toLowerCase()
    .replace(/^\[(.*)\]$/, '$1')
    .replace(/(.)\.$/, '$1')
}
