/**
 * What a setting can be: kinds of values, their limits, and the sentence for a value that is wrong. In messages `{found}` stands for
 * what the file says; the loader fills it in, because only it knows whether that may be shown.
 */
import * as z from 'zod'
import { Secret, sendable } from '../keys/secret.ts'
import {
  durationHint,
  durationPattern,
  formatDuration,
  formatSize,
  parseDuration,
  parseSize,
  sizeHint,
  sizePattern,
} from './units.ts'

/** What printing a value needs to know beyond its type; kept out of the JSON Schema. `limits` are as people write them. */
export const fieldMetadata = z.registry<{
  kind: 'duration' | 'size' | 'secret' | 'digest' | 'access' | 'webhook'
  limits?: readonly [least: string, most: string]
}>()

const namePattern = /^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/

const nameRule = 'use letters, digits, "-" and "_", at most 63 in all, the first a letter or digit'

export const day = 86_400_000

/** Node's timers end at 2^31 ms. */
export const longestTimer = 24 * day

/** Null when a client may be called so; `anonymous` has no token. */
export function wrongClientName(written: string): string | null {
  if (!namePattern.test(written)) return `${JSON.stringify(written)} cannot be a client's name; ${nameRule}`
  return written === 'anonymous' ? '"anonymous" stands for callers without a token; choose another name' : null
}

export function live<T extends z.ZodType>(schema: T, description: string): T {
  return schema.meta({ description, reload: 'live' })
}

export function restart<T extends z.ZodType>(schema: T, description: string): T {
  return schema.meta({ description, reload: 'restart' })
}

export function map<T extends z.ZodRawShape>(shape: T) {
  return z.strictObject(shape, { error: 'expected a map, found {found}' })
}

export function list<T extends z.ZodType>(item: T) {
  const error = 'expected a list with at least one item, found {found}'
  return z.array(item, { error }).min(1, { error })
}

export function text(what: string) {
  const error = `expected ${what}, found {found}`
  return z.string({ error }).min(1, { error }).max(2000, { error })
}

export function name(what: string) {
  const error = `{found} cannot be ${what}; ${nameRule}`
  return z.string({ error: `expected ${what}, found {found}` }).regex(namePattern, { error })
}

export function hostName() {
  const error = 'expected a host name without a port, such as proxy.example.com, found {found}'
  const schema = z.string({ error }).regex(/^[\w.-]+$/, { error })
  return schema.transform((written) => written.toLowerCase())
}

/** Scheme, host and port; never shown in messages, because it may carry credentials. */
export function origin() {
  const example = 'expected a URL such as https://api.example.com'
  return z.string({ error: example }).transform((written, context) => {
    const url = URL.parse(written)
    if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '') return refuse(context, example)
    const surplus = surplusOf(url)
    if (surplus === null) return url.origin
    return refuse(context, `takes scheme, host and port only; take ${surplus} out of it`)
  })
}

function surplusOf(url: URL): string | null {
  if (url.username !== '' || url.password !== '') return 'the user name and password'
  if (url.pathname !== '/') return 'the path'
  if (url.search !== '' || url.href.includes('?')) return 'the query'
  return url.hash !== '' || url.href.includes('#') ? 'the fragment' : null
}

export function flag() {
  return z.boolean({ error: 'expected true or false, found {found}' })
}

export function count(min: number, max: number) {
  const error = `expected a whole number from ${min} to ${max}, found {found}`
  return z.int({ error }).min(min, { error }).max(max, { error })
}

export function share(what: string) {
  const error = `expected ${what}, a number above 0, up to 1, found {found}`
  return z.number({ error }).gt(0, { error }).max(1, { error })
}

export function credits() {
  return count(0, 1_000_000_000)
}

export function duration(min: number = 1, max: number = longestTimer) {
  const schema = z
    .string({ error: 'expected a duration such as 30s, found {found}' })
    .meta({ pattern: durationPattern.source })
    .transform((written, context) => {
      const ms = parseDuration(written)
      if (ms === null) return refuse(context, `{found} is not a duration; ${durationHint(written)}`)
      if (ms >= min && ms <= max) return ms
      return refuse(context, `expected a duration from ${formatDuration(min)} to ${formatDuration(max)}, found {found}`)
    })
  return schema.register(fieldMetadata, { kind: 'duration', limits: [formatDuration(min), formatDuration(max)] })
}

export function size(min: number, max: number) {
  const schema = z
    .string({ error: 'expected a size such as 64MiB, found {found}' })
    .meta({ pattern: sizePattern.source })
    .transform((written, context) => {
      const bytes = parseSize(written)
      if (bytes === null) return refuse(context, `{found} is not a size; ${sizeHint(written)}`)
      if (bytes >= min && bytes <= max) return bytes
      return refuse(context, `expected a size from ${formatSize(min)} to ${formatSize(max)}, found {found}`)
    })
  return schema.register(fieldMetadata, { kind: 'size', limits: [formatSize(min), formatSize(max)] })
}

function refuse(context: z.RefinementCtx, message: string): never {
  context.addIssue({ code: 'custom', message })
  return z.NEVER
}

export function secret(minLength: number) {
  const schema = z
    .string({ error: 'expected text, such as "${NAME}" or file:/path' })
    .regex(sendable, {
      error: 'is empty or has spaces, line ends or characters beyond ASCII; check for a stray newline',
    })
    .min(minLength, { error: `is shorter than ${minLength} characters; make one with "scrapellm-proxy token NAME"` })
    .transform((written) => new Secret(written))
  return schema.register(fieldMetadata, { kind: 'secret' })
}

export function digest() {
  const error = 'expected 64 hexadecimal digits, as "scrapellm-proxy token NAME" prints them'
  const schema = z
    .string({ error })
    .regex(/^[0-9a-fA-F]{64}$/, { error })
    .transform((written) => written.toLowerCase())
  return schema.register(fieldMetadata, { kind: 'digest' })
}

/** Of the calendar in UTC; a day means its first moment. */
export function date() {
  const error = 'expected a day such as 2027-01-31, or a time such as 2027-01-31T12:00Z, found {found}'
  return z
    .string({ error })
    .regex(/^\d{4}-\d\d-\d\d(T\d\d:\d\dZ)?$/, { error })
    .refine((written) => !Number.isNaN(Date.parse(written)), { error })
}

/** One or several, for rotation; always a list afterwards, empty when absent. */
export function oneOrMore<T extends z.ZodType>(item: T) {
  return z
    .union([item, list(item)])
    .optional()
    .transform((given) => (given === undefined ? [] : Array.isArray(given) ? given : [given]) as z.output<T>[])
}
