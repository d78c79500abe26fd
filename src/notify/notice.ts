/**
 * Which events an operator is told of by webhook, and in which words (pure). The words stand alone: in Slack and Teams nothing else
 * is shown. None of them holds a secret, a prompt or a host name.
 */
import type { EventOf } from '../telemetry/events.ts'

export type NoticeKind = 'budget' | 'key' | 'circuit' | 'store' | 'reload'

export interface Notice {
  readonly event: NoticeKind
  /** The same for what is one event: on all replicas, and after a restart. */
  readonly name: string
  /** So long it is one event; after that the same is news again. */
  readonly onceInMs: number
  readonly text: string
  readonly details: Readonly<Record<string, string | number | null | readonly string[]>>
}

const MINUTE_MS = 60_000
/** A state that comes and goes within this time is told once. */
const QUIET_MS = 15 * MINUTE_MS
const MONTH_MS = 32 * 24 * 60 * MINUTE_MS

/** The events that may be told. */
export const noticeEvents = [
  'budget-used',
  'key-changed',
  'breaker-changed',
  'disk-changed',
  'redis-changed',
  'reloaded',
] as const
export type NoticeEvent = EventOf<(typeof noticeEvents)[number]>

/** Null = not told. */
export function noticeOf(event: NoticeEvent): Notice | null {
  if (event.kind === 'budget-used') return budgetNotice(event)
  if (event.kind === 'key-changed') return keyNotice(event)
  if (event.kind === 'breaker-changed') return circuitNotice(event)
  if (event.kind === 'disk-changed') {
    return storeNotice(event.file === 'records' ? 'records file' : 'disk cache', event.to, event.because)
  }
  if (event.kind === 'redis-changed') return storeNotice('Redis', event.to, event.because)
  return reloadNotice(event)
}

function budgetNotice({
  client,
  period,
  percent,
  spentCredits,
  limitCredits,
  usedUpAt,
}: EventOf<'budget-used'>): Notice {
  const whose = client === '' ? 'The account as a whole' : `Client ${client}`
  const left = Math.max(0, limitCredits - spentCredits)
  const forecast =
    percent === 100
      ? ' Cached answers are still served; requests that cost credits are refused.'
      : usedUpAt === null
        ? ` At this pace it lasts until the ${period.kind} ends.`
        : ` At this pace it is used up ${period.kind === 'day' ? `at ${clockOf(usedUpAt)} UTC` : `on the ${ordinal(usedUpAt)}`}.`
  return {
    event: 'budget',
    name: `budget/${period.id}/${client}/${percent}`,
    onceInMs: MONTH_MS,
    text: `${whose} has spent ${percent} % of its credits for the ${period.kind} ${period.id}: ${spentCredits} of ${limitCredits}, ${left} left.${forecast}`,
    details: {
      client: client === '' ? null : client,
      period: period.kind,
      period_id: period.id,
      percent,
      spent: spentCredits,
      limit: limitCredits,
      used_up_at: iso(usedUpAt),
    },
  }
}

function keyNotice({ key, to, because, untilAt }: EventOf<'key-changed'>): Notice | null {
  // Moments of rest are daily business.
  if (to === 'resting' && because !== 'unauthorized' && because !== 'blocked') return null
  const texts = {
    ready: `Upstream key ${key} is ready again.`,
    resting: `Upstream key ${key} is refused (${because}) and rests until ${iso(untilAt)}. Replace it, then run POST /keys/${key}/try.`,
    spent: `Upstream key ${key} is out of credits and rests until ${iso(untilAt)}. Add credits, then run POST /keys/${key}/try.`,
  }
  const details = { key, state: to, because, until: iso(untilAt) }
  return { event: 'key', name: `key/${key}/${to}`, onceInMs: QUIET_MS, text: texts[to], details }
}

function circuitNotice({ scraper, to }: EventOf<'breaker-changed'>): Notice | null {
  if (to === 'half-open') return null
  const text =
    to === 'open'
      ? `The circuit of ${scraper} is open: hardly any call succeeds. Cached answers are still served.`
      : `The circuit of ${scraper} is closed: calls succeed again.`
  return {
    event: 'circuit',
    name: `circuit/${scraper}/${to}`,
    onceInMs: QUIET_MS,
    text,
    details: { scraper, state: to },
  }
}

function storeNotice(store: string, to: string, because: string | null): Notice | null {
  // The first connection after a start is no news.
  if (to === 'up' && because === null) return null
  const text = to === 'up' ? `The ${store} is back.` : `The ${store} cannot be used (${because}).`
  return {
    event: 'store',
    name: `store/${store}/${to}`,
    onceInMs: QUIET_MS,
    text,
    details: { store, state: to, because },
  }
}

function reloadNotice({ result, generation, changed, mistakes }: EventOf<'reloaded'>): Notice {
  const text =
    result === 'applied'
      ? `Settings reloaded: ${changed.join(', ') || 'nothing changed'}.`
      : `Settings not reloaded, the old ones stay in force: ${mistakes.join('; ')}`
  const name = `reload/${result}/${[...changed, ...mistakes].join(',')}`
  return { event: 'reload', name, onceInMs: QUIET_MS, text, details: { result, generation, changed, mistakes } }
}

function iso(at: number | null): string | null {
  return at !== null && Number.isFinite(at) ? new Date(at).toISOString() : null
}

function clockOf(at: number): string {
  return new Date(at).toISOString().slice(11, 16)
}

/** Of the day in the month: 1st, 2nd, 19th. */
function ordinal(at: number): string {
  const day = new Date(at).getUTCDate()
  const ending = ['th', 'st', 'nd', 'rd'][day % 10 > 3 || Math.floor(day / 10) === 1 ? 0 : day % 10] ?? 'th'
  return `${day}${ending}`
}
