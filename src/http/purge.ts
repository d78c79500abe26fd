/**
 * `POST /cache/purge` of the admin port: which kept answers an operator wants gone, as a filter for the cache. Everything that
 * is given must match. To drop all of them takes `{}`: an empty body, or a misspelt name, drops nothing.
 */
import { ProxyError } from '../errors.ts'
import type { PurgeFilter } from '../model.ts'
import type { Cache } from '../parts.ts'
import { json, type AdminRoute } from './admin.ts'

export interface PurgePorts {
  readonly purge: Cache['purge']
  readonly scrapers: readonly string[]
  /** As kept answers carry it. */
  readonly promptHash: (prompt: string) => string
  /** A duration as in the settings, in milliseconds; null = it is none. */
  readonly durationMs: (text: string) => number | null
  readonly clock: { wall(): number }
}

type Read = (text: string, ports: PurgePorts) => PurgeFilter

const members: Readonly<Record<string, Read>> = {
  scraper(text, { scrapers }) {
    if (!scrapers.includes(text)) throw invalid(`scraper must be one of ${scrapers.join(', ')}.`)
    return { scraper: text }
  },
  prompt: (text, { promptHash }) => ({ promptHash: promptHash(text) }),
  country: (text) => ({ country: text.toUpperCase() }),
  olderThan(text, { durationMs, clock }) {
    const ageMs = durationMs(text)
    if (ageMs === null) throw invalid('olderThan must be a duration such as 90m, 12h or 30d.')
    return { storedBefore: clock.wall() - ageMs }
  },
}

const names = Object.keys(members)

export function createPurgeRoute(ports: PurgePorts): AdminRoute {
  return {
    method: 'POST',
    path: '/cache/purge',
    run({ body, wantsPage = false }) {
      const given = objectIn(wantsPage ? jsonOfForm(body) : body)
      const filter = filterOf(given, ports)
      const purged = ports.purge(filter)
      const { scraper, country, promptHash, storedBefore } = filter
      const what = { scraper, country, prompt_hash: promptHash, stored_before: storedBefore }
      const known = Object.entries(what).filter((one): one is [string, string | number] => one[1] !== undefined)
      return { ...json({ purged }), acted: { action: 'purge', what: { ...Object.fromEntries(known), purged } } }
    },
  }
}

/** The form of the status page must name a scraper, or all of them; what was left empty was not given. */
function jsonOfForm(body: string): string {
  const { scraper, ...others } = Object.fromEntries(new URLSearchParams(body))
  if (!scraper) throw invalid('Choose a scraper, or all of them.')
  const given = Object.entries(others).filter(([, text]) => text.trim() !== '')
  return JSON.stringify({ ...Object.fromEntries(given), ...(scraper === 'all' ? {} : { scraper }) })
}

function filterOf(wanted: object, ports: PurgePorts): PurgeFilter {
  const given = Object.entries(wanted)
  const unknown = given.map(([name]) => name).filter((name) => !Object.hasOwn(members, name))
  if (unknown.length > 0)
    throw invalid(`Unknown: ${unknown.map(quoted).join(', ')}. What can be given is ${names.join(', ')}.`)
  return Object.assign({}, ...given.map(([name, value]) => members[name]?.(textIn(name, value), ports)))
}

function objectIn(body: string): object {
  if (body.trim() === '')
    throw invalid(`The body is empty: send {} to purge everything, or some of ${names.join(', ')}.`)
  const value = parsed(body)
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw invalid('The body must be a JSON object, such as {} or {"scraper": "…"}.')
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    return null
  }
}

function textIn(name: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw invalid(`${name} must be a non-empty string.`)
}

function quoted(name: string): string {
  return JSON.stringify(name.length > 40 ? `${name.slice(0, 40)}…` : name)
}

function invalid(detail: string): ProxyError {
  return new ProxyError('REQUEST_INVALID', detail)
}
