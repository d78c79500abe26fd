/**
 * The bodies of upstream's replies: are they what was paid for, and what do they say to those who did not pay? Bodies are
 * hostile until parsed: nothing here recurses on them or copies a property of theirs into an object of ours.
 */
export type JsonObject = Readonly<Record<string, unknown>>

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Null when the body is cut off, not JSON, not UTF-8, or not an object. */
export function parseObject(body: Buffer): JsonObject | null {
  try {
    const value: unknown = JSON.parse(utf8.decode(body))
    return isObject(value) && !Array.isArray(value) ? value : null
  } catch {
    return null
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null
}

/** A status of 200 is not enough: api notes 8.2. An empty list of citations is a legitimate answer, an empty text is not. */
export function isComplete(scraper: string, body: JsonObject): boolean {
  return body['status'] === 'done' && hasContent(scraper, body)
}

function hasContent(scraper: string, body: JsonObject): boolean {
  if (isFilled(body['result']) || isFilled(body['result_markdown'])) return true
  const products = body['products']
  // Rufus answers with products and, as far as is known, without a text (api notes 1.5).
  return scraper === 'amazon_rufus' && Array.isArray(products) && products.length > 0
}

export function isFilled(value: unknown): boolean {
  return typeof value === 'string' && value !== ''
}

/** What a replayed body says. */
const marks = membersOf([
  ['cached', 'true'],
  ['credits_used', '0'],
])

/**
 * The body with its marks set, or as it was when it is not a JSON object. Only the two values change, and the white space
 * around them: numbers beyond a double, the order of members and repeated ones stay as upstream wrote them.
 */
export function replay(body: Buffer): Buffer {
  return parseObject(body) ? withMembers(body, marks, 'replace') : body
}

/** An object with these members, JSON each, where it lacks them. */
export function complete(body: Buffer, members: readonly (readonly [name: string, value: string])[]): Buffer {
  return withMembers(body, membersOf(members), 'keep')
}

function membersOf(members: readonly (readonly [name: string, value: string])[]): ReadonlyMap<string, Buffer> {
  return new Map(members.map(([name, value]) => [name, Buffer.from(value)]))
}

/** The value of an object's member as upstream wrote it; of repeated ones the last, as every parser reads it. */
export function memberOf(body: Buffer, wanted: string): Buffer | null {
  let value: Buffer | null = null
  for (const { name, from, to } of topMembers(body)) if (name === wanted) value = body.subarray(from, to)
  return value
}

function withMembers(body: Buffer, members: ReadonlyMap<string, Buffer>, present: 'replace' | 'keep'): Buffer {
  const pieces: Buffer[] = []
  const missing = new Map(members)
  let copiedTo = 0
  const found = topMembers(body)
  for (const { name, from, to } of found) {
    const value = members.get(name)
    if (value === undefined) continue
    missing.delete(name)
    if (present === 'keep') continue
    pieces.push(body.subarray(copiedTo, from), value)
    copiedTo = to
  }
  if (missing.size === 0) return joined([...pieces, body.subarray(copiedTo)])
  const closing = body.lastIndexOf('}')
  const added = Array.from(missing, ([name, value]) => `"${name}":${value.toString()}`).join(',')
  const comma = found.length > 0 ? ',' : ''
  return joined([...pieces, body.subarray(copiedTo, closing), Buffer.from(comma + added), body.subarray(closing)])
}

/** In memory of its own: a window into a shared pool would keep all of it alive as long as the body is kept. */
function joined(pieces: readonly Buffer[]): Buffer {
  const whole = Buffer.allocUnsafeSlow(pieces.reduce((bytes, piece) => bytes + piece.length, 0))
  let at = 0
  for (const piece of pieces) at += piece.copy(whole, at)
  return whole
}

interface Member {
  readonly name: string
  /** Where its value starts, and the first byte behind it. */
  readonly from: number
  readonly to: number
}

const byte = {
  quote: 0x22,
  comma: 0x2c,
  colon: 0x3a,
  open: [0x5b, 0x7b],
  backslash: 0x5c,
  close: [0x5d, 0x7d],
} as const

/** Of a body that is known to be one JSON object: then counting brackets outside of strings is all the parsing there is. */
function topMembers(body: Buffer): readonly Member[] {
  const members: Member[] = []
  let depth = 0
  let name: string | null = null
  let from = 0
  for (let at = 0; at < body.length; at += 1) {
    const here = body[at]
    if (here === byte.quote) {
      const end = endOfString(body, at)
      if (name === null) name = nameIn(body.subarray(at, end))
      at = end - 1
    } else if (here === byte.open[0] || here === byte.open[1]) {
      depth += 1
    } else if (here === byte.colon && depth === 1) {
      from = at + 1
    } else if (here === byte.comma || here === byte.close[0] || here === byte.close[1]) {
      if (depth === 1 && name !== null) {
        members.push({ name, from, to: at })
        name = null
      }
      if (here !== byte.comma) depth -= 1
    }
  }
  return members
}

/** Of a JSON string: most need no parser. */
function nameIn(quoted: Buffer): string {
  if (quoted.includes(byte.backslash)) return String(JSON.parse(utf8.decode(quoted)))
  return quoted.toString('utf8', 1, quoted.length - 1)
}

function endOfString(body: Buffer, start: number): number {
  let from = start + 1
  for (;;) {
    const quote = body.indexOf(byte.quote, from)
    let slashes = 0
    while (body[quote - 1 - slashes] === byte.backslash) slashes += 1
    // A quote behind an odd number of backslashes is one of the text.
    if (slashes % 2 === 0) return quote + 1
    from = quote + 1
  }
}
