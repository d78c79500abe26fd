/** The report of a month as JSON and as CSV, with money where the settings have a price (pure). */
import { type DayFigures, type DayRow, figureNames } from './day-sums.ts'

export interface Price {
  readonly credit: number
  readonly currency: string
}

export function reportOn(month: string, rows: readonly DayRow[], price: Price | null) {
  return {
    asJson: () => ({
      month,
      price,
      rows: rows.map((row) => ({ ...shown(row), ...moneyOf(row, price) })),
      total: { ...figuresOf(total(rows)), ...moneyOf(total(rows), price) },
    }),
    asCsv() {
      const header = { ...shown(total(rows)), ...moneyOf(total(rows), price) }
      const lines = rows.map((row) => Object.values({ ...shown(row), ...moneyOf(row, price) }))
      return [Object.keys(header), ...lines].map((cells) => `${cells.map(cell).join(',')}\r\n`).join('')
    },
  }
}

function shown({ day, client, scraper, key, ...figures }: DayRow) {
  return { day, client, scraper, key, ...figuresOf(figures) }
}

/** In the words of the metrics: `saved` is by how it was saved. */
function figuresOf({ requests, spent, uncertain, refunded, corrected, hit, joined, stale, rescued }: DayFigures) {
  return {
    requests,
    spent,
    saved_hit: hit,
    saved_joined: joined,
    saved_stale: stale,
    saved_rescued: rescued,
    uncertain,
    refunded,
    corrected,
  }
}

/** What is billed is what was spent, perhaps spent and corrected, less what was given back. */
function moneyOf(
  { spent, uncertain, refunded, corrected, hit, joined, stale, rescued }: DayFigures,
  price: Price | null,
) {
  if (!price) return {}
  const money = (credits: number): number => Number((credits * price.credit).toFixed(6))
  return {
    cost: money(spent + uncertain - refunded + corrected),
    saved: money(hit + joined + stale + rescued),
    currency: price.currency,
  }
}

function total(rows: readonly DayRow[]): DayRow {
  const sum = (name: keyof DayFigures): number => rows.reduce((all, row) => all + row[name], 0)
  const figures = Object.fromEntries(figureNames.map((name) => [name, sum(name)])) as unknown as DayFigures
  return { day: '', client: '', scraper: '', key: '', ...figures }
}

/** RFC 4180. What a spreadsheet might take for a formula cannot be in a name of the settings. */
function cell(value: string | number): string {
  const text = String(value)
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
