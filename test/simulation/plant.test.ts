/**
 * The simulation notices what it is for: each planted bug still has its place in the source, and a few that are found fast are looked for
 * here. All of them: `npm run simulate -- --planted`.
 */
import t from 'tap'
import { bugs } from './bugs.ts'
import { hunt, planted } from './plant.ts'

const QUICK = [
  'the limit of a class does not hold',
  'an answer of the caller’s own fault is repeated',
  'fresh answers are looked up and not given',
  'the country is not part of the question',
  'the gauge of open requests only grows',
]

void t.test('every planted bug has its place in the source', async (t) => {
  t.ok(bugs.length >= 30)
  t.equal(new Set(bugs.map(({ name }) => name)).size, bugs.length, 'each has a name of its own')
  for (const bug of bugs) t.not(planted(bug), null, bug.name)
})

void t.test('some that are found fast', async (t) => {
  for (const name of QUICK) {
    const bug = bugs.find((one) => one.name === name)
    if (!bug) throw new Error(`There is no bug called ${name}`)
    const { invariant, what } = await hunt(bug)
    t.ok(invariant !== null && bug.invariants.includes(invariant), `${name}: ${invariant} ${what}`)
  }
})
