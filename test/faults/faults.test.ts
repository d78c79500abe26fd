/**
 * A few rounds of every kind of fault on real processes, the same ones each time; `npm run faults` makes as many others as one likes.
 * What must hold after a round is in `judge.ts`.
 */
import t from 'tap'
import { runCampaign, type What } from './campaign.ts'

interface Row {
  readonly what: What
  readonly title: string
  readonly rounds: number
  readonly seed: number
  /** What these seeds must have done: a round in which nothing happened shows nothing. */
  readonly done: readonly string[]
}

const rows: readonly Row[] = [
  {
    what: 'kill',
    title: 'replicas are killed in any phase of what they do',
    rounds: 2,
    seed: 1,
    done: ['kill -9 of a replica'],
  },
  {
    what: 'stop',
    title: 'a replica is stopped and wakes up',
    rounds: 1,
    seed: 2,
    done: ['SIGSTOP of a replica'],
  },
  {
    what: 'term',
    title: 'a replica is told to go under load: nobody is lost',
    rounds: 1,
    seed: 1,
    done: ['SIGTERM under load'],
  },
  {
    what: 'redis',
    title: 'Redis is killed and comes back empty, hangs, or its line is bad: nothing fails because of it',
    rounds: 1,
    seed: 1,
    done: [],
  },
  {
    what: 'disk',
    title: 'the file is full, damaged, locked, or its owner is killed: answers come all the same',
    rounds: 1,
    seed: 7,
    done: [],
  },
  {
    what: 'power',
    title: 'the power is cut: what was set aside for calls is on the disk, whatever else is lost',
    rounds: 2,
    seed: 1,
    done: ['power cut', 'commits lost in a power cut, records'],
  },
  {
    what: 'clock',
    title: 'the wall clock steps, forward and back',
    rounds: 1,
    seed: 1,
    done: ['step of a wall clock'],
  },
  {
    what: 'clients',
    title: 'callers are slow, silent, deaf or half gone: the others do not notice',
    rounds: 1,
    seed: 1,
    done: ['a caller who does not read', 'a caller who closes one half', 'a caller who sends a byte a second'],
  },
  {
    what: 'upstream',
    title: 'upstream breaks off, hangs, resets: what may have been charged is repeated once at most',
    rounds: 1,
    seed: 1,
    done: [],
  },
]

// Side by side, because they mostly wait; not all at once, because each is several processes.
t.jobs = 3

const MOST_FLEETS = 6

for (const { what, title, rounds, seed, done } of rows) {
  void t.test(title, { buffered: true, timeout: 240_000 }, async (t) => {
    const counts = new Set<string>()
    const count = (name: string, times = 1): void => void (times > 0 && counts.add(name))
    const missing = (): string[] => done.filter((name) => !counts.has(name))
    // How many commits are not synced at the moment of a cut depends on the machine, so it may take another fleet.
    for (let fleet = 0; fleet === 0 || (fleet < MOST_FLEETS && missing().length > 0); fleet += 1)
      await runCampaign({
        what,
        rounds,
        seed: seed + fleet,
        count,
        isShort: true,
        workers: 4,
        onFailure({ complaints, rounds }) {
          t.strictSame(complaints, [], `round ${rounds}; many others like it: npm run faults -- --what ${what}`)
        },
      })
    t.strictSame(missing(), [], `${[...counts].join(', ')} happened`)
    t.ok(counts.size > 0)
  })
}
