/**
 * The proxy as it is measured: from the command line, everything on as in production: a client token, its rate, its open
 * questions and its credits are limited, metrics are counted, and an access log line per request goes down a pipe.
 */
import { createHash } from 'node:crypto'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Core, pathOf, type Program, start } from './program.ts'

export interface ProxyOptions {
  readonly upstreamPort: number
  readonly clients?: number
  /** YAML of further settings, each a line of its own; `FOLDER` is one that is removed in the end. */
  readonly settings?: readonly string[]
  /** The program to run instead of the proxy's own: the same proxy in a world that is played in part. */
  readonly main?: string
  /** Shared with other processes. */
  readonly port?: number
  readonly core?: Core
}

export interface Proxy extends Program {
  /** The sum of a metric's series, of those with these labels where some are given. */
  metric(name: string, labels?: string): Promise<number>
}

/** Limits that count everything and refuse nothing. */
const limits =
  'rate: { limit: 1000000000, per: 1s }, concurrency: 100000, credits: { perDay: 1000000000, perMonth: 1000000000 }'

export async function startProxy(options: ProxyOptions): Promise<Proxy> {
  const { clients = 1, settings = [], main = 'src/main.ts', port = 0, upstreamPort, core = 'server' } = options
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const config = join(folder, 'proxy.yaml')
  const lines = [
    `listen: { port: ${port}, reusePort: ${port > 0} }`,
    'admin: { port: 0 }',
    `upstream: { url: "http://127.0.0.1:${upstreamPort}", keys: [{ name: main, secret: bench-key }], maxConcurrent: 20000 }`,
    'shutdown: { grace: 1s }',
    ...(isSet(settings, 'clients') ? [] : ['clients:', ...Array.from({ length: clients }, (_, one) => clientOf(one))]),
    ...(isSet(settings, 'cache') ? [] : ['cache: { disk: false }']),
    ...settings,
  ]
  writeFileSync(config, `${lines.join('\n')}\n`.replaceAll('FOLDER', folder))
  const args = ['--expose-gc', pathOf(main), 'serve', '--config', config]
  const program = await start({ command: process.execPath, args, core, port: 'told', folder })
  return { ...program, metric }

  async function metric(name: string, labels = ''): Promise<number> {
    const text = await (await fetch(`http://127.0.0.1:${program.adminPort}/metrics`)).text()
    return text
      .split('\n')
      .filter((line) => (line.startsWith(`${name} `) || line.startsWith(`${name}{`)) && line.includes(labels))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }
}

function clientOf(number: number): string {
  return `  client-${number}: { tokenSha256: "${sha256(`bench-client-token-${number}`)}", ${limits} }`
}

function isSet(settings: readonly string[], name: string): boolean {
  return settings.some((line) => line.startsWith(`${name}:`))
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
