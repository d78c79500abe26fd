/** One small request of its own, with the time that the answer says it is; rejects when there is no answer. */
import http from 'node:http'
import https from 'node:https'
import type { SecureContext } from 'node:tls'

export interface Asked {
  readonly url: string
  readonly headers?: Readonly<Record<string, string>>
  readonly limitMs: number
  /** Who is believed; null = whom Node believes, `anyone` = only to see who is there, with nothing secret in the request. */
  readonly believe: SecureContext | null | 'anyone'
}

export interface Answered {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  /** Its beginning. */
  readonly body: string
  /** Our clock ahead of theirs, to half a second; null = they do not say. */
  readonly skewMs: number | null
}

const MAX_BODY = 10_000

export function exchange({ url, headers = {}, limitMs, believe }: Asked): Promise<Answered> {
  const options = {
    headers,
    agent: false,
    signal: AbortSignal.timeout(limitMs),
    rejectUnauthorized: believe !== 'anyone',
    ...(believe === null || believe === 'anyone' ? {} : { secureContext: believe }),
  }
  return new Promise((resolve, reject) => {
    const sentAt = Date.now()
    const outgoing = (url.startsWith('https:') ? https : http).get(url, options, (incoming) => {
      const { statusCode: status = 0, headers } = incoming
      const theirs = Date.parse(headers.date ?? '')
      // Half a second in the middle of what the header rounds down.
      const skewMs = Number.isNaN(theirs) ? null : (sentAt + Date.now()) / 2 - (theirs + 500)
      let body = ''
      incoming.setEncoding('utf8')
      incoming.on('data', (text: string) => {
        body += text
        if (body.length > MAX_BODY) end()
      })
      incoming.on('end', end)
      incoming.on('error', reject)

      function end(): void {
        resolve({ status, headers, body: body.slice(0, MAX_BODY), skewMs })
        outgoing.destroy()
      }
    })
    outgoing.on('error', reject)
  })
}
