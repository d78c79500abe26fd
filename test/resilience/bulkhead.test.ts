import fc from 'fast-check'
import t from 'tap'
import { createBulkhead } from '../../src/resilience/bulkhead.ts'

const overloaded = { code: 'OVERLOADED', status: 503, retryAfterMs: 1_000 }

void t.test('So many in all, so many for each scraper, and a place is free again once left', async (t) => {
  const bulkhead = createBulkhead({ maxConcurrent: 3, perScraper: 2 })
  const first = bulkhead.enter('alpha')
  bulkhead.enter('alpha')
  t.throws(() => bulkhead.enter('alpha'), overloaded, 'the scraper is full')
  bulkhead.enter('beta')
  t.throws(() => bulkhead.enter('beta'), overloaded, 'all is full')

  first.leave()
  first.leave()
  t.equal(bulkhead.inFlight('alpha'), 1)
  t.equal(bulkhead.inFlight(), 2)
  bulkhead.enter('beta')
  t.throws(() => bulkhead.enter('alpha'), overloaded)
  t.equal(bulkhead.inFlight('gamma'), 0)
})

void t.test('Without a limit per scraper one may take all places', async (t) => {
  const bulkhead = createBulkhead({ maxConcurrent: 5, perScraper: null })
  for (let i = 0; i < 5; i += 1) bulkhead.enter('alpha')
  t.throws(() => bulkhead.enter('beta'), overloaded)
})

void t.test('R9: for any order of coming and going the limits hold and the gauges are right', async (t) => {
  const steps = fc.array(fc.record({ scraper: fc.constantFrom('a', 'b', 'c'), leaves: fc.nat(20) }), { maxLength: 200 })
  const property = fc.property(steps, (steps) => {
    const bulkhead = createBulkhead({ maxConcurrent: 7, perScraper: 4 })
    const inside: { scraper: string; leave: () => void }[] = []
    return steps.every(({ scraper, leaves }) => {
      const isFull = inside.length >= 7 || inside.filter((one) => one.scraper === scraper).length >= 4
      let isRefused = false
      try {
        const place = bulkhead.enter(scraper)
        inside.push({ scraper, leave: () => place.leave() })
      } catch {
        isRefused = true
      }
      inside.splice(leaves, 1)[0]?.leave()
      return isRefused === isFull && bulkhead.inFlight() === inside.length
    })
  })
  t.doesNotThrow(() => fc.assert(property, { seed: 9 }))
})
