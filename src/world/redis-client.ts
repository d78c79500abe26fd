/**
 * The one door to ioredis: connections to a single Redis, to the master that Sentinels name, or to a Cluster, set up so that
 * nothing waits: no offline queue, no command sent twice, dead sockets found out. What a command may take, and when nothing
 * should be asked at all, is for the caller to decide. Must not know what keys and commands mean.
 */
import { readFileSync } from 'node:fs'
import type { SecureContext } from 'node:tls'
import { Cluster, Command, Redis, type RedisOptions } from 'ioredis'
import { trusting } from './authority.ts'

/** All URLs are `redis://` or `rediss://`, with user name and password where needed. */
export type RedisPlace =
  | { readonly kind: 'single'; readonly url: string }
  /** The URLs are those of the Sentinels, with the credentials for them. */
  | { readonly kind: 'sentinel'; readonly urls: readonly string[]; readonly name: string }
  | { readonly kind: 'cluster'; readonly urls: readonly string[] }

export interface RedisAccess {
  readonly place: RedisPlace
  /** Where they are not in the URL; for Sentinel always, because there the URLs are not those of the data. */
  readonly username: string | null
  readonly password: string | null
  readonly database: number
  /** Null = the usual CAs only. */
  readonly caPath?: string | null
}

export interface RedisPatience {
  /** A server that owes an answer and has sent nothing for so long is dead: its socket is given up. */
  readonly silenceMs: number
  /** Before connection attempt `n`, from 1. */
  readonly pauseMs: (n: number) => number
  /** The server was a master and is none any more: is it time for another connection, which may find the new one? */
  readonly mayMove: () => boolean
}

/** The library has a type of its own for each shape of replies; ours is the one that both protocols share. */
type Settings = Omit<RedisOptions, 'replyMapping'>

export type Argument = string | number | Buffer

export interface RedisClient {
  readonly isReady: boolean
  /** As `SharedStore.trust`. */
  trust(pem: string): boolean
  /** Keys of one slot may be in one command. */
  slotOf(key: string): number
  /** The server that a slot is on, by any name that stays. */
  partOf(slot: number): string
  /** Rejects with what the server or the network says. `bytes`: texts come as buffers. */
  call(command: string, args: readonly Argument[], bytes: boolean): Promise<unknown>
  /** A connection of its own for subscriptions; it ends with the first trouble. */
  listen(): RedisEar
  close(): void
}

export interface RedisEar {
  onReady(job: () => void): void
  onEnd(job: () => void): void
  onMessage(job: (channel: string, message: string) => void): void
  subscribe(channels: readonly string[]): Promise<unknown>
  unsubscribe(channel: string): Promise<unknown>
  close(): void
}

export interface RedisClientEvents {
  readonly ready: () => void
  readonly lost: () => void
  readonly failed: (error: unknown) => void
}

const CONNECT_MS = 1_000
const LOADING_MS = 1_000

export function createRedisClient(
  access: RedisAccess,
  patience: RedisPatience,
  events: RedisClientEvents,
): RedisClient {
  const { place, caPath = null } = access
  let pem = caPath === null ? null : readFileSync(caPath, 'utf8')
  let context: SecureContext | null = null
  const tls = {
    rejectUnauthorized: true,
    /** Asked for each connection. */
    get secureContext() {
      return (context ??= trusting(pem))
    },
  }
  const base = baseOf(access, patience, tls)
  return place.kind === 'cluster' ? clusterClient(place.urls, base) : singleClient()

  function trust(next: string): boolean {
    if (next === pem) return false
    context = trusting(next)
    pem = next
    return true
  }

  function singleClient(): RedisClient {
    const redis = new Redis({ ...base, retryStrategy: patience.pauseMs, sentinelRetryStrategy: patience.pauseMs })
    redis.on('ready', events.ready)
    watch(redis)
    return {
      get isReady() {
        return redis.status === 'ready'
      },
      trust,
      slotOf: () => 0,
      partOf: () => '',
      call: (command, args, bytes) => send(redis, command, args, bytes),
      listen: () => createEar(base),
      close: () => redis.disconnect(),
    }
  }

  function clusterClient(
    urls: readonly string[],
    { host: _host, port: _port, ...redisOptions }: Settings,
  ): RedisClient {
    const seeds = urls.map(hostOf)
    let turn = 0
    const cluster = new Cluster([...seeds], clusterSettings(redisOptions, patience))
    let isWarm = false
    cluster.on('ready', () => {
      void Promise.all(cluster.nodes('master').map(connected)).then(() => {
        isWarm = true
        events.ready()
      })
    })
    cluster.on('close', () => (isWarm = false))
    // Without this the first command would open the connection, and those after it be turned away meanwhile.
    cluster.on('+node', (node: Redis) => void connected(node))
    cluster.on('node error', events.failed)
    watch(cluster)
    return {
      get isReady() {
        return isWarm && cluster.status === 'ready'
      },
      trust,
      slotOf,
      partOf: (slot) => cluster.slots[slot]?.[0] ?? '',
      call: (command, args, bytes) => send(cluster, command, args, bytes),
      listen: () => createEar({ ...redisOptions, ...nextNode() }),
      close: () => cluster.disconnect(),
    }

    /** What is published to one node reaches all. */
    function nextNode(): Settings {
      const known = cluster.nodes('master').map(({ options: { host = '', port = 6379 } }) => ({ host, port }))
      const nodes = known.length > 0 ? known : seeds
      turn += 1
      return nodes[turn % nodes.length] ?? {}
    }
  }

  function watch(client: Redis | Cluster): void {
    client.on('close', events.lost)
    client.on('error', events.failed)
    client.connect().catch(ignore)
  }
}

function baseOf(
  { place, username, password, database }: RedisAccess,
  patience: RedisPatience,
  tls: NonNullable<Settings['tls']>,
): Settings {
  const urls = place.kind === 'single' ? [place.url] : place.urls
  const inUrl = credentialsOf(urls[0] ?? '')
  const isTls = urls.some((url) => url.startsWith('rediss:'))
  const isSentinel = place.kind === 'sentinel'
  const own = isSentinel ? { username: null, password: null } : inUrl
  return {
    lazyConnect: true,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    connectTimeout: CONNECT_MS,
    socketTimeout: patience.silenceMs,
    maxLoadingRetryTime: LOADING_MS,
    reconnectOnError: (error) => error.message.startsWith('READONLY') && patience.mayMove(),
    // Nothing of the newer protocol is used, and it costs a round trip more.
    protocol: 2,
    disableClientInfo: true,
    db: place.kind === 'cluster' ? 0 : database,
    ...given('username', username ?? own.username),
    ...given('password', password ?? own.password),
    ...(isTls ? { tls, sentinelTLS: tls, enableTLSForSentinelMode: true } : {}),
    ...(place.kind === 'single' ? hostOf(place.url) : {}),
    ...(isSentinel
      ? {
          sentinels: place.urls.map(hostOf),
          name: place.name,
          sentinelCommandTimeout: CONNECT_MS,
          ...given('sentinelUsername', inUrl.username),
          ...given('sentinelPassword', inUrl.password),
        }
      : {}),
  }
}

function clusterSettings(redisOptions: Settings, patience: RedisPatience) {
  const { retryStrategy: _none, sentinels: _no, name: _nor, ...nodeOptions } = redisOptions
  return {
    lazyConnect: true,
    enableOfflineQueue: false,
    redisOptions: nodeOptions,
    clusterRetryStrategy: patience.pauseMs,
    maxRedirections: 3,
    // A command whose connection broke may have been done: sending it again could do it twice.
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 20,
    retryDelayOnTryAgain: 20,
    slotsRefreshTimeout: CONNECT_MS,
    slotsRefreshInterval: 5_000,
  }
}

/** Resolves when the connection stands, and when it does not. */
function connected(node: Redis): Promise<void> {
  return new Promise((resolve) => {
    if (node.status === 'wait') node.connect().catch(ignore)
    if (node.status === 'ready' || node.status === 'end') resolve()
    else node.once('ready', resolve).once('end', resolve)
  })
}

function createEar(settings: Settings): RedisEar {
  const redis = new Redis({ ...settings, retryStrategy: null, sentinelRetryStrategy: () => null })
  // It ends with each of them, and that is told.
  redis.on('error', ignore)
  redis.connect().catch(ignore)
  return {
    onReady: (job) => void redis.on('ready', job),
    onEnd: (job) => void redis.once('end', job),
    onMessage: (job) => void redis.on('message', job),
    subscribe: (channels) => redis.subscribe(...channels),
    unsubscribe: (channel) => redis.unsubscribe(channel),
    close: () => redis.disconnect(),
  }
}

function send(client: Redis | Cluster, command: string, args: readonly Argument[], bytes: boolean): Promise<unknown> {
  return bytes ? client.callBuffer(command, ...args) : client.call(command, ...args)
}

function slotOf(key: string): number {
  const slot = new Command('get', [key]).getSlot()
  return slot ?? 0
}

function hostOf(url: string): { readonly host: string; readonly port: number } {
  const { hostname, port } = new URL(url)
  // An IPv6 address is in brackets only in a URL.
  return { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: port === '' ? 6379 : Number(port) }
}

function credentialsOf(url: string): { readonly username: string | null; readonly password: string | null } {
  const parsed = URL.parse(url)
  return { username: textOf(parsed?.username), password: textOf(parsed?.password) }
}

function textOf(encoded: string | undefined): string | null {
  return encoded ? decodeURIComponent(encoded) : null
}

function given<Name extends string>(name: Name, value: string | null): { readonly [N in Name]?: string } {
  return value === null ? {} : ({ [name]: value } as { readonly [N in Name]: string })
}

function ignore(): void {}
