/** `doctor` in worlds that are well and in broken ones: real sockets, a real Redis, the real disk; only upstream is simulated. */
import { readdirSync, readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { runDoctor } from '../../src/cli/doctor.ts'
import { upstreamKeys } from '../../src/compose.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { Finding } from '../../src/doctor/finding.ts'
import { examineMachine } from '../../src/doctor/machine.ts'
import { everyCommand } from '../../src/doctor/redis.ts'
import { examineDeployment } from '../../src/doctor/deployment.ts'
import { createSimulator, instant, type SimulatorOptions } from '../../src/simulator/simulator.ts'
import { anAuthority } from '../support/certificates.ts'
import { startOutboundProxy } from '../support/outbound-proxy.ts'
import { root, startProxy } from '../support/process.ts'
import { aProxy } from '../support/proxy.ts'
import { startCluster, startRedis, startSentinels } from '../support/redis.ts'

const KEY = 'canary-key-0123456789'

interface Consulted {
  readonly code: number
  readonly found: (name: string) => Finding
  readonly findings: readonly Finding[]
  readonly text: string
}

const free = ['listen.port=0', 'admin.port=0']

/** In a folder of its own, with these settings over the packaged ones. */
async function consult(
  t: Test,
  sets: readonly string[],
  { cwd = t.testdir(), environment = {}, json = true }: { cwd?: string; environment?: object; json?: boolean } = {},
): Promise<Consulted> {
  let text = ''
  const code = await runDoctor(
    { configs: [], sets: [...free, ...sets], json },
    {
      stdout: (more) => (text += more),
      stderr: (more) => t.fail(more),
      environment: { SCRAPELLM_API_KEY: KEY, ...environment },
      readFile: (path) => readFileSync(path, 'utf8'),
      cwd,
      randomBytes: (count) => new Uint8Array(count),
      paint: (_colour, one) => one,
    },
  )
  t.notMatch(text, /canary/, 'tells no secret')
  const { findings } = json ? (JSON.parse(text) as { findings: Finding[] }) : { findings: [] }
  const found = (name: string): Finding => {
    const [one] = findings.filter((finding) => finding.name === name)
    if (!one) throw new Error(`nothing was found about ${name}\n${text}`)
    return one
  }
  return { code, found, findings, text }
}

async function upstreamWith(t: Test, keys?: SimulatorOptions['keys']) {
  const sim = createSimulator({ latency: instant, ...(keys ? { keys } : {}) })
  const { url } = await sim.start()
  t.teardown(() => sim.close())
  return { sim, set: `upstream.url=${url}` }
}

void t.test('where all is well, it says so, leaves nothing behind and spends nothing', async (t) => {
  const { sim, set } = await upstreamWith(t, { [KEY]: { credits: 3 } })
  const redis = await startRedis(t, ['--maxmemory', '64mb', '--appendonly', 'yes'])
  const cwd = t.testdir()
  // However many files this machine allows.
  const sets = [set, `redis.url=${redis.url}`, 'audit={}', 'listen.maxConnections=1', 'upstream.maxConcurrent=1']
  const { code, findings } = await consult(t, sets, { cwd })
  t.equal(code, 0)
  t.strictSame(
    findings.filter(({ status }) => status !== 'ok').map(({ name, status }) => [name, status]),
    [
      ['load balancer', 'note'],
      ['supervisor', 'note'],
    ],
  )
  t.match(await redis.ask('DBSIZE'), /^:0\r/)
  t.strictSame(readdirSync(cwd), [])
  t.strictSame(sim.ledger.entries, [])
  t.strictSame(
    sim.requests.map(({ status, prompt }) => [status, prompt]),
    [
      [401, null],
      [400, null],
    ],
  )
})

void t.test('for people it is a line for each thing, with what to do', async (t) => {
  const { set } = await upstreamWith(t, {})
  const { code, text } = await consult(t, [set], { json: false })
  t.equal(code, 1)
  const lines = text.trimEnd().split('\n')
  t.match(lines[0], /^ok {4}settings {2,}no mistake$/)
  t.match(text, /^fail {2}key main {2,}refused by upstream: [^\n]*; compare it/m)
  t.match(lines.at(-1), /^1 failed, \d warnings, \d notes\.$/)
})

// Settings

void t.test('wrong settings end with 78, and nothing else is looked at', async (t) => {
  const { code, findings } = await consult(t, ['cahce.ttl=1h', 'log.level=loud'])
  t.equal(code, 78)
  t.match(findings, [
    { name: 'settings', status: 'fail', text: /did you mean "cache"/ },
    { name: 'settings', status: 'fail', text: /^log\.level/ },
  ])
})

void t.test('what is most likely not meant is told', async (t) => {
  const { set } = await upstreamWith(t)
  const { code, findings } = await consult(t, [set, 'cache.ttl=30h'])
  t.equal(code, 0)
  t.match(findings[1], { name: 'settings', status: 'warn', text: /^cache\.ttl/ })
})

// Upstream

void t.test('what a key is worth is told without spending', async (t) => {
  const rows = [
    [400, 401, 'accepted'],
    [422, 401, 'accepted'],
    [400, 400, 'untold'],
    [401, 401, 'refused'],
    [401, 400, 'refused'],
    [429, 401, 'limited'],
    [402, 401, 'spent'],
    [403, 401, 'blocked'],
    [407, 401, 'blocked'],
    [501, 401, 'unwell'],
    [503, 401, 'unwell'],
    [200, 200, 'unwell'],
    [302, 302, 'unwell'],
  ] as const
  for (const [status, nobodys, standing] of rows)
    t.equal(
      upstreamKeys.standingOf({ status, body: '' }, { status: nobodys, body: '' }),
      standing,
      `${status}/${nobodys}`,
    )
  t.equal(
    upstreamKeys.standingOf({ status: 429, body: '{"detail":"Credit limit reached."}' }, { status: 401, body: '' }),
    'spent',
  )
})

void t.test('every key is tried', async (t) => {
  const other = 'canary-other-0123456789'
  const { set } = await upstreamWith(t, { [KEY]: { credits: 0 }, [other]: { credits: 100 } })
  const keys = `upstream.keys=[{ name: main, secret: "${KEY}" }, { name: reserve, secret: "${other}" }]`
  const { code, found } = await consult(t, [set, keys])
  t.equal(code, 1)
  t.match(found('key main'), { status: 'fail', text: /no credits/ })
  t.equal(found('key reserve').status, 'ok')
})

void t.test('a key that cannot be judged for nothing is not judged', async (t) => {
  const { set } = await upstreamWith(t)
  const { code, found } = await consult(t, [set])
  t.equal(code, 0)
  t.match(found('key main'), { status: 'note', text: /without spending credits/ })
})

void t.test('an upstream that is not there', async (t) => {
  const name = await consult(t, ['upstream.url=https://nowhere.invalid'])
  t.equal(name.code, 1)
  t.match(name.found('upstream name'), { status: 'fail', advice: /DNS/ })
  t.match(name.found('upstream proxy'), { status: 'ok', text: 'calls to upstream go directly' })

  const closed = await consult(t, ['upstream.url=http://127.0.0.1:1'])
  t.match(closed.found('upstream connection'), { status: 'fail', text: /ECONNREFUSED/, advice: /firewall/ })

  const { set } = await upstreamWith(t)
  const plain = await consult(t, [set.replace('http:', 'https:')])
  t.match(plain.found('upstream connection'), { status: 'fail', advice: /upstream\.ca/ })
})

void t.test('through an outbound proxy the same is looked at, and what is wrong with the proxy is told', async (t) => {
  const { set } = await upstreamWith(t, { [KEY]: { credits: 3 } })
  const outbound = await startOutboundProxy(t, '127.0.0.1')
  const named = (url: string) => consult(t, [set, `upstream.proxy=${url}`])
  const through = await named(outbound.withCredentials)
  t.match(through.found('upstream proxy'), {
    status: 'ok',
    text: `calls to upstream go through ${outbound.url} (upstream.proxy)`,
  })
  t.equal(through.found('upstream connection').status, 'ok')
  t.equal(through.found('key main').status, 'ok')

  const stranger = await named(outbound.url)
  t.match(stranger.found('upstream answer'), { status: 'fail', text: /outbound-proxy, 407/, advice: /password/ })
  const away = await named('http://127.0.0.1:1')
  t.match(away.found('upstream connection'), {
    status: 'fail',
    text: /outbound-proxy, ECONNREFUSED/,
    advice: /outbound proxy/,
  })

  const environment = { http_proxy: outbound.withCredentials }
  const byVariable = await consult(t, [set], { environment })
  t.match(byVariable.found('upstream proxy'), { status: 'ok', text: /\(http_proxy\)$/ })
  const excepted = await consult(t, [set], { environment: { ...environment, no_proxy: '127.0.0.0/8' } })
  t.match(excepted.found('upstream proxy'), { text: 'calls to upstream go directly (no_proxy)' })
})

void t.test('a gateway with a CA of its own is believed when it is named', async (t) => {
  const authority = anAuthority(t)
  const { cert, key } = authority.issue('gateway')
  const pem = { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') }
  const gateway = https.createServer(pem, (_incoming, outgoing) => void outgoing.writeHead(400).end())
  await new Promise<void>((resolve) => gateway.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    gateway.closeAllConnections()
    gateway.close()
  })
  const set = `upstream.url=https://localhost:${(gateway.address() as AddressInfo).port}`
  const stranger = await consult(t, [set])
  t.match(stranger.found('upstream connection'), { status: 'fail', advice: /upstream\.ca/ })
  const known = await consult(t, [set, `upstream.ca=${authority.ca}`])
  t.match(known.found('upstream connection'), { status: 'ok', text: /with TLS/ })
  t.match(known.found('key main'), { status: 'note' })

  const soon = authority.issue('soon', ['DNS:localhost'], 3)
  gateway.setSecureContext({ cert: readFileSync(soon.cert, 'utf8'), key: readFileSync(soon.key, 'utf8') })
  const ending = await consult(t, [set, `upstream.ca=${authority.ca}`])
  t.match(ending.found('upstream connection'), { status: 'warn', text: /certificate ends in [23] days/ })
})

void t.test('a clock that is wrong', async (t) => {
  const hour = 3_600_000
  const server = http.createServer((_incoming, outgoing) => {
    outgoing.setHeader('date', new Date(Date.now() + hour).toUTCString())
    outgoing.writeHead(400).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const { found } = await consult(t, [`upstream.url=http://127.0.0.1:${port}`])
  t.match(found('clock'), { status: 'warn', text: /^3\d{3} s behind/, advice: /NTP/ })
})

// Redis

void t.test('a Redis that is not there, wants another password, or only reads', async (t) => {
  const { set } = await upstreamWith(t)
  const away = await consult(t, [set, 'redis.url=redis://127.0.0.1:1'])
  t.equal(away.code, 1)
  t.match(away.found('redis'), { status: 'fail', text: /no connection to 127\.0\.0\.1:1/ })

  const locked = await startRedis(t, ['--requirepass', 'canary-password'])
  const stranger = await consult(t, [set, `redis={ url: "${locked.url}", password: "canary-wrong-password" }`])
  t.match(stranger.found('redis'), { status: 'fail', advice: /redis\.password/ })

  const replica = await startRedis(t, ['--replicaof', '127.0.0.1', '1'])
  const reader = await consult(t, [set, `redis.url=${replica.url}`])
  t.match(reader.found('redis'), { status: 'fail', text: /is a replica/ })
})

void t.test('a Redis that forgets, and one that allows too little', async (t) => {
  const { set } = await upstreamWith(t)
  const redis = await startRedis(t, ['--maxmemory', '64mb', '--maxmemory-policy', 'allkeys-lru'])
  const forgetful = await consult(t, [set, `redis.url=${redis.url}`])
  t.equal(forgetful.code, 1)
  t.match(forgetful.found('redis memory'), { status: 'fail', text: /^allkeys-lru/ })
  t.equal(forgetful.found('redis persistence').status, 'note')

  await redis.ask('ACL', 'SETUSER', 'weak', 'on', '>canary-password', '~slp:*', '+@all', '-zadd', '-evalsha', '-info')
  const weak = await consult(t, [set, `redis={ url: "${redis.url}", username: weak, password: canary-password }`])
  t.equal(weak.code, 1)
  t.match(weak.found('redis commands'), {
    status: 'fail',
    text: 'not allowed: PUBLISH, ZADD, INFO, EVALSHA',
    advice: /ACL SETUSER/,
  })
  t.match(weak.found('redis channels'), { status: 'warn' })
  t.match(weak.found('redis'), { status: 'ok', text: /^Redis at/ })
})

void t.test('Redis as a cluster, and through Sentinels', async (t) => {
  const { set } = await upstreamWith(t)
  const nodes = await startCluster(t)
  const { urls, name } = await startSentinels(t)
  for (const redis of [{ cluster: nodes.map(({ url }) => url) }, { sentinel: { urls, name } }]) {
    const { found } = await consult(t, [set, `redis=${JSON.stringify(redis)}`])
    for (const thing of ['redis', 'redis commands', 'redis channels']) t.match(found(thing), { status: 'ok' })
  }
})

void t.test('the trial of Redis knows every command that the scripts use', async (t) => {
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.(?:lua|ts)$/.test(path) && !path.startsWith('doctor'))
    .map((path) => readFileSync(join(root, 'src', path), 'utf8'))
  const used = new Set(sources.flatMap((text) => [...text.matchAll(/redis\.p?call\('(\w+)'/g)].map(([, name]) => name)))
  t.ok(used.size > 20)
  const tried = new Set([...everyCommand.matchAll(/try\('(\w+)'/g)].map(([, name]) => name))
  t.strictSame(
    [...used].filter((name) => !tried.has(name)),
    [],
    'is tried',
  )
  t.strictSame(
    [...tried].filter((name) => !used.has(name)),
    [],
    'is used',
  )
})

// Places

void t.test('folders that cannot be written to, and disks that are too small', async (t) => {
  const { set } = await upstreamWith(t)
  const cwd = t.testdir({ 'a-file': '', kept: {} })
  const blocked = await consult(t, [set, 'cache.disk.path=a-file/cache.db', 'audit.path=a-file/deep/audit'], { cwd })
  t.equal(blocked.code, 1)
  t.match(blocked.found('disk cache'), { status: 'fail', text: /a-file cannot be written to/ })
  t.match(blocked.found('audit file'), { status: 'fail' })

  const small = await consult(t, [set, 'cache.disk={ path: kept/new/cache.db, maxSize: 1024GiB }'], { cwd })
  t.match(small.found('disk cache'), { status: 'warn', advice: /maxSize/ })
  t.strictSame(readdirSync(join(cwd, 'kept')), [], 'makes no folder')
})

void t.test('ports: free, taken by a stranger, or by a proxy that runs already', async (t) => {
  const { set } = await upstreamWith(t)
  const stranger = createServer((socket) => socket.destroy())
  await new Promise<void>((resolve) => stranger.listen(0, '127.0.0.1', resolve))
  t.teardown(() => stranger.close())
  const { port } = stranger.address() as AddressInfo
  const taken = await consult(t, [set, `listen.port=${port}`])
  t.equal(taken.code, 1)
  t.match(taken.found('listen port'), { status: 'fail', text: /is in use$/, advice: /another listen\.port/ })
  t.equal(taken.found('admin port').status, 'ok')

  const { url, adminUrl } = await aProxy(t, 'admin: { token: admin-token-of-the-tests }')
  const own = await consult(t, [set, `listen.port=${new URL(url).port}`, `admin.port=${new URL(adminUrl).port}`])
  t.equal(own.code, 0)
  t.match(own.found('listen port'), { status: 'ok', text: /a proxy that runs already/ })
  t.match(own.found('admin port'), { status: 'ok', text: /a proxy that runs already/ })

  const nowhere = await consult(t, [
    set,
    'listen={ host: 192.0.2.1, port: 0 }',
    'clients={ a: { token: canary-token-0123456 } }',
  ])
  t.match(nowhere.found('listen port'), { status: 'fail', advice: /listen\.host/ })
  t.match(nowhere.found('network'), { status: 'note', text: /^listen: / })
})

// Machine and surroundings

function settings(text: string) {
  const base = 'upstream: { keys: [{ name: main, secret: a-key }] }'
  const sources = [base, text].filter(Boolean).map((one, index) => ({ name: String(index), text: one }))
  return loadConfig(sources, [], {}, () => '').config
}

void t.test('what the machine gives is enough, or not', async (t) => {
  const gib = 1024 ** 3
  const good = { node: '24.21.0', memoryBytes: gib, openFiles: 65_536 }
  const rows = [
    [{}, '', ['ok', 'ok', 'ok']],
    [{}, 'cache: { memory: { maxSize: 700MiB } }', ['ok', 'warn', 'ok']],
    [{}, 'cache: { memory: { maxSize: 1GiB } }', ['ok', 'warn', 'ok']],
    [{ memoryBytes: gib / 2 }, '', ['ok', 'ok', 'ok']],
    [{ memoryBytes: 300 * 1024 ** 2 }, '', ['ok', 'warn', 'ok']],
    [{ memoryBytes: 200 * 1024 ** 2 }, '', ['ok', 'fail', 'ok']],
    [{ openFiles: 1024 }, '', ['ok', 'ok', 'warn']],
    [{ openFiles: 1024 }, 'listen: { maxConnections: 500 }\nupstream: { maxConcurrent: 200 }', ['ok', 'ok', 'ok']],
    [{}, 'upstream: { maxConcurrent: 100000 }', ['ok', 'ok', 'warn']],
    [{ openFiles: null }, '', ['ok', 'ok', 'note']],
  ] as const
  for (const [differs, text, wanted] of rows) {
    const findings = examineMachine({ ...good, ...differs }, settings(text))
    t.strictSame(
      findings.map(({ status }) => status),
      wanted,
      `${JSON.stringify(differs)} ${text}`,
    )
  }
})

void t.test('the proxy says at its start what the doctor says about memory and open files', async (t) => {
  const { set } = await upstreamWith(t)
  const sets = ['cache.memory.maxSize=1024GiB', 'listen.maxConnections=1000000']
  const { found } = await consult(t, [set, ...sets])
  const proxy = await startProxy(t, set.replace('upstream.url=', ''), sets)
  const said = proxy.lines().filter(({ advice }) => advice !== undefined)
  t.match(said, [
    { level: 'warn', msg: 'memory', warning: found('memory').text, advice: found('memory').advice },
    { level: 'warn', msg: 'open files', warning: found('open files').text, advice: found('open files').advice },
  ])
})

void t.test('those around it learn how long an answer and a stop may take', async (t) => {
  const config = settings(
    'listen: { keepAlive: 620s }\nretry: { deadline: 100s }\nshutdown: { readinessDelay: 10s, grace: 110s }',
  )
  t.match(examineDeployment(config), [
    { name: 'load balancer', status: 'note', text: /100 s/, advice: /wait 120 s.* closed after 620s/ },
    { name: 'supervisor', status: 'note', text: /120 s/, advice: /wait 140 s/ },
  ])
  const patient = settings('clients: { a: { token: a-token-of-the-tests, retry: { deadline: 900s } } }')
  t.match(examineDeployment(patient)[0], { text: /900 s/ })
})
