/** Sessions on the model of Redis, whose clock is the test's: who lives, who is gone, and what a store that lost data makes of that. */
import t from 'tap'
import type { Clock, SharedStore } from '../src/ports.ts'
import { createSession, ENDS_MS, type Session, SILENT_MS, soloSession } from '../src/session.ts'
import { createRedisServer } from './simulation/redis-server.ts'
import { fakeClock } from './support/world.ts'

interface Member {
  readonly session: Session
  /** Whether each sign of life was news to the store. */
  readonly beats: boolean[]
  /** It is cut off from the store. */
  isCut: boolean
}

function aStore() {
  const clock = fakeClock()
  let aheadMs = 0
  const server = createRedisServer(() => Math.floor((clock.now() + aheadMs) * 1_000), true)
  let isDown = false

  function join(id: string, own: Clock = clock): Member {
    const listeners = new Set<(state: 'up' | 'refusing' | 'down') => void>()
    const store: Pick<SharedStore, 'run' | 'onState'> = {
      async run({ lua, numberOfKeys }, keys, args) {
        if (isDown || isCutOff()) return { kind: 'away', sent: false }
        return {
          kind: 'known',
          value: server.command('eval', [lua, String(numberOfKeys), ...keys, ...args.map(String)]),
        }
      },
      onState(listener) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const beats: boolean[] = []
    // It is asked while it is being made.
    const isCutOff = (): boolean => made[0]?.isCut ?? false
    const made: Member[] = []
    const member: { session: Session; beats: boolean[]; isCut: boolean } = {
      beats,
      isCut: false,
      session: createSession({ store, clock: own, id }),
    }
    made.push(member)
    member.session.onBeat((isNew) => void beats.push(isNew))
    return member
  }

  return { clock, server, join, down: (is: boolean) => void (isDown = is), step: (ms: number) => void (aheadMs += ms) }
}

void t.test('processes know each other, who is silent is lost, and later gone', async (t) => {
  const { clock, join } = aStore()
  const [a, b, c] = [join('a'), join('b'), join('c')]
  await clock.advance(ENDS_MS + 20_000)
  t.strictSame(
    [a, b, c].map(({ session }) => session.size()),
    [3, 3, 3],
  )
  t.strictSame(a.session.others()?.toSorted(), ['b', 'c'])
  t.strictSame(a.beats.slice(0, 2), [true, false], 'only the first sign of life is news')

  c.isCut = true
  await clock.advance(SILENT_MS - 1_000)
  t.notOk(await a.session.isLost('c'))
  t.equal(c.session.size(), 3, 'what it saw last')
  await clock.advance(6_000)
  t.ok(await a.session.isLost('c'))
  t.notOk(await a.session.isGone('c'))
  t.equal(a.session.fateOf('c'), 'alive')
  t.equal(a.session.size(), 2)
  t.notOk(await c.session.isLost('a'), 'who hears nothing cannot say who is lost')
  t.notOk(c.session.isTrusted(), 'and knows what the others may think')
  t.ok(c.session.isValid())

  await clock.advance(ENDS_MS - SILENT_MS - 6_000)
  t.notOk(c.session.isValid(), 'it gives up what it holds')
  t.equal(a.session.fateOf('c'), 'alive', 'before the others take it')
  await clock.advance(8_000)
  t.ok(await a.session.isGone('c'))
  t.equal(a.session.fateOf('c'), 'ended')
  t.equal(c.session.fateOf('a'), 'alive')

  c.isCut = false
  await clock.advance(5_000)
  t.equal(c.beats.at(-1), true, 'it was taken for gone')
  t.notOk(await a.session.isLost('c'))
  t.ok(c.session.isValid() && c.session.isTrusted())
})

void t.test('a session that ends is over at once, and says nothing more', async (t) => {
  const { clock, join } = aStore()
  const [a, b] = [join('a'), join('b')]
  await clock.advance(10_000)
  const ending = b.session.close()
  await clock.settle()
  await ending
  await clock.advance(5_000)
  t.ok(await a.session.isLost('b'))
  t.notOk(await a.session.isGone('b'), 'others may be about to take over')
  t.equal(a.session.fateOf('b'), 'ended')
  t.equal(a.session.size(), 1)
  const before = b.beats.length
  await b.session.beat()
  await clock.advance(ENDS_MS)
  t.equal(b.beats.length, before)
  t.ok(await a.session.isGone('b'))
  t.equal(a.session.fateOf('nobody'), 'in-doubt', 'of whom nobody has heard')
})

void t.test('nobody is lost while the store is away, nor before all had time to come back', async (t) => {
  const { clock, join, down } = aStore()
  const [a, b] = [join('a'), join('b')]
  await clock.advance(ENDS_MS + 20_000)
  down(true)
  await clock.advance(10 * ENDS_MS)
  t.notOk(await a.session.isLost('b'))
  t.equal(a.session.fateOf('b'), 'alive')
  t.equal(a.session.size(), 2)
  t.equal(a.session.others(), null, 'it cannot tell')
  b.isCut = true
  down(false)
  await clock.advance(SILENT_MS - 1_000)
  t.notOk(await a.session.isLost('b'))
  t.strictSame(a.session.others(), ['b'], 'it knew who lived when the store was lost')
  await clock.advance(7_000)
  t.ok(await a.session.isLost('b'))
  await clock.advance(ENDS_MS)
  t.equal(a.session.fateOf('b'), 'in-doubt', 'it may have gone on while nobody could see')
})

void t.test('a store that comes back with older data, or none, declares nobody gone', async (t) => {
  const { clock, join, server } = aStore()
  const [a, b] = [join('a'), join('b')]
  await clock.advance(ENDS_MS + 20_000)
  b.isCut = true
  await clock.advance(2_000)
  server.loseLast(256)
  const late = join('late')
  await clock.advance(5_000)
  t.equal(a.beats.at(-1), true, 'what it holds must be told again')
  const older = a.session.mark().replace('.2', '.1')
  t.strictSame([a.session.mark(), older], ['a.2', 'a.1'])
  t.strictSame(a.session.others()?.toSorted(), ['b', 'late'], 'it knows b, though the store does not')
  t.equal(late.session.others(), null, 'a new process cannot know whom the store has forgotten')
  t.notOk(await late.session.isLost(older), 'it has time to mark anew what is its own')
  b.isCut = false
  await clock.advance(5_000)
  t.ok(await late.session.isLost(older))
  t.notOk(await late.session.isLost('a.2'))
  t.ok(await a.session.isLost(older))
  t.ok(b.beats.slice(-2).includes(true))

  server.forgetAll()
  await clock.advance(5_000)
  t.notOk(await a.session.isLost('b'))
  t.equal(a.session.size(), 3)
  await clock.advance(ENDS_MS)
  t.strictSame(late.session.others()?.toSorted(), ['a', 'b'], 'after a while everybody has said so')
})

void t.test('a process that was stopped does not know who lives, nor whether it is trusted', async (t) => {
  const { clock, join, server } = aStore()
  const own = fakeClock()
  let missedMs = 0
  join('a')
  const b = join('b', { ...own, now: () => own.now() + missedMs, wall: () => own.wall() + missedMs })
  for (let turn = 0; turn < 20; turn += 1) {
    await clock.advance(5_000)
    await own.advance(5_000)
  }
  t.strictSame(b.session.others(), ['a'])
  // The process stands still, then goes on: its timers are late, its clock is not.
  await clock.advance(30_000)
  server.loseLast(256)
  missedMs = 30_000
  t.notOk(b.session.isTrusted())
  await b.session.beat()
  t.equal(b.session.others(), null, 'somebody may have come meanwhile, and been forgotten')
})

void t.test('wall clocks that differ change nothing; the store has the time', async (t) => {
  const { clock, join, step } = aStore()
  const own = fakeClock()
  step(3 * 3_600_000)
  const [a, b] = [join('a'), join('b', own)]
  await clock.advance(5_000)
  await own.advance(5_000)
  t.equal(Math.round((a.session.wallMs() - clock.now()) / 60_000), 180)
  t.notOk(await a.session.isLost('b'))
  step(-2 * 3_600_000)
  await clock.advance(5_000)
  await own.advance(5_000)
  t.equal(Math.round((a.session.wallMs() - clock.now()) / 60_000), 60)
  for (const other of [a, b]) t.notOk(await other.session.isLost(other === a ? 'b' : 'a'))
  own.stepWall(3_600_000)
  t.notOk(b.session.isValid(), 'the machine may have been suspended for an hour')
})

void t.test('alone, everybody else is gone', async (t) => {
  const clock = fakeClock()
  const session = soloSession('me', clock)
  t.ok(await session.isLost('other'))
  t.notOk(await session.isLost('me'))
  t.ok(await session.isGone('other'))
  t.notOk(await session.isGone('me'))
  t.strictSame([session.fateOf('me'), session.fateOf('other')], ['alive', 'ended'])
  t.strictSame([session.size(), session.isTrusted(), session.isValid()], [1, true, true])
  t.strictSame([session.others(), session.wallMs()], [[], clock.wall()])
  session.onBeat(() => t.fail('it has no heart'))()
  await session.beat()
  await session.close()
})
