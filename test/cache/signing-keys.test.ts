/** What signs shared values while secrets change. */
import t from 'tap'
import { createCodec } from '../../src/cache/codec.ts'
import { createSigningKeys } from '../../src/cache/signing-keys.ts'
import type { Entry } from '../../src/model.ts'
import { createSigner } from '../../src/resilience/shared-flight-records.ts'
import { epoch, fakeClock } from '../support/world.ts'

const entry: Entry = {
  status: 200,
  contentType: 'application/json',
  body: Buffer.from('{"result":"paid for"}'),
  etag: '"e"',
  storedAt: epoch,
  keptUntil: epoch + 2,
  scraper: 'alpha',
  promptHash: null,
  country: null,
  priceCredits: 3,
  unclaimed: false,
}
const stored = { entry, mark: { epoch: 'e', number: 0 } }
const day = 86_400_000

function stage(...secrets: readonly string[]) {
  const clock = fakeClock()
  const keys = createSigningKeys(clock)
  keys.adopt(secrets)
  const codec = createCodec({ signingKeys: keys.all, maxBytes: 10_000 })
  return { clock, keys, codec, write: () => codec.encode('k', stored) ?? Buffer.alloc(0) }
}

void t.test('What was signed before a change is believed for a day, what is signed after it at once', async (t) => {
  const { clock, keys, codec, write } = stage('old')
  const seal = createSigner(keys.all)
  const [before, sealed] = [write(), seal.close('question', 'a mark')]
  keys.adopt(['new'])
  const after = write()
  t.notSame(after, before, 'another key signs')
  t.match(codec.decode('k', before), stored)
  t.match(codec.decode('k', after), stored)
  t.equal(seal.open('question', sealed), 'a mark')
  t.match(stage('new').codec.decode('k', after), stored, 'as another replica sees it')
  t.equal(stage('new').codec.decode('k', before), 'signature', 'a restart believes what it is told to')
  await clock.advance(day)
  t.equal(codec.decode('k', before), 'signature')
  t.match(codec.decode('k', after), stored)
})

void t.test('A key that comes back signs again, and not too many are believed', async (t) => {
  const { clock, keys, codec, write } = stage('one', 'two')
  const first = write()
  keys.adopt(['two'])
  keys.adopt(['one', 'two'])
  t.strictSame(write(), first)
  await clock.advance(day)
  t.match(codec.decode('k', first), stored, 'it is no former key any more')
  for (let turn = 0; turn < 1_000; turn += 1) keys.adopt([`key ${turn}`])
  t.equal(keys.all().length, 17)
  t.equal(codec.decode('k', first), 'signature')
})
