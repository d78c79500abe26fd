/**
 * What a seed stands for: how many replicas, which settings, what traffic, and which faults with which strength. Each seed gets some of
 * the faults and not the others (swarm testing): faults that always come together hide what each of them does alone.
 */
import { ConfigError } from '../../src/errors.ts'
import { type Loaded, loadConfig } from '../../src/config/load.ts'
import { type Chance, createChance } from './chance.ts'
import type { Fate } from './vendor.ts'

export interface ClientPlan {
  readonly name: string
  readonly token: string
  readonly perDay: number | null
  readonly rate: { readonly limit: number; readonly perMs: number; readonly burst: number } | null
  readonly concurrency: number | null
  readonly scope: 'shared' | 'client'
  /** How often it asks, compared with the others. */
  readonly share: number
}

export interface Faults {
  /** In thousandths of all calls. */
  readonly fates: Partial<Record<Fate, number>>
  readonly outages: boolean
  readonly revokedKeys: boolean
  readonly spentKeys: boolean
  /** One question always fails, and is asked most often. */
  readonly badQuestion: boolean
  /** The vendor works on so many questions at a time; null = on any number. */
  readonly capacity: number | null
  readonly retryAfter: 'none' | 'seconds' | 'date' | 'garbage'
  readonly crashes: boolean
  readonly pauses: boolean
  readonly partitions: boolean
  readonly drains: boolean
  readonly wallSteps: boolean
  readonly reloads: boolean
  readonly pressure: boolean
  readonly diskTrouble: boolean
  /** Of a machine: its processes die, and what was written last may be gone. */
  readonly powerCuts: boolean
  /** The first two replicas have one data folder. */
  readonly twoOwners: boolean
  readonly redisLoss: boolean
  readonly redisEmpty: boolean
  readonly redisSkew: boolean
  readonly redisHangs: boolean
  readonly redisResets: boolean
  readonly redisReplies: boolean
  /** Now and then slower than anybody waits for. */
  readonly redisSlow: boolean
  readonly redisMessages: boolean
}

export interface Plan {
  readonly seed: number
  readonly replicas: number
  readonly redis: boolean
  readonly disk: boolean
  readonly execution: 'sync' | 'durable'
  readonly clients: readonly ClientPlan[]
  readonly keys: readonly string[]
  readonly scrapers: readonly string[]
  readonly requests: number
  readonly perSecond: number
  readonly prompts: number
  readonly latency: readonly [leastMs: number, mostMs: number]
  readonly failureMs: readonly [leastMs: number, mostMs: number]
  readonly ttlMs: number
  readonly revalidateMs: number
  readonly deadlineMs: number
  readonly maxConcurrent: number
  readonly perScraper: number | null
  /** So many may wait for a place. */
  readonly queue: number
  readonly openForMs: number
  readonly holdMs: number
  readonly consecutive: number
  readonly impatience: number
  readonly aborts: number
  readonly bypasses: number
  readonly jobs: number
  readonly purges: number
  readonly faults: Faults
  /** Settings at start, and what others they may be replaced by. */
  readonly loaded: Loaded
  readonly otherSettings: readonly (() => Loaded)[]
}

type Bare = Omit<Plan, 'loaded' | 'otherSettings'>

export const secretOf = (key: string): string => `CANARY-upstream-${key}`
export const PROBE = 'probe'
/** May ask one scraper only. */
export const NARROW = { name: 'narrow', token: 'CANARY-token-of-narrow' } as const
const LOSSES = ['reset-before', 'reset-after', 'truncated', 'hang', 'not-json', 'failed-200', 'odd-200'] as const
const PLAIN = [
  '400',
  '404',
  '401',
  '403',
  '408',
  '429-rate',
  '429-queue',
  '500',
  'echo-key',
  '500-empty',
  '503',
  '504',
  '502-html',
  'refused',
  'connect-timeout',
] as const

export function planOf(seed: number, most: number): Plan {
  const chance = createChance(`plan/${seed}`)
  const replicas = chance.pick([1, 1, 2, 2, 3, 4, 5])
  const redis = replicas > 1 ? chance.happens(0.85) : chance.happens(0.35)
  const disk = !redis && chance.happens(0.6)
  const execution: Plan['execution'] = (redis || disk) && chance.happens(0.25) ? 'durable' : 'sync'
  const keys = ['main', 'second', 'third'].slice(0, chance.pick([1, 1, 2, 3]))
  const shaped: Bare = {
    seed,
    replicas,
    redis,
    disk,
    execution,
    keys,
    clients: clientsOf(chance.of('clients')),
    scrapers: ['chatgpt', 'perplexity', 'gemini', 'grok'].slice(0, chance.pick([1, 1, 2, 4])),
    requests: Math.min(most, chance.pick([300, 800, 2_000])),
    perSecond: chance.pick([1, 3, 10]),
    prompts: chance.pick([5, 30, 200, 2_000]),
    latency: chance.pick<readonly [number, number]>([
      [200, 4_000],
      [500, 20_000],
      [2_000, 90_000],
    ]),
    failureMs: chance.pick<readonly [number, number]>([
      [5, 300],
      [500, 500],
      [2_000, 20_000],
    ]),
    ttlMs: chance.pick([20_000, 120_000, 3_600_000]),
    revalidateMs: chance.happens(0.2) ? 60_000 : 0,
    deadlineMs: chance.pick([30_000, 90_000, 300_000, 600_000]),
    maxConcurrent: chance.pick([3, 20, 200, 200]),
    queue: chance.pick([0, 2, 100]),
    perScraper: chance.happens(0.3) ? chance.pick([2, 10]) : null,
    openForMs: chance.pick([1_000, 2_000, 10_000]),
    holdMs: chance.pick([0, 10_000, 30_000, 30_000]),
    consecutive: chance.pick([5, 20]),
    impatience: chance.happens(0.5) ? 0.3 : 0,
    aborts: chance.happens(0.5) ? 0.2 : 0,
    bypasses: chance.happens(0.4) ? 0.1 : 0,
    jobs: chance.happens(0.3) ? 0.1 : 0,
    purges: chance.happens(0.15) ? 0.01 : 0,
    faults: faultsOf(chance.of('faults'), { replicas, redis, disk }),
  }
  const settings = chance.of('config')
  const tree = settingsOf(shaped, settings)
  return {
    ...shaped,
    loaded: load(tree),
    otherSettings: [
      () => load(tree),
      () => load({ ...tree, cache: { ...tree.cache, staleIfError: '1h', emptyResultTtl: '30s' } }),
      () =>
        load({
          ...tree,
          upstream: { ...tree.upstream, keys: tree.upstream.keys.map((key) => ({ ...key, weight: 2 })) },
        }),
      () => load({ ...tree, clients: { ...tree.clients, newcomer: { token: 'CANARY-token-of-newcomer' } } }),
      () => {
        throw new ConfigError(['cache.ttl: not a duration'])
      },
    ],
  }
}

function clientsOf(chance: Chance): readonly ClientPlan[] {
  const count = chance.whole(1, 3)
  const clients = Array.from({ length: count }, (_, at): ClientPlan => {
    const limit = chance.pick([30, 120, 600])
    return {
      name: `client-${at}`,
      token: `CANARY-token-of-client-${at}`,
      perDay: chance.happens(0.5) ? chance.pick([30, 100, 600, 3_000]) : null,
      rate: chance.happens(0.3) ? { limit, perMs: 60_000, burst: chance.pick([1, 5, limit]) } : null,
      concurrency: chance.happens(0.3) ? chance.pick([1, 4, 20]) : null,
      scope: chance.happens(0.25) ? 'client' : 'shared',
      share: chance.pick([1, 1, 3]),
    }
  })
  const probe: ClientPlan = {
    name: PROBE,
    token: 'CANARY-token-of-probe',
    perDay: null,
    rate: null,
    concurrency: null,
    scope: 'shared',
    share: 0,
  }
  return [...clients, probe]
}

function faultsOf(chance: Chance, { replicas, redis, disk }: Pick<Plan, 'replicas' | 'redis' | 'disk'>): Faults {
  const isCalm = chance.happens(0.1)
  const has = (probability = 0.35): boolean => chance.happens(probability) && !isCalm
  const fates: Partial<Record<Fate, number>> = {}
  for (const fate of PLAIN) if (has(0.3)) fates[fate] = chance.pick([5, 20, 60, 120])
  if (has(0.5)) for (const fate of LOSSES) if (has(0.5)) fates[fate] = chance.pick([5, 20, 60])
  return {
    fates,
    outages: has(0.4),
    revokedKeys: has(0.15),
    spentKeys: has(0.2),
    badQuestion: has(0.2),
    capacity: has(0.2) ? chance.pick([2, 10, 40]) : null,
    retryAfter: chance.pick(['none', 'none', 'seconds', 'date', 'garbage']),
    crashes: has(),
    pauses: has(0.25),
    partitions: redis && has(),
    drains: replicas > 1 && has(0.3),
    wallSteps: has(0.1),
    reloads: has(0.3),
    pressure: has(0.1),
    diskTrouble: disk && has(0.2),
    redisLoss: redis && has(0.2),
    redisEmpty: redis && has(0.15),
    redisSkew: redis && has(0.1),
    redisHangs: redis && has(0.25),
    redisResets: redis && has(0.25),
    redisReplies: redis && has(0.3),
    redisSlow: redis && has(0.2),
    redisMessages: redis && has(0.3),
    powerCuts: disk && has(0.3),
    twoOwners: disk && replicas > 1 && has(0.5),
  }
}

function settingsOf(plan: Bare, chance: Chance) {
  const clients = Object.fromEntries(
    plan.clients.map(({ name, token, perDay, rate, concurrency, scope }) => [
      name,
      {
        token,
        ...(perDay === null ? {} : { credits: { perDay, perMonth: 10 * perDay } }),
        ...(rate === null ? {} : { rate: { limit: rate.limit, per: `${rate.perMs}ms`, burst: rate.burst } }),
        ...(concurrency === null ? {} : { concurrency }),
        cache: { scope },
      },
    ]),
  )
  const narrow = { [NARROW.name]: { token: NARROW.token, scrapers: ['chatgpt'] } }
  return {
    upstream: {
      url: 'http://127.0.0.1:9',
      keys: plan.keys.map((name) => ({ name, secret: secretOf(name), weight: chance.pick([1, 3]) })),
      maxConcurrent: plan.maxConcurrent,
      queue: { size: plan.queue, maxWait: '1s' },
      ...(plan.perScraper === null ? {} : { perScraper: plan.perScraper }),
    },
    clients: { ...clients, ...narrow },
    cache: {
      ttl: `${plan.ttlMs}ms`,
      staleIfError: chance.pick(['0s', '10m', '2h']),
      staleWhileRevalidate: `${plan.revalidateMs}ms`,
      emptyResultTtl: chance.pick(['0s', '5s', '60s']),
      memory: { maxSize: '64MiB' },
      disk: plan.disk ? { path: 'simulated.db' } : false,
    },
    ...(plan.redis ? { redis: { url: 'redis://127.0.0.1:9', timeout: '250ms' } } : {}),
    retry: {
      deadline: `${plan.deadlineMs}ms`,
      classes: { creditsExhausted: { keyRest: '60s' }, unauthorized: { keyRest: '45s' }, blocked: { keyRest: '20s' } },
    },
    breaker: {
      consecutive: plan.consecutive,
      openFor: `${plan.openForMs}ms`,
      openForMax: `${2 * plan.openForMs}ms`,
      hold: `${plan.holdMs}ms`,
    },
    jobs: { execution: plan.execution },
    audit: { path: 'simulated.ndjson' },
    log: { level: 'info' },
    // The short one cuts calls off.
    shutdown: { grace: chance.pick(['5s', `${plan.deadlineMs + 60_000}ms`]) },
  }
}

function load(tree: object): Loaded {
  const source = { name: 'simulation', text: JSON.stringify(tree) }
  return loadConfig([source], [], {}, () => {
    throw new Error('A simulated setting refers to no file')
  })
}
