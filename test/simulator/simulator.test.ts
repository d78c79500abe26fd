// The simulator as a thing to start, wait for, control from outside and stop.

import { connect } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { createSimulator, instant } from '../../src/simulator/simulator.ts'
import { startSimulator } from './client.ts'

void t.test(
  'it stops with open sockets and held calls, and starts again on the same port with all it knew',
  async (t) => {
    const { sim, ask, begin, url } = await startSimulator(t)
    await ask('/scrapers/grok?prompt=x')
    sim.script({}, ['hold', { kind: '200', delayMs: 3_600_000 }])
    const calls = [begin('/scrapers/grok?prompt=x'), begin('/scrapers/grok?prompt=x')]
    await sim.received(3)
    await sim.close()
    await sim.idle()
    t.equal(sim.release(), 0, 'what was under way is lost')
    for (const call of calls) t.equal((await call.answer).broken, 'ECONNRESET')
    t.equal((await ask('/scrapers/grok?prompt=x')).broken, 'ECONNREFUSED')
    await sim.close()
    t.equal((await sim.start()).url, url)
    t.match((await ask('/scrapers/grok?prompt=x')).json(), { result: /call 4/ })
    t.equal(sim.ledger.total(), 6)
  },
)

void t.test('a port in use is an error, and a host of six is written in brackets', async (t) => {
  const { url } = await startSimulator(t)
  await t.rejects(createSimulator({ port: Number(new URL(url).port) }).start(), { code: 'EADDRINUSE' })
  const six = createSimulator({ host: '::1', latency: instant })
  t.teardown(() => six.close())
  t.match((await six.start()).url, /^http:\/\/\[::1\]:\d+$/)
})

void t.test('connections are kept alive, and a client that resets one does no harm', async (t) => {
  const { sim, url, ask } = await startSimulator(t)
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  for (const prompt of ['a', 'b']) {
    socket.write(`GET /scrapers/grok?prompt=${prompt} HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\n\r\n`)
    const [data] = await once(socket, 'data')
    t.match(String(data), /^HTTP\/1\.1 200 OK/)
  }
  socket.write('POST /scrapers/grok/jobs?prompt=c HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf')
  socket.resetAndDestroy()
  await once(socket, 'close')
  t.equal((await ask('/scrapers/grok?prompt=d')).status, 200)
  t.same(
    sim.requests.map(({ prompt }) => prompt),
    ['a', 'b', 'd'],
  )
})

void t.test('barriers count what was there before them, by what they are about', async (t) => {
  const { sim, ask } = await startSimulator(t)
  await sim.idle()
  await ask('/scrapers/grok?prompt=x')
  await sim.received(1)
  const second = sim.received(2, { scraper: 'grok', call: 'sync' })
  let isOver = false
  void second.then(() => {
    isOver = true
  })
  await ask('/scrapers/gemini?prompt=x')
  t.equal(isOver, false)
  await ask('/scrapers/grok?prompt=y')
  await second
  t.ok(isOver)
})

void t.test('only the last requests and charges are remembered, totals stay whole', async (t) => {
  const { sim, ask } = await startSimulator(t, { keepLast: 2 })
  for (const prompt of ['a', 'b', 'c']) await ask(`/scrapers/grok?prompt=${prompt}`)
  t.same(
    sim.requests.map(({ index }) => index),
    [2, 3],
  )
  t.same(
    sim.ledger.entries.map(({ id }) => id),
    [2, 3],
  )
  t.equal(sim.ledger.total(), 9)
  await sim.received(3)
})

void t.test('a reset releases, forgets and goes back to the first switches', async (t) => {
  const { sim, begin, ask } = await startSimulator(t, { switches: { submitBody: 'job-id' } })
  sim.script({ prompt: 'x' }, ['hold', '503'])
  sim.weather('all', { outage: true })
  sim.setSwitches({ submitBody: 'status', optionalFields: true })
  const held = begin('/scrapers/grok?prompt=x')
  await sim.received(1)
  sim.reset()
  t.equal((await held.answer).status, 200)
  await sim.idle()
  t.same([sim.requests.length, sim.ledger.entries.length, sim.ledger.total()], [0, 0, 0])
  t.match(sim.switches, { submitBody: 'job-id', optionalFields: false })
  t.match((await ask('/scrapers/grok?prompt=x')).json(), { result: /call 1/ })
  t.match(sim.requests, [{ index: 1 }])
})

void t.test('everything can be done by the control endpoint', async (t) => {
  const { sim, ask, begin } = await startSimulator(t, { keys: { 'key-one': {} } })
  const control = async (method: string, path: string, body?: object): Promise<unknown> => {
    const answer = await ask(`/__sim/${path}`, { method, key: null, ...(body ? { body: JSON.stringify(body) } : {}) })
    t.equal(answer.status, 200, `${method} ${path}`)
    return answer.json()
  }
  const statusOf = async (key: string): Promise<unknown> => (await ask('/scrapers/grok?prompt=x', { key })).status
  await control('POST', 'script', { match: { prompt: 'x' }, steps: ['503', { kind: '504', times: 1 }] })
  t.same([await statusOf('key-one'), await statusOf('key-one'), await statusOf('key-one')], [503, 504, 200])
  await control('POST', 'script', { steps: ['hold'] })
  const arrived = control('GET', 'received?count=4&prompt=x')
  const held = begin('/scrapers/grok?prompt=x')
  await arrived
  t.same(await control('POST', 'release', { prompt: 'x', bypassCache: false }), { released: 1 })
  await held.answer
  t.match(await control('GET', 'requests?prompt=x&bypassCache=false'), [
    { step: '503' },
    { step: '504' },
    { step: '200' },
    { step: 'hold' },
  ])
  t.match(await control('GET', 'ledger'), { total: 6, totals: { 'key-one': 6 }, entries: [{ id: 1 }, { id: 2 }] })
  await control('POST', 'weather', { scraper: 'grok', outage: true })
  t.equal(await statusOf('key-one'), 503)
  await control('POST', 'weather', { scraper: 'grok' })
  await control('PUT', 'keys', { 'key-two': { credits: 3, name: 'two' }, 'key-one': null })
  t.same([await statusOf('key-one'), await statusOf('key-two'), await statusOf('key-two')], [401, 200, 429])
  t.match(await control('PUT', 'switches', { noCredits: '401' }), { noCredits: '401', validation: '400-string' })
  t.match(await control('GET', 'switches'), { noCredits: '401' })
  await control('GET', 'received')
  t.same(await control('POST', 'reset'), { ok: true })
  t.same(await control('GET', 'requests'), [])
  t.equal(sim.requests.length, 0, 'control requests are not recorded')
})

void t.test('mistakes at the control endpoint are answered with a sentence', async (t) => {
  const { ask } = await startSimulator(t)
  const mistakes: readonly (readonly [string, string, string, RegExp])[] = [
    ['POST', 'script', '{', /must be JSON/],
    ['POST', 'script', '[]', /must be an object/],
    ['POST', 'script', '{"steps":"503"}', /steps must be a list/],
    ['POST', 'script', '{"match":{"promt":"x"},"steps":[]}', /match has no field "promt"; it has prompt/],
    ['POST', 'script', '{"match":{"prompt":3},"steps":[]}', /prompt must be a string/],
    ['POST', 'script', '{"match":{"call":"async"},"steps":[]}', /call must be/],
    ['POST', 'weather', '{"outage":true}', /scraper must be a string/],
    ['PUT', 'keys', '[]', /keys must be an object/],
    ['PUT', 'keys', '{"a":{"credits":"many"}}', /credits must be a number/],
    ['GET', 'received?count=some', '', /count must be a whole number/],
  ]
  for (const [method, path, body, message] of mistakes) {
    const answer = await ask(`/__sim/${path}`, { method, body })
    t.match([answer.status, answer.json()['error']], [400, message], `${method} ${path} ${body}`)
  }
  t.match(await ask('/__sim/nothing'), { status: 404, broken: null })
})
