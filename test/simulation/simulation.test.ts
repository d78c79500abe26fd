/**
 * A bounded round of the simulation: fixed seeds, each a fleet of its own with its own settings and faults. The long round is
 * `npm run simulate`; a seed that it finds broken is kept here by its number.
 */
import t from 'tap'
import { simulate } from './simulation.ts'

const SEEDS = 24
const REQUESTS = 400

void t.test('no invariant breaks, whatever fails', async (t) => {
  let requests = 0
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const result = await simulate(seed, { requests: REQUESTS })
    t.equal(result.broken, null, `seed ${seed}`)
    requests += result.requests
  }
  t.comment(`${requests} requests`)
})

void t.test('the same seed does the same, event by event', async (t) => {
  for (const seed of [3, 17, 41]) {
    const first = await simulate(seed, { requests: 200 })
    const second = await simulate(seed, { requests: 200 })
    t.equal(second.hash, first.hash, `seed ${seed}`)
    t.equal(second.virtualMs, first.virtualMs)
  }
  const [one, other] = [await simulate(3, { requests: 50 }), await simulate(4, { requests: 50 })]
  t.not(one.hash, other.hash, 'and another seed does something else')
})
