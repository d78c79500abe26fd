/**
 * Webhooks: one POST per event and target, in the background. What is to be sent is written down first, so a restart sends it; an event
 * is claimed in the store by its name, so that of all replicas one sends it. Repeated with back-off for an hour, then given up.
 * Nothing here throws, and no request ever waits for it.
 */
import { createHmac } from 'node:crypto'
import type { Clock, DiskRecord, OutboundProxy, Random, Timer, World } from '../ports.ts'
import { type NoticeEvent, noticeEvents, type NoticeKind, noticeOf } from './notice.ts'

export interface Target {
  /** The same for the same URL, and says nothing about it. */
  readonly id: string
  readonly url: string
  /** Null = the body is not signed. */
  readonly secret: string | null
  readonly on: ReadonlySet<NoticeKind>
  readonly proxy: OutboundProxy | null
}

export interface Outbox {
  /** True for the first that asks within so long, of all that share the store. */
  claim(name: string, ttlMs: number): Promise<boolean>
  put(records: readonly DiskRecord[]): Promise<void> | void
  /** What this process, or one before it, has still to send. */
  waiting(): Promise<readonly (readonly [key: string, value: unknown])[]>
}

export interface NotifierPorts {
  readonly outbox: Outbox
  readonly clock: Clock
  readonly random: Random
  readonly post: World['post']
  /** Of the settings in force. */
  readonly targets: () => readonly Target[]
  readonly done: (outcome: 'delivered' | 'given-up', event: string, status: number | null) => void
  readonly broke: (error: unknown) => void
}

export interface Notifier {
  readonly kinds: typeof noticeEvents
  /** For the recorder. */
  note(event: NoticeEvent): void
  /** Sends what an earlier process left. */
  resume(): Promise<void>
  close(): void
}

/** As it is written down. */
interface Letter {
  readonly target: string
  readonly event: NoticeKind
  readonly body: string
  readonly since: number
}

const SPACE = 'notify'
const GIVEN_UP_MS = 60 * 60_000
const FIRST_PAUSE_MS = 1_000
const LONGEST_PAUSE_MS = 5 * 60_000
const PATIENCE_MS = 10_000
/** A target that takes nothing for an hour must not fill the memory. */
const MAX_WAITING = 1_000

export function createNotifier(ports: NotifierPorts): Notifier {
  const { outbox, clock, random, post, targets, done, broke } = ports
  const pauses = new Map<string, Timer | null>()
  let isClosed = false

  return {
    kinds: noticeEvents,
    note(event) {
      const meant = targets().length > 0 ? noticeOf(event) : null
      if (meant) void announce(meant).catch(broke)
    },
    async resume() {
      for (const [key, value] of await outbox.waiting()) if (!pauses.has(key)) void send(key, value as Letter, 0)
    },
    close() {
      isClosed = true
      for (const timer of pauses.values()) timer?.cancel()
    },
  }

  async function announce({
    event,
    name,
    onceInMs,
    text,
    details,
  }: NonNullable<ReturnType<typeof noticeOf>>): Promise<void> {
    const meant = targets().filter(({ on }) => on.has(event))
    if (meant.length === 0 || !(await outbox.claim(name, onceInMs))) return
    const at = clock.wall()
    const id = random.id()
    const body = JSON.stringify({ id, event, at: new Date(at).toISOString(), text, ...details })
    const letters = meant.map(
      (target) => [`${id}/${target.id}`, { target: target.id, event, body, since: at }] as const,
    )
    await outbox.put(letters.map(([key, value]) => ({ space: SPACE, key, value, expiresAt: at + GIVEN_UP_MS })))
    for (const [key, letter] of letters) void send(key, letter, 0)
  }

  async function send(key: string, letter: Letter, tries: number): Promise<void> {
    const target = targets().find(({ id }) => id === letter.target)
    if (isClosed) return
    // A target that was taken out of the settings gets nothing more.
    if (!target || pauses.size >= MAX_WAITING) return end(key, letter, 'given-up', null)
    pauses.set(key, null)
    const [{ body }, { url, proxy }] = [letter, target]
    const status = await post(url, { body, headers: headersOf(target, body), timeoutMs: PATIENCE_MS, proxy })
    if (isClosed) return
    if (status !== null && status >= 200 && status < 300) return end(key, letter, 'delivered', status)
    const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** tries) * (0.5 + random.next() / 2)
    if (clock.wall() + pauseMs >= letter.since + GIVEN_UP_MS) return end(key, letter, 'given-up', status)
    pauses.set(
      key,
      clock.after(pauseMs, () => void send(key, letter, tries + 1)),
    )
  }

  async function end(
    key: string,
    { event }: Letter,
    outcome: 'delivered' | 'given-up',
    status: number | null,
  ): Promise<void> {
    pauses.delete(key)
    done(outcome, event, status)
    await outbox.put([{ space: SPACE, key, value: null, expiresAt: null }])
  }
}

/** The body is what is signed; the time of the event and its id are in it. */
function headersOf({ secret }: Target, body: string): Readonly<Record<string, string>> {
  const type = { 'content-type': 'application/json; charset=utf-8' }
  if (secret === null) return type
  return { ...type, 'x-proxy-signature': `sha256=${createHmac('sha256', secret).update(body).digest('hex')}` }
}
