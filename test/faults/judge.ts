/**
 * What must hold after every round, whatever was done to whom: everybody was answered, upstream charged no question more often
 * than the faults explain, its ledger and the counters of the replicas agree, no budget is overspent, nothing is left under way.
 */
import type { Fleet, Life } from './fleet.ts'
import { answerTo, type Ask, clientOf, isBroken } from './load.ts'
import { type Answer, request } from '../support/proxy.ts'

export interface Round {
  readonly fleet: Fleet
  readonly asks: readonly Ask[]
  /** Paid for before this round and kept by all. */
  readonly known: ReadonlySet<string>
  /** Charges of before. */
  readonly lastEntry: number
  /** So many more charges than one are explained for this question. */
  readonly extraCharges: (prompt: string) => number
  /** Money may have been refused for a moment because Redis was away. */
  readonly mayLackRedis: boolean
  /** Answers beside the usual ones that this fault explains. */
  readonly mayAnswer: (answer: Answer) => boolean
  readonly count: Count
}

export type Count = (what: string, times?: number) => void

export const abouts = ['overspent', 'charged twice', 'lost', 'other'] as const

export interface Complaint {
  readonly about: (typeof abouts)[number]
  readonly text: string
}

const PRICE = 3
const PATIENCE_MS = 60_000

export async function judge(round: Round): Promise<Complaint[]> {
  const { fleet } = round
  const lost = round.asks.flatMap((one) => judgeAsk(round, one))
  const other = [...(await rest(fleet)), ...judgeLogs(fleet), ...(await judgeBooks(fleet))]
  const chargedTwice = judgeCharges(round)
  for (const life of fleet.lives) if (life.isKilled) lost.push(...judgeLoss(round, life))
  const overspent = await judgeBudget(fleet)
  return [
    ...overspent.map(about('overspent')),
    ...chargedTwice.map(about('charged twice')),
    ...lost.map(about('lost')),
    ...other.map(about('other')),
  ]
}

export function about(about: Complaint['about']): (text: string) => Complaint {
  return (text) => ({ about, text })
}

function judgeAsk({ mayLackRedis, mayAnswer }: Round, { prompt, client, life, end }: Ask): string[] {
  const what = `${life.name}, "${prompt}":`
  if (end === 'left') return []
  if (end === null) return [`${what} never ended`]
  if ('broke' in end) return life.isKilled ? [] : [`${what} ${end.broke}`]
  const { status, headers, json } = end
  if (status === 200) {
    // An answer that says itself that it failed was charged: it is handed on, and has no text.
    const isIts = json['status'] === 'done' ? String(json['result']).includes(`"${prompt}"`) : json['prompt'] === prompt
    return isIts ? [] : [`${what} got the answer of another question: ${JSON.stringify(json).slice(0, 300)}`]
  }
  const code = headers['x-proxy-code']
  const isSpent = client === 'team' && code === 'BUDGET_EXHAUSTED'
  const isRefused =
    client === 'team' && code === 'BUDGET_UNAVAILABLE' && mayLackRedis && Boolean(headers['retry-after'])
  return isSpent || isRefused || mayAnswer(end) ? [] : [`${what} ${status} ${String(code)}`]
}

/** Waits until nothing is under way, upstream and in every replica; says what never ends. */
async function rest(fleet: Fleet): Promise<string[]> {
  const deadlineAt = Date.now() + PATIENCE_MS
  for (;;) {
    const busy = fleet.sim.open > 0 ? [`upstream: ${fleet.sim.open} calls are open`] : []
    for (const life of fleet.up()) busy.push(...(await businessOf(life)))
    if (busy.length === 0 || Date.now() > deadlineAt) return busy
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

async function businessOf({ name, program }: Life): Promise<string[]> {
  const { json } = await request(undefined, `${program.adminUrl}/status`)
  const flights = json['flights'] as readonly unknown[]
  const samples = await samplesOf(program.adminUrl)
  const places = (json['clients'] as readonly { open_questions: number }[]).filter((one) => one.open_questions > 0)
  return [
    ...(json['open_requests'] === 0 ? [] : [`${name}: ${String(json['open_requests'])} requests are open`]),
    ...(flights.length === 0 ? [] : [`${name}: ${flights.length} flights are in the air`]),
    ...(places.length === 0 ? [] : [`${name}: places are taken`]),
    ...['in_flight_requests', 'upstream_in_flight', 'ledger_imbalance_credits', 'bugs_total'].flatMap((metric) => {
      const value = sum(samples, metric)
      return value === 0 ? [] : [`${name}: ${metric} is ${value}`]
    }),
  ]
}

function judgeCharges({ fleet, asks, known, lastEntry, extraCharges, count }: Round): string[] {
  const charged = fleet.sim.ledger.entries.filter(({ id, state }) => id > lastEntry && state === 'charged')
  const byPrompt = Map.groupBy(charged, ({ prompt }) => prompt)
  count('questions', asks.length)
  count('charges', charged.length)
  return [...byPrompt].flatMap(([prompt, own]) => {
    const { length } = own
    const usual = known.has(prompt) ? 0 : 1
    const allowed = usual + extraCharges(prompt)
    count('charges that the faults explain, beside the first', Math.max(0, Math.min(length, allowed) - usual))
    if (length <= allowed) return []
    const charges = own.map(({ key, kind, at }) => `${kind} ${new Date(at).toISOString()} ${key}`)
    return [`"${prompt}" was charged ${length} times, ${allowed} are explained: ${charges.join(', ')}`]
  })
}

function judgeLogs(fleet: Fleet): string[] {
  return fleet.lives.flatMap(({ name, program }) => {
    const bugs = /"msg":"(?:bug|uncaught)".*/.exec(program.stdout())
    const stderr = program.stderr()
    return [...(bugs ? [`${name}: ${bugs[0].slice(0, 600)}`] : []), ...(stderr === '' ? [] : [`${name}: ${stderr}`])]
  })
}

/** What upstream charged to the keys of living replicas is what those have counted, but for what nobody can know. */
async function judgeBooks({ sim, options, up }: Fleet): Promise<string[]> {
  const books = await Promise.all(
    up().map(async ({ name, secret, program }) => {
      const samples = await samplesOf(program.adminUrl)
      const spent = sum(samples, 'credits_spent_total')
      const uncertain = sum(samples, 'credits_uncertain_total')
      return { name, charged: sim.ledger.total(secret), spent, uncertain }
    }),
  )
  // Who takes up another one's job counts what was charged to that one's key: then only the sums say something.
  const judged = options.isDurable ? [books.reduce(addUp)] : books
  return judged.flatMap(({ name, charged, spent, uncertain }) => {
    const isTooMuch = spent > charged && options.isDurable !== true
    if (!isTooMuch && charged <= spent + uncertain) return []
    return [`${name}: upstream charged ${charged}, counted are ${spent} and ${uncertain} that are uncertain`]
  })
}

interface Books {
  readonly name: string
  readonly charged: number
  readonly spent: number
  readonly uncertain: number
}

function addUp(all: Books, one: Books): Books {
  return {
    name: `${all.name}, ${one.name}`,
    charged: all.charged + one.charged,
    spent: all.spent + one.spent,
    uncertain: all.uncertain + one.uncertain,
  }
}

/** A killed replica takes with it at most what was under way then: the rest was told to those who asked. */
function judgeLoss({ fleet, asks, lastEntry }: Round, { name, secret }: Life): string[] {
  const mine = asks.filter((one) => one.life.secret === secret)
  if (mine.length === 0) return []
  const charged = fleet.sim.ledger.entries.filter((one) => {
    return one.id > lastEntry && one.key === secret && one.state === 'charged'
  })
  const lost = mine.filter((one) => one.end === 'left' || isBroken(one))
  const told = mine.reduce((total, one) => total + Number(answerTo(one)?.headers['x-proxy-credits'] ?? 0), 0)
  const cost = charged.reduce((total, { credits }) => total + credits, 0)
  if (cost - told <= lost.length * PRICE) return []
  return [`${name} was charged ${cost}, told ${told}, and had ${lost.length} questions open when it was killed`]
}

/** Never more than the budget; and what the replicas say is left is no more than what really is. */
async function judgeBudget({ sim, options, up }: Fleet): Promise<string[]> {
  const limit = options.teamCredits
  const [life] = up()
  if (limit === undefined || !life) return []
  const charged = sim.ledger.entries
    .filter(({ prompt, state }) => state === 'charged' && clientOf(prompt) === 'team')
    .reduce((total, { credits }) => total + credits, 0)
  if (charged > limit) return [`the team has spent ${charged} of ${limit} credits`]
  const deadlineAt = Date.now() + PATIENCE_MS
  for (;;) {
    const { json } = await request(undefined, `${life.program.adminUrl}/status`)
    const [budget] = json['budgets'] as readonly { readonly left: number }[]
    const left = budget?.left ?? 0
    if (left <= limit - charged) return []
    if (Date.now() > deadlineAt)
      return [`the team has ${limit - charged} credits left, and ${left} are said to be left`]
    // It is told again with the next heartbeat.
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

type Samples = readonly (readonly [name: string, value: number])[]

async function samplesOf(adminUrl: string): Promise<Samples> {
  const { text } = await request(undefined, `${adminUrl}/metrics`)
  return text.split('\n').flatMap((line) => {
    const [, name = '', value = ''] = /^scrapellm_proxy_(\w+)(?:\{.*\})? (\S+)$/.exec(line) ?? []
    return name === '' ? [] : [[name, Number(value)] as const]
  })
}

function sum(samples: Samples, metric: string): number {
  return samples.reduce((total, [name, value]) => total + (name === metric ? value : 0), 0)
}
