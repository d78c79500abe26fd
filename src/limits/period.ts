/** Days and months of the calendar in UTC, as budgets count them (pure). A period knows its own bounds and a name that sorts by time. */

export interface Period {
  readonly kind: 'day' | 'month'
  /** `2026-01-15` or `2026-01`. */
  readonly id: string
  readonly startsAt: number
  /** The first moment of the next one. */
  readonly resetAt: number
}

export function dayOf(wallMs: number): Period {
  const at = new Date(wallMs)
  const [year, month, date] = [at.getUTCFullYear(), at.getUTCMonth(), at.getUTCDate()]
  return {
    kind: 'day',
    id: at.toISOString().slice(0, 10),
    startsAt: Date.UTC(year, month, date),
    resetAt: Date.UTC(year, month, date + 1),
  }
}

export function monthOf(wallMs: number): Period {
  const at = new Date(wallMs)
  const [year, month] = [at.getUTCFullYear(), at.getUTCMonth()]
  return {
    kind: 'month',
    id: at.toISOString().slice(0, 7),
    startsAt: Date.UTC(year, month),
    resetAt: Date.UTC(year, month + 1),
  }
}

/** The period of that name; null when there is none. */
export function periodNamed(id: string): Period | null {
  const startsAt = /^\d{4}-\d\d(-\d\d)?$/.test(id) ? Date.parse(id) : Number.NaN
  if (Number.isNaN(startsAt)) return null
  const period = id.length === 7 ? monthOf(startsAt) : dayOf(startsAt)
  return period.id === id ? period : null
}
