/**
 * The codes of the system, of OpenSSL and of undici for an exchange that broke, as the reasons that an operator is shown.
 * Sources: errno(3), gai_strerror(3), X509_verify_cert_error_string(3), Node's and undici's `errors`.
 */
import type { WireReason, WireTrouble } from '../model.ts'

/** Reasons while a connection is being opened: nothing has been sent. */
const whileConnecting: ReadonlyMap<string, WireReason> = new Map([
  ['ENOTFOUND', 'name-not-found'],
  ['EAI_NODATA', 'name-not-found'],
  ['EAI_NONAME', 'name-not-found'],
  ['EAI_AGAIN', 'name-server'],
  ['EAI_FAIL', 'name-server'],
  ['EAI_SYSTEM', 'name-server'],
  ['ECONNREFUSED', 'refused'],
  ['EHOSTUNREACH', 'no-route'],
  ['ENETUNREACH', 'no-route'],
  ['EHOSTDOWN', 'no-route'],
  ['ENETDOWN', 'no-route'],
  ['EAFNOSUPPORT', 'no-route'],
  ['EINVAL', 'no-route'],
  ['ETIMEDOUT', 'connect-timeout'],
])

/** Trouble of this process or machine: it says nothing about upstream. */
const local = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL', 'EACCES', 'EPERM'])

const certificates: ReadonlyMap<string, WireReason> = new Map([
  ['CERT_HAS_EXPIRED', 'tls-expired'],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', 'tls-self-signed'],
  ['SELF_SIGNED_CERT_IN_CHAIN', 'tls-unknown-ca'],
  ['UNABLE_TO_GET_ISSUER_CERT', 'tls-unknown-ca'],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'tls-unknown-ca'],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'tls-unknown-ca'],
  ['CERT_UNTRUSTED', 'tls-unknown-ca'],
  ['ERR_TLS_CERT_ALTNAME_INVALID', 'tls-wrong-host'],
  ['HOSTNAME_MISMATCH', 'tls-wrong-host'],
])

/** Of several addresses that failed, the one that says most about upstream: the earliest in this list. */
const telling: readonly WireReason[] = ['refused', 'reset', 'connect-timeout', 'no-route']

/** Why no connection could be opened. */
export function connectTrouble(error: unknown): WireTrouble {
  if (error instanceof AggregateError) return mostTelling(error.errors.map(connectTrouble)) ?? unnamed
  const code = codeOf(error)
  if (code === null) return unnamed
  return { reason: localOrTls(code) ?? whileConnecting.get(code) ?? 'reset', code }
}

/** How far an answer had come. */
export type AnswerState = 'nothing' | 'begun' | 'head'

/** Why a connection that stood broke. */
export function exchangeTrouble(error: unknown, answer: AnswerState): WireTrouble {
  if (!(error instanceof Error)) return unnamed
  // Without a code of its own.
  const code = codeOf(error) ?? (error.name === 'HTTPParserError' ? error.name : null)
  const reason = (code === null ? undefined : localOrTls(code)) ?? parseReason(code ?? '', error.message, answer)
  return { reason: reason ?? (answer === 'nothing' ? 'reset' : 'truncated'), code }
}

const unnamed: WireTrouble = { reason: 'reset', code: null }

function mostTelling(all: readonly WireTrouble[]): WireTrouble | undefined {
  for (const reason of telling) {
    const found = all.find((one) => one.reason === reason)
    if (found) return found
  }
  return all[0]
}

function localOrTls(code: string): WireReason | undefined {
  if (local.has(code)) return 'local'
  const known = certificates.get(code)
  if (known) return known
  return /^ERR_(?:TLS|SSL)|CERT|CRL|^INVALID_(?:CA|PURPOSE)$|^EPROTO$/.test(code) ? 'tls' : undefined
}

function parseReason(code: string, message: string, answer: AnswerState): WireReason | undefined {
  switch (code) {
    case 'UND_ERR_HEADERS_OVERFLOW':
      return 'too-big'
    case 'HTTPParserError':
      return message.includes('EOF') ? 'truncated' : 'malformed'
    case 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH':
      // Also said of what cannot be parsed at all, once a length was declared.
      return answer === 'head' ? 'truncated' : 'malformed'
    case 'UND_ERR_SOCKET':
      // "bad upgrade", "bad response": another protocol, or an answer out of turn.
      return message.startsWith('bad ') ? 'malformed' : undefined
    case 'UND_ERR_INVALID_ARG':
      // A request that cannot be written: a fault of this program.
      return 'local'
    default:
      return undefined
  }
}

function codeOf(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return null
  return /^\w{1,64}$/.test(error.code) ? error.code : null
}
