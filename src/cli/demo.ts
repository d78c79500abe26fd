/**
 * `demo`: the same proxy as `serve`, in front of the simulator. No key, no money. Prints what it started and lines to try, and
 * drives a little traffic of its own so that metrics have something to show.
 */
import { known } from '../compose.ts'
import { loadConfig } from '../config/load.ts'
import type { SettingsSource } from '../config/reload.ts'
import type { World } from '../ports.ts'
import { createSimulator, type Simulator } from '../simulator/simulator.ts'
import type { Io } from './io.ts'
import type { Host } from './host.ts'
import { serve } from './serve.ts'
import { settingsSource, type Wanted, withoutKey } from './settings.ts'

export interface DemoOptions extends Wanted {
  readonly quiet: boolean
  readonly port: number | null
}

/** Answers come after this long, instead of 5 to 30 s. */
const LATENCY = { minMs: 250, maxMs: 1_500 }
const TRAFFIC_EVERY_MS = 2_000
const FLAKY_PROMPT = 'fails-twice'
const HUNGRY_PROMPT = 'no-such-product'

/** Resolves to the exit code. */
export async function runDemo(
  options: DemoOptions,
  io: Io,
  world: World,
  version: string,
  host: Host,
): Promise<number> {
  const simulator = createSimulator({ latency: LATENCY })
  const { url: upstream } = await simulator.start()
  const sets = [
    'log.level=warn',
    'cache.disk=false',
    // Enough to try it, and within the open files of an ordinary shell: its first line is no warning.
    'listen.maxConnections=500',
    `upstream.url=${upstream}`,
    'upstream.proxy=false',
    ...(options.port === null ? [] : [`listen.port=${options.port}`]),
    ...options.sets,
  ]
  const source = settings({ ...options, sets }, withoutKey(io, 'demo-key'))
  const needsToken = !('anonymous' in source.read().config.clients)
  const announced: Host = { ...host, onStop: (listener) => host.onStop(announce(listener)) }
  const { app, port, adminPort, ended } = await serve(source, world, version, announced)
  const url = `http://127.0.0.1:${port}`
  simulator.script({ prompt: FLAKY_PROMPT }, ['503', '500', '200'])
  io.stdout(greeting(url, `http://127.0.0.1:${adminPort}`, upstream, options.quiet, needsToken))

  const traffic = options.quiet || needsToken ? null : drive(url, simulator, world)
  const code = await ended
  traffic?.stop()
  await simulator.close()
  return code

  /** The log level of the demo hides what `serve` says of a drain: without a word, a wait for open requests looks like a hang. */
  function announce(listener: (reason: string) => void): (reason: string) => void {
    return (reason) => {
      const { openRequests } = app
      if (openRequests > 0)
        io.stdout(`Stopping: open requests are finished first (${openRequests}). Ctrl-C again stops at once.\n`)
      listener(reason)
    }
  }
}

function settings(wanted: Wanted, io: Io): SettingsSource {
  if (wanted.configs.length > 0) return settingsSource(wanted, io)
  return { read: () => loadConfig([], wanted.sets, io.environment, io.readFile, known), files: [] }
}

function greeting(url: string, admin: string, upstream: string, quiet: boolean, needsToken: boolean): string {
  return [
    'scrapellm-proxy demo: everything below is simulated, nothing costs anything.',
    '',
    `  proxy      ${url}`,
    `  admin      ${admin}/metrics   ${admin}/status`,
    `  status     ${admin}/   (the page for people)`,
    `  simulator  ${upstream}/__sim/ledger   (what upstream would have charged)`,
    '',
    'Try, in another terminal:',
    '',
    '  # a miss: 3 credits; once more: a hit, 0 credits',
    `  curl -i '${url}/scrapers/chatgpt?prompt=Which+note+apps+do+students+like%3F'`,
    '  # upstream answers 503, then 500, then 200: you see one 200, X-Proxy-Attempts: 3',
    `  curl -i '${url}/scrapers/perplexity?prompt=${FLAKY_PROMPT}'`,
    '  # twenty at once, one bill',
    `  seq 20 | xargs -P 20 -I{} curl -s -o /dev/null -w '%header{x-proxy-credits} ' '${url}/scrapers/grok?prompt=all+at+once'`,
    '',
    trafficLine(quiet, needsToken),
    'Ctrl-C stops it.',
    '',
  ].join('\n')
}

function trafficLine(quiet: boolean, needsToken: boolean): string {
  if (needsToken) return "The settings name `clients`: add -H 'X-API-Key: <token>' to each line. No traffic of its own."
  return quiet ? 'No traffic of its own (--quiet).' : 'It asks a few questions of its own meanwhile; --quiet for none.'
}

/** A question every now and then, some of them twice, some of them failing. */
function drive(url: string, simulator: Simulator, world: World): { stop(): void } {
  const scrapers = ['chatgpt', 'perplexity', 'gemini', 'copilot', 'grok']
  let turn = 0
  let timer = world.clock.after(0, ask)

  function ask(): void {
    turn += 1
    const scraper = scrapers[turn % scrapers.length] ?? 'chatgpt'
    const prompt = turn % 7 === 0 ? HUNGRY_PROMPT : `demo question ${turn % 12}`
    if (prompt === HUNGRY_PROMPT) simulator.script({ prompt, scraper }, ['500-empty', '500-empty'])
    else if (turn % 5 === 0) simulator.script({ prompt, scraper }, ['503'])
    void fetch(`${url}/scrapers/${scraper}?${new URLSearchParams({ prompt }).toString()}`)
      .then((answer) => answer.arrayBuffer())
      .catch(() => undefined)
    timer = world.clock.after(TRAFFIC_EVERY_MS, ask)
  }

  return { stop: () => timer.cancel() }
}
