/**
 * How the process ends: nothing new is let in, then the requests are answered, then the flights that nobody waits for any more
 * are finished, because they are probably paid for. What is left when the grace period expires is cut off: waiting
 * clients get an answer, sent calls count as charged, and jobs are left for others.
 */
import type { Config } from './config/schema.ts'
import { ProxyError } from './errors.ts'
import type { Generations } from './generations.ts'
import type { Drained } from './http/drain.ts'
import type { Server } from './http/server.ts'
import type { DurableUpstream } from './jobs/durable.ts'
import type { JobBook } from './jobs/book.ts'
import type { Flights } from './flights.ts'
import type { Clock } from './ports.ts'
import type { EventOf } from './telemetry/events.ts'
import type { Log } from './telemetry/log.ts'

export interface ShutdownPorts {
  readonly log: Log
  readonly clock: Clock
  readonly times: () => Config['shutdown']
  /** Read when it ends, not before: most of them are made later. */
  readonly parts: () => {
    readonly server: Server
    readonly flights: Flights
    readonly jobs: JobBook
    readonly durable: DurableUpstream
    readonly generations: Generations
  }
}

export interface Shutdown {
  /** The same promise each time. */
  drain(): Promise<Drained>
  /** The grace ends now. */
  hurry(): void
  /** Nothing is repeated any more. */
  readonly isCutting: boolean
  readonly kinds: readonly ['attempt-ended']
  /** Tells of the calls that are cut. */
  note(event: EventOf<'attempt-ended'>): void
}

/** For the answers to those whose calls are cut, and for writing down what was. */
const LAST_WORDS_MS = 1_000

export function createShutdown({ log, clock, times, parts }: ShutdownPorts): Shutdown {
  const hurried = Promise.withResolvers<'late'>()
  let drained: Promise<Drained> | null = null
  let isCutting = false

  return {
    drain,
    hurry() {
      hurried.resolve('late')
      void drain()
    },
    get isCutting() {
      return isCutting
    },
    kinds: ['attempt-ended'],
    note({ id, payer, scraper, attempt }) {
      if (!isCutting || attempt.charge.state !== 'unknown') return
      const { keyName, charge } = attempt
      const { credits } = charge
      log.warn('call cut, may have been charged', { id, client: payer, scraper, key_name: keyName, credits })
    },
  }

  function drain(): Promise<Drained> {
    return (drained ??= finish())
  }

  async function finish(): Promise<Drained> {
    const { server, flights } = parts()
    const { readinessDelay, grace } = times()
    const graceEnd = clock.after(readinessDelay + grace, () => hurried.resolve('late'))
    const answered = server.drain({ readinessDelayMs: readinessDelay, graceMs: grace + LAST_WORDS_MS })
    const finished = answered.then(async (how) => (await flights.idle(), how))
    const how = await Promise.race([finished, hurried.promise])
    graceEnd.cancel()
    return how === 'late' ? cut() : how
  }

  /** Everybody is told, nothing new is begun, and what is said of the calls that are cut is written down before we go. */
  async function cut(): Promise<Drained> {
    const { server, flights, jobs, durable, generations } = parts()
    const isIdle = server.openRequests === 0 && flights.size === 0
    if (!isIdle)
      log.warn('shutdown grace period expired', { open_requests: server.openRequests, open_calls: flights.size })
    isCutting = true
    jobs.close()
    for (const { requestId, client, scraper, credits } of durable.close())
      log.info('job left for another process to resume', { id: requestId, client, scraper, credits })
    flights.ground(
      new ProxyError('SHUTTING_DOWN', 'The proxy is shutting down. Retry later, or on another replica.', {
        retryAfterMs: LAST_WORDS_MS,
      }),
    )
    generations.close()
    const answered = server.drain({ readinessDelayMs: 0, graceMs: LAST_WORDS_MS })
    const lastWords = Promise.withResolvers<void>()
    const end = clock.after(LAST_WORDS_MS, lastWords.resolve)
    // Jobs that are left never land here.
    await Promise.race([flights.idle(), lastWords.promise])
    const how = await answered
    end.cancel()
    return isIdle ? how : 'forced'
  }
}
