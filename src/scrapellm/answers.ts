/**
 * The bodies of upstream's replies, as bytes: parsed, marked as replayed, completed. Bodies are hostile until parsed: nothing here recurses
 * on them or copies a property of theirs into an object of ours.
 */
export type JsonObject = Readonly<Record<string, unknown>>

// Skips a byte-order mark.
const utf8 = new TextDecoder('utf-8', { fatal: true })

/** One JSON value, whatever it is; undefined when the body is cut off, not JSON, or not UTF-8. */
export function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(utf8.decode(body))
  } catch {
    return undefined
  }
}

/** Null when the body is not one JSON object. */
export function parseObject(body: Buffer): JsonObject | null {
  const value = parseJson(body)
  return isObject(value) && !Array.isArray(value) ? value : null
}

const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf])

/** To be put into other JSON, where a byte-order mark has no place. */
export function withoutMark(body: Buffer): Buffer {
  return body.subarray(0, 3).equals(BYTE_ORDER_MARK) ? body.subarray(3) : body
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null
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
