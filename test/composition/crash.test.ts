/**
 * A bug in any part, at each step of a request: it answers that one request with INTERNAL, is told with the request's id and
 * without its prompt, and leaves nothing behind; what may have been charged is not forgotten.
 */
import t from 'tap'
import type { Hold, KeyLease } from '../../src/fetch-parts.ts'
import type { Parts } from '../../src/pipeline.ts'
import { observed } from '../support/observed.ts'
import { aClient, answered, failed } from '../support/verdicts.ts'

const PROMPT = 'CANARY "prompt" of nobody else’s business'

type Step = readonly [name: string, spoil: (parts: Parts, trip: Trip) => Partial<Parts>]
/** Throws once, in the way of the day. */
type Trip = <T>(go: () => T) => T

/** One method of one part. */
function method<P extends keyof Parts>(part: P, name: keyof Parts[P] & string): Step {
  return [
    `${part}.${name}`,
    (parts, trip) => {
      const right = parts[part][name] as (...args: unknown[]) => unknown
      const spoilt = (...args: unknown[]) => trip(() => right(...args))
      return { [part]: Object.assign(Object.create(parts[part] as object) as object, { [name]: spoilt }) }
    },
  ]
}

function holds(name: 'secure' | 'spend'): Step {
  return [
    `hold.${name}`,
    ({ budget }, trip) => ({
      budget: {
        ...budget,
        async hold(client, call) {
          const right = await budget.hold(client, call)
          const spoilt: Hold = { ...right, [name]: (...args: [never]) => trip(() => right[name](...args)) }
          return spoilt
        },
      },
    }),
  ]
}

const lease: Step = [
  'lease.begin',
  ({ sharedFlights }, trip) => ({
    sharedFlights: {
      ...sharedFlights,
      fly: (question, flight, lead) =>
        sharedFlights.fly(question, flight, (right) => lead({ ...right, begin: () => trip(right.begin) })),
    },
  }),
]

const report: Step = [
  'keyLease.report',
  ({ keys }, trip) => ({
    keys: {
      ...keys,
      async lease(call, turn) {
        const right = await keys.lease(call, turn)
        const spoilt: KeyLease = { ...right, report: (verdict) => trip(() => right.report(verdict)) }
        return spoilt
      },
    },
  }),
]

/** In the order of a request. */
const steps: readonly Step[] = [
  method('clients', 'identify'),
  method('profile', 'read'),
  method('admission', 'admit'),
  method('cache', 'keyOf'),
  method('cache', 'lookup'),
  method('overload', 'mayAsk'),
  method('admission', 'enter'),
  method('flights', 'has'),
  method('budget', 'hold'),
  method('flights', 'join'),
  method('sharedFlights', 'fly'),
  method('retry', 'run'),
  method('breakers', 'run'),
  method('bulkhead', 'enter'),
  holds('secure'),
  lease,
  method('keys', 'lease'),
  method('upstream', 'ask'),
  holds('spend'),
  report,
  method('keys', 'hasOther'),
  method('cache', 'store'),
  method('budget', 'limits'),
]

/** What may be waited for may also fail later. */
const waited = new Set([
  'admission.admit',
  'cache.lookup',
  'admission.enter',
  'budget.hold',
  'sharedFlights.fly',
  'retry.run',
  'breakers.run',
  'bulkhead.enter',
  'hold.secure',
  'lease.begin',
  'keys.lease',
  'upstream.ask',
])

for (const isLate of [false, true]) {
  for (const [name, spoil] of steps.filter(([name]) => !isLate || waited.has(name))) {
    void t.test(`${name} ${isLate ? 'rejects' : 'throws'}`, async (t) => {
      let isArmed = true
      const trip: Trip = (go) => {
        if (!isArmed) return go()
        isArmed = false
        const error = new Error(`cannot do it for ${PROMPT} or ${encodeURIComponent(PROMPT)}`)
        if (isLate) return Promise.reject(error) as never
        throw error
      }
      const stage = observed({
        clients: [aClient({ name: 'alice', credits: { perDay: 30, perMonth: null } })],
        says: () => answered(),
        instead: (parts) => spoil(parts, trip),
      })
      const { clock, ask, status, calls, metrics, output } = stage
      const outcome = await clock.finish(ask({ id: 'the-unlucky-one', prompt: PROMPT }).outcome)
      t.notOk(isArmed, 'the step was taken')
      t.match(outcome, { kind: 'refused', error: { code: 'INTERNAL', status: 500 } })
      await clock.settle()

      const bug = output()
        .split('\n')
        .find((line) => line.includes('"msg":"bug"'))
      t.match(bug, /"id":"the-unlucky-one".*cannot do it for \[prompt\] or \[prompt\].*crash\.test\.ts/)
      t.notMatch(output(), /CANARY|nobody%20else/)

      const asked = calls.length
      const { credits, budgets, flights, clients } = status()
      t.equal(credits.imbalance, 0)
      t.equal(credits.attempts.underway, 0)
      t.strictSame(flights, [])
      t.match(clients, [{ open_questions: 0 }])
      t.match(budgets, [{ held: 0 }])
      const { spent, uncertain } = credits.total
      t.ok(spent + uncertain >= 3 * asked, 'what was asked is not forgotten')
      if (name !== 'hold.spend') t.match(budgets, [{ spent: spent + uncertain }])
      const { body } = await metrics.text()
      for (const gauge of ['in_flight_requests', 'upstream_in_flight', 'ledger_imbalance_credits'])
        t.notMatch(body, new RegExp(`^scrapellm_proxy_${gauge}(?:{.*})? [^0]`, 'm'), gauge)

      t.match(await clock.finish(ask({ prompt: 'another' }).outcome), { kind: 'fetched' }, 'the next one is answered')
      t.match(await clock.finish(ask({ prompt: PROMPT }).outcome), { kind: String }, 'so is the same again')
      // The access log waits for more lines.
      output()
      t.equal(clock.timers, 0, 'no timer is left')
      t.equal(status().credits.imbalance, 0)
    })
  }
}

void t.test('a bug after a failed attempt leaves the books in order, too', async (t) => {
  let isArmed = true
  const stage = observed({
    says: (n) => (n === 1 ? failed('serverError') : answered()),
    instead: ({ keys }) => ({
      keys: {
        ...keys,
        lease(call, turn) {
          if (turn.number === 1 || !isArmed) return keys.lease(call, turn)
          isArmed = false
          throw new Error('no key')
        },
      },
    }),
  })
  t.match(await stage.finish(), { kind: 'refused', error: { code: 'INTERNAL' } })
  t.match(stage.status().credits, { imbalance: 0, attempts: { underway: 0 } })
  t.match(await stage.finish(), { kind: 'fetched' })
})
