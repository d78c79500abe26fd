/** Durations, sizes, near words and secrets. */
import { inspect } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import { nearest } from '../../src/config/nearest.ts'
import { durationHint, formatDuration, formatSize, parseDuration, parseSize, sizeHint } from '../../src/config/units.ts'
import { Secret } from '../../src/keys/secret.ts'

void t.test('durations and sizes mean what they say', async (t) => {
  const durations = { '250ms': 250, '30s': 30_000, '5m': 300_000, '24h': 86_400_000, '30d': 2_592_000_000, '0s': 0 }
  for (const [text, ms] of Object.entries(durations)) t.equal(parseDuration(text), ms, text)
  const sizes = { '512B': 512, '64KiB': 65_536, '256MiB': 268_435_456, '2GiB': 2_147_483_648 }
  for (const [text, bytes] of Object.entries(sizes)) t.equal(parseSize(text), bytes, text)
})

void t.test('what is written can be read again, and reading loses nothing', async () => {
  const amount = fc.nat({ max: 999_999_999 })
  fc.assert(fc.property(amount, (ms) => parseDuration(formatDuration(ms)) === ms))
  fc.assert(fc.property(amount, (bytes) => parseSize(formatSize(bytes)) === bytes))
  fc.assert(
    fc.property(amount, fc.constantFrom('ms', 's', 'm', 'h', 'd'), (count, unit) => {
      const ms = parseDuration(`${count}${unit}`)
      return ms !== null && parseDuration(formatDuration(ms)) === ms
    }),
  )
})

void t.test('nothing else is a duration or a size, and no unit passes for the other kind', async () => {
  fc.assert(fc.property(fc.string(), (text) => /^\d{1,9}(ms|s|m|h|d)$/.test(text) || parseDuration(text) === null))
  fc.assert(
    fc.property(
      fc.nat({ max: 9999 }),
      fc.constantFrom('', 'B', 'KiB', 'MiB', 'S', 'M', ' s', 'min'),
      (count, unit) => parseDuration(`${count}${unit}`) === null,
    ),
  )
  fc.assert(
    fc.property(
      fc.nat({ max: 9999 }),
      fc.constantFrom('', 's', 'm', 'KB', 'MB', 'kib', ' MiB', 'b'),
      (count, unit) => parseSize(`${count}${unit}`) === null,
    ),
  )
})

void t.test('a hint says what was probably meant', async (t) => {
  const hints = {
    '10 minutes': 'write 10m',
    '1.5h': 'write 90m',
    '1h 30m': 'write 90m',
    '2 Days': 'write 2d',
    '10M': 'write 10m',
    '600': 'write 600s for seconds or 600ms for milliseconds',
    soon: 'write a number and a unit, such as 250ms, 30s, 5m, 24h or 30d',
    '-3s': 'write a number and a unit, such as 250ms, 30s, 5m, 24h or 30d',
    '3 weeks': 'write a number and a unit, such as 250ms, 30s, 5m, 24h or 30d',
  }
  for (const [text, hint] of Object.entries(hints)) t.equal(durationHint(text), hint, text)
  t.equal(sizeHint('64 kB'), 'write 64KiB')
  t.equal(sizeHint('1.5GiB'), 'write 1536MiB')
  t.equal(sizeHint('4096'), 'write 4096B for bytes or 4096MiB for mebibytes')
  t.equal(sizeHint('big'), 'write a number and a unit, such as 64KiB, 256MiB or 2GiB')
})

void t.test('a hint can always be followed', async () => {
  fc.assert(
    fc.property(
      fc.nat({ max: 99_999 }),
      fc.constantFrom(' seconds', 'min', ' Hours', 'D', 'msec', '.5h'),
      (count, unit) => {
        const [, written = ''] = /^write (\S+)$/.exec(durationHint(`${count}${unit}`)) ?? []
        return parseDuration(written) !== null
      },
    ),
  )
})

void t.test('a misspelt word finds its neighbour, a strange one finds none', async (t) => {
  const known = ['limit', 'per', 'burst', 'tokenSha256']
  const typos = { limt: 'limit', limti: 'limit', Burst: 'burst', pre: 'per' }
  for (const [word, near] of Object.entries(typos)) t.equal(nearest(word, known), near, word)
  t.equal(nearest('tokensha265', known), 'tokenSha256')
  t.equal(nearest('colour', known), null)
  t.equal(nearest('x'.repeat(100_000), known), null)
})

void t.test('a secret shows itself to nobody', async (t) => {
  const secret = new Secret('a-secret-of-many-letters')
  const shown = [String(secret), JSON.stringify({ secret }), inspect({ secret }), inspect(secret), [secret].join()]
  for (const text of shown) {
    t.notMatch(text, /a-secret/)
    t.match(text, /\*\*\*\*ters/, 'the last four characters tell which one it is')
  }
  t.equal(secret.reveal(), 'a-secret-of-many-letters')
  t.equal(String(new Secret('sixteen-letters!')), '****', 'a short one shows nothing')
  t.strictSame(Object.keys(secret), [])
})
