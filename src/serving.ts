/**
 * What one generation of settings makes of the parts that outlive it: a pipeline with its policies and its way upstream. A
 * request takes the serving of the moment it comes in and keeps it to its end, and so does the flight it begins; when the last
 * flight of an old one has landed, what was its own is closed. Building one changes nothing for the others.
 */
import { isDeepStrictEqual } from 'node:util'
import { isLoopback } from './addresses.ts'
import { createCache, type Tiers } from './cache/tiered.ts'
import { routeTo } from './config/route.ts'
import type { Config } from './config/schema.ts'
import { createClients } from './http/clients.ts'
import { createResponder } from './http/respond.ts'
import type { TokenUses } from './http/token-uses.ts'
import type { Serving as Server } from './http/server.ts'
import type { DurableUpstream } from './jobs/durable.ts'
import { createPlainUpstream } from './jobs/plain.ts'
import type { KeyPool } from './keys/pool.ts'
import type { Client } from './model.ts'
import type { Bulkhead, Traces } from './fetch-parts.ts'
import type { Flights, SharedFlights } from './flights.ts'
import type { Admission, Budget, Cache, Jobs, Overload, Profile, Recorder } from './parts.ts'
import { createPipeline, type Pipeline } from './pipeline.ts'
import type { Clock, Emit, Random, Transport, UpstreamOptions, World } from './ports.ts'
import type { CircuitBreakers } from './resilience/breaker.ts'
import { createRetry } from './resilience/retry.ts'
import type { RetryBudget } from './resilience/retry-budget.ts'
import { clientsOf, type KnownClient } from './options.ts'

/** Made once per process; what of it has a policy takes another one with each generation. */
export interface Lasting {
  readonly clock: Clock
  readonly random: Random
  readonly emit: Emit
  readonly connect: World['connect']
  readonly environment: World['environment']
  readonly profile: Profile
  readonly tiers: Tiers
  readonly admission: Admission
  readonly budget: Budget
  readonly flights: Flights
  readonly sharedFlights: SharedFlights
  readonly retryBudget: RetryBudget
  readonly breakers: CircuitBreakers
  readonly bulkhead: Bulkhead
  readonly overload: Overload
  readonly durable: DurableUpstream
  readonly jobs: Jobs
  readonly recorder: Recorder
  readonly traces: Traces
  /** Nothing is repeated any more. */
  readonly isCutting: () => boolean
  readonly tokenUses: TokenUses
}

export interface Serving extends Server {
  readonly config: Config
  readonly people: readonly Client[]
  readonly known: readonly KnownClient[]
  readonly keys: KeyPool
  readonly cache: Cache
  readonly retryBudget: RetryBudget
  readonly connection: Connection
  readonly resume: Pipeline['resume']
  /** Calls back when no flight of it is in the air, at once if none is. */
  onIdle(listener: () => void): void
}

/** Shared by all servings that reach upstream in the same way. */
export interface Connection {
  readonly options: UpstreamOptions
  readonly transport: Transport
}

export function createServing(config: Config, lasting: Lasting, keys: KeyPool, before: Serving | null): Serving {
  const { clock, random, emit, profile, isCutting } = lasting
  const known = clientsOf(config)
  const people = known.map(({ client }) => client)
  const { markReplays } = config.cache
  const connection = connectionOf(config, lasting, before)
  const retryBudget = lasting.retryBudget.under(config.retry.budget)
  const cache = createCache(
    {
      replay: (body) => (markReplays ? profile.replay(body) : body),
      policies: people.map(({ cache }) => cache),
    },
    lasting.tiers,
    clock,
    emit,
  )
  const plain = createPlainUpstream({ profile, transport: connection.transport, emit })
  const durable = lasting.durable.under({ plain, execution: config.jobs.execution })
  let aloft = 0
  let whenIdle: (() => void) | null = null

  const { handle, resume } = createPipeline({
    ...lasting,
    clients: createClients({
      uses: lasting.tokenUses,
      wall: clock.wall,
      vendor: profile.vendor,
      clients: known,
      anonymous: people.find(({ name }) => name === 'anonymous') ?? null,
      hosts: isLoopback(config.listen.host) ? new Set(config.listen.hosts) : null,
    }),
    cache,
    flights: {
      has: lasting.flights.has,
      join: (key, asker, fly) => lasting.flights.join(key, asker, (flight) => counted(fly(flight))),
    },
    retry: createRetry({ clock, random, emit, budget: retryBudget, isDraining: isCutting }),
    breakers: lasting.breakers.under(config.breaker),
    keys,
    upstream: durable,
  })

  async function counted<T>(flight: Promise<T>): Promise<T> {
    aloft += 1
    try {
      return await flight
    } finally {
      aloft -= 1
      if (aloft === 0) whenIdle?.()
    }
  }

  return {
    config,
    people,
    known,
    keys,
    cache,
    retryBudget,
    connection,
    handle,
    resume,
    respond: createResponder({ markReplays, replay: profile.replay }),
    onIdle(listener) {
      whenIdle = listener
      if (aloft === 0) listener()
    },
  }
}

function connectionOf({ upstream }: Config, { connect, environment }: Lasting, before: Serving | null): Connection {
  const options = {
    url: upstream.url,
    connectTimeoutMs: upstream.connectTimeout,
    connectionMaxAgeMs: upstream.connectionMaxAge,
    proxy: routeTo(upstream, environment).proxy,
    caPath: upstream.ca ?? null,
    maxResponseBytes: upstream.maxResponseSize,
  }
  // Whoever follows the file of the CA tells the transport what it holds now.
  return before && isDeepStrictEqual(before.connection.options, options)
    ? before.connection
    : { options, transport: connect(options) }
}
