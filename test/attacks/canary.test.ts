/**
 * Secrets with distinctive words in them, everything that can go wrong, and then every place where anything is written: none of
 * them says one of these words. The real program, a real Redis with a password, a disk, an audit file.
 */
import { hash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inflateRawSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { FORMAT } from '../../src/cache/codec.ts'
import { createSimulator, instant, type Simulator } from '../../src/simulator/simulator.ts'
import type { Step } from '../../src/simulator/step.ts'
import { runProgram, startProgram, type Running } from '../support/process.ts'
import { request, type Answer } from '../support/proxy.ts'
import { startRedis, type RedisProcess, until } from '../support/redis.ts'

const KEY = 'canary-key-one-0123456789'
const FILE_KEY = 'canary-key-two-0123456789'
const TOKEN = 'canary-token-plain-0123456789'
const HASHED = 'canary-token-hashed-0123456789'
const ADMIN = 'canary-admin-0123456789'
const REDIS = 'canary-redis-0123456789'
const PROMPT = 'canary-prompt of somebody'
/** Never, and nowhere. */
const secret = /canary-(?:key|token|admin|redis|wrong|host|idempotency)/
/** Nor in what is written about requests: prompts are there as hashes. */
const anything = /canary/

const environment = { SCRAPELLM_API_KEY: KEY, TEAM_TOKEN: TOKEN, ADMIN_TOKEN: ADMIN, REDIS_PASSWORD: REDIS }

interface Scene {
  readonly folder: string
  readonly config: string
  readonly sim: Simulator
  readonly proxy: Running
  readonly answers: Answer[]
}

async function aScene(t: Test, settings: string): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), 'slp-secrets-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const sim = createSimulator({ latency: instant })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  writeFileSync(join(folder, 'key'), `${FILE_KEY}\n`)
  const config = join(folder, 'config.yaml')
  writeFileSync(
    config,
    `
listen: { port: 0 }
admin: { port: 0, token: "\${ADMIN_TOKEN}" }
upstream: { url: "${url}", keys: [{ name: main, secret: "\${SCRAPELLM_API_KEY}" }, { name: file, secret: "file:${join(folder, 'key')}" }] }
clients:
  team: { token: "\${TEAM_TOKEN}", credits: { perDay: 100000 }, rate: { limit: 100000, per: 1s } }
  hashed: { tokenSha256: "${hash('sha256', HASHED, 'hex')}", rate: { limit: 3, per: 1h, burst: 3 } }
retry:
  backoff: { base: 1ms, max: 1ms }
  classes: { rateLimited: { backoff: { base: 1ms } }, warmingUp: { backoff: { base: 1ms } }, queueFull: { backoff: { base: 1ms } } }
audit: { path: ${join(folder, 'audit.ndjson')} }
log: { level: debug }
breaker: { hold: 0s, consecutive: 10000, minimum: 1000, window: 1000, failureRate: 1 }
${settings}
`,
  )
  const program = startProgram(t, ['--config', config], { environment, cwd: folder })
  const [line] = await program.saw(/^.*"msg":"listening".*$/m)
  const { url: proxyUrl, admin_url: adminUrl } = JSON.parse(line) as { url: string; admin_url: string }
  return { folder, config, sim, proxy: { ...program, url: proxyUrl, adminUrl }, answers: [] }
}

const mine = { 'x-api-key': TOKEN }
const admin = { authorization: `Bearer ${ADMIN}` }

function question(prompt: string, scraper = 'chatgpt'): string {
  return `/scrapers/${scraper}?${new URLSearchParams({ prompt }).toString()}`
}

/** Everything that can be asked and can fail. */
async function askEverything({ sim, proxy: { url }, answers }: Scene): Promise<void> {
  const get = async (
    path: string,
    headers: Record<string, string> = mine,
    method = 'GET',
    body?: string,
  ): Promise<void> => {
    answers.push(await request(undefined, url + path, { headers, method, ...(body === undefined ? {} : { body }) }))
  }
  const steps: readonly Step[] = [
    'echo-key',
    '503',
    '500',
    '500-empty',
    '400',
    '422-list',
    '408',
    '429-rate',
    '429-queue',
    '504',
    '502-html',
    '504-html',
    'not-json',
    'empty-200',
    'status-failed-200',
    'reset-before-charge',
    'reset-after-charge',
    'truncated',
    'truncated-chunked',
    'garbage',
    'redirect',
    'gzip',
    'set-cookie',
    '401',
    '429-credits',
  ]
  for (const [index, step] of steps.entries()) {
    const kind = typeof step === 'string' ? step : step.kind
    sim.script({ prompt: `${PROMPT} ${index}` }, [step, step, step, step])
    await get(question(`${PROMPT} ${index}`, ['chatgpt', 'grok', 'gemini', 'copilot'][index % 4]), {
      ...mine,
      'x-request-id': `id-of-${kind}`,
    })
  }
  await get(question(PROMPT))
  await get(question(PROMPT), { authorization: `Bearer ${TOKEN}` })
  await get(`${question(PROMPT)}&api_key=${TOKEN}`, {})
  await get(question(PROMPT), { 'x-api-key': HASHED })
  await get(question(PROMPT), { 'x-api-key': 'canary-wrong-token' })
  await get(`${question(PROMPT)}&api_key=canary-wrong-query`, {})
  await get(question(PROMPT), { ...mine, authorization: 'Bearer canary-wrong-other' })
  await get(question(PROMPT), { authorization: 'Basic canary-wrong-basic' })
  await get(`${question(PROMPT)}&prompt=${PROMPT.replaceAll(' ', '+')}`)
  await get(`${question(PROMPT)}&canary-token-name=canary-token-value`)
  await get(question(PROMPT, 'canary-host'))
  await get('/canary-host/canary-token')
  await get(question(PROMPT), mine, 'DELETE')
  await get(question(PROMPT), mine, 'GET', 'canary-token-body')
  await get(question(`${PROMPT} absent`), { ...mine, 'cache-control': 'only-if-cached' })
  await get(question(`${PROMPT} async`), { ...mine, prefer: 'respond-async' })
  for (let turn = 0; turn < 4; turn++) await get(question(PROMPT), { 'x-api-key': HASHED })
  for (const turn of ['1', '1', '2'])
    await get(
      question(`${PROMPT} ${turn}`, 'gemini/jobs'),
      { ...mine, 'idempotency-key': 'canary-idempotency' },
      'POST',
    )
  for (const { json } of answers.filter(({ status }) => status === 202)) await get(`/jobs/${String(json['job_id'])}`)
  await get('/jobs/5c0d9c1e-8d57-4b6e-9a55-0f3a6f1f2b10')
}

/** What the admin port says to whoever may ask, and to whoever may not. */
async function watched({
  proxy: { adminUrl },
  answers,
}: Scene): Promise<readonly (readonly [place: string, text: string])[]> {
  const at = async (
    path: string,
    headers: Record<string, string> = admin,
    method = 'GET',
    body = '',
  ): Promise<readonly [string, string]> => {
    const answer = await request(undefined, adminUrl + path, {
      headers,
      method,
      ...(method === 'POST' ? { body } : {}),
    })
    return [`admin ${method} ${path}`, answer.text + JSON.stringify(answer.headers)]
  }
  const html = { ...admin, accept: 'text/html' }
  const ids = answers.map(({ headers }) => String(headers['x-request-id']))
  return Promise.all([
    at('/metrics'),
    at('/metrics', { ...admin, accept: 'application/openmetrics-text; version=1.0.0' }),
    at('/status'),
    at('/', html),
    at('/status', { authorization: 'Bearer canary-wrong-admin' }),
    at('/', { accept: 'text/html', authorization: 'Basic Y2FuYXJ5LXdyb25nOng=' }),
    at('/canary-host'),
    at('/requests/canary-token'),
    at('/cache/purge', admin, 'POST', JSON.stringify({ prompt: PROMPT })),
    ...ids.map((id) => at(`/requests/${id}`)),
    ...ids.slice(0, 5).map((id) => at(`/requests/${id}`, html)),
  ])
}

/** Settings full of mistakes, each of which holds a secret: the running ones stay, and nothing of these is repeated. */
async function reloadBadly({ config, proxy }: Scene): Promise<void> {
  const good = readFileSync(config, 'utf8')
  writeFileSync(
    config,
    `${good}\nredis: { url: "http://:canary-redis-bad@x", password: "canary-redis bad" }\n`
      .replace('${SCRAPELLM_API_KEY}', 'canary-key bad')
      .replace('${TEAM_TOKEN}', '[canary-token]'),
  )
  proxy.signal('SIGHUP')
  await proxy.saw(/settings not reloaded/)
  writeFileSync(config, good)
}

async function finish(t: Test, scene: Scene, places: readonly (readonly [string, string])[]): Promise<void> {
  scene.proxy.signal('SIGTERM')
  const { code, stdout, stderr } = await scene.proxy.ended
  t.equal(code, 0)
  const audits = readdirSync(scene.folder)
    .filter((name) => name.startsWith('audit'))
    .map((name) => [name, readFileSync(join(scene.folder, name), 'utf8')] as const)
  t.ok(audits.some(([, text]) => text.length > 1_000))
  for (const [place, text] of [...places, ['stdout', stdout] as const, ['stderr', stderr] as const, ...audits])
    t.same(
      text.split('\n').filter((line) => anything.test(line)),
      [],
      `no canary in ${place}`,
    )
  for (const [index, { status, text, headers }] of scene.answers.entries())
    t.notMatch(text + JSON.stringify(headers), secret, `no secret in answer ${index} (${status})`)
  t.ok(
    scene.answers.some(({ text }) => text.includes('[redacted]')),
    'upstream did repeat the key',
  )
}

void t.test('A49, A61: with a disk and durable jobs, no secret is written anywhere', async (t) => {
  const scene = await aScene(t, 'cache: { disk: { path: cache.db } }\njobs: { execution: durable }')
  await askEverything(scene)
  const places = await watched(scene)
  await reloadBadly(scene)
  await request(undefined, scene.proxy.url + question(PROMPT), { headers: mine })
  for (const file of ['cmdline', 'comm'])
    t.notMatch(
      readFileSync(`/proc/${scene.proxy.pid()}/${file}`, 'latin1'),
      anything,
      `not in the ${file} of the process`,
    )
  const second = await runProgram(
    t,
    ['--config', scene.config, '--set', `listen.port=${new URL(scene.proxy.url).port}`],
    { environment, cwd: scene.folder },
  )
  t.equal(second.code, 1, 'a port in use ends the second one')
  const checked = await runProgram(t, ['check', '--config', scene.config], { environment, cwd: scene.folder })
  t.equal(checked.code, 0)
  await finish(t, scene, [
    ...places,
    ['the second process', second.stdout + second.stderr],
    ['check', checked.stdout + checked.stderr],
  ])
  const files = readdirSync(scene.folder).filter((one) => one.startsWith('cache.db'))
  const disk = files.map((name) => readFileSync(join(scene.folder, name), 'latin1')).join('\n')
  t.match(disk, /canary-prompt/, 'the disk can be read: answers hold their prompt')
  t.notMatch(disk, secret, 'no secret on the disk')
})

void t.test('A49: with Redis, no secret is in it, nor is its password anywhere', async (t) => {
  const redis = await startRedis(t, ['--user', 'slp', 'on', `>${REDIS}`, '~*', '&*', '+@all', '--rdbcompression', 'no'])
  const scene = await aScene(t, `redis: { url: "redis://slp:\${REDIS_PASSWORD}@127.0.0.1:${redis.port}", timeout: 2s }`)
  await until(async () =>
    /redis_up 1/.test((await request(undefined, `${scene.proxy.adminUrl}/metrics`, { headers: admin })).text),
  )
  await askEverything(scene)
  const places = await watched(scene)
  const held = await contentsOf(redis)
  t.ok(held.length > 3_000, 'Redis holds something')
  t.match(held, /canary-prompt/, 'and it can be read: answers hold their prompt')
  t.notMatch(held, secret, 'no secret in Redis')
  await redis.kill()
  await request(undefined, scene.proxy.url + question(`${PROMPT} alone`), { headers: mine })
  await reloadBadly(scene)
  await finish(t, scene, places)
})

/** All that Redis knows, as it writes it to a file; answers, which are packed, unpacked as well. */
async function contentsOf(redis: RedisProcess): Promise<string> {
  await redis.ask('SAVE')
  const [, folder = ''] = /\r\n(\/[^\r]+)\r\n$/.exec(await redis.ask('CONFIG', 'GET', 'dir')) ?? []
  const file = readFileSync(join(folder, 'dump.rdb'))
  const texts = [file.toString('latin1')]
  // A packed answer begins with its format, "1" and fifteen digits, one byte, and a signature of 32.
  for (const { index } of file.toString('latin1').matchAll(new RegExp(`${FORMAT}[01]\\d{15}`, 'g'))) {
    const packed = file.subarray(index + 50)
    try {
      texts.push(inflateRawSync(packed, { finishFlush: 2 }).toString('latin1'))
    } catch {
      // Not packed, or something else that looks like it.
    }
  }
  return texts.join('\n')
}
