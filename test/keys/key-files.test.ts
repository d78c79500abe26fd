/** Keys whose file changes: who gets the new secret, what becomes of a rest, and what is said when the file is no good. */
import t from 'tap'
import { followKeyFiles } from '../../src/keys/key-files.ts'
import { createKeys } from '../../src/keys/pool.ts'
import { Secret, secretOf } from '../../src/keys/secret.ts'
import type { Turn } from '../../src/fetch-parts.ts'
import { epoch, fakeWorld } from '../support/world.ts'
import { aCall, answered, failed, keyRestDefaults } from '../support/verdicts.ts'

const minute = 60_000

function turn(spentKeys: readonly string[] = []): Turn {
  return {
    number: 1,
    waitedMs: 0,
    bypassCache: false,
    isLast: false,
    isOverBudget: false,
    leftMs: () => 600_000,
    startableMs: () => 590_000,
    spentKeys: new Set(spentKeys),
  }
}

/** Two keys, `main` from a file. `write` is what happens to that file. */
function stage() {
  const world = fakeWorld()
  const keys = createKeys({
    ...world,
    keys: [
      { name: 'main', weight: 1, secret: new Secret('old-secret') },
      { name: 'other', weight: 1, secret: new Secret('other-secret') },
    ],
    keyRest: keyRestDefaults,
  })
  const files = new Map<string, (text: string | null) => void>()
  const news: [name: string, kind: string, secret: string | null][] = []
  const following = followKeyFiles({
    files: [{ name: 'main', path: '/run/secrets/main' }],
    watch(path, onChange) {
      files.set(path, onChange)
      return { close: () => void files.delete(path) }
    },
    replace: keys.replace,
    tell: ({ name, kind, secret }) => void news.push([name, kind, secret?.reveal() ?? null]),
  })
  const write = (text: string | null): void => files.get('/run/secrets/main')?.(text)
  const leaseMain = () => keys.lease(aCall(), turn(['other']))
  return { ...world, keys, files, following, news, write, leaseMain }
}

void t.test('The next call takes the new secret; what is under way keeps the one it has', async (t) => {
  const { leaseMain, write, news, keys } = stage()
  const before = await leaseMain()
  write('old-secret\n')
  t.strictSame(news, [], 'what it holds at first is known')
  write('new-secret\r\n')
  t.equal(before.secret, 'old-secret')
  t.match(await leaseMain(), { name: 'main', secret: 'new-secret' })
  t.match(await keys.lease(aCall(), turn(['main'])), { secret: 'other-secret' })
  t.strictSame(news, [['main', 'replaced', 'new-secret']])
})

void t.test('What is said of the old secret is said of nobody', async (t) => {
  const { leaseMain, write, keys, events } = stage()
  const before = await leaseMain()
  write('new-secret')
  before.report(failed('unauthorized'))
  before.report(failed('rateLimited', { retryAfterMs: minute }))
  t.match(keys.states()[0], { name: 'main', state: 'ready', untilAt: null })
  t.strictSame(events, [])
})

void t.test(
  'Another secret is another key: the rest of the old one ends, and nothing is said of it any more',
  async (t) => {
    for (const [failure, state] of [
      ['creditsExhausted', 'spent'],
      ['unauthorized', 'resting'],
      ['rateLimited', 'resting'],
    ] as const) {
      const { leaseMain, write, keys } = stage()
      const before = await leaseMain()
      before.report(failed(failure, { retryAfterMs: minute }))
      t.match(keys.states()[0], { state })
      await t.rejects(leaseMain(), { code: 'NO_KEY_AVAILABLE' })

      write('new-secret')
      t.match(keys.states()[0], { state: 'ready' })
      const [first, second] = [await leaseMain(), await leaseMain()]
      t.equal(second.secret, 'new-secret', 'without a trial')
      before.report(failed(failure, { retryAfterMs: minute }))
      t.match(keys.states()[0], { state: 'ready' }, 'what comes late of the old secret is dropped')
      first.report(failed('unauthorized'))
      t.match(keys.states()[0], { state: 'resting', untilAt: epoch + 5 * minute })
    }
  },
)

void t.test('A trial under way with the old secret does not stand in the way of the new one', async (t) => {
  const { leaseMain, write, keys, clock } = stage()
  const before = await leaseMain()
  before.report(failed('unauthorized'))
  await clock.advance(5 * minute)
  const oldTrial = await leaseMain()
  write('new-secret')
  const first = await leaseMain()
  t.equal(first.secret, 'new-secret')
  oldTrial.report(failed('unauthorized'))
  first.report(answered())
  t.match(keys.states()[0], { state: 'ready', untilAt: null })
})

void t.test('A file that is no good changes nothing and is told once, until it is good again', async (t) => {
  const { leaseMain, write, news } = stage()
  for (const text of [null, '', '\n', 'two words', 'two\nlines\n', 'ünlesbar']) write(text)
  t.strictSame(news, [['main', 'unreadable', null]])
  t.match(await leaseMain(), { secret: 'old-secret' })

  write('old-secret')
  write('')
  t.strictSame(news.slice(1), [['main', 'not a key', null]])
  write('new-secret')
  t.strictSame(news.slice(2), [['main', 'replaced', 'new-secret']])
})

void t.test('After the end nothing is followed', async (t) => {
  const { following, files } = stage()
  t.equal(files.size, 1)
  following.close()
  t.equal(files.size, 0)
})

void t.test('What a file says, as a secret', async (t) => {
  t.equal(secretOf('abc')?.reveal(), 'abc')
  t.equal(secretOf('abc\n')?.reveal(), 'abc')
  t.equal(secretOf('abc\r\n')?.reveal(), 'abc')
  t.equal(secretOf('abc\n\n'), null)
  t.equal(secretOf(' abc'), null)
})

void t.test('There is no key of another name, and no news in the same secret', async (t) => {
  const { keys, events } = stage()
  t.equal(keys.replace('nobody', new Secret('x')), false)
  t.equal(keys.replace('main', new Secret('old-secret')), false)
  t.equal(keys.replace('main', new Secret('new-secret')), true)
  t.strictSame(events, [])
})
