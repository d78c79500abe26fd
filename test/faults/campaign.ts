/** Rounds of one kind of fault, by seed: a fleet is drawn, goes through some rounds, and another one is drawn. */
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createScope, type OwnScope } from '../support/scope.ts'
import { createDice, type Dice } from './dice.ts'
import type { FleetOptions, Life } from './fleet.ts'
import { about, type Complaint, type Count } from './judge.ts'
import { disk, owner } from './disk-faults.ts'
import { clients, clock, customer, host, timekeepers, upstream } from './edge-faults.ts'
import { machine, power } from './power-faults.ts'
import { kill, leavers, redis, replicas, sharers, stop, term } from './replica-faults.ts'
import { createSeries, type Fault } from './stage.ts'

interface Kind {
  readonly fleet: (dice: Dice, scope: OwnScope) => FleetOptions
  readonly fault: Fault
}

export const kinds = {
  kill: { fleet: replicas, fault: kill },
  stop: { fleet: replicas, fault: stop },
  term: { fleet: leavers, fault: term },
  redis: { fleet: sharers, fault: redis },
  disk: { fleet: owner, fault: disk },
  power: { fleet: machine, fault: power },
  clock: { fleet: timekeepers, fault: clock },
  clients: { fleet: host, fault: clients },
  upstream: { fleet: customer, fault: upstream },
} as const satisfies Readonly<Record<string, Kind>>

export type What = keyof typeof kinds

export interface Campaign {
  readonly what: What
  readonly rounds: number
  readonly seed: number
  readonly isShort?: boolean
  readonly workers?: number
  readonly count: Count
  readonly onRound?: (round: number) => void
  /** The seed of the next one: where another run goes on. */
  readonly onFleet?: (nextSeed: number) => void
  readonly onFailure: (failure: Failure) => void
  readonly newScope?: () => OwnScope
  /** Asked before each fleet. */
  readonly mayGoOn?: () => boolean
}

/** One that failed: its seed makes the same fleet and the same rounds up to it. */
export interface Failure {
  readonly what: What
  readonly seed: number
  readonly rounds: number
  readonly complaints: readonly Complaint[]
  /** The folder with what each replica has logged. */
  readonly logs: string
}

/** As many rounds as a fleet goes through. */
export const ROUNDS_OF_A_FLEET = 8

/** A round that cannot be made at all has failed, too. */
export async function runCampaign({ what, rounds, seed, count, onFailure, ...options }: Campaign): Promise<void> {
  const { isShort = false, workers = 8, onRound = () => undefined, onFleet = () => undefined } = options
  const { newScope = createScope, mayGoOn = () => true } = options
  const { fleet, fault } = kinds[what]
  let allDone = 0
  for (let first = 0; first < rounds && mayGoOn(); first += ROUNDS_OF_A_FLEET) {
    const fleetSeed = seed + first / ROUNDS_OF_A_FLEET
    const scope = newScope()
    let complaints: readonly Complaint[] = []
    let lives: readonly Life[] = []
    let done = 0
    try {
      const drawn = fleet(createDice(fleetSeed), scope)
      const size = isShort ? Math.min(2, drawn.size) : drawn.size
      const series = await createSeries({ scope, fleet: { ...drawn, size }, isShort, workers, count })
      lives = series.fleet.lives
      while (complaints.length === 0 && done < Math.min(ROUNDS_OF_A_FLEET, rounds - first)) {
        done += 1
        complaints = await series.round(createDice(fleetSeed * 1_000 + done), fault)
        onRound((allDone += 1))
      }
      if (complaints.length === 0) complaints = await series.end()
    } catch (error) {
      complaints = [about('other')(String(error))]
    } finally {
      await scope.end()
    }
    if (complaints.length > 0) onFailure({ what, seed: fleetSeed, rounds: done, complaints, logs: keepLogs(lives) })
    onFleet(fleetSeed + 1)
  }
}

function keepLogs(lives: readonly Life[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'slp-faults-'))
  for (const { name, program } of lives) writeFileSync(join(folder, `${name}.log`), program.stdout())
  return folder
}
