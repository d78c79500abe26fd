/** Where every credit went: through the recorder and what is scraped from it, as an operator would add it up. */
import fc from 'fast-check'
import t from 'tap'
import { noDirectives } from '../../src/http/cache-directives.ts'
import { matches } from '../../src/http/respond.ts'
import { createLinkedList } from '../../src/linked-list.ts'
import type { Attempt, Charge, Entry, Exchange, Landing, Outcome, Verdict } from '../../src/model.ts'
import { createLog } from '../../src/telemetry/log.ts'
import { createMetrics } from '../../src/telemetry/metrics.ts'
import { createRecorder } from '../../src/telemetry/recorder.ts'
import { fakeClock } from '../support/world.ts'
import { aCall, aClient, answered, attempted, failed, reply } from '../support/verdicts.ts'

const unknown: Charge = { state: 'unknown', credits: 3 }
const free: Charge = { state: 'free', credits: 0 }

function createScene() {
  const lines: string[] = []
  const gauges = {
    breakers: () => [],
    keys: () => [],
    retryTokens: () => 0,
    cache: () => [],
    configGeneration: () => 1,
  }
  const metrics = createMetrics({
    clients: ['payer', 'other'],
    scrapers: ['alpha', 'beta'],
    keys: ['main', 'spare'],
    tiers: ['memory'],
    version: '1',
  })
  metrics.showGauges(gauges)
  const clock = fakeClock()
  const log = createLog({ level: 'info', sink: (text) => void lines.push(text), secrets: [] })
  const access = { write() {}, flush() {}, adopt() {} }
  const recorder = createRecorder({ metrics, access, log, clock, matches, open: createLinkedList() })
  const { emit, credits } = recorder

  function attempt(verdict: Verdict, { payer = 'payer', scraper = 'alpha', keyName = 'main' } = {}): Attempt {
    const { attempt } = attempted(verdict, { keyName })
    emit({ kind: 'attempt-started', flight: 1, number: 1, waitedMs: 0, keyName: 'main', scraper })
    emit({ kind: 'attempt-ended', flight: 1, retryAfterMs: null, id: 'r1', scraper, payer, attempt })
    return attempt
  }

  function land(attempts: Attempt[], verdict: Verdict, { payer = 'payer', scraper = 'alpha', claimed = true } = {}) {
    const landing: Landing = { verdict, attempts, stoppedBy: null, chargedCredits: 0, entry: null }
    emit({ kind: 'flight-landed', flight: 1, payer, scraper, landing, claimed })
    return landing
  }

  function answer(outcome: Outcome, client = 'other', scraper = 'alpha'): void {
    const exchange = exchangeOf(client, scraper, clock.now())
    recorder.record(exchange, outcome)
  }

  /** Every sample of a metric that is not 0. */
  async function scrape(name: string): Promise<Record<string, number>> {
    const { body } = await metrics.text()
    const found = [...body.matchAll(new RegExp(`^scrapellm_proxy_${name}(?:\\{(.*)\\})? (\\S+)$`, 'gm'))]
    return Object.fromEntries(found.map(([, labels = '', value]) => [labels, Number(value)]).filter(([, n]) => n !== 0))
  }

  const bugs = () => lines.filter((line) => line.includes('"msg":"bug"'))
  return { emit, credits, attempt, land, answer, scrape, bugs }
}

function exchangeOf(client: string, scraper: string, arrivedAt: number): Exchange {
  return {
    request: {
      id: 'req-1',
      method: 'GET',
      target: { path: `/scrapers/${scraper}`, params: [], token: null },
      token: null,
      cacheDirectives: noDirectives,
      ifNoneMatch: null,
      patienceMs: null,
      idempotencyKey: null,
      respondAsyncAfterMs: null,
      traceparent: null,
      source: { host: null, origin: null, fetchSite: null },
      arrivedAt,
      onGone: () => () => {},
    },
    client: aClient({ name: client }),
    call: aCall({ scraper }),
    limits: null,
    credits: [],
    flight: null,
  }
}

const entry: Entry = {
  status: 200,
  contentType: 'application/json',
  body: Buffer.from('{}'),
  etag: '"e"',
  storedAt: 0,
  keptUntil: 2,
  scraper: 'alpha',
  promptHash: null,
  country: null,
  priceCredits: 3,
  unclaimed: false,
}

const hit: Outcome = { kind: 'hit', entry, tier: 'memory' }
const rescued: Outcome = { ...hit, entry: { ...entry, unclaimed: true } }
const stale: Outcome = { kind: 'stale', entry, tier: 'memory', landing: null, because: 'error' }
const gone: Outcome = { kind: 'gone' }

function fetched(landing: Landing, role: 'leader' | 'joined'): Outcome {
  return { kind: 'fetched', landing, role, forwardedBecause: 'miss' }
}

const nothing = {
  spent: 0,
  saved: { hit: 0, joined: 0, stale: 0, rescued: 0 },
  delivered: 0,
  wasted: 0,
  unclaimed: 0,
  settling: 0,
  uncertain: 0,
  refunded: 0,
}

void t.test('An attempt ends in one entry, under who pays for it, what was asked and the key', async (t) => {
  const scene = createScene()
  scene.emit({ kind: 'attempt-started', flight: 1, number: 1, waitedMs: 0, keyName: 'main', scraper: 'alpha' })
  scene.attempt(failed('serverError'))
  scene.attempt(failed('ambiguous', { charge: unknown }), { keyName: 'spare' })
  scene.attempt(failed('ambiguous', { charge: { state: 'charged', credits: 2 } }), { scraper: 'beta' })
  scene.attempt(answered({ charge: { state: 'charged', credits: 7 } }), { payer: 'other' })

  t.strictSame(await scene.scrape('credits_spent_total'), {
    'client="payer",scraper="beta",key="main"': 2,
    'client="other",scraper="alpha",key="main"': 7,
  })
  t.strictSame(await scene.scrape('credits_uncertain_total'), { 'client="payer",scraper="alpha",key="spare"': 3 })
  t.strictSame(await scene.scrape('credits_wasted_total'), {
    'client="payer",scraper="alpha",why="uncertain"': 3,
    'client="payer",scraper="beta",why="invalid"': 2,
  })
  t.strictSame(scene.credits(), {
    attempts: { started: 5, charged: 2, free: 1, uncertain: 1, underway: 1 },
    total: { ...nothing, spent: 9, wasted: 2, settling: 7, uncertain: 3, refunded: 0 },
    clients: [
      { ...nothing, client: 'payer', spent: 2, wasted: 2, uncertain: 3, refunded: 0 },
      { ...nothing, client: 'other', spent: 7, settling: 7 },
    ],
    imbalance: 0,
  })
})

void t.test('A flight’s charge is delivered to its payer, who pays it; those who joined are spared it', async (t) => {
  const scene = createScene()
  const verdict = answered()
  const landing = scene.land([scene.attempt(failed('warmingUp')), scene.attempt(verdict)], verdict)
  scene.answer(fetched(landing, 'leader'), 'payer')
  scene.answer(fetched(landing, 'joined'))
  scene.answer(fetched(landing, 'joined'))

  t.strictSame(await scene.scrape('credits_delivered_total'), {
    'client="payer"': 3,
    'client="other"': 6,
  })
  t.strictSame(await scene.scrape('credits_saved_total'), { 'client="other",scraper="alpha",how="joined"': 6 })
  t.match(scene.credits().total, { spent: 3, delivered: 9, settling: 0 })
})

void t.test('What nobody waited for is unclaimed, until somebody else is spared a payment by it', async (t) => {
  const scene = createScene()
  const verdict = answered()
  scene.answer(gone, 'payer')
  scene.land([scene.attempt(verdict)], verdict, { claimed: false })
  t.strictSame(await scene.scrape('credits_unclaimed_total'), { 'client="payer",scraper="alpha"': 3 })
  scene.answer(rescued)
  scene.answer(hit)
  t.strictSame(await scene.scrape('credits_saved_total'), {
    'client="other",scraper="alpha",how="hit"': 3,
    'client="other",scraper="alpha",how="rescued"': 3,
  })
  t.match(scene.credits().clients, [
    { client: 'payer', spent: 3, unclaimed: 3, delivered: 0 },
    { client: 'other', saved: { hit: 3, rescued: 3 }, delivered: 6 },
  ])
})

void t.test('Answers that cost nothing, or that are none, are worth nothing', async (t) => {
  const scene = createScene()
  const cached = answered({ charge: free })
  const gift = scene.land([scene.attempt(cached)], cached)
  const broken = failed('serverError')
  const failure = scene.land([scene.attempt(broken)], broken)
  const poll = reply(200)
  const outcomes: Outcome[] = [
    fetched(gift, 'leader'),
    fetched(gift, 'joined'),
    fetched(failure, 'joined'),
    gone,
    { kind: 'job', reply: poll, idempotentReplay: true },
  ]
  for (const outcome of outcomes) scene.answer(outcome)
  t.strictSame(scene.credits().total, nothing)

  scene.answer(stale)
  t.match(scene.credits().total, { saved: { stale: 3 }, delivered: 3 })
  t.strictSame(scene.bugs(), [])
})

void t.test('An answer that may have been charged is uncertain, but no waste', async (t) => {
  const scene = createScene()
  const verdict = answered({ charge: unknown })
  scene.land([scene.attempt(verdict)], verdict)
  t.strictSame(scene.credits().total, { ...nothing, uncertain: 3, refunded: 0 })
  t.strictSame(await scene.scrape('credits_wasted_total'), {})
})

void t.test('Books that do not balance are told as a bug, once, and shown until they balance again', async (t) => {
  const scene = createScene()
  const verdict = answered()
  const attempt = scene.attempt(verdict)
  scene.land([attempt], verdict)
  t.strictSame(await scene.scrape('ledger_imbalance_credits'), {})

  scene.land([attempt], verdict)
  t.strictSame(await scene.scrape('ledger_imbalance_credits'), { '': 3 }, 'landed twice')
  t.match(scene.credits(), { imbalance: 3 })
  scene.attempt(failed('ambiguous', { charge: unknown }))
  t.equal(scene.bugs().length, 1)
  t.match(scene.bugs()[0], '-3 credits of client payer are not accounted for')
  t.match(scene.bugs()[0], '"where":"ledger"')

  const worthless = answered({ charge: free })
  scene.land([scene.attempt(verdict)], worthless)
  t.strictSame(await scene.scrape('ledger_imbalance_credits'), {}, 'charged, and landed as if it were not')
  t.equal(scene.bugs().length, 1)
  scene.land([], verdict, { payer: 'other' })
  t.strictSame(await scene.scrape('ledger_imbalance_credits'), { '': 3 }, 'landed without an attempt')
  t.equal((await scene.scrape('bugs_total'))[''], 2)
})

void t.test(
  'Whatever happens, spent and saved is delivered, wasted, unclaimed or settling, to the credit',
  async (t) => {
    interface Flight {
      readonly payer: string
      readonly scraper: string
      readonly ends: readonly Charge[]
      readonly isAnswered: boolean
      readonly joiners: number
      readonly claimed: boolean
    }
    const names = fc.constantFrom('payer', 'other')
    const scrapers = fc.constantFrom('alpha', 'beta')
    const charges = fc.record({ state: fc.constantFrom('charged', 'unknown', 'free'), credits: fc.nat(9) })
    const flights: fc.Arbitrary<Flight> = fc.record({
      payer: names,
      scraper: scrapers,
      ends: fc.array(charges, { minLength: 1, maxLength: 4 }),
      isAnswered: fc.boolean(),
      joiners: fc.nat(3),
      claimed: fc.boolean(),
    })
    const answers = fc.record({ client: names, outcome: fc.constantFrom(hit, stale, rescued, gone) })

    await fc.assert(
      fc.asyncProperty(fc.array(flights), fc.array(answers), fc.scheduler(), async (flown, given, scheduler) => {
        const scene = createScene()
        const work = [...flown.map((flight) => () => fly(flight)), ...given.map((one) => () => give(one))]
        await Promise.all([...work.map((start) => start()), scheduler.waitAll()])
        verify()
        const { total, attempts } = scene.credits()
        t.equal(total.settling, 0)
        t.strictSame([attempts.underway, attempts.started], [0, flown.flatMap(({ ends }) => ends).length])
        t.equal(attempts.charged + attempts.free + attempts.uncertain, attempts.started)
        const charged = flown.flatMap(({ ends }) => ends.filter(({ state }) => state === 'charged'))
        t.equal(total.spent, sumOf(charged.map(({ credits }) => credits)))
        for (const name of ['spent', 'delivered', 'unclaimed', 'uncertain'] as const) {
          t.equal(sumOf(Object.values(await scene.scrape(`credits_${name}_total`))), total[name], name)
        }
        t.equal(sumOf(Object.values(await scene.scrape('credits_saved_total'))), sumOf(Object.values(total.saved)))
        t.equal(sumOf(Object.values(await scene.scrape('credits_wasted_total'))), total.wasted + total.uncertain)
        t.strictSame([scene.bugs(), await scene.scrape('ledger_imbalance_credits')], [[], {}])

        async function fly({ payer, scraper, ends, isAnswered, joiners, claimed }: Flight): Promise<void> {
          const attempts: Attempt[] = []
          let verdict: Verdict = answered()
          for (const [i, charge] of ends.entries()) {
            await scheduler.schedule(Promise.resolve())
            const isLast = isAnswered && i === ends.length - 1 && charge.state !== 'unknown'
            verdict = isLast ? answered({ charge }) : failed('ambiguous', { charge })
            attempts.push(scene.attempt(verdict, { payer, scraper }))
            verify()
          }
          await scheduler.schedule(Promise.resolve())
          const landing = scene.land(attempts, verdict, { payer, scraper, claimed })
          scene.answer(claimed ? fetched(landing, 'leader') : gone, payer, scraper)
          for (let i = 0; i < joiners; i += 1) scene.answer(fetched(landing, 'joined'), 'other', scraper)
          verify()
        }

        async function give({
          client,
          outcome,
        }: {
          readonly client: string
          readonly outcome: Outcome
        }): Promise<void> {
          await scheduler.schedule(Promise.resolve())
          scene.answer(outcome, client)
          verify()
        }

        function verify(): void {
          const { clients, total, imbalance } = scene.credits()
          for (const { spent, saved, delivered, wasted, unclaimed, settling } of [...clients, total]) {
            const [left, right] = [spent + sumOf(Object.values(saved)), delivered + wasted + unclaimed + settling]
            if (left !== right || imbalance !== 0) throw new Error(`${left} is not ${right}, ${imbalance}`)
          }
        }
      }),
      { numRuns: 60 },
    )
  },
)

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0)
}
