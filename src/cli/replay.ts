/**
 * `replay`: what a policy would have made of recorded requests, or of invented ones, beside what was recorded. Costs nothing,
 * needs no key, opens no connection.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { resolve } from 'node:path'
import { known } from '../compose.ts'
import type { Config } from '../config/schema.ts'
import { resolveClient } from '../config/policy.ts'
import { reason } from '../config/reference.ts'
import { formatDuration } from '../config/units.ts'
import { ConfigError } from '../errors.ts'
import { createSeededHash } from '../replay/chance.ts'
import { countOpenings } from '../replay/openings.ts'
import { type AuditSource, KNOWN_WITHIN_MS, type Recording, readRecording, ReplayError } from '../replay/recording.ts'
import { replay } from '../replay/replay.ts'
import { type Scenario, type Report, toJson, toTable } from '../replay/report.ts'
import { createSynthetic } from '../replay/synthetic.ts'
import type { Traffic } from '../replay/traffic.ts'
import type { Weather } from '../replay/faults.ts'
import type { Io } from './io.ts'
import { readSettings, withoutKey } from './settings.ts'

export interface ReplayWanted {
  readonly configs: readonly string[]
  readonly sets: readonly string[]
  readonly audits: readonly string[]
  readonly candidates: readonly string[]
  /** The policy that was in force; none = the packaged settings. */
  readonly recorded: readonly string[]
  readonly synthetic: { readonly count: number; readonly perSecond: number } | null
  readonly weather: Weather
  /** Given, whether it has a meaning here or not. */
  readonly isOutageTimed: boolean
  readonly isRateGiven: boolean
  readonly seed: number
  readonly json: boolean
}

interface Policy {
  readonly name: string
  readonly config: Config
}

export interface ReplayIo extends Pick<Io, 'stdout' | 'stderr' | 'environment' | 'readFile' | 'cwd'> {
  /** Null = nobody looks. */
  readonly progress: ((text: string) => void) | null
}

const CURRENT = 'current policy'

/** Resolves to the exit code. */
export async function runReplay(wanted: ReplayWanted, io: ReplayIo): Promise<number> {
  try {
    const report = await reportOf(wanted, io)
    io.progress?.('')
    io.stdout(wanted.json ? toJson(report) : toTable(report))
    return 0
  } catch (error) {
    if (error instanceof ReplayError) io.stderr(`${error.message}\n`)
    else if (error instanceof ConfigError) for (const mistake of error.mistakes) io.stderr(`${mistake}\n`)
    else throw error
    return error instanceof ConfigError ? 78 : 1
  }
}

async function reportOf(wanted: ReplayWanted, io: ReplayIo): Promise<Report> {
  const { audits, synthetic, weather, seed } = wanted
  const misfit = misfitOf(wanted)
  if (misfit !== null) throw new ReplayError(misfit)
  const current = policyOf(CURRENT, wanted.recorded, [], io)
  const candidates = candidatesOf(wanted, io)
  const seededHash = createSeededHash(seed)
  const recording = synthetic
    ? null
    : readRecording(
        audits.map((name) => auditSource(name, io)),
        seededHash,
      )
  const traffic = recording?.traffic ?? createSynthetic(syntheticOptions(wanted, current), seededHash)

  const isCalm = isFair(weather)
  const columns: Scenario[] = []
  const again = await simulatedColumn(current, current, traffic, wanted, io)
  const recorded = recording && isCalm ? await recordedColumn(recording, current) : null
  if (recorded) columns.push(recorded)
  if (!recorded || wanted.recorded.length > 0) columns.push(again)
  for (const policy of candidates) columns.push(await simulatedColumn(policy, current, traffic, wanted, io))

  const { count: requests, from, until } = traffic
  return {
    traffic: { requests, from, until },
    weather: describe(weather) ?? (recording ? null : 'fair'),
    seed,
    columns,
    warnings: [...doubtsOf(recorded, again, beforeOf(wanted)), ...columns.flatMap(guessesOf)],
    notes: notesOf(recording, [current, ...candidates], wanted),
  }
}

/** What each option has right by itself, and together makes no sense. */
function misfitOf({ audits, synthetic, weather, isOutageTimed, isRateGiven }: ReplayWanted): string | null {
  if (audits.length === 0 && !synthetic) return 'replay needs --audit FILE, or --requests N for invented requests'
  if (audits.length > 0 && synthetic) return '--requests invents requests, and --audit reads them: leave one out'
  if (isRateGiven && !synthetic) return '--rate is for invented requests: add --requests N'
  if (weather.failureClass && !weather.outage && weather.failureRate === null)
    return '--failure-class is for the failures of weather: add --failure-rate or --outage'
  if (isOutageTimed && !weather.outage) return '--outage-at says when: add --outage, which says how long'
  return null
}

async function recordedColumn({ tally, attempts }: Recording, { config }: Policy): Promise<Scenario> {
  const breakerOpenings = await countOpenings(
    { attempts, scrapers: known.scrapers, policy: config.breaker },
    setImmediate,
  )
  return { name: 'recorded', kind: 'recorded', figures: { ...tally.figures(), breakerOpenings } }
}

async function simulatedColumn(
  { name, config }: Policy,
  current: Policy,
  traffic: Traffic,
  { weather, seed }: ReplayWanted,
  { progress }: ReplayIo,
): Promise<Scenario> {
  const figures = await replay(
    {
      config,
      traffic,
      weather,
      seed,
      scrapers: known.scrapers,
      recordedDeadlineMs: (client) => deadlineOf(current, client),
    },
    {
      soon: setImmediate,
      onProgress: (asked) => progress?.(`${name}: ${asked} of ${traffic.count} requests`),
    },
  )
  return { name, kind: 'simulated', figures }
}

/** Over the settings of `--recorded`: each file of `--candidate` is one, those of `--config` together are one; with neither, `--set` is one. */
function candidatesOf(
  { configs, candidates, sets, recorded, weather, synthetic }: ReplayWanted,
  io: ReplayIo,
): Policy[] {
  const merged = configs.length > 0 ? [policyOf(configs.join(' + '), [...recorded, ...configs], sets, io)] : []
  const single = candidates.map((name) => policyOf(name, [...recorded, name], sets, io))
  if (merged.length + single.length > 0) return [...merged, ...single]
  return sets.length > 0 || (isFair(weather) && !synthetic) ? [policyOf('candidate', recorded, sets, io)] : []
}

function policyOf(name: string, configs: readonly string[], sets: readonly string[], io: ReplayIo): Policy {
  // No call is made, so no key is needed.
  return { name, config: readSettings({ configs, sets }, withoutKey(io)).config }
}

function syntheticOptions({ synthetic }: ReplayWanted, { config }: Policy) {
  const { count, perSecond } = synthetic ?? { count: 0, perSecond: 1 }
  const names = Object.keys(config.clients)
  const client = names.includes('anonymous') ? 'anonymous' : (names[0] ?? 'anonymous')
  return { count, perSecond, client, scraper: known.scrapers[0], priceCredits: known.priceCredits }
}

function deadlineOf({ config }: Policy, client: string): number {
  const name = [client, 'anonymous'].find((name) => config.clients[name] !== undefined)
  return name === undefined ? config.retry.deadline : resolveClient(config, name).retry.deadline
}

function isFair(weather: Weather): boolean {
  return describe(weather) === null
}

function describe(weather: Weather): string | null {
  const { outage, failureRate, failureClass, failureMs, latency, rateLimit, slow } = weather
  const parts = [
    outage &&
      `an outage of ${formatDuration(outage.forMs)} ${outage.afterMs === null ? 'after a third' : `after ${formatDuration(outage.afterMs)}`}`,
    failureRate !== null && `${Math.round(failureRate * 10_000) / 100} % of the attempts fail`,
    failureClass && `failures are ${failureClass}`,
    failureMs !== null && `failures take ${formatDuration(failureMs)}`,
    latency && `answers take ${formatDuration(latency.fastMs)} to ${formatDuration(latency.slowMs)}`,
    rateLimit && `upstream takes ${rateLimit.limit} attempts per ${formatDuration(rateLimit.perMs)} and key`,
    slow !== 1 && `upstream takes ${slow} times as long`,
  ].filter((part) => typeof part === 'string')
  return parts.length > 0 ? parts.join('; ') : null
}

/** Success in points of a hundred. */
const PREDICTED_WITHIN = 2

/** A replay that does not repeat what was recorded says little of other policies. */
function doubtsOf(recorded: Scenario | null, again: Scenario, before: string): string[] {
  const was = 100 * (recorded?.figures.successRate ?? 0)
  const is = 100 * (again.figures.successRate ?? 0)
  if (!recorded || Math.abs(was - is) <= PREDICTED_WITHIN) return []
  return [
    `The recorded success rate is ${was.toFixed(1)} %, but replaying ${before} gives ${is.toFixed(1)} %: the replay does not reproduce what happened, so the other columns are unreliable. If other settings were in force, pass them with --recorded.`,
  ]
}

function guessesOf({ name, figures: { attempts, guessedAttempts } }: Scenario): string[] {
  if (guessedAttempts === 0) return []
  const share = ((100 * guessedAttempts) / attempts).toFixed(1)
  return [
    `${share} % of the attempts of ${name} (${guessedAttempts} of ${attempts}) are guesses: nothing was asked within ${KNOWN_WITHIN_MS / 1_000} s of them in the recording, as while a circuit was open. They end as the nearest in time did.`,
  ]
}

function beforeOf({ recorded }: ReplayWanted): string {
  return recorded.length > 0 ? recorded.join(' + ') : 'the packaged settings'
}

function notesOf(recording: Recording | null, policies: readonly Policy[], wanted: ReplayWanted): string[] {
  const notes: string[] = []
  const before = beforeOf(wanted)
  if (recording && isFair(wanted.weather)) {
    notes.push(
      `recorded: sums over the audit lines; breaker openings: their attempts, led past the breaker of ${before}.`,
    )
  } else notes.push(`All columns are simulated; the current policy is ${before}.`)
  notes.push('simulated: the real pipeline in virtual time, with empty circuits and full retry budgets at its start.')
  if (!recording) return notes
  const { broken, strayAttempts, clients } = recording
  if (broken.length > 0) notes.push(`Broken lines passed over: ${some(broken)}.`)
  if (strayAttempts > 0) notes.push(`Attempts for no request in here, in no simulated column: ${strayAttempts}.`)
  for (const { name, config } of policies) {
    const missing = clients.filter((client) => config.clients[client] === undefined)
    if (missing.length > 0) {
      const fate = config.clients['anonymous'] === undefined ? 'unknown and refused' : 'anonymous'
      notes.push(`Not in the settings of ${name}, and so ${fate}: ${some(missing)}.`)
    }
  }
  return notes
}

function some(names: readonly string[]): string {
  return names.length > 10 ? `${names.slice(0, 10).join(', ')} and ${names.length - 10} more` : names.join(', ')
}

function auditSource(name: string, { cwd }: ReplayIo): AuditSource {
  return { name, lines: linesOf(name, resolve(cwd, name)) }
}

/** A file may be bigger than a text can be. */
function* linesOf(name: string, path: string): Generator<string> {
  const file = attempted(name, () => openSync(path, 'r'))
  try {
    const chunk = Buffer.allocUnsafe(1024 * 1024)
    let rest = Buffer.alloc(0)
    for (;;) {
      const length = attempted(name, () => readSync(file, chunk))
      const bytes = Buffer.concat([rest, chunk.subarray(0, length)])
      let from = 0
      for (let to = bytes.indexOf(10); to >= 0; to = bytes.indexOf(10, from)) {
        yield bytes.toString('utf8', from, to)
        from = to + 1
      }
      rest = bytes.subarray(from)
      if (length > 0) continue
      if (rest.length > 0) yield rest.toString('utf8')
      return
    }
  } finally {
    closeSync(file)
  }
}

function attempted<T>(name: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw new ReplayError(`${name}: cannot be read (${reason(error)})`)
  }
}
