/** One small request of its own, with the time that the answer says it is; rejects when there is no answer. */
import http from 'node:http'
import https from 'node:https'
import type { Socket } from 'node:net'

export interface Asked {
  readonly url: string
  readonly headers?: Readonly<Record<string, string>>
  readonly limitMs: number
  /** A connection that stands; null = one of its own, whoever is there, with nothing secret in the request. */
  readonly over: { readonly socket: Socket; readonly isRelayed: boolean } | null
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

export function exchange(asked: Asked): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const sentAt = Date.now()
    const outgoing = begin(asked, (incoming) => {
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

function begin({ url, headers = {}, limitMs, over }: Asked, answered: (incoming: http.IncomingMessage) => void) {
  const signal = AbortSignal.timeout(limitMs)
  if (over === null) {
    const options = { headers, agent: false, signal, rejectUnauthorized: false }
    return (url.startsWith('https:') ? https : http).get(url, options, answered)
  }
  const { host, pathname, search } = new URL(url)
  const options = {
    path: over.isRelayed ? url : pathname + search,
    headers: { host, ...headers },
    createConnection: () => over.socket,
    signal,
  }
  return http.get(options, answered)
}
