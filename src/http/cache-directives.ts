/**
 * The list-shaped headers of a request (pure): `Cache-Control` (RFC 9111 section 5.2.1) and `Prefer` (RFC 7240). Neither is ever an
 * error: what cannot be understood is ignored.
 */
import type { CacheDirectives } from '../model.ts'

export const noDirectives: CacheDirectives = {
  noCache: false,
  noStore: false,
  onlyIfCached: false,
  maxAgeMs: null,
  maxStaleMs: null,
  minFreshMs: null,
}
const noCacheOnly: CacheDirectives = { ...noDirectives, noCache: true }

const digits = /^\d+$/
/** A greater number of seconds counts as this: RFC 9111 section 1.2.2. */
const MOST_SECONDS = 2 ** 31

/** `Pragma` counts only where there is no `Cache-Control`. */
export function readDirectives(cacheControl: string | null, pragma: string | null): CacheDirectives {
  if (cacheControl === null) {
    if (pragma === null) return noDirectives
    return readList(pragma).has('no-cache') ? noCacheOnly : noDirectives
  }
  const directives = readList(cacheControl)
  return {
    noCache: directives.has('no-cache'),
    noStore: directives.has('no-store'),
    onlyIfCached: directives.has('only-if-cached'),
    maxAgeMs: readMs(directives.get('max-age')),
    maxStaleMs: directives.get('max-stale') === null ? Number.POSITIVE_INFINITY : readMs(directives.get('max-stale')),
    minFreshMs: readMs(directives.get('min-fresh')),
  }
}

/** How long the caller waits before a 202 will do; null = it wants the answer itself. */
export function readRespondAsync(prefer: string): number | null {
  const preferences = readList(prefer)
  return preferences.has('respond-async') ? (readMs(preferences.get('wait')) ?? 0) : null
}

/**
 * `name`, `name=token`, `name="quoted"`; parameters after `;` are not ours. The first occurrence of a name counts; one without a
 * value has null. No pattern here: two runs of spaces side by side make a regular expression quadratic.
 */
function readList(text: string): Map<string, string | null> {
  const list = new Map<string, string | null>()
  for (const member of membersOf(text)) {
    const equals = member.indexOf('=')
    const name = (equals === -1 ? member : member.slice(0, equals)).trim().toLowerCase()
    if (!list.has(name)) list.set(name, equals === -1 ? null : unquote(member.slice(equals + 1).trim()))
  }
  return list
}

/** Commas and semicolons inside a quoted string separate nothing (RFC 9110 section 5.6.4). */
function* membersOf(text: string): Generator<string> {
  let start = 0
  /** Where the parameters of this member begin. */
  let end: number | null = null
  let isQuoted = false
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at]
    if (isQuoted && character === '\\') at += 1
    else if (character === '"') isQuoted = !isQuoted
    else if (!isQuoted && character === ';') end ??= at
    else if (!isQuoted && character === ',') {
      yield text.slice(start, end ?? at)
      start = at + 1
      end = null
    }
  }
  yield text.slice(start, end ?? text.length)
}

function unquote(value: string): string {
  return value.length > 1 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value
}

function readMs(value: string | null | undefined): number | null {
  return value !== null && value !== undefined && digits.test(value)
    ? Math.min(Number(value), MOST_SECONDS) * 1000
    : null
}
