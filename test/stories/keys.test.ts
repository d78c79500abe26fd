/** An upstream key runs dry, is limited or refused: how it comes back, by itself and by an operator's word. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { aProxy, UPSTREAM_KEY } from '../support/proxy.ts'

const DRY = { simulator: { keys: { [UPSTREAM_KEY]: { credits: 0 } } } }

void t.test('added credits are noticed within half a minute', async (t) => {
  const { ask, sim, clock, metric } = await aProxy(t, '', DRY)
  t.match(await ask('a'), { status: 429 }, 'in the words of upstream')
  for (let seconds = 0; seconds < 300; seconds += 10) {
    t.match((await ask(`asked after ${seconds} s`)).headers, { 'x-proxy-credits': '0' })
    clock.skip(10_000)
  }
  t.ok(sim.requests.length >= 9 && sim.requests.length <= 12, `${sim.requests.length} free calls in 5 minutes`)
  sim.setKey(UPSTREAM_KEY, {})
  clock.skip(30_000)
  t.match(await ask('b'), { status: 200 })
  t.same(await metric('key_state'), { 'key="main"': 0 })
})

void t.test('POST /keys/{name}/try: the next call tries the key; log and audit file say who asked', async (t) => {
  const audit = `${t.testdir({})}/audit.ndjson`
  const proxy = await aProxy(t, `audit: { path: "${audit}" }`, DRY)
  const { ask, admin, sim, lines, app } = proxy
  await ask('a')
  t.match(await ask('b'), {
    status: 503,
    json: {
      code: 'NO_KEY_AVAILABLE',
      detail:
        /^No upstream API key is usable right now: `main` is out of credits until [\d :-]+ UTC\. Add credits, then run `POST \/keys\/main\/try`\.$/,
    },
  })
  sim.setKey(UPSTREAM_KEY, {})
  const tried = await admin('/keys/main/try', { method: 'POST' })
  t.match(tried, { status: 200, json: { name: 'main', state: 'spent', reason: 'creditsExhausted' } })
  t.match((await admin('/status')).json, { keys: [{ name: 'main', state: 'spent', until: null, next_try: null }] })
  t.match(await ask('b'), { status: 200 })
  t.match((await admin('/status')).json, { keys: [{ state: 'ready', reason: null, remedy: null }] })
  t.match(await admin('/keys/main/try', { method: 'POST' }), { status: 200, json: { state: 'ready' } })

  t.match(await admin('/keys/other/try', { method: 'POST' }), { status: 404 })
  t.match(await admin('/keys//try', { method: 'POST' }), { status: 404 })
  t.match(await admin('/keys/main/try'), { status: 405, headers: { allow: 'POST' } })
  const said = lines().filter(({ msg }) => msg === 'upstream key will be tried with the next request')
  t.match(said, [
    { key_name: 'main', from: '127.0.0.1', time: String },
    { key_name: 'main', from: '127.0.0.1' },
  ])
  await app.close()
  t.match(
    readFileSync(audit, 'utf8'),
    /\{"v":1,"kind":"operator","at":\d+,"action":"key-try","key":"main","from":"127\.0\.0\.1"\}\n/,
  )
})

void t.test('POST /keys/{name}/try needs the admin token', async (t) => {
  const { admin } = await aProxy(t, 'admin: { token: admin-token-0123456789 }')
  t.match(await admin('/keys/main/try', { method: 'POST' }), { status: 401 })
  const headers = { authorization: 'Bearer admin-token-0123456789' }
  t.match(await admin('/keys/main/try', { method: 'POST', headers }), { status: 200 })
})

void t.test('a reload tries resting keys, and a changed secret is a new key', async (t) => {
  const { ask, admin, sim, write } = await aProxy(t, '', DRY)
  await ask('a')
  t.match(await ask('b'), { status: 503 })
  sim.setKey(UPSTREAM_KEY, {})
  t.match(await admin('/reload', { method: 'POST' }), { status: 200 })
  t.match(await ask('b'), { status: 200 })

  sim.setKey(UPSTREAM_KEY, { credits: 0 })
  await ask('c')
  t.match(await ask('d'), { status: 503 })
  sim.setKey('another-secret-of-main', {})
  write('upstream: { keys: [{ name: main, secret: another-secret-of-main }] }')
  await admin('/reload', { method: 'POST' })
  t.match((await admin('/status')).json, { keys: [{ name: 'main', state: 'ready' }] })
  for (const answer of await Promise.all([ask('d'), ask('e')])) t.equal(answer.status, 200)
})

void t.test('the status page says what is wrong with a key and what to do', async (t) => {
  const { ask, admin } = await aProxy(t, '', DRY)
  await ask('a')
  const { text } = await admin('/', { headers: { accept: 'text/html' } })
  t.match(text, /is out of credits\. Add credits, then run <code>POST \/keys\/main\/try<\/code>/)
})
