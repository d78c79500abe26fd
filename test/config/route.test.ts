/** Which way leads to upstream: settings and variables, as curl and Go read them. */
import t from 'tap'
import { loadConfig } from '../../src/config/load.ts'
import { effective } from '../../src/config/describe.ts'
import { routeText, routeTo } from '../../src/config/route.ts'

const url = 'https://api.example.com'

function wayOf(
  environment: Record<string, string>,
  upstream: { url: string; proxy?: string | false } = { url },
): string {
  return routeText(routeTo(upstream, environment))
}

void t.test('nothing speaks of a proxy: directly', async (t) => {
  t.strictSame(routeTo({ url }, {}), { proxy: null, because: null })
  t.equal(wayOf({}), 'directly')
  t.equal(wayOf({ HTTPS_PROXY: '', NO_PROXY: '*' }), 'directly')
})

void t.test('the variable for the scheme of upstream, lower case first', async (t) => {
  const both = { HTTPS_PROXY: 'http://upper:1', https_proxy: 'http://lower:2', HTTP_PROXY: 'plain.example:3128' }
  t.equal(wayOf(both), 'through http://lower:2 (https_proxy)')
  t.equal(wayOf(both, { url: 'http://api.example.com' }), 'through http://plain.example:3128 (HTTP_PROXY)')
  t.equal(wayOf({ HTTP_PROXY: 'http://plain:1' }), 'directly', 'HTTP_PROXY says nothing about TLS')
  t.equal(wayOf({ HTTPS_PROXY: 'https://secure.example' }), 'through https://secure.example (HTTPS_PROXY)')
})

void t.test('the setting before the environment', async (t) => {
  const environment = { HTTPS_PROXY: 'http://elsewhere:1', NO_PROXY: '*' }
  t.equal(wayOf(environment, { url, proxy: 'http://mine:3128/' }), 'through http://mine:3128 (upstream.proxy)')
  t.equal(wayOf(environment, { url, proxy: false }), 'directly (upstream.proxy)')
})

void t.test('credentials go into a header and into no text', async (t) => {
  const route = routeTo({ url, proxy: 'http://us%40er:p%3Ass%zz@proxy:3128' }, {})
  t.strictSame(route.proxy, {
    url: 'http://proxy:3128',
    authorization: `Basic ${Buffer.from('us@er:p%3Ass%zz').toString('base64')}`,
  })
  t.notMatch(routeText(route), /us|ss/)
  t.equal(routeTo({ url, proxy: 'http://proxy:3128' }, {}).proxy?.authorization, null)
  t.equal(
    routeTo({ url, proxy: 'http://only-a-name@proxy' }, {}).proxy?.authorization,
    `Basic ${Buffer.from('only-a-name:').toString('base64')}`,
  )
})

void t.test('NO_PROXY by host, suffix, port, address and network', async (t) => {
  const rows: readonly (readonly [host: string, exceptions: string, isDirect: boolean])[] = [
    ['https://api.example.com', '*', true],
    ['https://api.example.com', 'localhost,127.0.0.1', false],
    ['https://api.example.com', 'api.example.com', true],
    ['https://api.example.com', 'API.Example.com.', true],
    ['https://api.example.com', 'example.com', true],
    ['https://api.example.com', '.example.com', true],
    ['https://api.example.com', '*.example.com', true],
    ['https://example.com', '.example.com', true],
    ['https://example.com', '*.example.com', false],
    ['https://notexample.com', 'example.com', false],
    ['https://api.example.com', ' a.test ,\texample.com', true],
    ['https://api.example.com:8443', 'example.com:8443', true],
    ['https://api.example.com', 'example.com:443', true],
    ['https://api.example.com', 'example.com:8443', false],
    ['https://10.1.2.3', '10.1.2.3', true],
    ['https://10.1.2.3', '10.0.0.0/8', true],
    ['https://10.1.2.3', '10.2.0.0/16', false],
    ['https://10.1.2.3', '10.0.0.0/99', false],
    ['https://10.1.2.3', '3', false],
    ['https://[fd00::1]', '[fd00::1]', true],
    ['https://[fd00::1]:8443', '[fd00::1]:8443', true],
    ['https://[fd00::1]', 'fd00::/8', true],
    ['https://[fd00::1]', '10.0.0.0/8', false],
    ['https://api.example.com', ',,', false],
  ]
  for (const [upstream, NO_PROXY, isDirect] of rows) {
    const { proxy, because } = routeTo({ url: upstream }, { HTTPS_PROXY: 'http://proxy:1', NO_PROXY })
    t.equal(proxy === null, isDirect, `${upstream} with NO_PROXY=${NO_PROXY}`)
    t.equal(because, isDirect ? 'NO_PROXY' : 'HTTPS_PROXY')
  }
  t.equal(wayOf({ HTTPS_PROXY: 'http://proxy:1', no_proxy: 'example.com', NO_PROXY: 'x' }), 'directly (no_proxy)')
})

const source = (text: string) => [
  { name: 'settings', text: `upstream: { keys: [{ name: main, secret: x }], ${text} }` },
]
const load = (text: string, environment: Record<string, string> = {}) =>
  loadConfig(source(text), [], environment, () => '')

void t.test('a variable or setting that is no URL of an HTTP proxy is refused, and not repeated', async (t) => {
  const wrong = ['socks5://canary@proxy:1080', 'http://', 'http://canary:x@:3128']
  for (const HTTPS_PROXY of wrong) {
    t.throws(
      () => load('', { HTTPS_PROXY }),
      { message: /^HTTPS_PROXY: is not the URL of an HTTP proxy; .*upstream\.proxy: false/ },
      HTTPS_PROXY,
    )
    t.doesNotThrow(() => load('proxy: false', { HTTPS_PROXY }), 'unless it is not used')
    t.doesNotThrow(() => load('url: "https://api.example.com"', { HTTPS_PROXY, NO_PROXY: 'example.com' }))
  }
  for (const proxy of [
    'socks5://canary@proxy:1080',
    'proxy:3128',
    'true',
    '7',
    'http://canary@proxy/path',
    '"http://a b"',
  ])
    t.throws(() => load(`proxy: ${proxy}`), { message: /^upstream\.proxy: .*expected a URL such as/ }, proxy)
  for (const text of wrong) t.notMatch(String(t.throws(() => load('', { HTTPS_PROXY: text }))), /canary/)
})

void t.test('the password is masked where settings are shown', async (t) => {
  const { config } = load('proxy: "http://operator:canary@proxy.example:3128"')
  t.match(effective(config), { upstream: { proxy: 'http://****@proxy.example:3128' } })
  t.match(effective(load('proxy: false').config), { upstream: { proxy: false } })
})
