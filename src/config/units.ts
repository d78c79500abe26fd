/**
 * Durations and sizes as people write them (`30s`, `64KiB`), read into milliseconds and bytes and written back.
 * A number without a unit is never guessed at: it is refused with the spelling that was probably meant.
 */

interface Scale {
  readonly units: Readonly<Record<string, number>>
  /** Spellings we do not take, but recognise well enough to say what to write instead. */
  readonly misspelt: Readonly<Record<string, string>>
  readonly zero: string
  readonly examples: string
}

const durations: Scale = {
  units: { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 },
  misspelt: {
    ...words('ms', 'msec msecs millis millisecond milliseconds'),
    ...words('s', 'sec secs second seconds'),
    ...words('m', 'min mins minute minutes'),
    ...words('h', 'hr hrs hour hours'),
    ...words('d', 'day days'),
  },
  zero: '0s',
  examples: '250ms, 30s, 5m, 24h or 30d',
}

const sizes: Scale = {
  units: { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 },
  misspelt: {
    ...words('B', 'b byte bytes'),
    ...words('KiB', 'k kb kib'),
    ...words('MiB', 'm mb mib'),
    ...words('GiB', 'g gb gib'),
  },
  zero: '0B',
  examples: '64KiB, 256MiB or 2GiB',
}

export const durationPattern = /^\d{1,9}(ms|s|m|h|d)$/
export const sizePattern = /^\d{1,9}(B|KiB|MiB|GiB)$/

/** Milliseconds, or null when the text is not a duration. */
export function parseDuration(text: string): number | null {
  return durationPattern.test(text) ? read(durations, text) : null
}

/** Bytes, or null when the text is not a size. */
export function parseSize(text: string): number | null {
  return sizePattern.test(text) ? read(sizes, text) : null
}

/** In the largest unit that gives a whole number: 90 minutes are `90m`, two hours `2h`. */
export function formatDuration(ms: number): string {
  return write(durations, ms)
}

export function formatSize(bytes: number): string {
  return write(sizes, bytes)
}

/** What to write instead of a text that `parseDuration` refused. */
export function durationHint(text: string): string {
  return hint(durations, text, (count) => `write ${count}s for seconds or ${count}ms for milliseconds`)
}

/** What to write instead of a text that `parseSize` refused. */
export function sizeHint(text: string): string {
  return hint(sizes, text, (count) => `write ${count}B for bytes or ${count}MiB for mebibytes`)
}

function words(unit: string, list: string): Record<string, string> {
  return Object.fromEntries(list.split(' ').map((word) => [word, unit]))
}

function read(scale: Scale, text: string): number {
  const count = Number.parseInt(text, 10)
  const unit = text.replace(/^\d+/, '')
  return count * (scale.units[unit] ?? Number.NaN)
}

function write(scale: Scale, amount: number): string {
  if (amount === 0) return scale.zero
  const fitting = Object.entries(scale.units).findLast(([, factor]) => amount % factor === 0)
  if (fitting === undefined) throw new RangeError(`${amount} is not a whole number of the smallest unit`)
  return `${amount / fitting[1]}${fitting[0]}`
}

function hint(scale: Scale, text: string, bare: (count: string) => string): string {
  const trimmed = text.trim().slice(0, 40)
  if (/^\d{1,9}$/.test(trimmed)) return bare(trimmed)
  const amount = guess(scale, trimmed)
  if (amount === null) return `write a number and a unit, such as ${scale.examples}`
  return `write ${write(scale, amount)}`
}

/** `10 minutes`, `1.5h` and `1h30m` are clear enough to say what was meant; null when they are not. */
function guess(scale: Scale, text: string): number | null {
  if (!/^(\d+(\.\d+)? ?[a-z]+ ?)+$/i.test(text)) return null
  let sum = 0
  for (const [, count, word] of text.matchAll(/(\d+(?:\.\d+)?) ?([a-z]+)/gi)) {
    const factor = factorOf(scale, word ?? '')
    if (factor === null) return null
    sum += Number(count) * factor
  }
  return Number.isSafeInteger(sum) ? sum : null
}

function factorOf(scale: Scale, word: string): number | null {
  const unit = Object.hasOwn(scale.units, word) ? word : scale.misspelt[word.toLowerCase()]
  const known = unit ?? (Object.hasOwn(scale.units, word.toLowerCase()) ? word.toLowerCase() : '')
  return scale.units[known] ?? null
}
