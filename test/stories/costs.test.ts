/** What an answer says that it cost: over all answers of a client, exactly what its budget has lost. */
import t from 'tap'
import type { Step } from '../../src/simulator/step.ts'
import { aProxy, type Answer, type Asking, type Proxy } from '../support/proxy.ts'
import { seededRandom } from '../support/world.ts'

const LIMIT = 1_000_000
const TOKEN = 'team-token-0123456789'
const settings = `
clients:
  anonymous: {}
  team: { token: ${TOKEN}, credits: { perDay: ${LIMIT} } }
breaker: { consecutive: 10000, failureRate: 1, window: 10000, minimum: 10000, hold: 0s }
`

/** As the team, with what a way of asking needs. */
function asTeam(headers: Record<string, string> = {}, more: Asking = {}): Asking {
  return { ...more, headers: { 'x-api-key': TOKEN, ...headers } }
}

async function lost({ metric }: Proxy): Promise<number> {
  const left = await metric('credits_budget_remaining')
  return LIMIT - (left['client="team",period="day"'] ?? 0)
}

function costOf({ headers }: Answer): number {
  return Number(headers['x-proxy-credits'])
}

/** One attempt each, but for the last, which succeeds. */
const courses: readonly (readonly Step[])[] = [
  ['200'],
  ['cached'],
  ['503', '500', '200'],
  ['408', '200'],
  ['429-rate', '429-queue', '200'],
  ['reset-after-charge', '200'],
  ['truncated', 'truncated'],
  ['not-json', '200'],
  ['500-empty', '500-empty'],
  ['empty-result-200', '200'],
  ['status-failed-200', '200'],
  ['400'],
  ['404'],
  ['501'],
  [{ kind: '200', credits: 7 }],
  [{ kind: '200', credits: 0 }],
  ['shape-array'],
  ['reset-after-charge', '503', '503', '503', '503'],
]

void t.test('The costs of all answers add up to what the budget lost, in whatever way they were asked', async (t) => {
  const proxy = await aProxy(t, settings)
  const { ask, sim } = proxy
  const random = seededRandom(17)
  const answers: Answer[] = []
  const promised: string[] = []
  let prompts = 0

  function pick<T>(list: readonly [T, ...T[]] | readonly T[]): T {
    return list[Math.floor(random.next() * list.length)] as T
  }
  function newPrompt(course: readonly Step[] = pick(courses)): string {
    const prompt = `question ${(prompts += 1)}`
    sim.script({ prompt }, course)
    return prompt
  }
  async function asked(question: string, asking = asTeam()): Promise<Answer> {
    const answer = await ask(question, asking)
    answers.push(answer)
    return answer
  }
  function path(prompt: string, parameters = ''): string {
    return `/scrapers/chatgpt?prompt=${encodeURIComponent(prompt)}${parameters}`
  }

  const ways: readonly (() => Promise<unknown>)[] = [
    () => asked(newPrompt()),
    // A hit, a conditional hit, and what only the cache may answer.
    async () => {
      const prompt = newPrompt()
      const { headers } = await asked(prompt)
      await asked(prompt)
      await asked(prompt, asTeam({ 'if-none-match': headers['etag'] ?? '*' }))
      await asked(path(prompt), asTeam({ 'cache-control': 'only-if-cached' }))
      await asked(path(prompt), asTeam({}, { method: 'HEAD' }))
    },
    // Together: one pays.
    async () => {
      const prompt = newPrompt()
      await Promise.all([asked(prompt), asked(prompt), asked(prompt)])
    },
    // Joined to another client's call.
    async () => {
      const prompt = newPrompt()
      await Promise.all([ask(prompt), asked(prompt)])
    },
    // A fresh one each time.
    async () => {
      const prompt = newPrompt(['200', '200', '200', '200'])
      await Promise.all([asked(path(prompt, '&bypass_cache=true')), asked(path(prompt, '&bypass_cache=true'))])
      await asked(path(prompt), asTeam({ 'cache-control': 'no-store' }))
      await asked(path(prompt), asTeam({ 'cache-control': 'no-cache' }))
    },
    async () => {
      const prompt = newPrompt()
      await asked(path(prompt, '&sample=1'))
      await asked(path(prompt, '&sample=2'))
    },
    // Promised, to two at a time: one pays.
    async () => {
      const prompt = newPrompt(['200'])
      const both = await Promise.all([
        asked(path(prompt), asTeam({ prefer: 'respond-async' })),
        asked(path(prompt), asTeam({ prefer: 'respond-async' })),
      ])
      for (const { status, headers } of both) if (status === 202) promised.push(String(headers['location']))
    },
    async () => {
      const prompt = newPrompt()
      await asked(path(prompt), asTeam({ prefer: 'respond-async, wait=60' }))
    },
    // The vendor's own jobs, with a key that is used twice.
    async () => {
      const submission = `/scrapers/chatgpt/jobs?prompt=${encodeURIComponent(newPrompt(['200']))}`
      const headers = { 'idempotency-key': `key-${prompts}` }
      const { json } = await asked(submission, asTeam(headers, { method: 'POST' }))
      await asked(submission, asTeam(headers, { method: 'POST' }))
      await asked(`/jobs/${String(json['job_id'])}`)
    },
    // Refused before anything is asked.
    () => asked('/scrapers/chatgpt'),
    () => asked('/scrapers/nobody?prompt=a'),
    () => asked(path(newPrompt()), asTeam({ 'cache-control': 'only-if-cached' })),
  ]

  async function work(): Promise<void> {
    while (answers.length < 600) await pick(ways)()
  }
  await Promise.all(Array.from({ length: 8 }, work))
  for (const location of promised) {
    let document: Answer
    do document = await asked(location)
    while (document.json['status'] === 'pending')
    t.equal(document.json['status'], 'done')
  }
  await sim.idle()

  t.equal(
    answers.reduce((sum, answer) => sum + costOf(answer), 0),
    await lost(proxy),
  )
  t.ok((await lost(proxy)) >= 300, 'and that is much')
})

void t.test('A promise says its price, and how its answer is on the way', async (t) => {
  const proxy = await aProxy(t, settings)
  const { ask, sim } = proxy
  sim.script({ prompt: 'q' }, ['hold'])
  const first = await ask('q', asTeam({ prefer: 'respond-async' }))
  t.match(first, { status: 202, headers: { 'x-proxy-credits': '3' } })
  t.equal(first.headers['cache-status'], 'scrapellm-proxy; fwd=miss; detail=jobs')
  await sim.received(1)
  const second = await ask('q', asTeam({ prefer: 'respond-async' }))
  t.match(second, { status: 202, headers: { 'x-proxy-credits': '0', 'x-proxy-attempts': '1' } })
  t.equal(second.headers['cache-status'], 'scrapellm-proxy; fwd=miss; collapsed; detail=jobs')
  sim.release()
  await sim.idle()
  const known = await ask(String(first.headers['location']), asTeam())
  t.equal(known.headers['cache-status'], 'scrapellm-proxy; hit; detail=jobs')
  t.equal(await lost(proxy), 3)
})

void t.test(
  'An answer that may have been charged says so, for a caller that waited and for one that did not',
  async (t) => {
    const proxy = await aProxy(t, settings)
    const { ask, sim, clock } = proxy
    sim.script({ prompt: 'cut' }, ['reset-after-charge', 'reset-after-charge'])
    const cut = await ask('cut', asTeam())
    t.match(cut, { status: 504, headers: { 'x-proxy-attempts': '2', 'x-proxy-credits': '6' } })
    t.equal(await lost(proxy), 6)
    sim.script({ prompt: 'slow' }, ['hold'])
    const asking = ask('slow', asTeam({ 'x-request-timeout': '5' }))
    await sim.received(3)
    clock.skip(5_000)
    t.match(await asking, { status: 504, headers: { 'x-proxy-attempts': '1', 'x-proxy-credits': '3' } })
    sim.release()
    await sim.idle()
    t.equal(await lost(proxy), 9)
  },
)

void t.test('Why a promised answer did not come is in the document of its job', async (t) => {
  const { ask, sim } = await aProxy(t, `${settings}cache: { disk: false, emptyResultTtl: 0s }\n`)
  const rows: readonly (readonly [steps: readonly Step[], error: RegExp])[] = [
    [['500', '500', '500', '500'], /^(?!execution failed).+/],
    [['404'], /.+/],
    [['501'], /.+/],
    [['reset-after-charge', 'reset-after-charge'], /^UPSTREAM_UNREACHABLE: .+/],
    [['not-json', 'not-json', 'not-json', 'not-json'], /^UPSTREAM_INVALID: .+/],
    [['401'], /^NO_KEY_AVAILABLE: .+/],
  ]
  for (const [index, [[first = '500', ...more], error]] of rows.entries()) {
    const prompt = `q${index}`
    sim.script({ prompt }, [{ kind: 'hold', next: first }, ...more])
    const { headers } = await ask(prompt, asTeam({ prefer: 'respond-async' }))
    await sim.received(1, { prompt })
    sim.release()
    let document: Answer
    do document = await ask(String(headers['location']), asTeam())
    while (document.json['status'] === 'pending')
    t.match(document.json, { status: 'failed', error }, JSON.stringify(first))
  }
})
