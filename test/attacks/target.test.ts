/** A21–A30: targets, hosts and queries that two programs could read differently. */
import t, { type Test } from 'tap'
import { deviations, get, getOnce, mustBeRefused, printable, siege, type Siege, TARGET } from '../support/siege.ts'

type Row = readonly [id: string, bytes: string, status?: number]

async function refuseAll(t: Test, { send, upstream, spent }: Siege, rows: readonly Row[]): Promise<void> {
  for (const [id, bytes, status = 400] of rows) {
    const heard = upstream.heard.length
    mustBeRefused(t, await send(bytes), status, printable(id))
    t.equal(upstream.heard.length, heard, `${printable(id)}: nobody was asked`)
  }
  t.same(await spent(), { credits: 0, kept: 0 }, 'nothing paid, nothing kept')
}

const targets = (id: string, list: readonly string[]): Row[] =>
  list.map((target): Row => [`${id} ${target}`, get(target)])

void t.test('A21–A25: other origins, no path, dot segments, encoded separators', async (t) => {
  const at = await siege(t)
  const evil = new URL(at.upstream.url).host
  await refuseAll(t, at, [
    ...targets('A21', [
      'http://evil/x',
      'https://evil:8443/x',
      `http://${evil}${TARGET}?prompt=x`,
      'HTTP://evil/',
      'evil:80',
      'file:///etc/passwd',
      'javascript:x',
    ]),
    ...targets('A22', ['//evil', '///evil', '/\\evil', '/\\/evil', `//${evil}${TARGET}`, `/\\${evil}`, '//evil/%2f..']),
    ...targets('A23', ['*', '?x', '@evil/', '', ':80', '#', '.', 'scrapers/chatgpt']),
    ...targets('A24', [
      '/scrapers/../jobs',
      '/scrapers/./chatgpt',
      '/%2e%2e/x',
      '/.%2E/x',
      '/..\\x',
      '/%2e%2e%2fx',
      '/..%5cx',
      '/scrapers/%2e/chatgpt',
      '/scrapers/chatgpt/..',
      '/..',
      '/.',
    ]),
    ...targets('A25', [
      '/%00',
      '/%0d%0a',
      '/%0aX:y',
      '/%2f',
      '/%2F',
      '/%5c',
      '/%7f',
      '/\xe9',
      '/\xc0\xaf',
      '/%c0%af',
      '/%ed%a0%80',
      '/%f8%88%80%80%80',
      '/%',
      '/%z',
      '/%zz',
      '/%u0041',
      '/a b',
      '/scrapers/chatgpt%00',
      '/scrapers%2fchatgpt',
    ]),
    ...targets('A25 in the query', [
      `${TARGET}?prompt=%00`,
      `${TARGET}?prompt=%`,
      `${TARGET}?prompt=%zz`,
      `${TARGET}?prompt=%c0%af`,
      `${TARGET}?prompt=%ff`,
      `${TARGET}?%zz=x`,
      `${TARGET}?prompt=\xe9`,
      `${TARGET}?prompt=\\`,
    ]),
    ...targets('A27', [`${TARGET}#x`, `${TARGET}?prompt=x#.css`, `${TARGET}#.css`]),
  ])
})

void t.test('A26, A27: nothing but the routes is a route, and nothing else is kept', async (t) => {
  const { send, upstream, spent } = await siege(t)
  const rows = [
    '/scrapers//chatgpt',
    '/scrapers/chatgpt/',
    '/Scrapers/chatgpt',
    '/scrapers/ChatGPT',
    '/SCRAPERS/CHATGPT',
    '/scrapers/',
    '/scrapers',
    '/',
    '/jobs',
    '/jobs/',
    '/jobs/a/b',
    '/jobs/a.b',
    `/jobs/${'a'.repeat(129)}`,
    '/scrapers/__proto__',
    '/scrapers/constructor',
  ]
  const deceptions = [
    '/x.css',
    ';x.js',
    '%3bx.js',
    '%23.css',
    '%3f.css',
    '.css',
    '%20',
    '%0',
    '/x.css?prompt=a',
    ';jsessionid=1?prompt=a',
  ]
  for (const [id, target] of [
    ...rows.map((one) => ['A26', one]),
    ...deceptions.map((one) => ['A27', TARGET + one]),
  ] as const) {
    const peer = await send(getOnce(target ?? ''))
    t.match(peer.statuses().join(), /^40[04]$/, `${id} ${printable(target ?? '')}`)
  }
  t.equal(upstream.heard.length, 0)
  t.same(await spent(), { credits: 0, kept: 0 })
})

void t.test('A28: exactly one Host, and upstream always sees its own', async (t) => {
  const at = await siege(t)
  const hosts = [
    '',
    'a, b',
    'u@a',
    'u:p@a',
    'a/b',
    'a b',
    'a\\b',
    'a?b',
    'a#b',
    '[::1',
    'a:b',
    'a:123456',
    'a:80:80',
    'http://a',
    'a%00',
    '\xe9',
    'a;b',
    '-:',
  ]
  await refuseAll(t, at, [
    ['A28 no host', `GET ${TARGET} HTTP/1.1\r\n\r\n`],
    ['A28 two hosts', `GET ${TARGET} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n`],
    ['A28 twice the same', `GET ${TARGET} HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n`],
    ...hosts
      .filter((host) => host !== '-:')
      .map((host): Row => [`A28 host ${host}`, `GET ${TARGET} HTTP/1.1\r\nHost: ${host}\r\n\r\n`]),
  ])
  const { send, upstream } = await siege(t, 'clients: { team: { token: team-token-0123456789 } }')
  const token = 'X-API-Key: team-token-0123456789'
  for (const host of [
    'evil.example',
    'api.scrapellm.com',
    '169.254.169.254',
    '[::1]:80',
    'EVIL:65535',
    upstream.host,
  ]) {
    const heard = upstream.heard.length
    const peer = await send(
      `GET ${TARGET}?prompt=${heard} HTTP/1.1\r\nHost: ${host}\r\n${token}\r\nConnection: close\r\n\r\n`,
    )
    t.same(peer.statuses(), [200], `A28 foreign host ${host}`)
    t.same(
      upstream.heard.slice(heard).flatMap((one) => deviations(one, upstream.host)),
      [],
      'A28 upstream sees its own',
    )
  }
})

void t.test('a target in absolute form is taken where it names this host, and HTTP/1.0 needs no Host', async (t) => {
  const { send, upstream } = await siege(t)
  const good: readonly string[] = [
    `GET http://a${TARGET}?prompt=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`,
    `GET HTTP://A:80${TARGET}?prompt=2 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n`,
    `GET https://a${TARGET}?prompt=3 HTTP/1.1\r\nHost: A\r\nConnection: close\r\n\r\n`,
    `GET http://a${TARGET}?prompt=4 HTTP/1.0\r\n\r\n`,
    `GET ${TARGET}?prompt=5 HTTP/1.0\r\n\r\n`,
  ]
  for (const [index, bytes] of good.entries()) {
    t.same((await send(bytes)).statuses(), [200], printable(bytes))
    t.equal(upstream.heard[index]?.target, `${TARGET}?prompt=${index + 1}`)
  }
  const bad: readonly string[] = [
    `GET http://b${TARGET}?prompt=x HTTP/1.1\r\nHost: a\r\n\r\n`,
    `GET http://a${TARGET}?prompt=x HTTP/1.1\r\n\r\n`,
    `GET http://u@a${TARGET}?prompt=x HTTP/1.1\r\nHost: a\r\n\r\n`,
    `GET http://u@a${TARGET}?prompt=x HTTP/1.0\r\n\r\n`,
    `GET http://${TARGET}?prompt=x HTTP/1.1\r\nHost: a\r\n\r\n`,
    `GET http://a//evil${TARGET}?prompt=x HTTP/1.1\r\nHost: a\r\n\r\n`,
    `GET http://a/../x HTTP/1.1\r\nHost: a\r\n\r\n`,
    `GET ftp://a${TARGET} HTTP/1.1\r\nHost: a\r\n\r\n`,
  ]
  for (const bytes of bad) mustBeRefused(t, await send(bytes), 400, printable(bytes))
  const foreign = await send(`GET http://evil${TARGET} HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n`)
  t.match(foreign.text(), /ORIGIN_REFUSED/)
  t.match((await send('GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')).text(), /^HTTP\/1\.1 404/)
  t.equal(upstream.heard.length, good.length)
})

void t.test('a raw space or letter in the target is told how to be written', async (t) => {
  const { send } = await siege(t)
  for (const prompt of ['a b', 'caf\xc3\xa9', '\xe9', 'a\\b', 'a#b']) {
    const peer = await send(get(`${TARGET}?prompt=${prompt}`))
    mustBeRefused(t, peer, 400, printable(prompt))
    t.match(peer.text(), /must be percent-encoded.*curl: -G --data-urlencode/, printable(prompt))
  }
})

void t.test('A29: what the cache knows a question by is what upstream is asked', async (t) => {
  const { send, upstream, spent } = await siege(t)
  const doubled = [
    'prompt=a&prompt=b',
    'prompt=a&prompt=a',
    'prompt=a&%70rompt=b',
    'prompt=a&country=US&country=DE',
    'prompt=a&x=1&x=2',
    'prompt&prompt=a',
    'prompt=a&timeout=10&timeout=20',
    'prompt=a&bypass_cache=false&bypass_cache=true',
  ]
  for (const query of doubled)
    t.same((await send(getOnce(`${TARGET}?${query}`))).statuses(), [400], `A29 ${query}: twice`)
  t.same((await send(getOnce(`${TARGET}?prompt=a&api_key=x&api_key=y`))).statuses(), [400], 'A29 two keys in the query')
  t.equal(upstream.heard.length, 0)
  t.same(await spent(), { credits: 0, kept: 0 })

  // Each one is a question of its own: none is answered with another's answer.
  const different = [
    'prompt=a+b',
    'prompt=a%2Bb',
    'prompt=a%26b',
    'prompt=a%3Bb',
    'prompt=a%3Db',
    'prompt=a%2520b',
    'prompt=a%20b%20',
    'prompt=A+b',
    'prompt=a%26country%3DDE',
    'prompt=a;country=DE',
    'prompt[]=a&prompt=a',
    'prompt=a&PROMPT=a',
    'prompt=a%0Ab',
    'prompt=a%0D%0Ab',
    'prompt=%C3%A9',
    'prompt=e%CC%81',
  ]
  for (const query of different) {
    const heard = upstream.heard.length
    const peer = await send(getOnce(`${TARGET}?${query}`))
    t.same(peer.statuses(), [200], `A29 ${query}`)
    t.equal(upstream.heard.length, heard + 1, `A29 ${query}: asked once, not taken from the cache`)
    const [request] = upstream.heard.slice(heard)
    const decoded = (text: string): string[] => [...new URLSearchParams(text)].map((pair) => pair.join('='))
    t.same(decoded(request?.target.split('?')[1] ?? ''), decoded(query), `A29 ${query}: decoded once, encoded once`)
    t.same(request ? deviations(request, upstream.host) : ['none'], [])
  }
  const heard = upstream.heard.length
  for (const query of [
    'prompt=a%20b',
    'prompt=%61+b',
    '&prompt=a+b&',
    'prompt=a+b&country=US',
    'prompt=a+b&country=us&timeout=20',
  ]) {
    const peer = await send(getOnce(`${TARGET}?${query}`))
    t.match(peer.text(), /^cache-status: scrapellm-proxy; hit/im, `A29 ${query}: the same question`)
  }
  t.equal(upstream.heard.length, heard)
})

void t.test('A30: names of prototypes are plain text', async (t) => {
  const { send, upstream, proxy } = await siege(t)
  const before = [Object.prototype, Array.prototype, Function.prototype].map((one) =>
    Object.getOwnPropertyNames(one).join(),
  )
  for (const name of [
    '__proto__',
    'constructor',
    'toString',
    'hasOwnProperty',
    'constructor.prototype.x',
    '__proto__[x]',
    '__defineGetter__',
  ]) {
    const peer = await send(
      getOnce(
        `${TARGET}?prompt=a&${encodeURIComponent(name)}=polluted`,
        `${name.replaceAll(/[^\w.]/g, '')}: polluted\r\n`,
      ),
    )
    t.same(peer.statuses(), [200], `A30 ${name}`)
    const params = new URL(upstream.heard.at(-1)?.target ?? '', 'http://x').searchParams
    t.equal(params.get(name), 'polluted', `A30 ${name}: goes on as it came`)
  }
  upstream.answer(() => {
    const body =
      '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"status":"done","result":"x","scraper":"chatgpt"}'
    return `HTTP/1.1 200 OK\r\n__proto__: a\r\nconstructor: b\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  })
  t.same((await send(getOnce(`${TARGET}?prompt=json`))).statuses(), [200], 'A30 in an answer')
  const purge = await proxy.admin('/cache/purge', {
    method: 'POST',
    body: '{"__proto__":{"scraper":"grok"},"constructor":1}',
  })
  t.equal(purge.status, 400, 'A30 in the body of a purge')
  t.same(
    [Object.prototype, Array.prototype, Function.prototype].map((one) => Object.getOwnPropertyNames(one).join()),
    before,
    'A30 no prototype has changed',
  )
  t.equal(({} as Record<string, unknown>)['polluted'], undefined)
})
