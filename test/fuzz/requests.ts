/**
 * Requests that are nearly requests: built from what attackers write, then damaged. Whatever comes, the proxy says whole answers
 * and closes, asks upstream for nothing but what stands there as a whole request, and serves the next caller.
 */
import { deviations, openPeer, siege, type Siege, TARGET } from '../support/siege.ts'
import { UPSTREAM_KEY } from '../support/proxy.ts'
import { readAnswers } from './answer-text.ts'
import type { Chance } from './chance.ts'
import { type Fuzzer, playCases } from './round.ts'

const LANES = 8
const CLEAN_EVERY = 250

const methods = [
  'GET',
  'GET',
  'GET',
  'POST',
  'HEAD',
  'DELETE',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'get',
  'GET ',
  'PRI',
  'G\0T',
  '',
]
const versions = [
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.0',
  'HTTP/2.0',
  'HTTP/1.2',
  'HTTP/0.9',
  'http/1.1',
  'RTSP/1.0',
  '',
  'HTTP/1.1 x',
]
const paths = [
  TARGET,
  TARGET,
  TARGET,
  `${TARGET}/jobs`,
  '/jobs/job-1',
  '/scrapers/grok',
  '/',
  '//evil',
  'http://evil/x',
  '*',
  `${TARGET}/../x`,
  `${TARGET}%2f`,
  '/scrapers/none',
  '',
  '/\\evil',
  `${TARGET}#x`,
]
const queries = [
  '?prompt=',
  '?prompt=',
  '?prompt=',
  '?',
  '',
  '?prompt=a&prompt=',
  '?api_key=k&prompt=',
  '?%zz&prompt=',
  '?bypass_cache=true&prompt=',
  '?__proto__=1&prompt=',
  '?timeout=1e9&prompt=',
  '?prompt[]=',
]
const values = [
  '0',
  '5',
  '00',
  '+5',
  '-1',
  'chunked',
  'identity',
  'gzip, chunked',
  'close',
  'keep-alive',
  'Upgrade',
  'x-api-key, host',
  'a',
  'a, b',
  'Bearer k',
  'Bearer a, Bearer b',
  '100-continue',
  'no-cache',
  'only-if-cached',
  'max-age=0',
  'bytes=0-0',
  '*',
  '"e"',
  '\xff',
  '\0',
  '\t',
  '',
  ' ',
  '1e3',
  '00-0-0-0',
  'respond-async, wait=0',
]
const names = [
  'Host',
  'Content-Length',
  'Transfer-Encoding',
  'Connection',
  'X-API-Key',
  'Authorization',
  'Expect',
  'Upgrade',
  'Cache-Control',
  'Range',
  'If-None-Match',
  'TE',
  'Trailer',
  'X-Request-Id',
  'X-Request-Timeout',
  'Idempotency-Key',
  'traceparent',
  'Prefer',
  'Pragma',
  '__proto__',
  'Content_Length',
  'Transfer-Encoding ',
  ' Host',
  'A',
  'Proxy-Connection',
  'X-HTTP-Method-Override',
]
const framings = [
  'Content-Length: 0',
  'Content-Length: 5',
  'Content-Length: 00',
  'Content-Length: 0, 0',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: CHUNKED',
  'Transfer-Encoding:',
  'Content_Length: 5',
  'Transfer_Encoding: chunked',
  'Content-Length:5\r\nContent-Length:5',
]
const seams = ['\r\n', '\r\n', '\r\n', '\r\n', '\r\n', '\r\n', '\n', '\r', '\r\n ', '\r\n\t', '\r\r\n', '\0\r\n']
const bodies = [
  '',
  '',
  '',
  'hello',
  '0\r\n\r\n',
  '5\r\nhello\r\n0\r\n\r\n',
  '5;x=y\r\nhello\r\n0\r\nX-API-Key: z\r\n\r\n',
  'ffffffffffffffffff\r\n',
  '\r\n\r\n',
]

/** Ends every state that a reader of requests can be in: headers are finished, and what follows is no request. */
const END = '\r\n\r\n\0 no request\r\n\r\n'

function aRequest({ int, pick, isTrue }: Chance, prompt: string): string {
  const target = pick(paths) + pick(queries) + prompt
  const headers = isTrue(0.9) ? ['Host: a'] : []
  for (let left = int(4); left > 0; left--)
    headers.push(`${pick(names)}${isTrue(0.95) ? ': ' : pick([' :', '', ':', ':\t'])}${pick(values)}`)
  if (isTrue(0.3)) headers.push(pick(framings))
  if (isTrue(0.01)) headers.push(...Array.from({ length: 110 }, () => 'a:'))
  if (isTrue(0.002)) headers.push(`A: ${'a'.repeat(80_000)}`)
  const seam = (): string => (isTrue(0.97) ? '\r\n' : pick(seams))
  const lines = [`${pick(methods)} ${target} ${pick(versions)}`, ...headers]
  return `${lines.map((line) => line + seam()).join('')}${seam()}${pick(bodies)}`
}

/** A whole request without a body as RFC 9112 has it, allowing for what Node's parser does: empty lines before, more spaces, RTSP. */
const strict =
  /^(?:\r?\n)*[!#$%&'*+.^_`|~\w-]+ +\S+ +(?:HTTP|RTSP|ICE)\/1\.[01]\r\n(?:[!#$%&'*+.^_`|~\w-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n/

/** May a request begin behind these bytes? Only where whole ones stand before it, none of which has a body. */
function mayBegin(before: string): boolean {
  let rest = before
  while (rest.replace(/^[\r\n]+/, '') !== '') {
    const [whole] = strict.exec(rest) ?? []
    if (whole === undefined) return false
    if (/^(?:transfer[-_]encoding:|content[-_]length:(?![\t ]*0[\t ]*\r\n))/im.test(whole)) return false
    rest = rest.slice(whole.length)
  }
  return true
}

async function play({ proxy, upstream, send }: Siege, chance: Chance, number: number): Promise<string | null> {
  const { damage, isTrue } = chance
  const built = Buffer.from(aRequest(chance, `q${number}`), 'latin1')
  const first = (isTrue(0.5) ? damage(built) : built).toString('latin1')
  const marker = `GET ${TARGET}?prompt=marker-${number} HTTP/1.1\r\nHost: a\r\n\r\n`
  const bytes = Buffer.from(first + (isTrue(0.5) ? marker : '') + END, 'latin1')
  const heardBefore = upstream.heard.length
  const peer = await openPeer(Number(new URL(proxy.url).port))
  peer.socket.write(bytes)
  // An answer that does not come is a finding, and the one time that is waited for.
  const ended = await Promise.race([peer.closed.then(() => true), late()])
  if (!ended) {
    peer.socket.destroy()
    return `no end: ${JSON.stringify(first)}`
  }
  const heard = upstream.heard.splice(heardBefore)
  const answers = readAnswers(peer.text(), first.includes('HEAD'))
  const about = `${JSON.stringify(first.slice(0, 600))} → ${JSON.stringify(peer.text().slice(0, 300))}`
  if (typeof answers === 'string') return `${answers} for ${about}`
  if (peer.error() !== null) return `${peer.error()} for ${about}`
  if (answers.length === 0) return `no answer for ${about}`
  if (peer.text().includes(UPSTREAM_KEY)) return `the key for ${about}`
  if (answers.some(({ status }) => status === 500)) return `a bug for ${about}`
  const odd = heard.flatMap((one) => deviations(one, upstream.host))
  if (odd.length > 0 || upstream.strays.length > 0)
    return `upstream got ${[...odd, ...upstream.strays.splice(0)].join('; ')} for ${about}`
  if (heard.length > answers.filter(({ status }) => status < 400).length) return `${heard.length} calls for ${about}`
  const isMarkerAsked = heard.some(({ target }) => target.endsWith(`=marker-${number}`))
  if (isMarkerAsked && !mayBegin(first)) return `a request was found inside of another: ${about}`
  if (number % CLEAN_EVERY === 0) {
    const prompt = `clean-${number}`
    const clean = await send(`GET ${TARGET}?prompt=${prompt} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`)
    upstream.heard.length = 0
    if (!clean.text().includes(`answer to ${prompt}`)) return `the next clean request got ${clean.text().slice(0, 300)}`
  }
  return null
}

function late(): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), 20_000).unref())
}

export const fuzzRequests: Fuzzer = async (stage, round) => {
  const sieges = await Promise.all(
    Array.from({ length: LANES }, () =>
      siege(stage, 'log: { level: error }\ncache: { memory: { maxSize: 4MiB } }\nretry: { attempts: 1 }'),
    ),
  )
  const findings = await playCases(round, LANES, (chance, number, lane) => {
    const one = sieges[lane]
    return one ? play(one, chance, number) : null
  })
  const logged = sieges.flatMap(({ proxy }) =>
    proxy.output() === '' ? [] : [`logged: ${proxy.output().slice(0, 500)}`],
  )
  return [...findings, ...logged]
}
