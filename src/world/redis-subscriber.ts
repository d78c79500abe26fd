/**
 * Subscriptions that outlive their connection: one connection for all channels, opened with the first, checked by a
 * heartbeat, replaced when it ends. Listeners hear when it stands again, because what was said in between is lost.
 */
import type { Clock, Emit, SharedListener, Timer } from '../ports.ts'
import type { RedisEar } from './redis-client.ts'

export interface RedisSubscriber {
  subscribe(channel: string, listener: SharedListener): { close(): void }
  close(): void
}

export interface RedisSubscriberPorts {
  readonly clock: Clock
  readonly emit: Emit
  readonly listen: () => RedisEar
  readonly pauseMs: (n: number) => number
}

/** An idle connection whose other end is gone tells nobody, unless something is said on it. */
const HEARTBEAT_MS = 5_000

export function createRedisSubscriber({ clock, emit, listen, pauseMs }: RedisSubscriberPorts): RedisSubscriber {
  const channels = new Map<string, Set<SharedListener>>()
  /** Those that stand on the present connection. */
  const standing = new Set<string>()
  let ear: RedisEar | null = null
  let isReady = false
  let attempts = 0
  let timer: Timer | null = null
  let closed = false

  return { subscribe, close }

  function subscribe(channel: string, listener: SharedListener): { close(): void } {
    const listeners = channels.get(channel) ?? new Set()
    channels.set(channel, listeners.add(listener))
    if (!ear && !timer) open()
    if (standing.has(channel)) queueMicrotask(() => listeners.has(listener) && listener.onSubscribed())
    else if (isReady && listeners.size === 1) stand([channel])
    return { close: () => leave(channel, listener) }
  }

  function leave(channel: string, listener: SharedListener): void {
    const listeners = channels.get(channel)
    if (!listeners?.delete(listener) || listeners.size > 0) return
    channels.delete(channel)
    if (standing.delete(channel)) ear?.unsubscribe(channel).catch(() => {})
  }

  function open(): void {
    timer = null
    if (closed) return
    const opened = listen()
    ear = opened
    opened.onReady(() => {
      isReady = true
      attempts = 0
      stand([...channels.keys()])
      timer = clock.after(HEARTBEAT_MS, beat)
    })
    opened.onMessage((channel, message) => {
      for (const listener of channels.get(channel) ?? []) listener.onMessage(message)
    })
    opened.onEnd(reopen)
  }

  function reopen(): void {
    ear = null
    isReady = false
    standing.clear()
    timer?.cancel()
    if (closed) return
    emit({ kind: 'redis-failed', operation: 'subscribe' })
    attempts += 1
    timer = clock.after(pauseMs(attempts), open)
  }

  function stand(names: readonly string[]): void {
    const on = ear
    if (!on || names.length === 0) return
    on.subscribe(names).then(
      () => {
        if (ear !== on) return
        for (const name of names) {
          if (channels.has(name)) tell(name)
          // Its last listener has left meanwhile.
          else on.unsubscribe(name).catch(() => {})
        }
      },
      () => on.close(),
    )
  }

  function tell(name: string): void {
    standing.add(name)
    for (const listener of channels.get(name) ?? []) listener.onSubscribed()
  }

  /** To subscribe again changes nothing and must be answered; when it is not, the connection ends. */
  function beat(): void {
    const on = ear
    const [channel] = standing
    timer = clock.after(HEARTBEAT_MS, beat)
    if (on && channel !== undefined) on.subscribe([channel]).catch(() => on.close())
  }

  function close(): void {
    closed = true
    timer?.cancel()
    ear?.close()
    channels.clear()
  }
}
