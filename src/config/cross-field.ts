/**
 * What the proxy refuses to start with although every single setting is right: settings that together let strangers in,
 * give keys away, or contradict each other. Each refusal says what to do.
 */
import { hash } from 'node:crypto'
import { isLoopback, isMetadata } from '../addresses.ts'
import { isSameHost } from './addresses.ts'
import { authorityFlaw, pairFlaws } from './certificate.ts'
import { nearest } from './nearest.ts'
import { wrongVariable } from './route.ts'
import type { Config } from './schema.ts'
import type { Path } from './tree.ts'
import { formatDuration } from './units.ts'

export interface CrossFieldIssue {
  readonly path: Path
  readonly text: string
  /** Other settings that it follows from. */
  readonly because?: readonly Path[]
}

type Client = Config['clients'][string]

export interface Environment {
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Throws when there is nothing to read. */
  readonly readFile: (path: string) => string
}

export function crossFieldIssues(config: Config, { environment, readFile }: Environment): CrossFieldIssue[] {
  return [
    ...tlsDangers(environment),
    ...certificateDangers(config, readFile),
    ...listenDangers(config),
    ...adminDangers(config),
    ...upstreamDangers(config.upstream),
    ...routeDangers(config.upstream, environment),
    ...loopDangers(config),
    ...keyDangers(config.upstream.keys),
    ...clientDangers(config.clients),
    ...sharedTokens(config.clients),
    ...contradictions(config),
    ...clientPauses(config),
    ...redisDangers(config),
    ...jobDangers(config),
  ]
}

/** Scrapers named in the settings that are not among those `known`: the settings cannot tell by themselves. */
export function unknownScrapers({ clients, upstream }: Config, known: readonly string[]): CrossFieldIssue[] {
  const named = Object.entries(clients).flatMap(([client, { scrapers = [] }]) =>
    scrapers.map((name, index) => ({ name, path: ['clients', client, 'scrapers', String(index)] })),
  )
  const limited = typeof upstream.perScraper === 'object' ? Object.keys(upstream.perScraper) : []
  return [...named, ...limited.map((name) => ({ name, path: ['upstream', 'perScraper', name] }))]
    .filter(({ name }) => !known.includes(name))
    .map(({ name, path }) => {
      const near = nearest(name, known)
      const advice = near === null ? `known are ${known.join(', ')}` : `did you mean "${near}"?`
      return { path, text: `there is no scraper "${name}"; ${advice}` }
    })
}

function tlsDangers(environment: Readonly<Record<string, string | undefined>>): CrossFieldIssue[] {
  if (environment['NODE_TLS_REJECT_UNAUTHORIZED'] !== '0') return []
  const text =
    'it switches off the check of upstream certificates; unset it, and use NODE_EXTRA_CA_CERTS for your own CA'
  return [{ path: ['NODE_TLS_REJECT_UNAUTHORIZED'], text }]
}

function certificateDangers(
  { listen, admin, upstream, redis }: Config,
  readFile: Environment['readFile'],
): CrossFieldIssue[] {
  const pairs = Object.entries({ listen, admin }).flatMap(([name, { tls }]) => {
    return (tls ? pairFlaws(tls, readFile) : []).map(({ of, text }) => ({ path: [name, 'tls', of], text }))
  })
  const urls = [redis?.url ?? [], redis?.sentinel?.urls ?? [], redis?.cluster ?? []].flat()
  const isUseless = urls.length > 0 && !urls.some((url) => url.startsWith('rediss:'))
  const useless = 'is for TLS, and no URL of Redis begins with rediss://; write that, or take ca out'
  const authorities = Object.entries({ upstream, redis }).flatMap(([name, settings]) => {
    if (settings?.ca === undefined) return []
    const text = name === 'redis' && isUseless ? useless : authorityFlaw(settings.ca, readFile)
    return text === null ? [] : [{ path: [name, 'ca'], text }]
  })
  return [...pairs, ...authorities]
}

function listenDangers({ listen, clients }: Config): CrossFieldIssue[] {
  const anonymous = clients['anonymous']
  if (anonymous === undefined || anonymous.allowAnonymousOnNetwork === true || isLoopback(listen.host)) return []
  // Not repeated: it may have come from the environment.
  const text = `this address can be reached from the network while callers without a token are let in; give clients tokens and leave anonymous out, or set clients.anonymous.allowAnonymousOnNetwork: true`
  return [{ path: ['listen', 'host'], text, because: [['clients', 'anonymous', 'allowAnonymousOnNetwork']] }]
}

function adminDangers({ admin, listen }: Config): CrossFieldIssue[] {
  const found: CrossFieldIssue[] = []
  if (!isLoopback(admin.host) && admin.token === undefined) {
    const text = `this address can be reached from the network and nothing protects the admin port; set admin.token, or use 127.0.0.1`
    found.push({ path: ['admin', 'host'], text, because: [['admin', 'token']] })
  }
  if (admin.port !== 0 && admin.port === listen.port && overlap(admin.host, listen.host)) {
    found.push({
      path: ['admin', 'port'],
      text: `is the same as listen.port (${listen.port}); choose another one`,
      because: [['listen', 'port']],
    })
  }
  return found
}

function overlap(one: string, other: string): boolean {
  const everywhere = ['0.0.0.0', '::']
  return one === other || everywhere.includes(one) || everywhere.includes(other)
}

function upstreamDangers({ url, allowInsecure }: Config['upstream']): CrossFieldIssue[] {
  const { hostname, protocol } = new URL(url)
  const host = hostname.replace(/^\[|\]$/g, '')
  const path = ['upstream', 'url']
  if (isMetadata(host))
    return [{ path, text: "is a link-local or metadata address, where no upstream can be; write the API's own URL" }]
  if (protocol === 'https:' || allowInsecure || isLoopback(host)) return []
  return [
    {
      path,
      text: 'is plain http, so that keys and prompts can be read on the way; write https, or set upstream.allowInsecure: true',
      because: [['upstream', 'allowInsecure']],
    },
  ]
}

/** Every question would come back as one of its own. */
function loopDangers({ upstream, listen, admin }: Config): CrossFieldIssue[] {
  const { hostname: inUrl, port: written, protocol } = new URL(upstream.url)
  const host = inUrl.replace(/^\[|\]$/g, '').replace(/\.$/, '')
  const port = written === '' ? (protocol === 'https:' ? 443 : 80) : Number(written)
  return Object.entries({ listen, admin })
    .filter(([, own]) => own.port === port && isSameHost(host, own.host.toLowerCase()))
    .slice(0, 1)
    .map(([name]) => ({
      path: ['upstream', 'url'],
      text: `is this proxy itself (${name}.host and ${name}.port); write the API's own URL, or set another ${name}.port`,
      because: [
        [name, 'host'],
        [name, 'port'],
      ],
    }))
}

function routeDangers(upstream: Config['upstream'], environment: Environment['environment']): CrossFieldIssue[] {
  const name = wrongVariable(upstream, environment)
  if (name === null) return []
  // Not repeated: it may hold a password.
  const text = 'is not the URL of an HTTP proxy; correct it, or set upstream.proxy: false to go without one'
  return [{ path: [name], text }]
}

function keyDangers(keys: Config['upstream']['keys']): CrossFieldIssue[] {
  return keys.flatMap((key, index) => {
    const earlier = keys.slice(0, index)
    const path = ['upstream', 'keys', String(index)]
    if (earlier.some((one) => one.name === key.name))
      return [{ path: [...path, 'name'], text: `there is another key named ${key.name}; names must differ` }]
    const twin = earlier.find((one) => one.secret.reveal() === key.secret.reveal())
    return twin === undefined
      ? []
      : [{ path: [...path, 'secret'], text: `is the same key as ${twin.name}; list each key once` }]
  })
}

function clientDangers(clients: Config['clients']): CrossFieldIssue[] {
  if (Object.keys(clients).length === 0) {
    return [
      {
        path: ['clients'],
        text: 'is empty, so nobody could ask; add a client, or leave it out to let callers on loopback in',
      },
    ]
  }
  return Object.entries(clients).flatMap(([name, client]) =>
    name === 'anonymous' ? anonymousDangers(client) : namedDangers(name, client),
  )
}

function anonymousDangers(client: Client): CrossFieldIssue[] {
  if (tokensOf(client).length === 0) return []
  return [
    {
      path: ['clients', 'anonymous'],
      text: 'stands for callers without a token and cannot have one; give the client another name',
    },
  ]
}

function namedDangers(name: string, client: Client): CrossFieldIssue[] {
  const found: CrossFieldIssue[] = []
  if (tokensOf(client).length === 0) {
    found.push({
      path: ['clients', name],
      text: `has neither token nor tokenSha256; make one with "scrapellm-proxy token ${name}"`,
    })
  }
  if (client.allowAnonymousOnNetwork !== undefined) {
    found.push({
      path: ['clients', name, 'allowAnonymousOnNetwork'],
      text: 'is only for clients.anonymous; take it out',
    })
  }
  return found
}

function sharedTokens(clients: Config['clients']): CrossFieldIssue[] {
  const owners = new Map<string, string>()
  return Object.entries(clients).flatMap(([name, client]) => {
    const other = tokensOf(client)
      .map((token) => owners.get(token))
      .find((owner) => owner !== undefined)
    for (const token of tokensOf(client)) owners.set(token, name)
    return other === undefined
      ? []
      : [{ path: ['clients', name], text: `has the same token as ${other}; each client needs its own` }]
  })
}

function tokensOf(client: Client): string[] {
  const given = client.tokenSha256.map((token) => (typeof token === 'string' ? token : token.sha256))
  return given.concat(client.token.map((token) => hash('sha256', token.reveal())))
}

function contradictions({ breaker, retry, overload, upstream }: Config): CrossFieldIssue[] {
  const found: CrossFieldIssue[] = []
  for (const name of ['perDay', 'perMonth'] as const) {
    const { reserve, [name]: limit } = upstream.credits ?? { reserve: 0 }
    if (limit === undefined || reserve === 0 || reserve < limit) continue
    const text = `is all of ${name} (${limit}), so that only clients with mayUseReserve are answered; lower it`
    found.push({ path: ['upstream', 'credits', 'reserve'], text, because: [['upstream', 'credits', name]] })
  }
  if (breaker.minimum > breaker.window) {
    found.push({
      path: ['breaker', 'minimum'],
      text: `${breaker.minimum} outcomes never fit into a window of ${breaker.window}; lower it, or raise breaker.window`,
      because: [['breaker', 'window']],
    })
  }
  if (breaker.openFor > breaker.openForMax) {
    found.push({
      path: ['breaker', 'openFor'],
      text: `is longer than openForMax (${formatDuration(breaker.openForMax)}); lower it, or raise breaker.openForMax`,
      because: [['breaker', 'openForMax']],
    })
  }
  if (overload.memory > overload.memoryCritical) {
    found.push({
      path: ['overload', 'memory'],
      text: `is above memoryCritical (${overload.memoryCritical}), so that known answers would never be spared; lower it`,
      because: [['overload', 'memoryCritical']],
    })
  }
  if (retry.backoff.base > retry.backoff.max) {
    found.push({
      path: ['retry', 'backoff', 'base'],
      text: `is longer than max (${formatDuration(retry.backoff.max)}); lower it, or raise retry.backoff.max`,
      because: [['retry', 'backoff', 'max']],
    })
  }
  return found
}

/** The same of a client, whose pauses may be partly its own. */
function clientPauses({ clients, retry }: Config): CrossFieldIssue[] {
  return Object.entries(clients).flatMap(([name, client]) => {
    const own = client.retry?.backoff
    const base = own?.base ?? retry.backoff.base
    const max = own?.max ?? retry.backoff.max
    if (own === undefined || base <= max) return []
    const path = ['clients', name, 'retry', 'backoff']
    return own.base === undefined
      ? [{ path: [...path, 'max'], text: `is shorter than base (${formatDuration(base)}); raise it, or set base here` }]
      : [{ path: [...path, 'base'], text: `is longer than max (${formatDuration(max)}); lower it, or set max here` }]
  })
}

function redisDangers({ redis }: Config): CrossFieldIssue[] {
  if (redis === undefined) return []
  const given = [redis.url, redis.sentinel, redis.cluster].filter((one) => one !== undefined)
  if (given.length === 1) return []
  const path = ['redis']
  if (given.length === 0)
    return [{ path, text: 'says nowhere where Redis is; set redis.url, redis.sentinel or redis.cluster' }]
  return [{ path, text: 'names Redis more than once; keep one of redis.url, redis.sentinel and redis.cluster' }]
}

function jobDangers({ cache, jobs, redis }: Config): CrossFieldIssue[] {
  if (jobs.execution !== 'durable' || cache.disk !== false || redis !== undefined) return []
  return [
    {
      path: ['jobs', 'execution'],
      text: 'durable needs cache.disk or redis so that jobs survive; set one of them, or write sync',
      because: [['cache', 'disk']],
    },
  ]
}
