import fc from 'fast-check'
import t from 'tap'
import { ProxyError } from '../../src/errors.ts'
import { createAdmission } from '../../src/limits/admission.ts'
import { epoch, fakeClock, fakeWorld } from '../support/world.ts'
import { aCall, aClient } from '../support/verdicts.ts'

const perMinute = { limit: 60, per: 60_000, burst: 20 }

/** What is thrown, as a refusal. */
function refusalOf(work: () => unknown): ProxyError {
  try {
    work()
  } catch (error) {
    if (error instanceof ProxyError) return error
    throw error
  }
  throw new Error('Nothing was refused.')
}

void t.test('A client without limits is never refused, and told nothing', async (t) => {
  const admission = createAdmission({ clock: fakeClock() })
  for (let i = 0; i < 1_000; i += 1) {
    t.equal(admission.admit(aClient(), aCall()), null)
    admission.enter(aClient())
  }
  t.equal(admission.open('team'), 1_000, 'but it is counted')
})

void t.test('A burst is let in at once, and then one request per interval', async (t) => {
  const { clock } = fakeWorld()
  const admission = createAdmission({ clock })
  const client = aClient({ rate: perMinute })

  const states = Array.from({ length: 20 }, () => admission.admit(client, aCall()))
  t.strictSame(states[0], { policy: '"requests";q=60;w=60', remaining: 19, resetMs: 1_000 })
  t.strictSame(states[19], { policy: '"requests";q=60;w=60', remaining: 0, resetMs: 20_000 })

  const refusal = refusalOf(() => admission.admit(client, aCall()))
  t.match(refusal, { code: 'RATE_LIMITED', status: 429, retryAfterMs: 1_000 })

  await clock.advance(999)
  t.equal(refusalOf(() => admission.admit(client, aCall())).retryAfterMs, 1, 'what was refused costs no time')
  await clock.advance(1)
  t.match(admission.admit(client, aCall()), { remaining: 0 })
  t.equal(refusalOf(() => admission.admit(client, aCall())).code, 'RATE_LIMITED')
})

void t.test('After an idle time the burst is back, and no more than the burst', async (t) => {
  const { clock } = fakeWorld()
  const admission = createAdmission({ clock })
  const client = aClient({ rate: perMinute })
  for (let i = 0; i < 20; i += 1) admission.admit(client, aCall())
  await clock.advance(24 * 3_600_000)
  for (let i = 0; i < 20; i += 1) admission.admit(client, aCall())
  t.equal(refusalOf(() => admission.admit(client, aCall())).code, 'RATE_LIMITED')
})

void t.test('What time has given back is not given back a second time', async (t) => {
  const { clock } = fakeWorld()
  const admission = createAdmission({ clock })
  const client = aClient({ rate: { limit: 60, per: 60_000, burst: 1 } })
  const first = admission.admit(client, aCall())
  await clock.advance(1_000)
  admission.admit(client, aCall())
  if (first) admission.giveBack(client, first, first.resetMs - 1_000)
  t.equal(refusalOf(() => admission.admit(client, aCall())).code, 'RATE_LIMITED', 'the bucket had refilled')

  await clock.advance(1_000)
  const second = admission.admit(client, aCall())
  await clock.advance(400)
  if (second) admission.giveBack(client, second, second.resetMs - 400)
  t.match(admission.admit(client, aCall()), { remaining: 0 }, 'what is left of it is given back')
})

void t.test('Every client has limits of its own', async (t) => {
  const admission = createAdmission({ clock: fakeClock() })
  const rate = { limit: 1, per: 500, burst: 1 }
  t.strictSame(admission.admit(aClient({ name: 'one', rate }), aCall()), {
    policy: '"requests";q=1;w=1',
    remaining: 0,
    resetMs: 500,
  })
  t.equal(refusalOf(() => admission.admit(aClient({ name: 'one', rate }), aCall())).retryAfterMs, 500)
  t.match(admission.admit(aClient({ name: 'two', rate }), aCall()), { remaining: 0 })
})

void t.test('L4: in any window there are at most burst + window / interval requests, for any schedule', async (t) => {
  const schedule = fc.record({
    limit: fc.integer({ min: 1, max: 50 }),
    per: fc.integer({ min: 100, max: 60_000 }),
    burst: fc.integer({ min: 1, max: 30 }),
    gaps: fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 50 }), fc.integer({ min: 0, max: 20_000 })), {
      maxLength: 80,
    }),
  })
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(schedule, ({ gaps, ...rate }) => {
        let now = epoch
        const admission = createAdmission({ clock: { ...fakeClock(), now: () => now } })
        const client = aClient({ rate })
        const grants: number[] = []
        for (const gap of gaps) {
          now += gap
          try {
            admission.admit(client, aCall())
            grants.push(now)
          } catch (error) {
            if (!(error instanceof ProxyError)) throw error
          }
        }
        const interval = rate.per / rate.limit
        return grants.every((from, i) =>
          grants.slice(i).every((to, j) => j + 1 <= rate.burst + (to - from) / interval + 1e-9),
        )
      }),
      { numRuns: 2_000, seed: 4 },
    ),
  )
})

void t.test('L4: who waits as long as they are told is let in, and not a millisecond earlier', async (t) => {
  const rates = fc.record({
    limit: fc.integer({ min: 1, max: 5_000 }),
    per: fc.integer({ min: 1, max: 86_400_000 }),
    burst: fc.integer({ min: 1, max: 10 }),
  })
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(rates, (rate) => {
        let now = epoch
        const admission = createAdmission({ clock: { ...fakeClock(), now: () => now } })
        const client = aClient({ rate })
        for (let i = 0; i < rate.burst; i += 1) admission.admit(client, aCall())
        const waitMs = refusalOf(() => admission.admit(client, aCall())).retryAfterMs ?? 0
        now += waitMs - 1
        const early = refusalOf(() => admission.admit(client, aCall())).retryAfterMs
        now += 1
        return early === 1 && admission.admit(client, aCall()) !== null
      }),
      { numRuns: 500, seed: 4 },
    ),
  )
})

void t.test('A client has so many open questions, and a place counts until it is left, once', async (t) => {
  const admission = createAdmission({ clock: fakeClock() })
  const client = aClient({ concurrency: 2 })
  const first = admission.enter(client)
  admission.enter(client)
  t.match(
    refusalOf(() => admission.enter(client)),
    { code: 'CONCURRENCY_LIMITED', status: 429, retryAfterMs: 1_000 },
  )
  admission.enter(aClient({ name: 'other', concurrency: 1 }))
  t.equal(admission.open('other'), 1, 'others are not affected')

  first.leave()
  first.leave()
  t.equal(admission.open('team'), 1, 'leaving twice frees one place')
  admission.enter(client)
  t.equal(refusalOf(() => admission.enter(client)).code, 'CONCURRENCY_LIMITED')
  t.equal(admission.open('nobody'), 0)
})

void t.test('A client asks the scrapers it may ask, and no others', async (t) => {
  const admission = createAdmission({ clock: fakeClock() })
  const client = aClient({ scrapers: new Set(['alpha', 'beta']) })
  for (const scraper of ['alpha', 'beta']) {
    for (const endpoint of ['answer', 'submit'] as const) {
      t.doesNotThrow(() => admission.admit(client, aCall({ scraper, endpoint })))
      t.doesNotThrow(() => admission.admit(aClient(), aCall({ scraper: 'gamma', endpoint })), 'no list: all of them')
      t.match(
        refusalOf(() => admission.admit(client, aCall({ scraper: 'gamma', endpoint }))),
        { code: 'SCRAPER_NOT_ALLOWED', status: 403, fault: 'client' },
      )
    }
  }
  t.doesNotThrow(() => admission.admit(client, aCall({ scraper: 'none', endpoint: 'status' })), 'a poll names none')
})

void t.test('What a client may not ask costs it none of its rate', async (t) => {
  const admission = createAdmission({ clock: fakeClock() })
  const client = aClient({ scrapers: new Set(['alpha']), rate: { limit: 1, per: 60_000, burst: 1 } })
  for (let i = 0; i < 3; i += 1) refusalOf(() => admission.admit(client, aCall({ scraper: 'beta' })))
  t.match(admission.admit(client, aCall({ scraper: 'alpha' })), { remaining: 0 })
})

void t.test('Another limit counts from now on, and what was used of the old one is used of the new one', async (t) => {
  const { clock } = fakeWorld()
  const admission = createAdmission({ clock })
  const monthly = { limit: 1_000, per: 30 * 86_400_000, burst: 1_000 }
  for (let i = 0; i < 1_000; i += 1) admission.admit(aClient({ rate: monthly }), aCall())
  t.equal(refusalOf(() => admission.admit(aClient({ rate: monthly }), aCall())).code, 'RATE_LIMITED')
  const raised = aClient({ rate: { ...monthly, limit: 2_000, burst: 2_000 } })
  t.match(admission.admit(raised, aCall()), { remaining: 999 })
  const lowered = aClient({ rate: { ...monthly, limit: 10, burst: 10 } })
  t.equal(refusalOf(() => admission.admit(lowered, aCall())).code, 'RATE_LIMITED')
})
