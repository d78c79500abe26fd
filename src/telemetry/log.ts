/**
 * The log of events, as JSON lines: the one door to pino. Secrets are kept out twice: fields with telling names are blanked,
 * and every known secret is blotted out of the finished line, wherever it got in. Errors are written with their stack, here
 * and nowhere else.
 */
import { pino, stdTimeFunctions } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'
export type Sink = (text: string) => void
export type Fields = Readonly<Record<string, unknown>>

export interface Log {
  debug(msg: string, fields?: Fields): void
  info(msg: string, fields?: Fields): void
  warn(msg: string, fields?: Fields): void
  /** `veiled`: texts that the error must not quote. */
  error(msg: string, fields?: Fields, veiled?: readonly string[]): void
  /** From now on these are kept out of every line. */
  hide(...secrets: readonly string[]): void
  /** From now on. */
  setLevel(level: LogLevel): void
}

export interface LogOptions {
  readonly level: LogLevel
  readonly sink: Sink
  /** Upstream keys and tokens as they are in the settings. */
  readonly secrets: readonly string[]
}

const levels: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3, silent: 4 }

/** Is a line of this level written where the log is set to `level`? */
export function writes(level: LogLevel, line: Exclude<LogLevel, 'silent'>): boolean {
  return levels[line] >= levels[level]
}

const sensitive = [
  'secret',
  'token',
  'tokens',
  'key',
  'apiKey',
  'api_key',
  'authorization',
  'password',
  'prompt',
  'target',
]
const headers = ['["x-api-key"]', 'cookie']

export function createLog({ level, sink, secrets }: LogOptions): Log {
  const known = new Set(secrets)
  let scrub = createScrubber(known)
  let veiled: readonly string[] = []
  const logger = pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: [...sensitive, ...headers].flatMap((name) => [name, `*${name.startsWith('[') ? '' : '.'}${name}`]),
        censor: '[redacted]',
      },
      serializers: { error: (error: unknown) => describeError(error, veiled) },
    },
    { write: (text: string) => sink(scrub(text)) },
  )
  return {
    debug: (msg, fields = {}) => logger.debug(fields, msg),
    info: (msg, fields = {}) => logger.info(fields, msg),
    warn: (msg, fields = {}) => logger.warn(fields, msg),
    error(msg, fields = {}, texts = []) {
      veiled = texts
      logger.error(fields, msg)
      veiled = []
    },
    hide(...more) {
      for (const secret of more) known.add(secret)
      scrub = createScrubber(known)
    },
    setLevel: (to) => void (logger.level = to),
  }
}

/** Only what we know to be harmless: libraries hang requests, headers and settings on their errors. */
function describeError(error: unknown, veiled: readonly string[]): unknown {
  if (!(error instanceof Error)) return { message: veil(String(error), veiled) }
  const { name, cause } = error
  const code = 'code' in error ? error.code : undefined
  const message = veil(unquoted(error), veiled)
  // The stack begins with the message.
  const stack = error.stack?.replace(error.message, () => message)
  return { name, message, code, stack, ...(cause === undefined ? {} : { cause: describeError(cause, veiled) }) }
}

/** What cannot be parsed is quoted by those who tried, and may be anybody's words. */
function unquoted({ name, message }: Error): string {
  return name === 'SyntaxError' ? message.replace(/"[^]*"/, '"…"') : message
}

function veil(text: string, veiled: readonly string[]): string {
  const forms = veiled
    .filter((one) => one !== '')
    .flatMap((one) => [one, JSON.stringify(one).slice(1, -1), encodeURIComponent(one)])
  return forms
    .toSorted((a, b) => b.length - a.length)
    .reduce((clean, form) => clean.replaceAll(form, () => '[prompt]'), text)
}

/** Secrets in plain, as JSON writes them, and as a URL does. */
function createScrubber(secrets: ReadonlySet<string>): (text: string) => string {
  const forms = [...secrets]
    .filter((secret) => secret !== '')
    .flatMap((secret) => [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)])
  const unique = [...new Set(forms)].toSorted((a, b) => b.length - a.length)
  return (text) => unique.reduce((clean, form) => clean.replaceAll(form, '[redacted]'), text)
}
