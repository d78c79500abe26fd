/**
 * A small form of `npm run weather`: some rows with one seed each, with the packaged settings. The whole table takes minutes, and is
 * in docs/retries-breakers-limits.md.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { defaultFile } from '../../src/cli/settings.ts'
import { measure, type Row } from './measure.ts'
import { cases } from './rows.ts'
import { loadSettings } from './run.ts'

const files = [{ name: defaultFile, text: readFileSync(defaultFile, 'utf8') }]

function rowOf(weather: string, settings: readonly string[] = []): Promise<Row> {
  const [found, ...others] = cases.filter((one) => one.weather === weather)
  if (!found || others.length > 0) throw new Error(`There are ${others.length + (found ? 1 : 0)} rows "${weather}"`)
  return measure(found, 1, (sets) => loadSettings(files, [...sets, ...settings]))
}

for (const weather of [
  '10 % fail after 0.5 s, 20/s',
  '30 % fail after as long as an answer, 1/s',
  '50 % fail after 12 s, 1/s',
  'outage of 10 s (refused), 1/s',
  'outage of 90 s (503), 1/s',
  'one question fails, asked 10/s; 10 % of the others fail, 1/s',
  '503 for 5 s at the start and in the middle, 1/s',
  'upstream hangs for 10 min, 1/s',
  'outage of 90 s (503) right after the start, 1/s',
  '30 % fail after 0.5 s, 40 s after an outage of 60 s, 1/s',
  'five answers in a row: no status',
  'five answers in a row: 202 with a job_id',
])
  void t.test(weather, async (t) => {
    const { broken, requests } = await rowOf(weather)
    t.strictSame(broken, [])
    t.ok(requests > 50)
  })

void t.test('a row notices settings that do harm', async (t) => {
  const failsFast = await rowOf('outage of 10 s (refused), 1/s', ['breaker.hold=0s'])
  t.ok(failsFast.broken.includes('less than 99 % are answered'), 'an open circuit that holds nothing')
  const singleAttempts = await rowOf('10 % fail after 0.5 s, 1/s', ['retry.attempts=1'])
  t.match(singleAttempts.broken, [/success is more than 0.5 points below/], 'no repetitions')
})
