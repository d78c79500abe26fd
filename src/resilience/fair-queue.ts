/**
 * Those who wait for one scraper. Clients take turns: of two that both wait, one with twice the weight is let in twice as often,
 * however many questions each has (start-time fair queueing: each admission moves a client's next turn by 1 / weight). `batch` is let in
 * only when nobody `interactive` waits. Questions of one client keep their order. Knows neither time nor limits.
 */
import type { Client } from '../model.ts'
import type { QueuedClient } from '../flights.ts'

export interface FairQueue<Waiter> {
  readonly size: number
  /** Those that come for the first time. */
  readonly newcomers: number
  has(priority: Client['priority']): boolean
  /** `first`: before all others of its client, because it was let in before. */
  add(client: QueuedClient, waiter: Waiter, first: boolean): Ticket
  /** The one whose turn it is, taken out. */
  next(priority: Client['priority']): Waiter | null
  /** Who gives way when there is no room for another one of `client`: the newest of the client that waits with most for its weight, batch before interactive; null = the new one itself. */
  displaced(client: QueuedClient): Waiter | null
}

export interface Ticket {
  leave(): void
  /** To the end of this client's line. */
  move(client: QueuedClient): void
  /** As fast as its client was let in so far, its turn comes within so much of the time that it has waited. */
  isNear(share: number): boolean
}

interface Line<Waiter> {
  client: QueuedClient
  /** When its next turn is, in the queue's own time. */
  turn: number
  letIn: number
  /** Were let in before, and come first. */
  readonly repeated: Set<Waiter>
  readonly waiting: Set<Waiter>
}

export function createFairQueue<Waiter>(): FairQueue<Waiter> {
  /** An empty line stays until its turn has come, so that nobody gains by being away for a moment. */
  const lines = new Map<string, Line<Waiter>>()
  const sizes = { interactive: 0, batch: 0 }
  let newcomers = 0
  /** The turn that was taken last. */
  const now = { interactive: 0, batch: 0 }

  function add(client: QueuedClient, waiter: Waiter, first: boolean): Ticket {
    let line = lineOf(client)
    let letInBefore = line.letIn
    putIn(line, waiter, first)
    return {
      leave: () => takeOut(line, waiter, first),
      move(other) {
        takeOut(line, waiter, first)
        line = lineOf(other)
        letInBefore = line.letIn
        putIn(line, waiter, first)
      },
      isNear(share) {
        const ahead = [...placeIn(line, first)].indexOf(waiter) + (first ? 0 : line.repeated.size)
        return ahead < (line.letIn - letInBefore) * share
      },
    }
  }

  function putIn(line: Line<Waiter>, waiter: Waiter, first: boolean): void {
    placeIn(line, first).add(waiter)
    sizes[line.client.priority] += 1
    if (!first) newcomers += 1
  }

  function takeOut(line: Line<Waiter>, waiter: Waiter, first: boolean): void {
    if (!placeIn(line, first).delete(waiter)) return
    sizes[line.client.priority] -= 1
    if (!first) newcomers -= 1
  }

  function lineOf(client: QueuedClient): Line<Waiter> {
    const known = lines.get(client.name)
    if (!known) {
      const line = emptyLine<Waiter>(client, now[client.priority])
      lines.set(client.name, line)
      return line
    }
    if (known.client !== client) {
      // Other settings may be in force by now.
      sizes[known.client.priority] -= sizeOf(known)
      sizes[client.priority] += sizeOf(known)
      if (known.client.priority !== client.priority) known.turn = now[client.priority]
      known.client = client
    }
    if (sizeOf(known) === 0) known.turn = Math.max(known.turn, now[client.priority])
    return known
  }

  function next(priority: Client['priority']): Waiter | null {
    let nearest: Line<Waiter> | null = null
    for (const line of lines.values()) {
      if (sizeOf(line) === 0) {
        if (line.turn <= now[line.client.priority]) lines.delete(line.client.name)
      } else if (line.client.priority === priority && (!nearest || line.turn < nearest.turn)) nearest = line
    }
    if (!nearest) return null
    const isFirst = nearest.repeated.size > 0
    const [waiter] = placeIn(nearest, isFirst)
    if (waiter === undefined) return null
    now[priority] = Math.max(now[priority], nearest.turn)
    nearest.turn += 1 / nearest.client.weight
    nearest.letIn += 1
    takeOut(nearest, waiter, isFirst)
    return waiter
  }

  function displaced(client: QueuedClient): Waiter | null {
    let largest: Line<Waiter> | null = null
    for (const line of lines.values())
      if (line.waiting.size > 0 && (!largest || yields(line.client, line.waiting.size, largest))) largest = line
    const own = (lines.get(client.name)?.waiting.size ?? 0) + 1
    if (!largest || largest.client.name === client.name || yields(client, own, largest)) return null
    return [...largest.waiting].at(-1) ?? null
  }

  return {
    get size() {
      return sizes.interactive + sizes.batch
    },
    get newcomers() {
      return newcomers
    },
    has: (priority) => sizes[priority] > 0,
    add,
    next,
    displaced,
  }
}

function emptyLine<Waiter>(client: QueuedClient, turn: number): Line<Waiter> {
  return { client, turn, letIn: 0, repeated: new Set(), waiting: new Set() }
}

/** A client with so many questions has to give way before the other one. */
function yields<Waiter>({ priority, weight }: QueuedClient, size: number, other: Line<Waiter>): boolean {
  if (priority !== other.client.priority) return priority === 'batch'
  return size / weight >= other.waiting.size / other.client.weight
}

function placeIn<Waiter>({ repeated, waiting }: Line<Waiter>, first: boolean): Set<Waiter> {
  return first ? repeated : waiting
}

function sizeOf<Waiter>({ repeated, waiting }: Line<Waiter>): number {
  return repeated.size + waiting.size
}
