/** What `npm run incidents` has written into the page: it is of these incidents, and names alerts that exist. The run itself takes a quarter of an hour. */
import t from 'tap'
import { read, rules } from '../support/grafana.ts'
import { incidents } from './incidents.ts'
import { ruleSeconds, scaledDuration, scaledRules } from './scaled.ts'
import { rowsIn, tableOf, withTable } from './table.ts'

const page = read('../docs/dashboards-and-alerts.md')

void t.test('the table has a row for each incident, with the alert that names its cause', async (t) => {
  const wanted = incidents.map(({ name, alert }) => [name, alert === null ? 'none' : `ScrapellmProxy${alert}`])
  t.strictSame([...rowsIn(page)], wanted)
  const names = new Set(rules.flatMap(({ alert }) => alert ?? []))
  for (const { alert } of incidents) if (alert !== null) t.ok(names.has(`ScrapellmProxy${alert}`), alert)
})

void t.test('a table is written and read back', async (t) => {
  const first = { at: 0, name: 'ScrapellmProxyDown', severity: 'page', summary: 'a | b at 127.0.0.1:33221' }
  const told = { name: 'kill -9', first, delaySeconds: 166, firstLine: null, red: [], faults: [] }
  const none = {
    name: 'calm',
    first: null,
    delaySeconds: null,
    firstLine: '✓ OK since 12:00:00 (3 s)',
    red: [],
    faults: [],
  }
  const written = withTable(page, tableOf([told, none]))
  t.strictSame(
    [...rowsIn(written)],
    [
      ['kill -9', 'ScrapellmProxyDown'],
      ['calm', 'none'],
    ],
  )
  t.match(
    written,
    '| kill -9 | `ScrapellmProxyDown` (page) | 2 min 46 s | a \\| b at 127.0.0.1:9464 | does not answer |',
  )
  t.match(written, '| calm | none |  |  | ✓ OK |')
})

void t.test('rules are scaled whole', async (t) => {
  t.strictSame(['15s', '2m', '1h', '7d', '1s'].map(scaledDuration), ['1s', '8s', '240s', '40320s', '1s'])
  t.equal(ruleSeconds(2_000), 30)
  for (const name of ['causes.yaml', 'slo.yaml']) {
    const scaled = scaledRules(read(`rules/${name}`)).replaceAll(/^ *#.*$/gm, '')
    t.notMatch(scaled, /\[\d+[mhdw]\]|(?:for|interval): \d+[mhdw]|offset \d+[mhdw]|[^\d]300 \*/)
  }
})
