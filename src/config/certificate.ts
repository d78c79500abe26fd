/**
 * Certificates that are given as files: whether a certificate and its key belong together, when it ends, and following the files
 * while they change. Whoever follows them has a pair that fits at any time: a bad new one changes nothing and is told.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { ConfigError } from '../errors.ts'
import { reason } from './reference.ts'
import type { Config } from './schema.ts'

/** As PEM. */
export interface Certificate {
  readonly cert: string
  readonly key: string
  /** Epoch milliseconds. */
  readonly validFrom: number
  readonly validUntil: number
}

export interface Flaw {
  readonly of: 'cert' | 'key'
  /** What to do is in it. */
  readonly text: string
}

type Files = NonNullable<Config['listen']['tls']>
type ReadFile = (path: string) => string

/** `null` = the file cannot be read. */
export function readPair(cert: string | null, key: string | null): Certificate | Flaw {
  const certificate = cert === null ? null : leafOf(cert)
  if (cert === null || certificate === null)
    return { of: 'cert', text: 'holds no certificate; expected PEM, the certificate of the host first, then its chain' }
  if (key === null || !key.includes('PRIVATE KEY'))
    return { of: 'key', text: 'holds no private key; expected PEM with "PRIVATE KEY"' }
  try {
    if (!certificate.checkPrivateKey(createPrivateKey(key)))
      return { of: 'key', text: 'does not belong to the certificate; use the key that the certificate was made for' }
  } catch {
    const text = /ENCRYPTED/.test(key)
      ? 'is encrypted; take the passphrase off it with "openssl pkey -in KEY -out NEW"'
      : 'cannot be understood; expected a private key as PEM'
    return { of: 'key', text }
  }
  return { cert, key, validFrom: certificate.validFromDate.getTime(), validUntil: certificate.validToDate.getTime() }
}

/** Null = a file with at least one certificate. */
export function authorityFlaw(path: string, readFile: ReadFile): string | null {
  const text = tryRead(path, readFile)
  if (typeof text !== 'string') return unreadable(path, text)
  return leafOf(text) === null ? `${path} holds no certificate; expected those of your CA as PEM` : null
}

/** What is wrong with the two files. */
export function pairFlaws(files: Files, readFile: ReadFile): Flaw[] {
  const [cert, key] = [tryRead(files.cert, readFile), tryRead(files.key, readFile)]
  if (typeof cert === 'string' && typeof key === 'string') {
    const read = readPair(cert, key)
    return 'of' in read ? [{ of: read.of, text: `${files[read.of]} ${read.text}` }] : []
  }
  return Object.entries({ cert, key } as const).flatMap(([of, text]) =>
    typeof text === 'string' ? [] : [{ of: of as Flaw['of'], text: unreadable(files[of as Flaw['of']], text) }],
  )
}

const soonMs = 14 * 86_400_000

/** Certificates of ours that callers will not believe, or soon no more; `now` by the wall. */
export function certificateWarnings({ listen, admin }: Config, readFile: ReadFile, now: number): string[] {
  return Object.entries({ listen, admin }).flatMap(([name, { tls }]) => {
    const cert = tls && tryRead(tls.cert, readFile)
    const certificate = typeof cert === 'string' ? leafOf(cert) : null
    if (certificate === null) return []
    const path = `${name}.tls.cert`
    const [from, until] = [certificate.validFromDate, certificate.validToDate]
    if (until.getTime() <= now) return [`${path} expired on ${until.toISOString()}; clients will refuse it, renew it`]
    if (from.getTime() > now) return [`${path} is not valid before ${from.toISOString()}; clients will refuse it`]
    return until.getTime() - now > soonMs ? [] : [`${path} expires on ${until.toISOString()}; renew it`]
  })
}

export interface FollowPorts {
  /** For messages. */
  readonly path: string
  readonly files: Files
  /** Calls back at once with what the file holds now, and again after each change; null = it cannot be read. */
  readonly watch: (path: string, onChange: (text: string | null) => void) => { close(): void }
  readonly clock: { after(ms: number, job: () => void): { cancel(): void } }
  readonly tell: (news: CertificateNews) => void
}

export type CertificateNews =
  | { readonly kind: 'replaced'; readonly validUntil: number }
  | { readonly kind: 'kept'; readonly because: string }

export interface CertificateSource {
  /** A pair that fits, at any time. */
  readonly now: Certificate
  onChange(listener: (certificate: Certificate) => void): void
  close(): void
}

export interface AuthorityPorts {
  /** For messages. */
  readonly path: string
  readonly file: string
  readonly watch: FollowPorts['watch']
  /** True = something else than before. Throws when it is no good. */
  readonly trust: (pem: string) => boolean
  readonly tell: (news: { readonly kind: 'replaced' } | Extract<CertificateNews, { kind: 'kept' }>) => void
}

/** Follows a file of certificate authorities. One that is no good changes nothing and is told. */
export function followAuthority({ path, file, watch, trust, tell }: AuthorityPorts): { close(): void } {
  return watch(file, (pem) => {
    try {
      if (pem === null || leafOf(pem) === null) throw new TypeError('no certificate')
      if (trust(pem)) tell({ kind: 'replaced' })
    } catch {
      tell({
        kind: 'kept',
        because: `${path}: ${file} holds no certificates that can be read; expected those of your CA as PEM`,
      })
    }
  })
}

/** The two files are not changed at the same moment, nor are they looked at at the same moment. */
const togetherMs = 15_000

/** Throws a ConfigError when there is no good pair to begin with. */
export function followCertificate({ path, files, watch, clock, tell }: FollowPorts): CertificateSource {
  const listeners: ((certificate: Certificate) => void)[] = []
  const texts: { cert: string | null; key: string | null } = { cert: null, key: null }
  let complaint: { cancel(): void } | null = null
  let review = (): void => {}
  const watches = (['cert', 'key'] as const).map((of) =>
    watch(files[of], (text) => {
      texts[of] = text
      review()
    }),
  )
  let now = begin()
  review = look

  function begin(): Certificate {
    const first = readPair(texts.cert, texts.key)
    if (!('of' in first)) return first
    close()
    throw new ConfigError([inWords(first)])
  }

  function look(): void {
    const read = readPair(texts.cert, texts.key)
    complaint?.cancel()
    if ('of' in read) {
      complaint = clock.after(togetherMs, () => tell({ kind: 'kept', because: inWords(read) }))
      return
    }
    if (read.cert === now.cert && read.key === now.key) return
    now = read
    for (const listener of listeners) listener(read)
    tell({ kind: 'replaced', validUntil: read.validUntil })
  }

  function inWords({ of, text }: Flaw): string {
    return `${path}.${of}: ${files[of]} ${text}`
  }

  function close(): void {
    complaint?.cancel()
    for (const one of watches) one.close()
  }

  return {
    get now() {
      return now
    },
    onChange: (listener) => void listeners.push(listener),
    close,
  }
}

function leafOf(pem: string): X509Certificate | null {
  try {
    return new X509Certificate(pem)
  } catch {
    return null
  }
}

function unreadable(path: string, { because }: { readonly because: string }): string {
  return `${path} cannot be read (${because}); correct the path, or let this user read the file`
}

function tryRead(path: string, readFile: ReadFile): string | { readonly because: string } {
  try {
    return readFile(path)
  } catch (error) {
    return { because: reason(error) }
  }
}
