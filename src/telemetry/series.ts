/**
 * Counters and histograms as plain integers: a count costs a few map look-ups and an addition, and becomes text only when
 * somebody scrapes. Every label has a closed list of values; what is not in it is counted under the list's stand-in, so a
 * family never grows beyond the product of its lists. Knows nothing of the metrics library.
 */
export type LabelValue = string | number

export interface ClosedList {
  readonly has: (value: LabelValue) => boolean
  /** The value of the list that takes the place of a stranger. */
  readonly standIn: (stranger: LabelValue) => LabelValue
}

export interface Sample {
  /** Set where a metric's lines have names of their own, as a histogram's have. */
  readonly metricName?: string
  readonly labels: Readonly<Record<string, LabelValue>>
  readonly value: number
  /** One of those that were counted in this bucket. */
  readonly example?: Example
}

export interface Example {
  readonly id: string
  readonly value: number
}

export interface Counter<Values extends readonly LabelValue[]> {
  add(amount: number, ...values: Values): void
  samples(): Sample[]
}

export interface Histogram<Values extends readonly LabelValue[]> {
  observe(seconds: number, ...values: Values): void
  /** The same, and `id` is remembered as the latest example of its bucket. */
  observeAs(id: string, seconds: number, ...values: Values): void
  samples(): Sample[]
}

export interface Label {
  readonly name: string
  readonly list: ClosedList
}

export function createCounter<Values extends readonly LabelValue[]>(labels: readonly Label[]): Counter<Values> {
  const cells = createCells(labels, () => ({ value: 0 }))
  return {
    add(amount, ...values) {
      cells.at(values).value += amount
    },
    samples: () => cells.all().map(({ labels, cell }) => ({ labels, value: cell.value })),
  }
}

/** `bounds` are the upper limits of the buckets, ascending; the last bucket, without a limit, comes by itself. */
export function createHistogram<Values extends readonly LabelValue[]>(
  name: string,
  labels: readonly Label[],
  bounds: readonly number[],
): Histogram<Values> {
  const cells = createCells(labels, () => ({
    counts: Array<number>(bounds.length + 1).fill(0),
    sum: 0,
    count: 0,
    examples: new Map<number, Example>(),
  }))

  /** Says which bucket. */
  function count(cell: ReturnType<typeof cells.at>, seconds: number): number {
    cell.sum += seconds
    cell.count += 1
    let bucket = 0
    while (bucket < bounds.length && seconds > (bounds[bucket] ?? 0)) bucket += 1
    cell.counts[bucket] = (cell.counts[bucket] ?? 0) + 1
    return bucket
  }

  return {
    observe: (seconds, ...values) => void count(cells.at(values), seconds),
    observeAs(id, seconds, ...values) {
      const cell = cells.at(values)
      cell.examples.set(count(cell, seconds), { id, value: seconds })
    },
    samples: () =>
      cells.all().flatMap(({ labels, cell }) => {
        let below = 0
        const buckets = [...bounds, '+Inf'].map((bound, index) => {
          below += cell.counts[index] ?? 0
          const example = cell.examples.get(index)
          const line = { metricName: `${name}_bucket`, labels: { ...labels, le: bound }, value: below }
          return example ? { ...line, example } : line
        })
        return [
          ...buckets,
          { metricName: `${name}_sum`, labels, value: cell.sum },
          { metricName: `${name}_count`, labels, value: cell.count },
        ]
      }),
  }
}

interface Branch<Cell> {
  readonly below: Map<LabelValue, Branch<Cell>>
  cell: Cell | null
}

/**
 * One cell per combination of label values that was seen: a tree with a level per label, so that no key is ever built. The first
 * label, which is the client's where there is one, is looked at last: of ten thousand clients each has a leaf, not a tree.
 */
function createCells<Cell>(labels: readonly Label[], make: () => Cell) {
  const root: Branch<Cell> = { below: new Map(), cell: null }
  const known: { readonly labels: Readonly<Record<string, LabelValue>>; readonly cell: Cell }[] = []

  function at(values: readonly LabelValue[]): Cell {
    let branch = root
    for (let level = labels.length - 1; level >= 0; level--) {
      const value = values[level] ?? ''
      branch = branch.below.get(value) ?? grow(branch, level, value)
    }
    return branch.cell ?? open(branch, values)
  }

  function grow(branch: Branch<Cell>, level: number, value: LabelValue): Branch<Cell> {
    const allowed = close(level, value)
    const existing = branch.below.get(allowed)
    if (existing) return existing
    const grown: Branch<Cell> = { below: new Map(), cell: null }
    branch.below.set(allowed, grown)
    return grown
  }

  function open(branch: Branch<Cell>, values: readonly LabelValue[]): Cell {
    const cell = (branch.cell = make())
    known.push({ labels: Object.fromEntries(labels.map(({ name }, i) => [name, close(i, values[i] ?? '')])), cell })
    return cell
  }

  function close(level: number, value: LabelValue): LabelValue {
    const list = labels[level]?.list
    return !list || list.has(value) ? value : list.standIn(value)
  }

  return { at, all: (): typeof known => known }
}
