/**
 * The pages of the admin port in a real browser: on a phone and on a desk, in both colour schemes, by keyboard, by a screen
 * reader's view of them, while things change, without scripts, and with a caller who means ill.
 */
import { join } from 'node:path'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { type Observation, observed } from './support/observed.ts'
import { aClient, answered, failed } from './support/verdicts.ts'

const CANARY = '"><img/src=x/onerror=document.title=`owned`><script>document.title="owned"</script>'
const TOKEN = 'admin-token-of-the-tests'

const browser: Browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
  ],
})
t.teardown(() => browser.close())

/** A proxy with a past: failures, waits, a spent key, an open circuit, and somebody who still waits. */
async function aScene(t: Test, adminToken?: string) {
  const scene = observed({
    clients: [
      aClient({ name: 'search-team-of-the-whole-company', credits: { perDay: 3_000, perMonth: 60_000 } }),
      aClient({ name: 'anonymous', credits: { perDay: 10, perMonth: null } }),
    ],
    keys: ['main', 'spare'],
    scrapers: ['alpha', 'a_scraper_with_a_long_name'],
    breaker: { consecutive: 3, questions: 1, openFor: 20_000, hold: 0 },
    says: (_n, { call, key }) => {
      if (call.scraper !== 'alpha') return failed('serverError')
      return call.params[0]?.[1] === 'spends' && key.name === 'main' ? failed('creditsExhausted') : answered()
    },
    gauges: { disk: () => ({ answers: 'up', records: 'up' }), auditFile: () => 'down' },
    ...(adminToken === undefined ? {} : { adminToken }),
  })
  await scene.finish({ id: 'x'.repeat(128) })
  for (let n = 0; n < 8; n += 1) await scene.finish({ id: `spends-${n}`, prompt: 'spends' })
  await scene.finish({ id: 'fails', question: '/scrapers/a_scraper_with_a_long_name', client: 'anonymous' })
  await scene.finish({ id: CANARY, prompt: 'other' })
  void scene.ask({ id: 'waits', prompt: 'slow' }).outcome
  await scene.clock.advance(500)
  const admin = await scene.listen(t)
  return { ...scene, url: `http://127.0.0.1:${admin.port}` }
}

async function open(
  t: Test,
  options: Parameters<Browser['newContext']>[0] = {},
): Promise<{ page: Page; faults: string[] }> {
  const context: BrowserContext = await browser.newContext(options)
  t.teardown(() => context.close())
  const page = await context.newPage()
  // Time goes by as usual, and by leaps where a test does not want to wait.
  if (options.javaScriptEnabled !== false) await page.clock.install()
  const faults: string[] = []
  page.on('pageerror', (error) => faults.push(error.message))
  page.on('console', (message) => message.type() === 'error' && faults.push(message.text()))
  return { page, faults }
}

// What runs in the page is text here: the types of this program are those of Node.

/** Texts whose contrast with what is behind them is less than WCAG's 4.5, as `text: ratio`. */
const FAINT = `(() => {
  const channels = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number)
  const light = (color) => {
    const [r, g, b] = channels(color)
      .slice(0, 3)
      .map((value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor
      if (channels(color)[3] !== 0) return color
    }
    return 'rgb(255,255,255)'
  }
  const found = []
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.textContent.trim())
    if (!own.join('') || element.closest('script,style,svg') || !element.checkVisibility()) continue
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].toSorted((x, y) => y - x)
    const ratio = (a + 0.05) / (b + 0.05)
    if (ratio < 4.5) found.push(own.join(' ') + ': ' + ratio.toFixed(2))
  }
  return found
})()`

const SIDEWAYS = 'document.documentElement.scrollWidth - document.documentElement.clientWidth'

/** Sections that do not hold what is in them. */
const STICKS_OUT = `[...document.querySelectorAll('section')]
  .filter((section) => section.scrollWidth > section.clientWidth + 1)
  .map((section) => section.id)`

const UNNAMED = `[...document.querySelectorAll('a,button,input')].filter(
  (one) => !one.textContent.trim() && !one.ariaLabel && !document.querySelector('label[for="' + one.id + '"]'),
).length`

/** Something about the element in focus. */
function focused(page: Page, what: string): Promise<string> {
  return page.evaluate<string>(`String(document.activeElement.${what})`)
}

/** For tests that only look. */
const still = await aScene(t)

for (const colorScheme of ['light', 'dark'] as const) {
  for (const width of [320, 390, 1440]) {
    void t.test(`${colorScheme}, ${width} pixels wide: all fits, all can be read`, async (t) => {
      const { url } = still
      const { page, faults } = await open(t, { colorScheme, viewport: { width, height: 900 } })
      for (const path of ['/', '/requests/fails', `/requests/${encodeURIComponent(CANARY)}`, '/requests/waits']) {
        await page.goto(url + path)
        t.equal(await page.evaluate(SIDEWAYS), 0, `${path} does not scroll sideways`)
        t.strictSame(await page.evaluate(STICKS_OUT), [], path)
        t.strictSame(await page.evaluate(FAINT), [], path)
      }
      const back = await page.evaluate<string>('getComputedStyle(document.body).backgroundColor')
      t.equal(Number(/\d+/.exec(back)?.[0]) > 128, colorScheme === 'light')
      t.strictSame(faults, [])
    })
  }
}

/** What an operator looks at: an hour of traffic, calm or with an incident in its last minutes. */
const incidents: readonly {
  readonly name: string
  readonly firstLine: RegExp
  readonly observation: Observation
  readonly happens?: (scene: ReturnType<typeof observed>) => void
}[] = [
  { name: 'calm', firstLine: /^✓ OK$/m, observation: {} },
  {
    name: 'open circuit',
    firstLine: /^✕ Degraded: upstream fails for google_ai_mode \(circuit open\), since 12:5\d:\d\d \(/,
    observation: { says: (_n, { call }) => (call.scraper === 'google_ai_mode' ? failed('warmingUp') : answered()) },
  },
  {
    name: 'spent key',
    firstLine: /^✕ Degraded: no upstream key is ready: main is out of credits, since 12:\d\d:\d\d \(/,
    observation: { says: (n) => (n > 60 ? failed('creditsExhausted') : answered()) },
  },
  {
    name: 'Redis refuses',
    firstLine: /^✕ Degraded: Redis refuses writes: out-of-memory, since 12:5\d:\d\d \(/,
    observation: { gauges: { redis: () => 'refusing', redisTrouble: () => 'out-of-memory' } },
    happens: ({ recorder }) =>
      recorder.emit({ kind: 'redis-changed', to: 'refusing', because: 'error', word: 'OOM' } as never),
  },
]

/** Folder for pictures of them, to be looked at; left out, none are taken. */
const { SCREENSHOTS: pictures } = process.env

for (const { name, firstLine, observation, happens } of incidents) {
  void t.test(`${name}: the first line says so, in both schemes, on a phone and on a desk`, async (t) => {
    const scene = observed({
      clients: [
        aClient({ name: 'search-team', credits: { perDay: 3_000, perMonth: 60_000 } }),
        aClient({ name: 'batch', credits: { perDay: 1_000, perMonth: null } }),
      ],
      keys: ['main'],
      scrapers: ['chatgpt', 'google_ai_mode', 'perplexity'],
      breaker: { consecutive: 5, questions: 2, openFor: 60_000, openForMax: 60_000, hold: 0 },
      says: () => answered(),
      takesMs: 12_000,
      ...observation,
      gauges: { disk: () => ({ answers: 'up', records: 'up' }), ...observation.gauges },
    })
    for (let minute = 0; minute < 55; minute += 1) {
      void scene.ask({ prompt: `question ${minute % 20}`, question: '/scrapers/chatgpt', client: 'search-team' })
        .outcome
      void scene.ask({ prompt: `batch ${minute}`, question: '/scrapers/perplexity', client: 'batch' }).outcome
      await scene.clock.advance(60_000)
    }
    happens?.(scene)
    for (let n = 0; n < 12; n += 1) {
      void scene.ask({ id: `late-${n}`, prompt: `late ${n}`, question: '/scrapers/google_ai_mode', client: 'batch' })
        .outcome
      await scene.clock.advance(15_000)
    }
    const admin = await scene.listen(t)
    for (const colorScheme of ['light', 'dark'] as const) {
      for (const width of [390, 1440]) {
        const { page, faults } = await open(t, { colorScheme, viewport: { width, height: 900 } })
        await page.goto(`http://127.0.0.1:${admin.port}/`)
        const where = `${colorScheme}, ${width}`
        t.match(await page.getByRole('status').first().innerText(), firstLine, where)
        t.equal(await page.evaluate(SIDEWAYS), 0, `${where}: does not scroll sideways`)
        t.strictSame(await page.evaluate(STICKS_OUT), [], where)
        t.strictSame(await page.evaluate(FAINT), [], where)
        t.strictSame(faults, [])
        if (pictures) await page.screenshot({ path: join(pictures, `${name} ${where}.png`), fullPage: true })
      }
    }
  })
}

void t.test('what a screen reader is told', async (t) => {
  const { url } = still
  const { page } = await open(t, { viewport: { width: 390, height: 900 } })
  await page.goto(url)
  t.match(await page.title(), /^degraded: /)
  t.equal(await page.getByRole('main').count(), 1)
  t.equal(await page.getByRole('banner').count(), 1)
  t.equal(await page.getByRole('navigation', { name: 'Pages' }).count(), 1)
  t.equal(await page.getByRole('heading', { level: 1 }).innerText(), 'scrapellm-proxy 0.0.0-test')
  for (const name of [
    'Circuits and keys',
    'Flights under way',
    'Credits',
    'Cache',
    'Trouble lately',
    'Latest requests',
  ]) {
    const region = page.getByRole('region', { name })
    t.equal(await region.count(), 1, name)
    t.equal(await region.getByRole('table').count(), 1, `${name}: a table also where it is laid out as cards`)
  }
  // What is well is one line.
  t.equal(
    await page
      .getByRole('region', { name: 'Circuits and keys' })
      .getByText(/^1 circuit closed, \d keys? ready$/)
      .count(),
    1,
  )
  const pictures = page.getByRole('region', { name: 'Over time' })
  t.equal(await pictures.getByRole('img').count(), 4)
  await pictures.getByText('Requests by outcome as a table').click()
  t.equal(await pictures.getByRole('table').count(), 1, 'a picture can be read as a table')
  t.match(
    await page.getByRole('status').first().innerText(),
    /^✕ Degraded: upstream fails for a_scraper_with_a_long_name \(circuit open\), since 12:00:\d\d \(\d+ s\)/,
  )
  t.equal(await page.locator('#health').getAttribute('aria-live'), 'polite')
  t.equal(await page.getByRole('textbox', { name: 'X-Request-Id' }).count(), 1)
  t.equal(await page.getByRole('link', { name: 'Trail of the last serverError' }).count(), 1)
  t.equal(await page.getByRole('columnheader', { name: 'Circuit', exact: true }).count(), 1)
  t.equal(await page.evaluate(UNNAMED), 0)
  await page.goto(`${url}/requests/fails`)
  t.equal(await page.getByRole('table', { name: 'Attempts' }).getByRole('row').count(), 4, 'on a phone, too')
})

void t.test('from the page to a trail and back, by keyboard alone', async (t) => {
  const { url } = still
  const { page } = await open(t, { viewport: { width: 1440, height: 900 } })
  await page.goto(url)
  await page.keyboard.press('Tab')
  const skip = page.getByRole('link', { name: 'Skip to the content' })
  t.equal(await focused(page, 'innerText'), 'Skip to the content')
  t.ok(((await skip.boundingBox())?.x ?? -1) >= 0)
  await page.keyboard.press('Enter')
  t.equal(await focused(page, 'id'), 'main')
  await page.getByRole('textbox').focus()
  await page.keyboard.type('fails')
  await page.keyboard.press('Enter')
  await page.waitForURL('**/requests?id=fails')
  t.match(await page.getByRole('region').innerText(), /serverError 500/)
  await page.getByRole('link', { name: '← Status' }).focus()
  t.not(await page.evaluate('getComputedStyle(document.activeElement).outlineStyle'), 'none', 'focus can be seen')
  await page.keyboard.press('Enter')
  await page.waitForURL(`${url}/`)
  const reached = new Set<string>()
  const links = await page.locator('a:visible, button:visible, input:visible').count()
  for (let n = 0; n < links + 2; n += 1) {
    await page.keyboard.press('Tab')
    reached.add(await focused(page, 'outerHTML'))
  }
  t.ok([...reached].some((one) => one.includes('href="/requests/fails"')))
  t.ok([...reached].some((one) => one.includes('id="pause"')))
})

void t.test('the page keeps itself up to date, without taking away what is in focus', async (t) => {
  const { url, finish } = await aScene(t)
  const { page, faults } = await open(t)
  await page.goto(url)
  const link = page.locator('#recent a', { hasText: 'spends-3' })
  await link.focus()
  const news = page.waitForSelector('#recent a[href="/requests/brand-new"]')
  await finish({ id: 'brand-new' })
  await page.clock.fastForward(2_000)
  await news
  t.equal(await focused(page, 'textContent'), 'spends-3')

  await page.getByRole('button', { name: 'Pause updates' }).click()
  t.equal(await page.getByRole('button', { pressed: true }).count(), 1)
  await page.getByRole('button').last().click()
  const newer = page.waitForSelector('#recent a[href="/requests/newer"]')
  await finish({ id: 'newer' })
  await page.clock.fastForward(2_000)
  await newer
  t.strictSame(faults, [])

  await page.route('**/*fragment*', (route) => route.abort())
  await page.getByText('Not up to date').waitFor({ state: 'visible' })
  await page.unroute('**/*fragment*')
  await page.getByText('Not up to date').waitFor({ state: 'hidden' })
})

void t.test('the trail of a request under way fills while it is watched', async (t) => {
  const { url, clock } = await aScene(t)
  const { page } = await open(t)
  await page.goto(`${url}/requests/waits`)
  t.match(await page.getByRole('row').last().innerText(), /so far\s+under way/)
  const landed = page.getByText('answered', { exact: true }).waitFor()
  await clock.advance(1_000)
  await page.clock.fastForward(2_000)
  await landed
  t.match(await page.getByRole('row').last().innerText(), /ok 200/)
})

void t.test('a caller’s words are words, whatever they look like', async (t) => {
  const { url } = still
  const { page, faults } = await open(t)
  await page.goto(url)
  const link = page.getByRole('link', { name: CANARY, exact: true })
  t.equal(await link.count(), 1)
  await link.click()
  await page.waitForURL('**/requests/**')
  t.equal(await page.locator('h2 .id').innerText(), CANARY)
  t.equal(await page.locator('img, main script').count(), 0)
  t.notMatch(await page.title(), /^owned/)
  // Even if it had become markup: the policy would not have let it run.
  await page.evaluate(`{
    const script = document.createElement('script')
    script.textContent = 'document.title = "owned"'
    document.body.append(script)
  }`)
  t.notMatch(await page.title(), /^owned/)
  t.match(faults, [/Content Security Policy/])
})

void t.test('without scripts it is the same page, and reloads itself', async (t) => {
  const { url } = still
  const { page } = await open(t, { javaScriptEnabled: false })
  await page.goto(url)
  t.equal(await page.getByRole('link', { name: 'fails' }).count(), 1)
  t.equal(await page.getByRole('button', { name: 'Pause updates' }).count(), 0, 'there is nothing to pause')
  t.equal(await page.locator('meta[http-equiv=refresh]').count(), 1)
})

void t.test('a button works with and without scripts, and says who pressed it and when', async (t) => {
  const { url, finish, lines, status } = await aScene(t, TOKEN)
  while (status().keys[0]?.state !== 'spent') await finish({ prompt: 'spends', cacheDirectives: { noCache: true } })
  const credentials = { username: 'alice', password: TOKEN }
  const plain = await open(t, { httpCredentials: credentials, javaScriptEnabled: false })
  await plain.page.goto(url)
  await plain.page.getByRole('button', { name: 'Close the circuit of a_scraper_with_a_long_name' }).click()
  await plain.page.waitForURL(`${url}/#standing`)
  t.match(await plain.page.getByRole('region', { name: 'Circuits and keys' }).innerText(), /2 circuits closed/)
  const { page, faults } = await open(t, { httpCredentials: credentials })
  await page.goto(url)
  await page.getByRole('button', { name: 'Try key main now' }).click()
  await page.waitForURL(`${url}/#standing`)
  t.match(await page.getByRole('region', { name: 'Circuits and keys' }).innerText(), /the next request tries it/)
  await page.getByText('Purge answers').click()
  await page.getByLabel('Of', { exact: true }).selectOption('alpha')
  await page.getByLabel('older than').fill('two hours')
  await page.clock.fastForward(2_000)
  t.equal(await page.getByLabel('older than').inputValue(), 'two hours', 'an update takes nothing away')
  await page.getByRole('button', { name: 'Purge' }).click()
  t.match(await page.getByRole('main').innerText(), 'olderThan must be a duration')
  await page.goBack()
  await page.getByText('Purge answers').click()
  await page.getByLabel('Of', { exact: true }).selectOption('all')
  await page.getByLabel('older than').fill('')
  await page.getByRole('button', { name: 'Purge' }).click()
  await page.waitForURL(`${url}/#cache`)
  await page.getByRole('button', { name: 'Reload the settings' }).click()
  await page.waitForURL(`${url}/#health`)
  t.match(await page.locator('#acts').innerText(), /^Done by hand: [\d:]+ settings refused \(alice, 127\.0\.0\.1\)/)
  t.match(status().acts, [{ did: 'settings refused', by: 'alice' }, { did: /^\d+ answers purged$/ }])
  t.match(
    lines().filter(({ kind }) => kind === 'operator'),
    [
      { action: 'circuit-close', scraper: 'a_scraper_with_a_long_name', from: '127.0.0.1', by: 'alice', at: Number },
      { action: 'key-try', key: 'main', by: 'alice' },
      { action: 'purge', purged: Number, by: 'alice' },
      { action: 'reload', result: 'invalid', generation: 1, by: 'alice' },
    ],
  )
  t.strictSame(
    faults.filter((fault) => !fault.includes('400')),
    [],
  )
})

void t.test('where a token is needed, the browser asks for it and keeps the page alive with it', async (t) => {
  const { url, finish } = await aScene(t, TOKEN)
  const stranger = await open(t)
  await t.rejects(stranger.page.goto(url), /ERR_INVALID_AUTH_CREDENTIALS/)
  const { page } = await open(t, { httpCredentials: { username: '', password: TOKEN } })
  t.equal((await page.goto(url))?.status(), 200)
  const news = page.waitForSelector('#recent a[href="/requests/brand-new"]')
  await finish({ id: 'brand-new' })
  await page.clock.fastForward(2_000)
  await news
  t.notMatch(await page.content(), TOKEN)
})
