/**
 * The routes of `deploy/alertmanager.yaml` in a real Alertmanager: one cause wakes somebody once, whatever follows from it.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { ruleFiles, rules, rulesFolder } from './support/grafana.ts'
import { root, start } from './support/process.ts'
import { request } from './support/proxy.ts'
import { until } from './support/redis.ts'

const FILE = join(root, 'deploy/alertmanager.yaml')

interface Alert {
  readonly labels: Readonly<Record<string, string>>
  readonly status: { readonly state: string; readonly inhibitedBy: readonly string[] }
  readonly receivers: readonly { readonly name: string }[]
}

/** Alerts that fire for these causes of `grafana/rules`, and what they mute. */
const cases: readonly { readonly cause: string; readonly firing: readonly string[] }[] = [
  {
    cause: 'ScrapellmProxyCircuitOpen',
    firing: ['Upstream503', 'RetryAmplification', 'RetriesRefused', 'CallsAbandoned', 'ErrorBudgetBurn'],
  },
  { cause: 'ScrapellmProxyOutOfCredits', firing: ['KeySpent', 'KeyResting', 'ErrorBudgetBurn'] },
  { cause: 'ScrapellmProxyNoKeyReady', firing: ['KeyResting', 'KeyRefused', 'ErrorBudgetBurn'] },
  { cause: 'ScrapellmProxyDown', firing: ['MemoryHigh', 'Overloaded', 'RedisDown'] },
  { cause: 'ScrapellmProxyOverloaded', firing: ['ErrorBudgetBurn', 'EventLoopSlow', 'MemoryHigh'] },
  { cause: 'ScrapellmProxyUpstreamUnreachable', firing: ['CircuitOpen', 'RetriesRefused', 'ErrorBudgetBurn'] },
  { cause: 'ScrapellmProxyRecordsLost', firing: ['AuditLost', 'DiskCacheLost', 'ErrorBudgetBurn'] },
  { cause: 'ScrapellmProxyRedisDown', firing: ['InstanceLost', 'HitRatioFell'] },
]

const severityOf = (alert: string): string =>
  rules.find((rule) => rule.alert === alert)?.labels?.['severity'] ?? `there is no alert ${alert}`

void t.test('Alertmanager takes the file, and its rules name alerts that exist', async (t) => {
  const text = readFileSync(FILE, 'utf8')
  const { ended } = start(t, 'amtool', ['check-config', FILE])
  t.match(await ended, { code: 0 })
  const { inhibit_rules: inhibitions } = parse(text) as {
    inhibit_rules: { source_matchers: string[]; target_matchers: string[] }[]
  }
  const names = new Set(rules.flatMap(({ alert }) => alert ?? []))
  for (const matcher of inhibitions.flatMap((rule) => [...rule.source_matchers, ...rule.target_matchers])) {
    const [, one, group] = /^alertname (?:=|!=) (\w+)$|^alertname =~ "ScrapellmProxy\(([\w|]+)\)"$/.exec(matcher) ?? []
    const named = one ? [one] : (group?.split('|') ?? []).map((name) => `ScrapellmProxy${name}`)
    for (const name of named) t.ok(names.has(name), `${name} (${ruleFiles.join(', ')} in ${rulesFolder})`)
  }
})

void t.test('one cause wakes somebody once', async (t) => {
  const alertmanager = start(t, 'prometheus-alertmanager', [
    `--config.file=${FILE}`,
    `--storage.path=${t.testdir()}`,
    '--web.listen-address=127.0.0.1:0',
    '--cluster.listen-address=',
  ])
  const told = (): string | undefined => /address=(127\.0\.0\.1:\d+)/.exec(alertmanager.stderr())?.[1]
  await until(() => told() !== undefined)
  const url = `http://${told()}`

  for (const { cause, firing } of cases) {
    const job = cause.toLowerCase()
    const alerts = [cause, ...firing.map((name) => `ScrapellmProxy${name}`)]
    const labels = alerts.map((alertname) => ({ alertname, job, instance: 'a', severity: severityOf(alertname) }))
    const body = JSON.stringify(labels.map((one) => ({ labels: one })))
    const headers = { 'content-type': 'application/json' }
    const posted = await request(undefined, `${url}/api/v2/alerts`, { method: 'POST', headers, body })
    t.equal(posted.status, 200, posted.text)
    const listed = async (): Promise<readonly Alert[]> => {
      const answer = await request(undefined, `${url}/api/v2/alerts?filter=job=${job}`)
      return JSON.parse(answer.text) as Alert[]
    }
    // Alertmanager looks for inhibitions when it is asked.
    await until(async () => (await listed()).length === alerts.length)
    const loud = (await listed()).filter(({ status }) => status.inhibitedBy.length === 0)
    t.strictSame(
      loud.map((one) => one.labels['alertname']),
      [cause],
      `${cause} is the only one that is told`,
    )
    const receivers = loud.flatMap((one) => one.receivers.map(({ name }) => name))
    t.strictSame(receivers, [severityOf(cause)])
  }
  alertmanager.signal('SIGTERM')
  await alertmanager.ended
})
