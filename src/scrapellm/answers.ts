/**
 * The bodies of upstream's replies: are they what was paid for, and what do they say to those who did not pay? Bodies are
 * hostile until parsed: nothing here recurses on them or copies a property of theirs into an object of ours.
 */
export type JsonObject = Readonly<Record<string, unknown>>

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Bodies that were parsed before: what is known to be an object is not parsed again to be marked. */
const objects = new WeakSet<Buffer>()

/** Null when the body is cut off, not JSON, not UTF-8, or not an object. */
export function parseObject(body: Buffer): JsonObject | null {
  try {
    const value: unknown = JSON.parse(utf8.decode(body))
    if (!isObject(value) || Array.isArray(value)) return null
    objects.add(body)
    return value
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
const marks: ReadonlyMap<string, string> = new Map([
  ['cached', 'true'],
  ['credits_used', '0'],
])

/**
 * The body with its marks set, or as it was when it is not a JSON object. Only the two values change, and the white space
 * around them: numbers beyond a double, the order of members and repeated ones stay as upstream wrote them.
 */
export function replay(body: Buffer): Buffer {
  return objects.has(body) || parseObject(body) ? withMembers(body, marks, 'replace') : body
}

/** An object with these members, JSON each, where it lacks them. */
export function complete(body: Buffer, members: ReadonlyMap<string, string>): Buffer {
  return withMembers(body, members, 'keep')
}

/** The value of an object's member as upstream wrote it; of repeated ones the last, as every parser reads it. */
export function memberOf(body: Buffer, wanted: string): Buffer | null {
  let value: Buffer | null = null
  for (const { name, from, to } of topMembers(body)) if (name === wanted) value = body.subarray(from, to)
  return value
}

function withMembers(body: Buffer, members: ReadonlyMap<string, string>, present: 'replace' | 'keep'): Buffer {
  const pieces: Buffer[] = []
  const missing = new Map(members)
  let copiedTo = 0
  let count = 0
  for (const { name, from, to } of topMembers(body)) {
    count += 1
    const value = members.get(name)
    if (value === undefined) continue
    missing.delete(name)
    if (present === 'keep') continue
    pieces.push(body.subarray(copiedTo, from), Buffer.from(value))
    copiedTo = to
  }
  const closing = body.lastIndexOf('}')
  const added = [...missing].map(([name, value]) => `"${name}":${value}`).join(',')
  const comma = count > 0 && added !== '' ? ',' : ''
  pieces.push(body.subarray(copiedTo, closing), Buffer.from(comma + added), body.subarray(closing))
  return joined(pieces)
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
function* topMembers(body: Buffer): Generator<Member> {
  let depth = 0
  let name: string | null = null
  let from = 0
  for (let at = 0; at < body.length; at += 1) {
    const here = body[at]
    if (here === byte.quote) {
      const end = endOfString(body, at)
      if (name === null) name = String(JSON.parse(utf8.decode(body.subarray(at, end))))
      at = end - 1
    } else if (here === byte.open[0] || here === byte.open[1]) {
      depth += 1
    } else if (here === byte.colon && depth === 1) {
      from = at + 1
    } else if (here === byte.comma || here === byte.close[0] || here === byte.close[1]) {
      if (depth === 1 && name !== null) {
        yield { name, from, to: at }
        name = null
      }
      if (here !== byte.comma) depth -= 1
    }
  }
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
