/** A web page must not spend: real pages in a real browser, and the same requests by hand. */
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { type Browser, chromium } from 'playwright-core'
import t, { type Test } from 'tap'
import { aProxy, type Answer } from '../support/proxy.ts'

const browser: Browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  // Any name leads to this machine: what a rebound name of an attacker does.
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--host-resolver-rules=MAP * 127.0.0.1'],
})
t.teardown(() => browser.close())

/** An empty page of another origin. */
async function aSite(t: Test): Promise<number> {
  const server = createServer((_incoming, outgoing) => outgoing.setHeader('Content-Type', 'text/html').end('<p>page'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as AddressInfo).port
}

void t.test('a page of another origin is refused before anything is paid, whatever it tries', async (t) => {
  const { url, sim } = await aProxy(t)
  const site = await aSite(t)
  const question = `${url}/scrapers/chatgpt?prompt=spend`
  const tricks: readonly string[] = [
    `fetch('${question}', { mode: 'no-cors' })`,
    `fetch('${question}&api_key=any', { mode: 'no-cors' })`,
    `fetch('${url}/scrapers/chatgpt/jobs?prompt=spend', { mode: 'no-cors', method: 'POST' })`,
    `new Promise((done) => { const image = new Image(); image.onerror = image.onload = done; image.src = '${question}' })`,
    `new Promise((done) => { const script = document.createElement('script'); script.onerror = script.onload = done; script.src = '${question}'; document.head.append(script) })`,
  ]
  for (const origin of [`http://127.0.0.1:${site}`, `http://localhost:${site}`, `http://evil.example:${site}`]) {
    const page = await browser.newPage()
    await page.goto(origin)
    for (const trick of tricks) await page.evaluate(`(async () => { await ${trick} })().catch(() => {})`)
    const popup = page.waitForEvent('popup')
    await page.evaluate(`void window.open('${question}')`)
    await (await popup).waitForLoadState()
    await page.close()
  }
  t.same([sim.requests.length, sim.ledger.total()], [0, 0])
})

void t.test('a name of an attacker that leads to loopback reads nothing', async (t) => {
  const { url, sim } = await aProxy(t)
  const { port } = new URL(url)
  const page = await browser.newPage()
  const shown = await page.goto(`http://rebound.example:${port}/scrapers/chatgpt?prompt=spend`)
  t.match(await shown?.json(), { code: 'ORIGIN_REFUSED', status: 403, detail: /loopback name/ })
  const read = await page.evaluate(`fetch('/scrapers/chatgpt?prompt=spend').then((answer) => answer.text())`)
  t.match(read, /ORIGIN_REFUSED/)
  t.equal(sim.requests.length, 0)
  await page.close()
})

void t.test('a person who opens the URL, and a page of the proxy itself, are no strangers', async (t) => {
  const { url, sim } = await aProxy(t)
  const page = await browser.newPage()
  const shown = await page.goto(`${url}/scrapers/chatgpt?prompt=typed`)
  t.equal(shown?.status(), 200)
  const status = await page.evaluate(`fetch('/scrapers/chatgpt?prompt=own').then((answer) => answer.status)`)
  t.equal(status, 200)
  t.equal(sim.requests.length, 2)
  await page.close()
})

void t.test(
  'with a token a page is whoever the token says; without anonymous callers it needs one anyway',
  async (t) => {
    const token = 'team-token-0123456789'
    const { ask, sim } = await aProxy(t, `clients: { anonymous: {}, team: { token: ${token} } }`)
    const evil = { origin: 'http://evil.example', 'sec-fetch-site': 'cross-site', host: 'evil.example' }
    t.equal((await ask('q', { headers: { ...evil, 'x-api-key': token } })).status, 200)
    t.match(refusalOf(await ask('q', { headers: { ...evil, 'x-api-key': 'not a token of ours' } })), 'ORIGIN_REFUSED')
    t.match(refusalOf(await ask('/jobs/abc', { headers: evil })), 'ORIGIN_REFUSED')
    t.equal(sim.requests.length, 1)

    const strict = await aProxy(t, `clients: { team: { token: ${token} } }`)
    t.match(refusalOf(await strict.ask('q', { headers: evil })), 'CLIENT_UNKNOWN')
  },
)

void t.test('listen.hosts names what a balancer on the same machine passes on, and can be reloaded', async (t) => {
  const { ask, write, app } = await aProxy(t, 'listen: { hosts: [proxy.internal] }')
  const under = async (host: string): Promise<number> => (await ask('q', { headers: { host } })).status
  t.equal(await under('Proxy.Internal'), 200)
  t.equal(await under('proxy.internal:443'), 200)
  t.equal(await under('other.internal'), 403)
  write('listen: { hosts: [other.internal] }')
  t.match(app.reload('test'), { result: 'applied' })
  t.same([await under('proxy.internal'), await under('other.internal')], [403, 200])
})

void t.test('over the network any name may be used: who knows what balancers call it', async (t) => {
  const { url, ask } = await aProxy(
    t,
    'listen: { host: 0.0.0.0 }\nclients: { anonymous: { allowAnonymousOnNetwork: true } }',
  )
  t.equal((await ask('q', { headers: { host: 'proxy.internal' } })).status, 200)
  t.match(refusalOf(await ask('q', { headers: { host: 'a.example', origin: url } })), 'ORIGIN_REFUSED')
})

function refusalOf({ headers }: Answer): string {
  return String(headers['x-proxy-code'])
}
