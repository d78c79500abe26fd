/**
 * Time that runs as fast as the work in it: it stands still while something happens and then jumps to the next timer. Timers
 * are a heap, so a million of them cost no more each than a thousand; those that are due together fire in the order in which
 * they were set, and what waits for one has settled before the next.
 */
import type { Clock, Timer } from '../ports.ts'

export interface VirtualClock extends Clock {
  /** Resolves when no timer is left. Rejects with what a timer throws. */
  run(): Promise<void>
  /** Timers that are set. */
  readonly timers: number
}

interface Armed {
  readonly at: number
  readonly number: number
  /** Null = cancelled. */
  job: (() => void) | null
}

/** So many timers are queued for one turn of the event loop: between two of them all promises settle anyway. */
const PER_TURN = 64
/** Cancelled timers stay in the heap until they outnumber the others by this. */
const MOST_DEAD = 1_024

/** `soon` runs a job after all promises that can settle have settled: `setImmediate`. */
export function createVirtualClock(startAt: number, soon: (job: () => void) => void): VirtualClock {
  let heap: Armed[] = []
  let now = startAt
  let count = 0
  let dead = 0

  return {
    now: () => now,
    wall: () => Math.floor(now),
    after,
    run,
    get timers() {
      return heap.length - dead
    },
  }

  function after(ms: number, job: () => void): Timer {
    const timer: Armed = { at: now + Math.max(0, ms), number: (count += 1), job }
    heap.push(timer)
    rise(heap, heap.length - 1)
    return { cancel: () => cancel(timer) }
  }

  function cancel(timer: Armed): void {
    if (timer.job === null) return
    timer.job = null
    dead += 1
    if (dead < MOST_DEAD + heap.length / 2) return
    heap = heap.filter(({ job }) => job !== null)
    for (let at = heap.length >> 1; at >= 0; at -= 1) sink(heap, at)
    dead = 0
  }

  function run(): Promise<void> {
    return new Promise((resolve, reject) => {
      let isOver = false
      turn()

      function turn(): void {
        for (let i = 0; i < PER_TURN; i += 1) soon(step)
        soon(() => (isOver ? resolve() : turn()))
      }

      function step(): void {
        if (isOver) return
        try {
          isOver = !fire()
        } catch (error) {
          isOver = true
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      }
    })
  }

  /** False = there was none. */
  function fire(): boolean {
    for (;;) {
      const timer = take(heap)
      if (!timer) return false
      const { job } = timer
      if (job === null) {
        dead -= 1
        continue
      }
      // So that cancelling it later changes nothing.
      timer.job = null
      now = Math.max(now, timer.at)
      job()
      return true
    }
  }
}

function isBefore(a: Armed, b: Armed): boolean {
  return a.at < b.at || (a.at === b.at && a.number < b.number)
}

function take(heap: Armed[]): Armed | undefined {
  const first = heap[0]
  const last = heap.pop()
  if (first === undefined || last === undefined || first === last) return first
  heap[0] = last
  sink(heap, 0)
  return first
}

function rise(heap: Armed[], from: number): void {
  let at = from
  const timer = heap[at]
  if (!timer) return
  while (at > 0) {
    const above = (at - 1) >> 1
    const parent = heap[above]
    if (!parent || !isBefore(timer, parent)) break
    heap[at] = parent
    heap[above] = timer
    at = above
  }
}

function sink(heap: Armed[], from: number): void {
  let at = from
  const timer = heap[at]
  if (!timer) return
  for (;;) {
    const left = heap[2 * at + 1]
    const right = heap[2 * at + 2]
    if (!left) break
    const isRight = right !== undefined && isBefore(right, left)
    const child = isRight ? right : left
    if (!isBefore(child, timer)) break
    heap[at] = child
    at = 2 * at + (isRight ? 2 : 1)
    heap[at] = timer
  }
}
