/**
 * Answers that are nearly answers: built from what hostile upstreams say, then damaged. Whatever comes, the caller gets one whole
 * answer without the key in it; a 200 is what upstream said, byte for byte; and only such a 200 is found again in the cache.
 */
import { replay } from '../../src/scrapellm/answers.ts'
import { UPSTREAM_KEY } from '../support/proxy.ts'
import { answerOf, getOnce, siege, type Siege, TARGET } from '../support/siege.ts'
import { readAnswers } from './answer-text.ts'
import type { Chance } from './chance.ts'
import { type Fuzzer, playCases } from './round.ts'

const LANES = 8

const statusLines = [
  'HTTP/1.1 200 OK',
  'HTTP/1.1 200 OK',
  'HTTP/1.1 200 OK',
  'HTTP/1.1 200',
  'HTTP/1.0 200 OK',
  'HTTP/1.1 201 X',
  'HTTP/1.1 204 X',
  'HTTP/1.1 206 X',
  'HTTP/1.1 301 X',
  'HTTP/1.1 304 X',
  'HTTP/1.1 401 X',
  'HTTP/1.1 408 X',
  'HTTP/1.1 418 X',
  'HTTP/1.1 429 X',
  'HTTP/1.1 500 X',
  'HTTP/1.1 503 X',
  'HTTP/1.1 599 X',
  'HTTP/1.1 100 X',
  'HTTP/1.1 101 X',
  'HTTP/1.1 103 X',
  'HTTP/1.1 999 X',
  'HTTP/2 200',
  'HTTP/1.1 2000 X',
  `HTTP/1.1 200 ${UPSTREAM_KEY}`,
]
const headerLines = [
  'Content-Type: application/json',
  'Content-Type: text/html',
  `Content-Type: a/${UPSTREAM_KEY}`,
  'Content-Type: \xff',
  'Content-Encoding: gzip',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip, chunked',
  'Content-Length: 0',
  'Content-Length: 5',
  'Content-Length: 999999',
  'Content-Length: -1',
  'Retry-After: 5',
  'Retry-After: -5',
  `Retry-After: ${UPSTREAM_KEY}`,
  'Retry-After: Fri, 31 Dec 9999 23:59:59 GMT',
  'Retry-After: \xe9\t',
  'Location: //evil',
  'Set-Cookie: a=b',
  'Connection: close',
  'Connection: Upgrade',
  'Upgrade: x',
  'X: \0',
  ' folded',
  'no colon',
  `X-Echo: ${UPSTREAM_KEY}`,
  'Trailer: X',
  '__proto__: x',
  'Cache-Control: public, max-age=99',
  'ETag: "x"',
  'Age: -1',
]
const bodies: readonly ((prompt: string) => string)[] = [
  (prompt) => answerOf(prompt),
  (prompt) => answerOf(prompt),
  (prompt) => answerOf(prompt, { result: `the key is ${UPSTREAM_KEY}` }),
  (prompt) => answerOf(prompt, { cached: true, credits_used: 0 }),
  (prompt) => answerOf(prompt, { credits_used: -5 }),
  (prompt) => answerOf(prompt, { credits_used: 1e300 }),
  (prompt) => answerOf(prompt, { status: 'failed' }),
  (prompt) => answerOf(prompt, { result: '' }),
  (prompt) => answerOf(prompt, { result: { deep: [[[[]]]] } }),
  (prompt) => answerOf(`not ${prompt}`),
  (prompt) => `{"prompt":"${prompt}","status":"done","result":"a","result":"b","cached":1,"cached":2}`,
  (prompt) => `{"prompt":"${prompt}","status":"done","result":"\\u0000\\ud800","__proto__":{"x":1},"credits_used":1.5}`,
  () => JSON.stringify({ detail: `Invalid API key ${UPSTREAM_KEY}` }),
  () => '{"detail":"Credit limit reached."}',
  () => '{"detail":"Rate limit exceeded."}',
  () => '{"detail":[{"msg":"empty result"}]}',
  () => `<html>${UPSTREAM_KEY}</html>`,
  () => '[',
  () => 'null',
  () => '',
  () => '['.repeat(20_000),
  () => '{"a":'.repeat(5_000),
]

function anAnswer({ int, pick, isTrue }: Chance, prompt: string): string {
  const body = pick(bodies)(prompt)
  const headers = Array.from({ length: int(4) }, () => pick(headerLines))
  const isChunked = isTrue(0.2)
  if (isChunked) headers.push('Transfer-Encoding: chunked')
  else if (isTrue(0.8))
    headers.push(`Content-Length: ${Buffer.byteLength(body, 'latin1') + (isTrue(0.1) ? int(9) - 4 : 0)}`)
  const framed = isChunked ? `${body.length.toString(16)}\r\n${body}\r\n${isTrue(0.8) ? '0\r\n\r\n' : ''}` : body
  const again = isTrue(0.05) ? `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}` : ''
  return `${[pick(statusLines), ...headers].map((line) => `${line}\r\n`).join('')}\r\n${framed}${again}`
}

async function play({ proxy, upstream, send }: Siege, chance: Chance, number: number): Promise<string | null> {
  const prompt = `q${number}`
  const built = Buffer.from(anAnswer(chance, prompt), 'latin1')
  const said = chance.isTrue(0.4) ? chance.damage(built) : built
  const cut = chance.int(said.length + 1)
  upstream.answer((_, socket) => {
    // In two packets, and then the connection ends: what is not whole by then never will be.
    socket.write(said.subarray(0, cut))
    setImmediate(() => socket.end(said.subarray(cut)))
    return null
  })
  const target = `${TARGET}?prompt=${prompt}`
  const peer = await send(getOnce(target))
  const about = `${JSON.stringify(said.toString('latin1').slice(0, 400))} → ${JSON.stringify(peer.text().slice(0, 400))}`
  const answers = readAnswers(peer.text(), false)
  if (typeof answers === 'string') return `${answers} for ${about}`
  const [answer] = answers
  if (answers.length !== 1 || !answer) return `${answers.length} answers for ${about}`
  if (peer.text().includes(UPSTREAM_KEY)) return `the key for ${about}`
  if (answer.status === 500 && answer.head.includes('INTERNAL')) return `a bug for ${about}`
  const isOwn = answer.status === 200
  if (isOwn) {
    const body = Buffer.from(answer.body, 'latin1')
    const isBlotted = answer.body.includes('[redacted]')
    // Any JSON value is an answer, whatever its shape; but it is what upstream said.
    JSON.parse(body.toString().replace(/^\uFEFF/, ''))
    if (!isBlotted && !said.includes(body) && !/chunked/i.test(said.toString('latin1')))
      return `a 200 that upstream did not say for ${about}`
  }
  // A key that rests would answer for upstream from now on.
  if (/^\S+ (?:401|429)/.test(said.toString('latin1'))) proxy.clock.skip(3_600_000)
  upstream.answer(null)
  const again = await send(getOnce(target, 'Cache-Control: only-if-cached\r\n'))
  const kept = /^HTTP\/1\.1 200 [^]*?\r\n\r\n([^]*)$/.exec(again.text())?.[1] ?? null
  if (
    kept !== null &&
    (!isOwn || Buffer.from(kept, 'latin1').compare(replay(Buffer.from(answer.body, 'latin1'))) !== 0)
  )
    return `kept ${kept.slice(0, 300)} for ${about}`
  return null
}

export const fuzzAnswers: Fuzzer = async (stage, round) => {
  const settings =
    'log: { level: error }\ncache: { memory: { maxSize: 4MiB } }\nretry: { attempts: 1, classes: { creditsExhausted: { keyRest: 1ms }, unauthorized: { keyRest: 1ms } } }\nbreaker: { hold: 0s, consecutive: 10000, window: 1000, minimum: 1000, failureRate: 1 }'
  const sieges = await Promise.all(Array.from({ length: LANES }, () => siege(stage, settings)))
  const findings = await playCases(round, LANES, async (chance, number, lane) => {
    const one = sieges[lane]
    if (!one) return null
    return play(one, chance, number)
  })
  const logged = sieges.flatMap(({ proxy }) => proxy.lines().filter(({ msg }) => msg !== 'upstream key spent'))
  return [...findings, ...logged.map((line) => `logged: ${JSON.stringify(line)}`)]
}
