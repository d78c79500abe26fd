/** The latest of something, bounded by count and by bytes: the oldest goes first. Adding costs the same however much is in it. */

interface Weighed {
  readonly bytes: number
}

export interface TrailRing<T extends Weighed> {
  push(item: T): void
  newestFirst(): Generator<T>
  readonly oldest: T | null
  readonly count: number
  readonly bytes: number
}

export function createTrailRing<T extends Weighed>(most: number, mostBytes: number): TrailRing<T> {
  const slots: (T | undefined)[] = Array.from({ length: most })
  let start = 0
  let count = 0
  let bytes = 0

  function drop(): void {
    bytes -= slots[start]?.bytes ?? 0
    slots[start] = undefined
    start = (start + 1) % most
    count -= 1
  }

  return {
    push(item) {
      while (count > 0 && (count === most || bytes + item.bytes > mostBytes)) drop()
      if (item.bytes > mostBytes) return
      slots[(start + count) % most] = item
      count += 1
      bytes += item.bytes
    },
    *newestFirst() {
      for (let back = count - 1; back >= 0; back -= 1) {
        const item = slots[(start + back) % most]
        if (item) yield item
      }
    },
    get oldest() {
      return slots[start] ?? null
    },
    get count() {
      return count
    },
    get bytes() {
      return bytes
    },
  }
}
