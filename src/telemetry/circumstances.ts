/** What stands in the way of flights, in words: circuits that are not closed, keys that rest. Told to those it concerns. */
import type { Clock } from '../ports.ts'
import type { EventOf } from './events.ts'
import { msText, type TrailEvent } from './trail.ts'

type Told = EventOf<'breaker-changed' | 'key-changed' | 'reloaded'>

interface Concerned {
  readonly call: { readonly scraper: string }
  readonly events: TrailEvent[]
}

export interface Circumstances {
  note(event: Told, aloft: Iterable<Concerned>): void
  /** What holds now for calls to this scraper. */
  standing(scraper: string): readonly TrailEvent[]
}

/** A flight that is told more than this has seen the same things over and over. */
const mostEvents = 16

export function createCircumstances(clock: Clock): Circumstances {
  const circuits = new Map<string, TrailEvent>()
  const keys = new Map<string, TrailEvent>()

  return { note, standing }

  function note(event: Told, aloft: Iterable<Concerned>): void {
    if (event.kind === 'reloaded') {
      for (const name of keys.keys()) if (!event.keys.includes(name)) keys.delete(name)
      return
    }
    const told = { at: clock.wall(), text: textOf(event) }
    const isOver = event.to === 'closed' || event.to === 'ready'
    const [known, name] = event.kind === 'key-changed' ? [keys, event.key] : [circuits, event.scraper]
    if (isOver) known.delete(name)
    else known.set(name, told)
    for (const { call, events } of aloft) {
      if (event.kind === 'breaker-changed' && event.scraper !== call.scraper) continue
      if (events.length < mostEvents) events.push(told)
    }
  }

  function standing(scraper: string): readonly TrailEvent[] {
    const circuit = circuits.get(scraper)
    return [...(circuit ? [circuit] : []), ...keys.values()].toSorted((a, b) => a.at - b.at).slice(-mostEvents)
  }
}

function textOf(event: EventOf<'breaker-changed' | 'key-changed'>): string {
  if (event.kind === 'breaker-changed') {
    const { scraper, to, openForMs, isStillOpen } = event
    const trial = openForMs === null ? '' : `; next trial in ${msText(openForMs)}`
    if (to === 'half-open') return `the circuit of ${scraper} let one call through to try`
    if (to === 'closed') return `the circuit of ${scraper} closed`
    return `the circuit of ${scraper} ${isStillOpen ? 'stayed open' : 'opened'}${trial}`
  }
  const { key, to, because, untilAt } = event
  if (to === 'ready') return `key ${key} was ready again`
  const until =
    untilAt !== null && Number.isFinite(untilAt)
      ? ` until ${new Date(untilAt).toISOString().slice(0, 19).replace('T', ' ')}`
      : ''
  return `key ${key} ${to === 'spent' ? 'was spent' : 'rested'}${because === null ? '' : ` after ${because}`}${until}`
}
