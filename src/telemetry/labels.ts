/**
 * Every label and the closed list of its values: nothing that a caller or upstream says becomes a label unless it is on a
 * list. A value that is not is counted under the list's stand-in.
 */
import { codes, type Code, type Reason, reasons } from '../errors.ts'
import { type VerdictClass, verdictClasses } from '../failures.ts'
import type { Anomaly, CacheLabel, Refused, Tier, WireReason } from '../model.ts'
import type { BreakerState, CacheFlaw, DiskFile, HeldEnd, RedisOperation, ReloadResult } from './events.ts'
import { type OutcomeName, outcomeNames } from './outcome-status.ts'
import type { ClosedList, LabelValue } from './series.ts'

/** `gone`: the caller hung up. `none`: no complete answer came over the wire. */
type Status = number | 'gone' | 'none'
export type JobOutcome = 'submitted' | 'polled' | 'rejected' | 'failed' | 'refused' | 'gone'
/** The numbers of samples, in groups: a closed list, and short. */
export type SampleGroup = '1' | '2-10' | '11-100'
export type SavedHow = 'hit' | 'joined' | 'stale' | 'rescued'
/** `invalid`: charged for an answer that was none. `uncertain`: may have been charged for nothing. */
export type WastedWhy = 'invalid' | 'uncertain'
export type Notified = 'delivered' | 'given-up'
export type BudgetPeriod = 'day' | 'month'
/** How credits were granted while the shared store was away. */
export type AwayMode = 'allowance' | 'open' | 'refused'
/** How the wait for another replica's flight ended, or in what state its flight was taken over. */
export type SharedEnd = 'landed' | 'led' | 'left' | 'sent' | 'job' | 'lost'

export interface LabelTypes {
  client: string
  scraper: string
  key: string
  status: Status
  cache: CacheLabel
  ended: OutcomeName
  class: VerdictClass
  anomaly: Anomaly
  sample: SampleGroup
  reason: Exclude<Refused, 'final'>
  to: BreakerState
  hold: HeldEnd
  tier: Tier
  result: 'hit' | 'stale' | 'miss'
  code: Code
  cause: Reason
  how: SavedHow
  why: WastedWhy
  period: BudgetPeriod
  mode: AwayMode
  end: SharedEnd
  reload: ReloadResult
  wire: WireReason
  outcome: JobOutcome
  operation: RedisOperation
  flaw: CacheFlaw
  file: DiskFile
  notified: Notified
  token: string
  version: string
  node: string
}

export type LabelName = keyof LabelTypes

/** Two labels of one name are told apart here. */
const shownNames: Partial<Record<LabelName, string>> = {
  reload: 'result',
  wire: 'reason',
  cause: 'reason',
  notified: 'outcome',
  ended: 'outcome',
}

export function shownName(label: LabelName): string {
  return shownNames[label] ?? label
}

// Any other status is counted by its hundreds.
const exactStatuses: readonly LabelValue[] = [
  200, 202, 304, 400, 401, 403, 404, 405, 408, 409, 414, 422, 429, 431, 500, 502, 503, 504,
]
const statusGroups: readonly LabelValue[] = ['1xx', '2xx', '3xx', '4xx', '5xx', 'other', 'gone', 'none']

/** The labels whose values do not depend on the settings: their lists, complete by type. */
export const labelLists = {
  status: [...exactStatuses, ...statusGroups],
  cache: listOf<CacheLabel>({ hit: 0, stale: 0, miss: 0, joined: 0, bypass: 0, none: 0 }),
  ended: outcomeNames,
  class: verdictClasses,
  anomaly: listOf<Anomaly>({ unknownShape: 0, emptyAnswer: 0, otherQuestion: 0, implausibleCharge: 0 }),
  sample: listOf<SampleGroup>({ '1': 0, '2-10': 0, '11-100': 0 }),
  reason: listOf<LabelTypes['reason']>({
    attempts: 0,
    budget: 0,
    deadline: 0,
    breaker: 0,
    places: 0,
    shutdown: 0,
    key: 0,
    abandoned: 0,
  }),
  to: listOf<BreakerState>({ closed: 0, 'half-open': 0, open: 0 }),
  hold: listOf<HeldEnd>({ passed: 0, refused: 0, left: 0 }),
  tier: listOf<Tier>({ memory: 0, disk: 0, redis: 0 }),
  result: listOf<LabelTypes['result']>({ hit: 0, stale: 0, miss: 0 }),
  code: codes,
  cause: reasons,
  how: listOf<SavedHow>({ hit: 0, joined: 0, stale: 0, rescued: 0 }),
  why: listOf<WastedWhy>({ invalid: 0, uncertain: 0 }),
  period: listOf<BudgetPeriod>({ day: 0, month: 0 }),
  mode: listOf<AwayMode>({ allowance: 0, open: 0, refused: 0 }),
  end: listOf<SharedEnd>({ landed: 0, led: 0, left: 0, sent: 0, job: 0, lost: 0 }),
  reload: listOf<ReloadResult>({ applied: 0, invalid: 0, restart: 0 }),
  wire: listOf<WireReason>({
    'name-not-found': 0,
    'name-server': 0,
    refused: 0,
    'no-route': 0,
    'connect-timeout': 0,
    'tls-expired': 0,
    'tls-self-signed': 0,
    'tls-unknown-ca': 0,
    'tls-wrong-host': 0,
    tls: 0,
    'outbound-proxy': 0,
    local: 0,
    'idle-closed': 0,
    reset: 0,
    timeout: 0,
    malformed: 0,
    truncated: 0,
    'too-big': 0,
    aborted: 0,
  }),
  outcome: listOf<JobOutcome>({ submitted: 0, polled: 0, rejected: 0, failed: 0, refused: 0, gone: 0 }),
  operation: listOf<RedisOperation>({
    connect: 0,
    probe: 0,
    get: 0,
    set: 0,
    delete: 0,
    script: 0,
    publish: 0,
    subscribe: 0,
  }),
  flaw: listOf<CacheFlaw>({ signature: 0, version: 0, damaged: 0, 'too-big': 0 }),
  file: listOf<DiskFile>({ answers: 0, records: 0 }),
  notified: listOf<Notified>({ delivered: 0, 'given-up': 0 }),
} as const satisfies Partial<Record<LabelName, readonly LabelValue[]>>

/** The lists that the settings and the profile give. */
export interface ListOptions {
  readonly clients: readonly string[]
  readonly scrapers: readonly string[]
  readonly keys: readonly string[]
  readonly tiers: readonly Tier[]
  readonly version: string
}

/** The list of every label; `values` are those that can be told beforehand, without the stand-in where it is not one of them. */
export function closedLists({ clients, scrapers, keys, tiers, version }: ListOptions) {
  return {
    client: list(clients, 'unknown'),
    scraper: list(scrapers, 'none'),
    key: list(keys, 'none'),
    status: { ...list(labelLists.status, 'other'), standIn: statusClass },
    cache: list(labelLists.cache, 'none'),
    ended: list(labelLists.ended, 'failed'),
    class: list(labelLists.class, 'rejected'),
    anomaly: list(labelLists.anomaly, 'unknownShape'),
    sample: list(labelLists.sample, '1'),
    reason: list(labelLists.reason, 'attempts'),
    to: list(labelLists.to, 'closed'),
    hold: list(labelLists.hold, 'passed'),
    tier: list(tiers, 'none'),
    result: list(labelLists.result, 'miss'),
    code: list(codes, 'INTERNAL'),
    cause: list(reasons, 'places'),
    how: list(labelLists.how, 'hit'),
    why: list(labelLists.why, 'invalid'),
    period: list(labelLists.period, 'day'),
    mode: list(labelLists.mode, 'refused'),
    end: list(labelLists.end, 'left'),
    reload: list(labelLists.reload, 'invalid'),
    wire: list(labelLists.wire, 'reset'),
    outcome: list(labelLists.outcome, 'failed'),
    operation: list(labelLists.operation, 'get'),
    flaw: list(labelLists.flaw, 'damaged'),
    file: list(labelLists.file, 'records'),
    notified: list(labelLists.notified, 'given-up'),
    token: list([], 'none'),
    version: list([version], version),
    node: list([process.versions.node], process.versions.node),
  } satisfies Record<LabelName, ClosedList & { readonly values: readonly LabelValue[] }>
}

function listOf<Value extends string>(all: Readonly<Record<Value, 0>>): readonly Value[] {
  return Object.keys(all) as Value[]
}

function list(given: readonly LabelValue[], standIn: string) {
  const values = [...given]
  const all = new Set<LabelValue>([...values, standIn])
  return {
    values: values as readonly LabelValue[],
    has: (value: LabelValue) => all.has(value),
    standIn: (): LabelValue => standIn,
    /** Those that are new. None is ever taken off: what it has counted stays. */
    extend(more: readonly LabelValue[]): void {
      values.push(...more.filter((value) => !all.has(value)))
      for (const value of more) all.add(value)
    },
  }
}

function statusClass(status: LabelValue): LabelValue {
  const hundreds = Math.floor(Number(status) / 100)
  return hundreds >= 1 && hundreds <= 5 ? `${hundreds}xx` : 'other'
}
