/** A case of the weather table, run with some seeds and judged. */
import type { Loaded } from '../../src/config/load.ts'
import { type PeerBreaker, runBare } from './bare-client.ts'
import type { Case, Measured } from './cases.ts'
import { figuresOf, firstSuccess, type Figures, share } from './figures.ts'
import { peers } from './peers.ts'
import { type Run, run } from './run.ts'

export interface Row {
  readonly row: string
  readonly weather: string
  readonly figures: Figures
  readonly possible: number
  /** Success with the breakers of others, by name. */
  readonly peers: Readonly<Record<string, number>>
  /** The longest time from the recovery to the end of the first call that was answered; null = the row has no outage. */
  readonly firstSuccessMs: number | null
  readonly broken: readonly string[]
  /** Of all requests that were made for this row. */
  readonly requests: number
  /** In real time: success of all requests as it was recorded, and as `replay` predicts it from the audit file. */
  readonly replay?: { readonly recorded: number; readonly predicted: number }
}

/** `load`: the settings that are tried, with those that a row needs over them. */
export async function measure(one: Case, seeds: number, load: (sets: readonly string[]) => Loaded): Promise<Row> {
  const loaded = load(one.sets ?? [])
  const runs = []
  for (let seed = 1; seed <= seeds; seed += 1) runs.push(await run({ loaded, seed, ...one.plan(seed) }))
  return judged(one, runs, seeds)
}

/** `runs`: one for each seed, from 1 on. */
export async function judged(
  { row, weather, plan, about = () => true, recoveredMs, judge }: Case,
  runs: readonly Run[],
  seeds: number,
): Promise<Row> {
  const asked = runs.flatMap(({ asked }) => asked.filter(about))
  const calls = runs.flatMap(({ asked, calls }) => {
    const prompts = new Set(asked.filter(about).map(({ prompt }) => prompt))
    return calls.filter(({ prompt }) => prompts.has(prompt))
  })
  const measured: Measured = {
    figures: figuresOf(asked, calls),
    possible: await bareSuccess(),
    runs,
    asked,
    calls,
  }
  const recoveries = runs.map((run) => {
    const first = recoveredMs === undefined ? null : firstSuccess(run, recoveredMs)
    return first ? first.endedAt - run.startsAt - (recoveredMs ?? 0) : Number.POSITIVE_INFINITY
  })
  const others = Object.entries(peers).map(async ([name, create]) => [name, await bareSuccess(create)] as const)
  return {
    row,
    weather,
    figures: measured.figures,
    possible: measured.possible,
    peers: Object.fromEntries(await Promise.all(others)),
    firstSuccessMs: recoveredMs === undefined ? null : Math.max(...recoveries),
    broken: [...new Set(judge(measured))],
    requests: runs.reduce((sum, { asked }) => sum + asked.length, 0),
  }

  async function bareSuccess(createBreaker?: () => PeerBreaker): Promise<number> {
    const bare = { asked: 0, answered: 0 }
    for (let seed = 1; seed <= seeds; seed += 1) {
      const breaker = createBreaker ? { breaker: createBreaker() } : {}
      const { asked, answered } = await runBare({ ...plan(seed), seed, about, ...breaker })
      bare.asked += asked
      bare.answered += answered
    }
    return share(bare.answered, bare.asked)
  }
}
