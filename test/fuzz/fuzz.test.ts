/** The bounded round of every fuzzer; the long ones are `npm run fuzz`. What fails is seen again with its seed and case. */
import t from 'tap'
import { createChance } from './chance.ts'
import { fuzzers } from './fuzzers.ts'

for (const [name, { fuzz, cases }] of Object.entries(fuzzers)) {
  void t.test(`${cases} ${name} of seed 42 hold`, async (t) => {
    t.same(await fuzz(t, { seed: 42, cases }), [])
  })
}

void t.test('the same seed makes the same cases, another one others', async (t) => {
  const made = (seed: number): string =>
    createChance(seed).damage(Buffer.from('GET / HTTP/1.1\r\n\r\n'), 9).toString('latin1')
  t.equal(made(7), made(7))
  t.not(made(7), made(8))
})
