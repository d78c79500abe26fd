/**
 * Eight replicas in one process, with one Redis: `--questions` questions about `--prompts` prompts, asked by Zipf's law of
 * whichever replica, 64 at a time. Prints what they asked upstream, and how many different questions there were: what a
 * perfect cache would have asked.
 */
import { createAdmin } from '../../src/http/admin.ts'
import { readFields, readRequest } from '../../src/http/request.ts'
import { createServer, type ServerParts } from '../../src/http/server.ts'
import { createTargets } from '../../src/http/target.ts'
import { settingsSource } from '../../src/cli/settings.ts'
import { compose } from '../../src/compose.ts'
import type { Exchange, WireResult } from '../../src/model.ts'
import { realWorld } from '../../src/world/real.ts'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    config: { type: 'string', default: '' },
    questions: { type: 'string', default: '100000' },
    prompts: { type: 'string', default: '10000' },
    seed: { type: 'string', default: '1' },
  },
})
const REPLICAS = 8
const AT_A_TIME = 64
const ANSWER_MS = 5
const io = { environment: process.env, readFile: (path: string) => readFileSync(path, 'utf8'), cwd: process.cwd() }
const loaded = settingsSource({ configs: [values.config], sets: [] }, io).read()
const target = createTargets()
const fields = readFields(['Host', '127.0.0.1'])
let calls = 0
let failed = 0

const replicas = Array.from({ length: REPLICAS }, replica)
await Promise.all(replicas.map(({ app }) => app.listen()))
// Until their connections to Redis stand, each replica is on its own.
await new Promise((resolve) => setTimeout(resolve, 1_000))
const draw = zipf(Number(values.prompts), Number(values.seed))
const asked = new Set<number>()
let left = Number(values.questions)
await Promise.all(Array.from({ length: AT_A_TIME }, askOn))
console.log(JSON.stringify({ calls, different: asked.size, failed }))
process.exit(0)

async function askOn(): Promise<void> {
  while (left > 0) {
    left -= 1
    const prompt = draw()
    asked.add(prompt)
    const { parts } = replicas[Math.floor(Math.random() * REPLICAS)] ?? {}
    const outcome = await parts?.generations.current.handle(exchangeFor(prompt))
    const isAnswered =
      outcome?.kind === 'hit' || (outcome?.kind === 'fetched' && outcome.landing.verdict.kind === 'answered')
    if (!isAnswered) failed += 1
  }
}

function replica() {
  const world = realWorld()
  let parts: ServerParts | undefined
  const doors = {
    createServer(options: Parameters<typeof createServer>[0], given: ServerParts) {
      parts = given
      return createServer(options, given)
    },
    createAdmin,
  }
  const connect = () => ({ forward: answer, trust: () => false, close: () => undefined })
  const app = compose(loaded, { ...world, connect, output: { write() {}, flush() {} } }, 'bench', doors)
  return { app, parts }
}

async function answer({ target: asked }: { readonly target: string }): Promise<WireResult> {
  calls += 1
  await new Promise((resolve) => setTimeout(resolve, ANSWER_MS))
  const prompt = decodeURIComponent(/prompt=([^&]*)/.exec(asked)?.[1] ?? '')
  const text = { scraper: 'chatgpt', status: 'done', prompt, result: 'An answer', credits_used: 3, cached: false }
  const body = Buffer.from(JSON.stringify(text))
  const reply = { status: 200, contentType: 'application/json', retryAfter: null, location: null, body }
  return { kind: 'reply', reply }
}

function exchangeFor(prompt: number): Exchange {
  const raw = { method: 'GET', url: `/scrapers/chatgpt?prompt=question+${prompt}`, httpVersion: '1.1' }
  const arrival = {
    id: String(left),
    arrivedAt: performance.timeOrigin + performance.now(),
    onGone: () => () => undefined,
    target,
  }
  return {
    request: readRequest(raw, fields, arrival),
    client: null,
    call: null,
    limits: null,
    credits: [],
    flight: null,
  }
}

/** The first is asked for twice as often as the second, three times as often as the third … The seed makes it repeatable. */
function zipf(count: number, seed: number): () => number {
  const sums = new Float64Array(count)
  let sum = 0
  for (let rank = 0; rank < count; rank += 1) sums[rank] = sum += 1 / (rank + 1)
  let state = seed
  return () => {
    // mulberry32
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    const wanted = (((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296) * sum
    let [low, high] = [0, count - 1]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sums[middle] ?? 0) < wanted) low = middle + 1
      else high = middle
    }
    return low
  }
}
