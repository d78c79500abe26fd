/**
 * A real Prometheus that scrapes its targets every second, with the rules of `grafana/` evaluated as often. What it says it has
 * done is the barrier; as it tells nobody, it is asked again until it has, and for no longer than a minute.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { read, ruleFiles } from './grafana.ts'
import { start } from './process.ts'
import { request } from './proxy.ts'
import type { Scope } from './scope.ts'

export interface Sample {
  readonly metric: Readonly<Record<string, string>>
  readonly value: number
}

export interface Prometheus {
  /** What has a value; NaN is none. Rejects with what Prometheus says of a query that it cannot read. */
  readonly query: (expression: string) => Promise<readonly Sample[]>
  readonly api: (path: string, parameters?: Readonly<Record<string, string>>) => Promise<unknown>
  /** Once it has scraped every target that often since now, and evaluated the rules afterwards. */
  readonly scraped: (times: number) => Promise<void>
}

const patience = { tries: 600, everyMs: 100 }

interface More {
  /** What is made of a file of rules; left out: their groups are evaluated every second. */
  readonly rules?: (text: string) => string
  /** The host:port of who is told. */
  readonly alertmanager?: string
}

/** `targets` are host:port; `flags` are more words of its command line. */
export async function startPrometheus(
  t: Scope,
  targets: readonly string[],
  flags: readonly string[] = [],
  { rules = everySecond, alertmanager }: More = {},
): Promise<Prometheus> {
  const folder = mkdtempSync(join(tmpdir(), 'prometheus-'))
  const port = await freePort()
  for (const name of ruleFiles) writeFileSync(join(folder, name), rules(read(`rules/${name}`)))
  const settings = {
    global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
    rule_files: ruleFiles,
    ...(alertmanager ? { alerting: { alertmanagers: [{ static_configs: [{ targets: [alertmanager] }] }] } } : {}),
    scrape_configs: [{ job_name: 'scrapellm-proxy', static_configs: [{ targets }] }],
  }
  // JSON is YAML.
  writeFileSync(join(folder, 'prometheus.yaml'), JSON.stringify(settings))
  const words = ['--config.file=prometheus.yaml', '--storage.tsdb.path=data', '--log.level=warn', ...flags]
  const program = start(t, 'prometheus', [...words, `--web.listen-address=127.0.0.1:${port}`], { cwd: folder })
  t.teardown(async () => {
    program.signal('SIGTERM')
    await program.ended
    rmSync(folder, { recursive: true, force: true })
  })
  const url = `http://127.0.0.1:${port}`

  async function until(isSo: () => Promise<boolean>): Promise<void> {
    for (let attempt = 0; attempt < patience.tries; attempt += 1) {
      if (await isSo()) return
      await new Promise((resolve) => setTimeout(resolve, patience.everyMs))
    }
    throw new Error(`Prometheus did not get so far\n${program.stderr()}`)
  }

  async function api(path: string, parameters: Readonly<Record<string, string>> = {}): Promise<unknown> {
    const body = new URLSearchParams(parameters).toString()
    const headers = { 'content-type': 'application/x-www-form-urlencoded' }
    const answer = await request(undefined, `${url}/api/v1/${path}${body === '' ? '' : `?${body}`}`, { headers })
    if (answer.status !== 200) throw new Error(answer.text)
    return answer.json['data']
  }

  async function query(expression: string): Promise<readonly Sample[]> {
    const data = (await api('query', { query: expression })) as {
      readonly result: readonly {
        readonly metric: Readonly<Record<string, string>>
        readonly value: [number, string]
      }[]
    }
    return data.result
      .map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }))
      .filter(({ value }) => !Number.isNaN(value))
  }

  /** Of the target that is behind: each has its own moment within the second. */
  async function scrapes(): Promise<number> {
    const counts = await query('count_over_time(up[1h])')
    return counts.length < targets.length ? 0 : Math.min(...counts.map(({ value }) => value))
  }

  async function evaluatedAt(): Promise<number> {
    const { groups } = (await api('rules')) as { readonly groups: readonly { readonly lastEvaluation: string }[] }
    return Math.min(...groups.map(({ lastEvaluation }) => Date.parse(lastEvaluation)))
  }

  async function scraped(times: number): Promise<void> {
    const before = await scrapes()
    await until(async () => (await scrapes()) >= before + times)
    // The clock of Prometheus against itself: two evaluations of every group after the scrape.
    for (let evaluation = 0; evaluation < 2; evaluation += 1) {
      const last = await evaluatedAt()
      await until(async () => (await evaluatedAt()) > last)
    }
  }

  await until(() =>
    request(undefined, `${url}/-/ready`).then(
      ({ status }) => status === 200,
      () => false,
    ),
  )
  return { query, api, scraped }
}

/** A test has no half minutes to wait for an evaluation. */
function everySecond(rules: string): string {
  return rules.replaceAll(/^ +interval: .*\n/gm, '')
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
