/**
 * The connections of one replica to the model of Redis, as the client library shows them: slow, cut, reset, with replies that never
 * come. In front of it runs the real `world/redis.ts`, with its time limit, its breaker and its subscriptions.
 */
import type { Clock, Timer } from '../../src/ports.ts'
import type { RedisClient, RedisClientEvents, RedisEar, RedisPatience, Argument } from '../../src/world/redis-client.ts'
import type { Chance } from './chance.ts'
import type { Process } from './process.ts'
import { type RedisServer, ReplyError, type Reply } from './redis-server.ts'

/** What the network and the server do to commands now; probabilities are per command. */
export interface RedisWeather {
  /** One way. */
  delayMs: number
  /** Now and then one takes so much longer. */
  slow: number
  slowMs: number
  /** Done, and the reply does not come. */
  replyLost: number
  /** It never arrives. */
  commandLost: number
  /** Answered with an error, and not done. */
  error: number
  /** The connection ends instead of the reply; done or not. */
  reset: number
  messageLost: number
  /** The server does not answer, and takes no connections. */
  isDown: boolean
  /** It is stopped: what is sent is done when it goes on. Until then. */
  hungUntil: number
}

/** All replicas talk to this. */
export interface RedisHost {
  readonly server: RedisServer
  readonly weather: RedisWeather
  readonly ears: Set<ModelEar>
}

interface ModelEar {
  readonly channels: Set<string>
  hear(channel: string, message: string): void
}

export interface RedisLink {
  connect(access: unknown, patience: RedisPatience, events: RedisClientEvents): RedisClient
  /** Nothing gets through, in either direction, until it is mended. */
  cut(isCut: boolean): void
  /** All connections are reset. */
  reset(): void
}

export function createRedisHost(server: RedisServer): RedisHost {
  const ears = new Set<ModelEar>()
  server.onPublish = (channel, message) => {
    for (const ear of ears) if (ear.channels.has(channel)) ear.hear(channel, message)
  }
  return {
    server,
    ears,
    weather: {
      delayMs: 0.2,
      slow: 0,
      slowMs: 0,
      replyLost: 0,
      commandLost: 0,
      error: 0,
      reset: 0,
      messageLost: 0,
      isDown: false,
      hungUntil: Number.NEGATIVE_INFINITY,
    },
  }
}

const CONNECT_MS = 1_000

export function createRedisLink(
  host: RedisHost,
  process: Process,
  time: Pick<Clock, 'now' | 'after'>,
  chance: Chance,
): RedisLink {
  const { server, weather } = host
  let isCut = false
  let resets: (() => void)[] = []

  return {
    connect,
    cut: (next) => void (isCut = next),
    reset() {
      for (const job of resets) job()
    },
  }

  function isReachable(): boolean {
    return !isCut && !weather.isDown && time.now() >= weather.hungUntil
  }

  function delay(): number {
    const extra = chance.happens(weather.slow) ? chance.next() * weather.slowMs : 0
    return weather.delayMs * (0.5 + chance.next()) + extra
  }

  function connect(_access: unknown, patience: RedisPatience, events: RedisClientEvents): RedisClient {
    let status: 'connecting' | 'ready' | 'closed' = 'connecting'
    let attempts = 0
    let retry: Timer | null = null
    let connection = 0
    /** Earliest time of the next command at the server: they keep their order. */
    let lastAt = 0
    let heardAt = 0
    const pending = new Set<(error: Error) => void>()
    resets.push(drop)
    open()

    function open(): void {
      const wasRefused = weather.isDown
      process.deliver(isReachable() ? 2 * delay() : wasRefused ? delay() : CONNECT_MS, () => {
        if (status !== 'connecting') return
        if (isReachable()) {
          status = 'ready'
          attempts = 0
          connection += 1
          heardAt = time.now()
          events.ready()
          return
        }
        events.failed(new Error(wasRefused ? 'connect ECONNREFUSED' : 'connect ETIMEDOUT'))
        again()
      })
    }

    function again(): void {
      attempts += 1
      retry = process.clock.after(patience.pauseMs(attempts), open)
    }

    function drop(): void {
      if (status !== 'ready') return
      status = 'connecting'
      process.deliver(0, () => {
        events.lost()
        for (const fail of pending) fail(new Error('Connection is closed.'))
        again()
      })
    }

    function call(command: string, args: readonly Argument[], bytes: boolean): Promise<unknown> {
      if (status !== 'ready')
        return Promise.reject(new Error("Stream isn't writeable and enableOfflineQueue options is false"))
      return new Promise((resolve, reject) => {
        if (!process.act()) return
        const fail = (error: Error): void => {
          pending.delete(fail)
          reject(error)
        }
        pending.add(fail)
        const on = connection
        const fate = draw()
        time.after(patience.silenceMs, () => {
          if (pending.has(fail) && on === connection && time.now() - heardAt >= patience.silenceMs) drop()
        })
        if (fate === 'command-lost' || isCut) return
        lastAt = Math.max(lastAt, time.now() + delay())
        time.after(lastAt - time.now(), function arrive(): void {
          if (weather.isDown) return
          if (time.now() < weather.hungUntil) return void time.after(weather.hungUntil - time.now(), arrive)
          const done =
            fate === 'error' ? new ReplyError('LOADING Redis is loading the dataset in memory') : perform(command, args)
          if (fate === 'reset') return drop()
          if (fate === 'reply-lost') return
          process.deliver(delay(), () => {
            if (isCut || on !== connection || !pending.delete(fail)) return
            heardAt = time.now()
            if (done instanceof Error) reject(done)
            else resolve(shown(done, bytes))
          })
        })
      })
    }

    return {
      get isReady() {
        return status === 'ready'
      },
      trust: () => false,
      slotOf: () => 0,
      partOf: () => '',
      call,
      listen,
      close() {
        status = 'closed'
        retry?.cancel()
        resets = resets.filter((job) => job !== drop)
        for (const fail of pending) fail(new Error('Connection is closed.'))
      },
    }
  }

  function draw(): 'done' | 'command-lost' | 'reply-lost' | 'error' | 'reset' {
    const { commandLost, replyLost, error, reset } = weather
    const luck = chance.next()
    if (luck < commandLost) return 'command-lost'
    if (luck < commandLost + replyLost) return 'reply-lost'
    if (luck < commandLost + replyLost + error) return 'error'
    return luck < commandLost + replyLost + error + reset ? 'reset' : 'done'
  }

  function perform(command: string, args: readonly Argument[]): Reply | Error {
    try {
      return server.command(command, args.map(bytesOf))
    } catch (error) {
      if (error instanceof ReplyError) return error
      throw error
    }
  }

  function listen(): RedisEar {
    let isOpen = true
    let isReady = false
    const onEnd: (() => void)[] = []
    const onReady: (() => void)[] = []
    const onMessage: ((channel: string, message: string) => void)[] = []
    const ear: ModelEar = {
      channels: new Set(),
      hear(channel, message) {
        if (isCut || chance.happens(weather.messageLost)) return
        process.deliver(delay(), () => {
          if (isOpen) for (const job of onMessage) job(textOf(channel), textOf(message))
        })
      },
    }
    host.ears.add(ear)
    resets.push(end)
    process.deliver(isReachable() ? 2 * delay() : CONNECT_MS, () => {
      if (!isOpen) return
      if (!isReachable()) return end()
      isReady = true
      for (const job of onReady) job()
    })

    function end(): void {
      if (!isOpen) return
      isOpen = false
      host.ears.delete(ear)
      resets = resets.filter((job) => job !== end)
      process.deliver(0, () => {
        for (const job of onEnd) job()
      })
    }

    return {
      onReady: (job) => void onReady.push(job),
      onEnd: (job) => void onEnd.push(job),
      onMessage: (job) => void onMessage.push(job),
      subscribe: (channels) =>
        new Promise((resolve, reject) => {
          if (!isReady || !process.act()) return
          process.deliver(2 * delay(), () => {
            if (!isOpen) return reject(new Error('Connection is closed.'))
            if (!isReachable())
              return void process.deliver(CONNECT_MS, () => reject(new Error('Connection is closed.')))
            for (const channel of channels) ear.channels.add(bytesOf(channel))
            resolve(channels.length)
          })
        }),
      async unsubscribe(channel) {
        ear.channels.delete(bytesOf(channel))
      },
      close: end,
    }
  }
}

function bytesOf(argument: Argument): string {
  if (typeof argument === 'number') return String(argument)
  return typeof argument === 'string' ? latin1(argument) : argument.toString('latin1')
}

function latin1(text: string): string {
  return isAscii(text) ? text : Buffer.from(text).toString('latin1')
}

function textOf(bytes: string): string {
  return isAscii(bytes) ? bytes : Buffer.from(bytes, 'latin1').toString()
}

function isAscii(text: string): boolean {
  return !/[^\0-\x7f]/.test(text)
}

function shown(reply: Reply, bytes: boolean): unknown {
  if (typeof reply === 'string') return bytes ? Buffer.from(reply, 'latin1') : textOf(reply)
  if (reply === null || typeof reply === 'number') return reply
  return 'ok' in reply ? reply.ok : reply.map((one) => shown(one, bytes))
}
