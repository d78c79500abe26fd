/**
 * How the last hour and the last day went, for the pictures of the status page: requests by outcome, latency of misses, credits,
 * open questions, and marks for what changed. Bounded: the hour in steps of 10 s, the day in steps of 5 min with two hours more,
 * so that now can be compared with the same hour of the day before. The steps of the day survive a restart where there is a store.
 *
 * There is no timer: a step is closed by the first event or look after its end.
 */
import type { Exchange, Outcome } from '../model.ts'
import type { Clock, Disk } from '../ports.ts'
import type { Access } from './access-log.ts'
import type { EventOf, OperatorAct, OperatorAction } from './events.ts'
import {
  bucketOf,
  emptySlot,
  type Hour,
  hourFrom,
  numbersOf,
  type Slot,
  slotFrom,
  type Step,
  stepFrom,
} from './history-step.ts'
import { outcomeNames } from './outcome-status.ts'

export interface Mark {
  readonly at: number
  readonly text: string
}

/** What an operator did on the admin port. */
export interface Act extends Mark, Pick<OperatorAct, 'from' | 'by'> {}

/** The events that have a mark, or tell that something is wrong. */
const kinds = [
  'reloaded',
  'breaker-changed',
  'key-changed',
  'redis-changed',
  'disk-changed',
  'audit-changed',
  'budget-used',
  'overload-changed',
  'operator-acted',
] as const

export interface History {
  ended(exchange: Exchange, outcome: Outcome, access: Access): void
  begin(): void
  readonly kinds: typeof kinds
  note(event: EventOf<(typeof kinds)[number]>): void
  steps(span: Span): readonly Step[]
  /** The latest last. */
  marks(span: Span): readonly Mark[]
  /** The last 60 minutes, and the same 60 minutes a day ago; null = not known. */
  hours(): { readonly now: Hour; readonly dayAgo: Hour | null }
  /** What operators did, the latest first. */
  acts(): readonly Act[]
  /** When what is wrong now began: by the name of the circuit, key or store. */
  troubles(): readonly Mark[]
  /** Takes over what an earlier process has kept there, and keeps closed steps of the day from now on. */
  keepIn(store: Store): void
}

interface HistoryPorts {
  readonly clock: Clock
  /** Totals since the start. */
  readonly credits: () => { readonly spent: number; readonly saved: number }
  /** Requests that wait now; the one that ends is no more of them. */
  readonly open: () => number
}

type Store = Pick<Disk, 'put' | 'list'>
const space = 'history'

const spans = {
  hour: { stepMs: 10_000, steps: 360 },
  day: { stepMs: 5 * 60_000, steps: 26 * 12 },
} as const
export type Span = keyof typeof spans

export const stepMsOf = (span: Span): number => spans[span].stepMs
/** What the picture of a span shows: the day, without the two hours more. */
export const shownMsOf = { hour: 3_600_000, day: 86_400_000 } as const

const marksKept = 200
const actsKept = 5

class TrafficHistory implements History {
  readonly kinds = kinds
  readonly #clock: Clock
  readonly #open: () => number
  readonly #credits: () => { readonly spent: number; readonly saved: number }
  readonly #rings = { hour: new Map<number, Slot>(), day: new Map<number, Slot>() }
  readonly #latestAt = { hour: 0, day: 0 }
  readonly #marks: Mark[] = []
  readonly #acts: Act[] = []
  readonly #wrong = new Map<string, Mark>()
  /** As of the last event. */
  #openQuestions = 0
  #counted = { spent: 0, saved: 0 }
  #store: Store | null = null

  constructor({ clock, credits, open }: HistoryPorts) {
    this.#clock = clock
    this.#open = open
    this.#credits = credits
    this.#mark('started')
  }

  readonly begin = (): void => {
    const { hour, day } = this.#roll()
    this.#openQuestions = this.#open()
    for (const slot of [hour, day]) slot.open = Math.max(slot.open, this.#openQuestions)
  }

  readonly ended: History['ended'] = (_exchange, outcome, access) => {
    const { status, cache, durationMs, outcome: name } = access
    const { hour, day } = this.#roll()
    this.#openQuestions = this.#open()
    const index = name === null ? null : outcomeNames.indexOf(name)
    const latency = outcome.kind === 'fetched' && outcome.role === 'leader' && cache !== 'none' ? durationMs : null
    for (const slot of [hour, day]) {
      if (index !== null) slot.requests[index] = (slot.requests[index] ?? 0) + 1
      if (latency === null || status !== 200) continue
      const bucket = bucketOf(latency)
      slot.latencies[bucket] = (slot.latencies[bucket] ?? 0) + 1
    }
  }

  readonly note: History['note'] = (event) => {
    if (event.kind === 'reloaded') {
      this.#mark(event.result === 'invalid' ? 'settings refused' : `settings no. ${event.generation}`)
      this.#went('settings', event.result === 'invalid')
    } else if (event.kind === 'breaker-changed') {
      if (event.to !== 'half-open' && !event.isStillOpen)
        this.#mark(`circuit of ${event.scraper} ${event.to === 'open' ? 'opened' : 'closed'}`)
      this.#went(`circuit of ${event.scraper}`, event.to !== 'closed')
    } else if (event.kind === 'key-changed') {
      this.#mark(`key ${event.key} ${event.to}`)
      this.#went(`key ${event.key}`, event.to !== 'ready')
    } else if (event.kind === 'redis-changed') {
      this.#mark(`Redis ${event.to}`)
      this.#went('Redis', event.to !== 'up')
    } else if (event.kind === 'disk-changed') {
      this.#mark(`disk ${event.to}`)
      this.#went(`disk ${event.file}`, event.to !== 'up')
    } else if (event.kind === 'audit-changed') {
      this.#went('audit file', event.to === 'down')
    } else if (event.kind === 'budget-used') {
      if (event.percent < 100) return
      // Once per period: the last one is over.
      this.#went(`budget of ${event.client} for the ${event.period.kind}`, false)
      this.#went(`budget of ${event.client} for the ${event.period.kind}`, true)
    } else if (event.kind === 'overload-changed') {
      this.#mark(event.to === 'calm' ? 'overload is over' : 'overload')
      this.#went('overload', event.to !== 'calm')
    } else {
      this.#acts.unshift({
        at: this.#clock.wall(),
        text: actTexts[event.action](event.what),
        from: event.from,
        by: event.by,
      })
      this.#acts.splice(actsKept)
      if (event.action === 'purge') this.#mark('answers purged')
    }
  }

  readonly steps = (span: Span): readonly Step[] => {
    this.#roll()
    this.#settle()
    const from = this.#clock.wall() - shownMsOf[span]
    return this.#slots(span, from, Infinity).map(stepFrom)
  }

  readonly hours = (): { now: Hour; dayAgo: Hour | null } => {
    this.#roll()
    this.#settle()
    const now = this.#clock.wall()
    const dayAgo = this.#slots('day', now - 25 * 3_600_000, now - 24 * 3_600_000)
    return {
      now: hourFrom(this.#slots('hour', now - 3_600_000, now), now),
      dayAgo: dayAgo.length > 0 ? hourFrom(dayAgo, now - 24 * 3_600_000) : null,
    }
  }

  readonly marks: History['marks'] = (span) => this.#marks.filter(({ at }) => at > this.#clock.wall() - shownMsOf[span])

  readonly acts: History['acts'] = () => [...this.#acts]

  readonly troubles: History['troubles'] = () => [...this.#wrong.values()]

  readonly keepIn = (opened: Store): void => {
    this.#store = opened
    const now = this.#clock.wall()
    const oldest = now - spans.day.steps * spans.day.stepMs
    const kept = Array.from(opened.list(space), ([key, value]) => slotFrom(Number(key), value))
    for (const slot of kept) if (slot && slot.at > oldest && slot.at <= now) this.#rings.day.set(slot.at, slot)
  }

  /** Closes steps that are over and opens those of now; what credits changed since belongs to the step before. */
  #roll(): Readonly<Record<Span, Slot>> {
    const now = this.#clock.wall()
    return { hour: this.#slotOf('hour', now), day: this.#slotOf('day', now) }
  }

  #slotOf(span: Span, now: number): Slot {
    const { stepMs, steps } = spans[span]
    const at = Math.floor(now / stepMs) * stepMs
    const ring = this.#rings[span]
    const current = at === this.#latestAt[span] ? ring.get(at) : undefined
    if (current) return current
    this.#settle()
    if (span === 'day') this.#keepLatest()
    const slot = ring.get(at) ?? emptySlot(at, this.#openQuestions)
    ring.delete(at)
    ring.set(at, slot)
    this.#latestAt[span] = at
    // A clock that was set back leaves steps of the future: they go as well.
    for (const key of ring.keys()) if (key <= at - steps * stepMs || key > at) ring.delete(key)
    return slot
  }

  #keepLatest(): void {
    const latest = [...this.#rings.day.values()].at(-1)
    if (!latest) return
    const expiresAt = latest.at + spans.day.steps * spans.day.stepMs
    this.#store?.put([{ space, key: String(latest.at), value: numbersOf(latest), expiresAt }])
  }

  #settle(): void {
    const { spent, saved } = this.#credits()
    for (const ring of [this.#rings.hour, this.#rings.day]) {
      const latest = [...ring.values()].at(-1)
      if (!latest) continue
      latest.spent += spent - this.#counted.spent
      latest.saved += saved - this.#counted.saved
    }
    this.#counted = { spent, saved }
  }

  #mark(text: string): void {
    const latest = this.#marks.at(-1)
    // A circuit that opens again and again within a step is one mark.
    if (latest?.text === text && this.#clock.wall() - latest.at < spans.hour.stepMs) return
    this.#marks.push({ at: this.#clock.wall(), text })
    if (this.#marks.length > marksKept) this.#marks.shift()
  }

  #went(name: string, isWrong: boolean): void {
    if (!isWrong) this.#wrong.delete(name)
    else if (!this.#wrong.has(name)) this.#wrong.set(name, { at: this.#clock.wall(), text: name })
  }

  #slots(span: Span, from: number, to: number): readonly Slot[] {
    return [...this.#rings[span].values()].filter(({ at }) => at > from && at <= to).toSorted((a, b) => a.at - b.at)
  }
}

export function createHistory(ports: HistoryPorts): History {
  return new TrafficHistory(ports)
}

const actTexts: Readonly<Record<OperatorAction, (what: OperatorAct['what']) => string>> = {
  'key-try': ({ key }) => `key ${key} is tried with the next request`,
  'circuit-close': ({ scraper }) => `circuit of ${scraper} closed`,
  purge: ({ purged }) => `${purged} answers purged`,
  reload: ({ result, generation }) => (result === 'invalid' ? 'settings refused' : `settings no. ${generation}`),
  credits: ({ client, before, spent }) => `${client} has spent ${spent} credits this month, not ${before}`,
}
