/**
 * Mixed traffic at a steady rate, as many services make it in a day: known answers, new questions, the same one three times
 * at once, failures of every class, callers who hang up, read slowly or send slowly, jobs, wrong tokens, nonsense.
 */
import http from 'node:http'
import { connect } from 'node:net'
import { request } from '../support/proxy.ts'
import type { Dice } from '../faults/dice.ts'

export interface TrafficOptions {
  readonly url: string
  readonly token: string
  readonly perSecond: number
  readonly dice: Dice
  /** Of callers who go silent. */
  readonly patienceMs: number
}

export interface Traffic {
  /** Resolves when all that was asked has ended. */
  readonly stop: () => Promise<void>
  readonly asked: Readonly<Record<string, number>>
  /** By status; `none` = the connection ended without an answer. */
  readonly answered: Readonly<Record<string, number>>
}

const SCRAPERS = ['chatgpt', 'perplexity', 'grok', 'copilot', 'gemini', 'google_ai_mode', 'amazon_rufus'] as const
const FAILURES = [
  '503',
  '500',
  '500-empty',
  '429-queue',
  '429-rate',
  '408',
  '504-html',
  '400',
  'truncated',
  'reset-after-charge',
  'reset-before-charge',
  'not-json',
  'garbage',
] as const
const TICK_MS = 50

export function startTraffic({ url, token, perSecond, dice, patienceMs }: TrafficOptions): Traffic {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 500 })
  const headers = { 'x-api-key': token }
  const asked: Record<string, number> = {}
  const answered: Record<string, number> = {}
  const open = new Set<Promise<void>>()
  let questions = 0
  let owedAsks = 0

  const rows: readonly (readonly [share: number, name: string, what: () => Promise<void>[]])[] = [
    [42, 'known question', () => [ask(`known ${dice.whole(1, 200)}`)]],
    [24, 'new question', () => [ask(fresh())]],
    [6, 'the same three times at once', () => thrice(fresh())],
    [8, 'question that fails', () => [ask(`sim:${dice.pick(FAILURES)},${dice.pick(FAILURES)} ${fresh()}`)]],
    [6, 'caller who hangs up', () => [leave()]],
    [5, 'job', () => [job()]],
    [2, 'answer promised', () => [tell(get(target(fresh()), { ...headers, prefer: 'respond-async' }))]],
    [3, 'wrong token', () => [tell(get(target(fresh()), { 'x-api-key': `nobody-${(questions += 1)}-0123456789` }))]],
    [2, 'nonsense', () => [raw('GET /scrapers/../x HTTP/1.1\r\nHost: a\r\n\r\n', 0)]],
    [
      1,
      'caller who sends slowly',
      () => [raw(`GET ${target(fresh())} HTTP/1.1\r\nHost: a\r\nX-API-Key: ${token}\r\n\r\n`, 20)],
    ],
    [1, 'caller who goes silent', () => [raw('GET /scrapers/chatgpt?prom', 0)]],
  ]
  const shares = rows.reduce((sum, [share]) => sum + share, 0)

  const timer = setInterval(() => {
    owedAsks += (perSecond * TICK_MS) / 1_000
    for (; owedAsks >= 1; owedAsks--) turn()
  }, TICK_MS)

  function turn(): void {
    let luck = dice.luck() * shares
    const [, name, what] = rows.find(([share]) => (luck -= share) < 0) ?? rows[0] ?? [0, '', () => []]
    asked[name] = (asked[name] ?? 0) + 1
    for (const one of what()) {
      const ended: Promise<void> = one.finally(() => open.delete(ended))
      open.add(ended)
    }
  }

  function fresh(): string {
    return `question ${(questions += 1)} ${'which note apps do students like and why '.repeat(dice.whole(0, 20))}`
  }

  function target(prompt: string, more = ''): string {
    return `/scrapers/${dice.pick(SCRAPERS)}${more}?${new URLSearchParams({ prompt }).toString()}`
  }

  function get(path: string, headers: Record<string, string>, method = 'GET', signal?: AbortSignal) {
    return request(agent, url + path, { method, headers, ...(signal ? { signal } : {}) })
  }

  async function tell(answer: ReturnType<typeof get>): Promise<void> {
    const status = await answer.then(
      (one) => String(one.status),
      () => 'none',
    )
    answered[status] = (answered[status] ?? 0) + 1
  }

  function ask(prompt: string): Promise<void> {
    // Known questions are known to one scraper only if it is always the same.
    const path = prompt.startsWith('known')
      ? `/scrapers/chatgpt?${new URLSearchParams({ prompt }).toString()}`
      : target(prompt)
    return tell(get(path, headers))
  }

  function thrice(prompt: string): Promise<void>[] {
    const path = target(prompt)
    return [1, 2, 3].map(() => tell(get(path, headers)))
  }

  async function leave(): Promise<void> {
    const leaving = new AbortController()
    void dice.moment(400).then(() => leaving.abort())
    await tell(get(target(fresh()), headers, 'GET', leaving.signal))
  }

  async function job(): Promise<void> {
    const submitted = await get(target(fresh(), '/jobs'), headers, 'POST').catch(() => null)
    if (submitted?.status !== 202) return
    for (let polls = 0; polls < 4; polls++) {
      await dice.moment(600)
      await tell(get(`/jobs/${String(submitted.json['job_id'])}`, headers))
    }
  }

  /** Byte by byte where it takes its time; what comes back is read, and the connection given up after a while. */
  function raw(text: string, everyMs: number): Promise<void> {
    const { hostname, port } = new URL(url)
    return new Promise((resolve) => {
      const socket = connect(Number(port), hostname)
      const givenUp = setTimeout(() => socket.destroy(), patienceMs)
      let sent = 0
      const sending =
        everyMs > 0
          ? setInterval(() => {
              if (sent < text.length) socket.write(text.slice(sent, (sent += 4)))
            }, everyMs)
          : undefined
      if (everyMs === 0) socket.write(text)
      socket.on('data', () => socket.end())
      socket.on('error', () => undefined)
      socket.on('close', () => {
        clearTimeout(givenUp)
        clearInterval(sending)
        resolve()
      })
    })
  }

  return {
    asked,
    answered,
    async stop() {
      clearInterval(timer)
      while (open.size > 0) await Promise.all(open)
      agent.destroy()
    },
  }
}
