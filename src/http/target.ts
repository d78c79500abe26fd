/**
 * The request target, decoded exactly once (pure). What leaves here has one meaning: everything that two programs could
 * read differently (dot segments, encoded separators, backslashes, broken escapes) is refused. Knows no route.
 */
import { ProxyError } from '../errors.ts'
import type { Param, Target } from '../model.ts'

/** 4,000 characters of a prompt may be 48 kB of percent-encoding. */
const maxTargetChars = 64 * 1024
/** What a token may come under by mistake: it would be forwarded to upstream as an unknown parameter. */
const misspelled = /^(?:x[-_]?)?api[-_]?key$/i
/** Beyond this a target costs more to remember than to read again. */
const maxRememberedChars = 2 * 1024

export const encodeHint =
  'a character that must be percent-encoded, such as a space or a letter beyond ASCII (curl: -G --data-urlencode; elsewhere: let the library build the query string).'

const notPlain = /[^\x21-\x7e]|[#\\]/
/** `/`, `\` and control characters in disguise: harmless in a value, never in a path. */
const disguised = /%(?:2f|5c|[01][0-9a-f]|7f)/i
const dotSegment = /\/\.{1,2}(?:\/|$)/

const absolute = /^https?:\/\/([^/?]*)(\/?[^]*)$/i

/**
 * The target as a path, and the host that it names when it is in absolute form, which a server must accept (RFC 9112 section
 * 3.2.2). Null = in origin form.
 */
export function readOwnTarget(raw: string): { readonly origin: string | null; readonly target: string } {
  const [, origin, rest = ''] = raw.startsWith('/') ? [] : (absolute.exec(raw) ?? [])
  if (origin === undefined) return { origin: null, target: raw }
  return { origin, target: rest.startsWith('/') ? rest : `/${rest}` }
}

export function readTarget(raw: string): Target {
  if (raw.length > maxTargetChars) throw invalid('The request target is longer than 64 KiB: shorten it.', 414)
  if (!raw.startsWith('/') || raw.startsWith('//'))
    throw invalid('The request target must be a path on this host, starting with one slash.')
  if (notPlain.test(raw)) throw invalid(`The request target holds a fragment, or ${encodeHint}`)

  const mark = raw.indexOf('?')
  const path = readPath(mark === -1 ? raw : raw.slice(0, mark))
  return { path, ...readQuery(mark === -1 ? '' : raw.slice(mark + 1)) }
}

/**
 * The same, remembering the targets of late: a question that is asked often comes as the same bytes, and then gives the
 * same object. From the second time on, because most misses never come again, and what is remembered grows old. Two
 * generations bound the memory; targets that carry a token are never kept.
 */
export function createTargets(generation = 2048): (raw: string) => Target {
  type Seen = Target | 'once'
  let young = new Map<string, Seen>()
  let old = new Map<string, Seen>()

  return function target(raw) {
    const known = young.get(raw) ?? old.get(raw)
    const read = known === undefined || known === 'once' ? readTarget(raw) : known
    if (raw.length < maxRememberedChars && read.token === null) remember(raw, known === undefined ? 'once' : read)
    return read
  }

  function remember(raw: string, seen: Seen): void {
    if (young.get(raw) === seen) return
    if (young.size >= generation && !young.has(raw)) {
      old = young
      young = new Map()
    }
    young.set(raw, seen)
  }
}

function readPath(raw: string): string {
  if (disguised.test(raw)) throw invalid('The path contains an encoded separator or control character.')
  const path = decode(raw)
  if (dotSegment.test(path)) throw invalid('The path contains a dot segment.')
  return path
}

function readQuery(query: string): { params: readonly Param[]; token: string | null } {
  const params: Param[] = []
  let token: string | null = null
  for (const pair of query.split('&')) {
    if (pair === '') continue
    const equals = pair.indexOf('=')
    const name = decodeForm(equals === -1 ? pair : pair.slice(0, equals))
    const value = decodeForm(equals === -1 ? '' : pair.slice(equals + 1))
    if (name !== 'api_key') {
      if (misspelled.test(name)) throw invalid('The token parameter must be spelled "api_key".')
      params.push([name, value])
      continue
    }
    if (token !== null) throw invalid('The parameter "api_key" is given twice: send it once.')
    token = value
  }
  return { params, token: token === '' ? null : token }
}

function decodeForm(text: string): string {
  const value = decode(text.includes('+') ? text.replaceAll('+', ' ') : text)
  if (value.includes('\0')) throw invalid('The query contains a NUL character.')
  return value
}

function decode(text: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    throw invalid('The request target contains a percent escape that is incomplete or not UTF-8.')
  }
}

function invalid(detail: string, status = 400): ProxyError {
  return new ProxyError('REQUEST_INVALID', detail, { status, close: true })
}
