/**
 * Entries as bytes for a tier that others can write to: compressed where it helps, bounded, and signed together with their
 * key, so that nothing but what a holder of the signing key wrote under this very key becomes an entry. Never throws.
 *
 * Layout: format version, "1" for an answer and "0" for "empty result", how long the entry is kept in ms as 15 digits (plain, so
 * that a script can tell its age from the time it has left), then how it is packed, a signature over key and all other bytes, and
 * the packed rest: a line of JSON and the body.
 */
import { createHmac, createSecretKey, hkdfSync, type KeyObject, timingSafeEqual } from 'node:crypto'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import type { Entry } from '../model.ts'
import type { CacheFlaw } from '../telemetry/events.ts'
import { isAnswer } from './entry.ts'

/** How far the purges had come when the entry was stored. */
export interface PurgeMark {
  /** Changes when the store has forgotten them. */
  readonly epoch: string
  readonly number: number
}

export interface Stored {
  readonly entry: Entry
  readonly mark: PurgeMark
}

export interface Codec {
  /** Null = too big. */
  encode(key: string, stored: Stored): Buffer | null
  decode(key: string, bytes: Buffer): Stored | CacheFlaw
}

export interface CodecOptions {
  /** Those of now. The first one signs; each of them is believed, so that keys can be changed one replica after the other. */
  readonly signingKeys: () => readonly KeyObject[]
  /** Of an entry, unpacked. */
  readonly maxBytes: number
}

export const FORMAT = 'B'
export const STAMP_CHARS = 17
const PACKED_AT = STAMP_CHARS
const SIGNATURE_AT = PACKED_AT + 1
const SIGNATURE_BYTES = 32
const REST_AT = SIGNATURE_AT + SIGNATURE_BYTES
const PLAIN = 0
const PACKED = 1
/** Below, packing saves nothing that counts. */
const WORTHWHILE_BYTES = 512
const LINE_END = 10
const MAX_HEAD_BYTES = 65_536
/** Of what Node can pack without a doubt, this is unpacked the fastest (measured), and reading is what happens often. */
const fast = { level: 1 }

/**
 * A signing key from a secret that all replicas have; it tells nothing about the secret. A key object, because Node makes one of a
 * buffer for each signature, which takes four times as long as to sign (measured).
 */
export function signingKeyOf(secret: string): KeyObject {
  return createSecretKey(Buffer.from(hkdfSync('sha256', secret, '', 'shared cache entries', 32)))
}

export function createCodec({ signingKeys, maxBytes }: CodecOptions): Codec {
  return { encode, decode }

  function encode(key: string, stored: Stored): Buffer | null {
    const { body } = stored.entry
    if (body.length > maxBytes) return null
    const plain = Buffer.concat([Buffer.from(`${JSON.stringify(headOf(stored))}\n`), body])
    const packed = plain.length < WORTHWHILE_BYTES ? plain : deflateRawSync(plain, fast)
    const isSmaller = packed.length < plain.length * 0.9
    const start = Buffer.from(`${stampOf(stored.entry)}${String.fromCharCode(isSmaller ? PACKED : PLAIN)}`, 'latin1')
    const rest = isSmaller ? packed : plain
    const [signingKey] = signingKeys()
    return signingKey ? Buffer.concat([start, sign(signingKey, key, start, rest), rest]) : null
  }

  function decode(key: string, bytes: Buffer): Stored | CacheFlaw {
    if (bytes.toString('latin1', 0, 1) !== FORMAT) return 'version'
    if (bytes.length <= REST_AT) return 'damaged'
    if (bytes.length > REST_AT + maxBytes + MAX_HEAD_BYTES) return 'too-big'
    const start = bytes.subarray(0, SIGNATURE_AT)
    const signature = bytes.subarray(SIGNATURE_AT, REST_AT)
    const rest = bytes.subarray(REST_AT)
    // Before anything is unpacked or parsed: what a stranger wrote goes no further.
    if (!signingKeys().some((one) => timingSafeEqual(sign(one, key, start, rest), signature))) return 'signature'
    return unpack(rest, start[PACKED_AT] === PACKED)
  }

  function unpack(rest: Buffer, isPacked: boolean): Stored | CacheFlaw {
    try {
      const plain = isPacked ? inflateRawSync(rest, { maxOutputLength: maxBytes + MAX_HEAD_BYTES }) : rest
      const lineEnd = plain.indexOf(LINE_END)
      return storedOf(JSON.parse(plain.toString('utf8', 0, lineEnd)), plain.subarray(lineEnd + 1)) ?? 'damaged'
    } catch {
      return 'damaged'
    }
  }
}

/** As long as `STAMP_CHARS`. */
function stampOf(entry: Entry): string {
  const keptMs = Math.max(0, Math.ceil(entry.keptUntil - entry.storedAt))
  return `${FORMAT}${isAnswer(entry) ? 1 : 0}${String(keptMs).padStart(15, '0')}`
}

function sign(signingKey: KeyObject, key: string, start: Buffer, rest: Buffer): Buffer {
  const name = Buffer.from(key)
  return createHmac('sha256', signingKey).update(`${name.length}:`).update(name).update(start).update(rest).digest()
}

/** A list without names: nothing that is read can become a property by accident. */
function headOf({ entry, mark }: Stored): readonly unknown[] {
  return [
    entry.status,
    entry.contentType,
    entry.etag,
    entry.storedAt,
    entry.keptUntil,
    entry.scraper,
    entry.promptHash,
    entry.country,
    entry.priceCredits,
    entry.unclaimed,
    mark.epoch,
    mark.number,
  ]
}

function storedOf(head: unknown, body: Buffer): Stored | null {
  if (!Array.isArray(head)) return null
  const [status, contentType, etag, storedAt, keptUntil, scraper, ...more] = head as unknown[]
  const [promptHash, country, priceCredits, unclaimed, epoch, number] = more
  if (!isNumber(status) || !isText(contentType) || !isText(etag) || !isText(scraper)) return null
  if (!isNumber(storedAt) || !isNumber(keptUntil) || !isNumber(priceCredits)) return null
  if (!isTextOrNull(promptHash) || !isTextOrNull(country) || typeof unclaimed !== 'boolean') return null
  if (!isText(epoch) || !isNumber(number)) return null
  // A window into what came over the wire would keep all of that alive.
  const ownBody = Buffer.allocUnsafeSlow(body.length)
  body.copy(ownBody)
  const times = { storedAt, keptUntil }
  const about = { scraper, promptHash, country, priceCredits, unclaimed }
  return { entry: { status, contentType, body: ownBody, etag, ...times, ...about }, mark: { epoch, number } }
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value)
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}

function isTextOrNull(value: unknown): value is string | null {
  return value === null || isText(value)
}
