/**
 * What must never happen, looked for at every step, and what must be so in the end: the invariants R (retries), C (circuits), L (limits
 * and credits) and S (sharing), each by its own simple account of what callers asked and the vendor saw, and not by asking the
 * proxy. Where a fault excuses something, the check says so. Longer than other files: the invariants are one list.
 */
import { type Code, codes } from '../../src/errors.ts'
import type { Response } from '../../src/http/respond.ts'
import type { StatusReport } from '../../src/http/status.ts'
import type { Ask } from './ask.ts'
import { createCircuitOracle } from './circuits.ts'
import type { ClientPlan, Plan } from './plan.ts'
import type { RedisServer } from './redis-server.ts'
import { reachedIn } from './sometimes.ts'
import { type CallClass, type Charge, questionOf, type UpstreamCall } from './vendor.ts'

/** Throws nothing: what is broken is told once, and the simulation ends. */
export type Fail = (invariant: string, what: string) => void

export interface Oracle {
  asked(ask: Ask): void
  /** Null = nobody is there to be answered. */
  answered(ask: Ask, response: Response | null): void
  callStarted(call: UpstreamCall): void
  callEnded(call: UpstreamCall): void
  charged(charge: Charge): void
  /** Whatever a replica, or Redis, has been told to write. */
  wrote(text: string, where: string): void
  /** A line of the log of a process. */
  logged(process: string, line: string): void
  redisWrote(key: string, before: string | null, after: string | null): void
  /** A replica is gone, or has begun anew. */
  died(replica: number, life: number): void
  stepped(replica: number): void
  /** Cached answers are no longer expected. */
  purged(): void
  /** Five minutes after the last fault. */
  healthy(report: StatusReport, replica: number): void
  /** A request that is wrong in itself was answered with this code, and must have been with that one. */
  misasked(replica: string, code: string | null, expected: Code): void
  /** The metrics of a process that ends. */
  counted(metrics: string): void
  /** Nothing is asked any more. */
  quiet(report: StatusReport, metrics: string, replica: number, life: number): void
  finished(redis: RedisServer | null, reports: readonly StatusReport[]): void
  /** What has happened at least once, of what must happen sometimes. */
  readonly reached: ReadonlySet<string>
}

/** All attempts of one flight: they carry the id of the request that began it. */
interface Course {
  readonly calls: UpstreamCall[]
}

const ATTEMPTS = 4
const classAttempts: Partial<Record<CallClass, number>> = { timeout: 2, emptyResult: 2, ambiguous: 2 }
const keyIsDone: ReadonlySet<CallClass> = new Set(['unauthorized', 'creditsExhausted', 'blocked'])
const keyIsAtFault: ReadonlySet<CallClass> = new Set([...keyIsDone, 'rateLimited'])
const longBase: ReadonlySet<CallClass> = new Set(['rateLimited', 'queueFull', 'warmingUp'])
const tooManyCalls: ReadonlySet<CallClass> = new Set(['rateLimited', 'queueFull'])
const ratesGivenBack: ReadonlySet<string> = new Set([
  'RATE_LIMITED',
  'OVERLOADED',
  'CONCURRENCY_LIMITED',
  'BUDGET_EXHAUSTED',
  'BUDGET_UNAVAILABLE',
])
const PRICE = 3
/** The smallest `timeout` that upstream takes, and how much longer its answer is waited for. */
const SHORTEST_LIMIT_MS = 25_000
/** Of Kolmogorov and Smirnov: by chance once in a million. */
const KS_LIMIT = 2.7

export function createOracle(plan: Plan, now: () => number, fail: Fail): Oracle {
  const { faults } = plan
  const courses = new Map<string, Course>()
  const asks = new Map<string, Ask>()
  const open = new Map<string, Set<Ask>>()
  const patientUntil = new Map<string, number>()
  const running = new Set<UpstreamCall>()
  /** Began while others of the same process were asked for the same scraper. */
  const beside = new WeakSet<UpstreamCall>()
  const freshUntil = new Map<string, number>()
  const newestGiven = new Map<string, number>()
  const bills: Charge[] = []
  const spentToday = new Map<string, number>()
  /** Whose requests were refused for want of places or credits, and did not count. */
  const givenBack = new Set<string>()
  const arrivals = new Map<string, { readonly at: number; readonly limits: NonNullable<ClientPlan['rate']> }[]>()
  const answeredBy = new Map<string, number>()
  const attemptsBy = new Map<string, number>()
  const waits: number[] = []
  const dead = new Set<string>()
  const submitted = new Set<string>()
  const reached = new Set<string>()
  let lives = plan.replicas

  const redisIsSick =
    faults.redisLoss ||
    faults.redisEmpty ||
    faults.redisSkew ||
    faults.redisHangs ||
    faults.redisResets ||
    faults.redisReplies ||
    faults.redisSlow ||
    faults.partitions
  const restarts = faults.crashes || faults.drains || faults.powerCuts
  const folders = plan.replicas - Number(faults.twoOwners)
  const forgets = faults.redisLoss || faults.redisEmpty
  const hasRateLimits = (faults.fates['429-rate'] ?? 0) > 0
  const isPlainSync = plan.execution === 'sync'
  /** Who waits for a place, or a key, comes to the vendor later than it was let go. */
  const isPrompt =
    !plan.redis &&
    !faults.pauses &&
    !hasRateLimits &&
    (plan.queue === 0 || (plan.maxConcurrent === 200 && plan.perScraper === null))
  const circuits = createCircuitOracle(plan, now, fail, isPrompt && isPlainSync)

  return {
    asked,
    answered,
    misasked,
    counted,
    reached,
    callStarted,
    callEnded,
    charged,
    wrote,
    logged: circuits.logged,
    redisWrote,
    died,
    stepped: () => freshUntil.clear(),
    purged: () => freshUntil.clear(),
    healthy,
    quiet,
    finished,
  }

  // Callers

  function asked(ask: Ask): void {
    asks.set(ask.request.id, ask)
    const others = open.get(ask.question) ?? new Set()
    open.set(ask.question, others.add(ask))
    if (ask.isAsync) patientUntil.set(ask.question, now() + plan.deadlineMs)
  }

  function answered(ask: Ask, response: Response | null): void {
    open.get(ask.question)?.delete(ask)
    count(answeredBy, nameOf(ask))
    if (now() > ask.deadlineAt + 1_000 && !faults.pauses) {
      fail('S3', `request ${ask.request.id} was answered ${now() - ask.deadlineAt} ms after its deadline`)
    }
    if (!response) {
      if (!ask.isGone) fail('S3', `request ${ask.request.id} got no answer though its caller waits`)
      return
    }
    const { status, headers } = response
    const header = headerReader(headers)
    const code = header('X-Proxy-Code')
    if (!header('Cache-Status')) fail('answer', `status ${status} without Cache-Status`)
    if (header('X-Request-Id') !== ask.request.id)
      fail('S6', `request ${ask.request.id} got the answer of another request`)
    if (code !== null && !codes.some((known) => known === code)) fail('answer', `unknown code ${code}`)
    if (code !== null) reached.add(code)
    if (code === 'INTERNAL') fail('answer', `request ${ask.request.id} met a bug`)
    if (code !== null && (status === 429 || status === 503) && header('Retry-After') === null)
      fail('answer', `${code} without Retry-After`)
    if (status === 409 && (code === 'IDEMPOTENCY_CONFLICT') !== (header('Retry-After') !== null))
      fail('answer', `${code} ${header('Retry-After') === null ? 'without' : 'with'} Retry-After`)
    admitted(ask, code)
    if (code === 'CIRCUIT_OPEN' && ask.kind !== 'poll') circuits.refused(nameOf(ask), ask.scraper)
    const text = response.body?.toString() ?? ''
    wrote(`${headers.join('\n')}\n${text}`, 'an answer')
    if (status === 200 && ask.kind !== 'submit') delivered(ask, text, header('Cache-Status') ?? '')
    if (isPlainSync && ask.kind === 'answer' && status === 200) priced(ask, header)
  }

  function misasked(replica: string, code: string | null, expected: Code): void {
    count(answeredBy, replica)
    if (code !== null) reached.add(code)
    if (code !== expected && code !== 'SHUTTING_DOWN' && code !== 'OVERLOADED')
      fail('answer', `a request that is to be refused with ${expected} got ${code}`)
  }

  /** S6: everybody gets the answer to their own question, and none that is not theirs to see. */
  function delivered(ask: Ask, text: string, cacheStatus: string): void {
    const document = JSON.parse(text) as { readonly status?: string; readonly result?: unknown }
    const body = (ask.kind === 'poll' ? (document.status === 'done' ? document.result : null) : document) as Body | null
    if (!body) return
    if (questionOf(body.scraper, body.prompt, body.country) !== ask.question)
      fail('S6', `${ask.question} was answered with ${text}`)
    const bill = bills[body.serial - 1]
    if (!bill) return fail('S6', `an answer that nobody was charged for: ${body.serial}`)
    const payer = asks.get(bill.call.requestId)?.client
    const isPrivate = ask.client.scope === 'client' || payer?.scope === 'client'
    if (payer && isPrivate && payer.name !== ask.client.name && ask.kind === 'answer') {
      fail('S6', `${ask.client.name} got an answer of ${payer.name}, whose answers are its own`)
    }
    // What is given instead of an error is what was there when it was asked for.
    const isKnown = cacheStatus.includes('; hit; ttl=') && !cacheStatus.includes('stale-if-error')
    if (ask.kind === 'answer' && isKnown) renewed(ask, bill)
  }

  /** S4: who has been given an answer from the cache is not given an older one later. */
  function renewed(ask: Ask, bill: Charge): void {
    if (!isPlainSync || plan.jobs > 0 || (plan.redis && (redisIsSick || restarts || faults.pauses))) return
    const name = `${nameOf(ask)}/${scopeOf(ask)}`
    const before = newestGiven.get(name) ?? 0
    if (bill.at < before)
      fail('S4', `${ask.question} was answered with an answer ${before - bill.at} ms older than before`)
    newestGiven.set(name, Math.max(before, bill.at))
  }

  interface Body {
    readonly scraper: string
    readonly prompt: string
    readonly country: string
    readonly serial: number
  }

  /** What an answer says that it cost is what was charged for it, or may have been. */
  function priced(ask: Ask, header: (name: string) => string | null): void {
    const own = courses.get(`${ask.request.id}/answer`)?.calls ?? []
    const billed =
      own.filter(({ isBilled, ended }) => ended && (isBilled || ended.class === 'ambiguous')).length * PRICE
    const said = Number(header('X-Proxy-Credits'))
    const isOwn = !(header('Cache-Status') ?? '').includes('hit')
    if (isOwn && said !== billed)
      fail('L1', `request ${ask.request.id} is said to cost ${said}, and ${billed} were charged`)
  }

  /** L4, looked at in the end. */
  function admitted({ client, askedAt, replica, life, kind }: Ask, code: string | null): void {
    if (!client.rate || kind === 'poll') return
    const who = plan.redis ? client.name : `${client.name}@${replica}.${life}`
    if (code !== null && ratesGivenBack.has(code)) {
      if (code !== 'RATE_LIMITED') givenBack.add(who)
      return
    }
    const list = arrivals.get(who) ?? []
    arrivals.set(who, list)
    list.push({ at: askedAt, limits: client.rate })
  }

  // The vendor

  function callStarted(call: UpstreamCall): void {
    if (
      [...running].some(
        (one) => one.endpoint !== 'status' && one.scraper === call.scraper && nameOf(one) === nameOf(call),
      )
    )
      beside.add(call)
    running.add(call)
    if (call.endpoint === 'status') return
    if (call.endpoint === 'answer' && call.limitMs < SHORTEST_LIMIT_MS)
      fail('R3', `${call.requestId} is asked with ${call.limitMs} ms for an answer`)
    const id = `${call.requestId}/${call.endpoint}`
    const course = courses.get(id) ?? { calls: [] }
    courses.set(id, course)
    const before = course.calls.at(-1)
    if (before) repeated(course, before, call)
    course.calls.push(call)
    waitedFor(call)
    crowded(call)
    circuits.started(call)
    if (call.endpoint === 'answer') alone(call)
  }

  function repeated(course: Course, before: UpstreamCall, call: UpstreamCall): void {
    const { requestId } = call
    const ended = before.ended
    if (before.replica !== call.replica || before.life !== call.life) return
    if (!ended) return fail('R3', `${requestId} is asked again while it is being asked`)
    // How the job ended that stands behind a question is not seen here.
    if (!isPlainSync && asks.get(requestId)?.kind !== 'submit') return
    if (ended.class === 'ok' || ended.class === 'rejected')
      fail('R4', `${requestId} is asked again after ${ended.class}`)
    // A question that a job stands behind is a question all the same.
    if (asks.get(requestId)?.kind === 'submit' && ended.class === 'ambiguous')
      fail('R5', `job ${requestId} is submitted again after ${ended.class}`)
    const counted = course.calls.filter(
      (one, index) => !isFailover(one, course.calls[index + 1] ?? call) && !maySendBack(one),
    )
    const offered = course.calls.filter((one) => !maySendBack(one))
    if (counted.length >= ATTEMPTS || offered.length >= ATTEMPTS * plan.keys.length) {
      fail('R3', `attempt ${course.calls.length + 1} of ${requestId}`)
    }
    const same = counted.filter((one) => one.ended?.class === ended.class).length
    const most = classAttempts[ended.class] ?? ATTEMPTS
    const isOtherKey = isFailover(before, call)
    if (!maySendBack(before) && same >= most && !isOtherKey)
      fail('R3', `${requestId} is asked again after ${same} times ${ended.class}`)
    if (keyIsDone.has(ended.class) && !isOtherKey)
      fail('R3', `${requestId} is asked again with a key that is ${ended.class}`)
    if (isOtherKey) return
    const waitedMs = call.startedAt - ended.at
    if (ended.retryAfterMs !== null) {
      if (waitedMs < ended.retryAfterMs - 1 && !faults.wallSteps) {
        fail(
          'R7',
          `${requestId} is asked again after ${ended.class} and ${waitedMs} ms, and was told to wait ${ended.retryAfterMs} ms`,
        )
      }
    } else if (isPrompt && isPlainSync && !maySendBack(before)) {
      spread(course, call, ended.class, same, waitedMs, ended.at)
    }
  }

  /** It may have been one call too many for the vendor: it waits for a place again, and does not count as an attempt. */
  function maySendBack(call: UpstreamCall): boolean {
    return call.ended !== null && tooManyCalls.has(call.ended.class) && beside.has(call)
  }

  /** R6: pauses are uniform from 0 to the longest. */
  function spread(
    course: Course,
    call: UpstreamCall,
    failure: CallClass,
    repeat: number,
    waitedMs: number,
    since: number,
  ): void {
    // An open circuit, or one that may open, makes a repetition wait longer.
    if (!circuits.isCalm(call, since)) return
    const longest = Math.min(30_000, (longBase.has(failure) ? 1_000 : 500) * 2 ** (repeat - 1))
    if (waitedMs > longest + 1)
      fail('R6', `${call.requestId} is asked again after ${waitedMs} ms, longer than ${longest} ms`)
    const deadlineAt = asks.get(call.requestId)?.deadlineAt ?? 0
    // Where long pauses are not taken, or not seen, those that are would be no fair sample.
    const isLast = classAttempts[failure] === 2
    if (
      plan.aborts === 0 &&
      !faults.outages &&
      !isLast &&
      deadlineAt > since + 2 * longest &&
      course.calls.length === 1
    )
      waits.push(waitedMs / longest)
  }

  /** R3, R11: no attempt starts when nobody waits for it any more. */
  function waitedFor(call: UpstreamCall): void {
    if (plan.revalidateMs > 0 || plan.execution === 'durable') return
    const own = asks.get(call.requestId)
    if (!own || own.isAsync) return
    // On the way there it asks Redis, and it may wait for a key.
    const slackMs = plan.redis ? 2_000 : 0
    const others = [...(open.get(call.question) ?? [])]
    // Who has taken a job id instead of an answer waits on.
    if ((patientUntil.get(call.question) ?? 0) > now()) return
    const isWaited = others.some(
      (ask) => !ask.isGone && ask.deadlineAt + slackMs > now() && ask.replica === call.replica,
    )
    const hasJustLeft = plan.redis || (own.isGone && hasRateLimits)
    if (!isWaited && !hasJustLeft && !faults.pauses) fail('R3', `${call.requestId} is asked and nobody waits for it`)
    if (isWaited && call.endpoint === 'answer') return
    if (
      plan.redis &&
      now() > own.deadlineAt + slackMs &&
      !others.some((ask) => ask.deadlineAt + slackMs > now()) &&
      !faults.pauses
    ) {
      fail('R3', `${call.requestId} is asked ${now() - own.deadlineAt} ms after its deadline`)
    }
  }

  /** R9 and the limit on open questions. */
  function crowded(call: UpstreamCall): void {
    if (!isPlainSync) return
    const here = [...running].filter(
      (one) => one.replica === call.replica && one.life === call.life && one.endpoint !== 'status',
    )
    const polls = [...running].filter(
      (one) => one.replica === call.replica && one.life === call.life && one.endpoint === 'status',
    )
    if (here.length + polls.length > plan.maxConcurrent)
      fail('R9', `${here.length} calls at a time, and ${plan.maxConcurrent} may be`)
    const scraper = here.filter((one) => one.scraper === call.scraper)
    if (plan.perScraper !== null && scraper.length > plan.perScraper)
      fail('R9', `${scraper.length} calls to ${call.scraper} at a time`)
    const client = asks.get(call.requestId)?.client
    if (!client || client.concurrency === null || plan.redis) return
    const theirs = here.filter((one) => {
      const ask = asks.get(one.requestId)
      return ask?.client === client && !ask.isOver && !ask.isGone
    })
    if (theirs.length > client.concurrency) fail('L4', `${client.name} has ${theirs.length} open questions`)
  }

  /** S1, S2: what is being asked, or is known, is not asked. */
  function alone(call: UpstreamCall): void {
    const ask = asks.get(call.requestId)
    if (!ask || !ask.isShared || !isPlainSync) return
    const scope = scopeOf(ask)
    const isGlobal = plan.redis && !redisIsSick && !restarts && !faults.pauses
    for (const other of running) {
      if (other === call || other.endpoint !== 'answer' || other.question !== call.question) continue
      const first = asks.get(other.requestId)
      if (!first || !first.isShared || scopeOf(first) !== scope) continue
      const isHere = nameOf(other) === nameOf(call)
      if (isHere || isGlobal) fail('S1', `${call.question} is asked by ${nameOf(call)} while ${nameOf(other)} asks it`)
    }
    // Where others have a newer answer, the older one is dropped; then Redis may not be there to give it.
    if (plan.redis && !isGlobal) return
    const known = freshUntil.get(`${isGlobal ? '' : nameOf(call)}/${scope}`) ?? 0
    if (now() < known)
      fail('S2', `${call.question} is asked by ${nameOf(call)}, and its answer is good for ${known - now()} ms`)
  }

  function scopeOf({ client, question }: Ask): string {
    return client.scope === 'client' ? `${client.name}|${question}` : question
  }

  function callEnded(call: UpstreamCall): void {
    running.delete(call)
    const { ended } = call
    if (!ended) return
    if (call.endpoint !== 'status' || isPlainSync) count(attemptsBy, nameOf(call))
    if (call.endpoint === 'status') return
    circuits.ended(call)
    if (ended.class !== 'ok' || call.isOdd) return
    const ask = asks.get(call.requestId)
    if (call.endpoint !== 'answer' || !ask?.isShared || faults.wallSteps || faults.diskTrouble) return
    const isGlobal = plan.redis && !redisIsSick && !restarts && !faults.pauses
    // To tell the others takes a moment.
    freshUntil.set(`${isGlobal ? '' : nameOf(call)}/${scopeOf(ask)}`, now() + plan.ttlMs - 1)
  }

  // Money

  /** L2: no client is ever charged for more than its budget. */
  function charged(bill: Charge): void {
    bills.push(bill)
    const ask = asks.get(bill.call.requestId)
    const client = ask?.client
    if (ask) once(ask)
    if (!client || client.perDay === null) return
    // Who takes up a job that another replica has submitted pays for it: then the vendor's bill is another client's.
    if (plan.redis && !isPlainSync) return
    count(spentToday, client.name, bill.credits)
    // What only a replica knew that is gone, or that was cut off until its session had ended. Stops end before that.
    if (plan.redis && forgets && (restarts || faults.partitions)) return
    const shares = plan.redis ? 1 : plan.disk ? folders : lives
    const refunded = bills.filter(
      ({ refundedAt, call }) => refundedAt !== null && asks.get(call.requestId)?.client === client,
    )
    const spent = (spentToday.get(client.name) ?? 0) - refunded.length * PRICE
    if (spent > client.perDay * shares)
      fail('L2', `${client.name} was charged ${spent}, and its budget is ${client.perDay} for each of ${shares}`)
  }

  /** One submission per client and `Idempotency-Key`, as far as it can be known which there were. */
  function once({ client, replica, request: { idempotencyKey } }: Ask): void {
    if (idempotencyKey === null || plan.redis || !plan.disk) return
    const folder = faults.twoOwners ? Math.max(1, replica) : replica
    const name = `${folder}/${client.name}/${idempotencyKey}`
    if (submitted.has(name)) fail('J1', `${client.name} was charged twice for the Idempotency-Key ${idempotencyKey}`)
    submitted.add(name)
  }

  // Outputs

  function wrote(text: string, where: string): void {
    if (text.includes('CANARY'))
      fail('secrets', `a secret is in ${where}: ${text.slice(Math.max(0, text.indexOf('CANARY') - 200)).slice(0, 400)}`)
    if (where === 'log' && text.includes('"error":{"name"')) fail('errors', text.slice(0, 2_000))
  }

  /** S4: what is newer is never overwritten by what is older. */
  function redisWrote(key: string, before: string | null, after: string | null): void {
    if (after !== null) wrote(after, `Redis under ${key}`)
    if (key.endsWith(':fence') && before !== null && after !== null && after < before)
      fail('S4', `the fence of ${key} went from ${before} to ${after}`)
  }

  function died(replica: number, life: number): void {
    lives += 1
    for (const call of running) if (call.replica === replica && call.life === life) running.delete(call)
    for (const others of open.values()) {
      for (const ask of others) if (ask.replica === replica && ask.life === life) others.delete(ask)
    }
    const name = `${replica}.${life}`
    dead.add(name)
    for (const key of freshUntil.keys()) if (key.startsWith(`${name}/`)) freshUntil.delete(key)
  }

  // In the end

  function healthy(report: StatusReport, replica: number): void {
    for (const { scraper, state } of report.breakers)
      if (state !== 'closed') fail('liveness', `replica ${replica}: the circuit of ${scraper} is ${state}`)
    // A date to wait for is read by a clock that was set, and may lie far ahead.
    const isMisled = faults.wallSteps && faults.retryAfter === 'date'
    for (const { name, state } of report.keys)
      if (state !== 'ready' && !isMisled) fail('liveness', `replica ${replica}: key ${name} is ${state}`)
    if (plan.redis && report.redis !== 'up') fail('liveness', `replica ${replica}: Redis is ${report.redis}`)
    if (plan.disk && report.disk !== 'up' && report.records !== 'held')
      fail('liveness', `replica ${replica}: the disk is ${report.disk}`)
  }

  function counted(metrics: string): void {
    for (const what of reachedIn(metrics)) reached.add(what)
  }

  function quiet(report: StatusReport, metrics: string, replica: number, life: number): void {
    wrote(metrics, 'metrics')
    counted(metrics)
    wrote(JSON.stringify(report), 'status')
    const where = `replica ${replica}`
    if (report.open_requests > 0) fail('S7', `${where}: ${report.open_requests} requests are open`)
    if (report.flights.length > 0) fail('S7', `${where}: ${report.flights.length} flights are in the air`)
    for (const { name, open_questions } of report.clients)
      if (open_questions !== 0) fail('S7', `${where}: ${name} has ${open_questions} open questions`)
    for (const { client, held, left, spent, limit } of report.budgets) {
      if (left + held + spent !== limit)
        fail('L1', `${where}: ${left} + ${held} + ${spent} credits of ${client} are not ${limit}`)
      if (!plan.redis && held !== 0) fail('S7', `${where}: ${held} credits of ${client} are held`)
    }
    const value = metricReader(metrics)
    for (const name of ['in_flight_requests', 'upstream_in_flight', 'breaker_held']) {
      if (value(name) !== 0) fail('S7', `${where}: ${name} is ${value(name)}`)
    }
    const told = answeredBy.get(`${replica}.${life}`) ?? 0
    if (value('requests_total') !== told)
      fail('gauges', `${where}: requests_total is ${value('requests_total')}, and ${told} ended`)
    const attempts = attemptsBy.get(`${replica}.${life}`) ?? 0
    if (isPlainSync && value('upstream_responses_total') !== attempts) {
      fail(
        'gauges',
        `${where}: upstream_responses_total is ${value('upstream_responses_total')}, and ${attempts} ended`,
      )
    }
  }

  function finished(redis: RedisServer | null, reports: readonly StatusReport[]): void {
    for (const others of open.values()) {
      for (const ask of others) fail('S3', `request ${ask.request.id} was never answered`)
    }
    uniform()
    limited()
    if (redis) emptied(redis)
    conserved(redis, reports)
  }

  function uniform(): void {
    if (waits.length < 30) return
    const sorted = waits.toSorted((a, b) => a - b)
    const distances = sorted.map((wait, at) =>
      Math.max(Math.abs(wait - at / sorted.length), Math.abs(wait - (at + 1) / sorted.length)),
    )
    const statistic = Math.max(...distances) * Math.sqrt(sorted.length)
    if (statistic > KS_LIMIT)
      fail('R6', `${sorted.length} pauses are not spread evenly (Kolmogorov-Smirnov ${statistic.toFixed(2)})`)
  }

  /**
   * L4: never more than a bucket of `burst` that fills with time would let through. Of several requests that are given back one after
   * the other, a part of one may be given back twice: the bucket does not remember which of them it has refilled meanwhile.
   */
  function limited(): void {
    if (plan.redis && (redisIsSick || faults.pauses || restarts)) return
    for (const [who, list] of arrivals) {
      let fullAt = 0
      for (const { at, limits } of list.toSorted((a, b) => a.at - b.at)) {
        const perRequestMs = limits.perMs / limits.limit
        fullAt = Math.max(fullAt, at) + perRequestMs
        // With Redis it is let through a moment after it has come.
        const slackMs = (plan.redis ? 1_000 : 1) + (givenBack.has(who) ? perRequestMs : 0)
        if (fullAt - at > perRequestMs * limits.burst + slackMs)
          return fail('L4', `${who} was let through more often than ${limits.limit} per ${limits.perMs} ms`)
      }
    }
  }

  /** S7: no lease, no permit and no credit is held by anybody who lives. */
  function emptied(redis: RedisServer): void {
    for (const key of redis.keys()) {
      const kept = redis.read(key)
      if (key.endsWith(':lease')) {
        const record = redis.read(key.replace(/lease$/, 'record'))
        const owner = (record?.type === 'hash' && record.fields.get('owner')) || ''
        if (!isNobodys(redis, owner)) fail('S7', `${key} is still there, of ${owner}`)
      }
      if (kept?.type === 'hash' && key.endsWith(':permits')) {
        for (const [owner, count] of kept.fields)
          if (!hasDied(owner)) fail('S7', `${key} still holds ${count} of ${owner}`)
      }
      if (kept?.type === 'hash' && /:credits:\d{4}-\d\d$/.test(key)) balanced(key, kept.fields)
    }
  }

  /** A store that lost data may hold what is over: it is marked with an older generation, and taken by whoever needs it. */
  function isNobodys(redis: RedisServer, owner: string): boolean {
    const [id = '', generation] = (owner.split('/')[0] ?? '').split('.')
    const sessions = redis.read('slp:session:{all}')
    const [, now] = (sessions?.type === 'hash' ? (sessions.fields.get(id) ?? '') : '').split(' ')
    return hasDied(id) || Number(generation) < Number(now)
  }

  /** What a dead process held is dropped when somebody needs it. */
  function hasDied(id: string): boolean {
    const [replica = '', life = ''] = id.split('-')
    return dead.has(`${Number(replica)}.${Number(life)}`)
  }

  /** L1: the sums of a book are those of its records. */
  function balanced(key: string, book: ReadonlyMap<string, string>): void {
    const sums = new Map<string, number>()
    for (const [run, text] of book) {
      if (run[10] !== '/') continue
      const [taken = 0, back = 0, spent = 0, marked = 0, cleared = 0, refunded = 0] = text.split(' ').map(Number)
      const risk = Math.max(spent, marked - cleared)
      const used = Math.max(taken - back, risk)
      for (const [field, credits] of Object.entries({ used, risk, spent })) {
        count(sums, field, credits - refunded)
        count(sums, `${field}:${run.slice(0, 10)}`, credits - refunded)
      }
    }
    for (const [field, credits] of sums) {
      if (Number(book.get(field) ?? 0) !== credits)
        fail('L1', `${key}: ${field} is ${book.get(field)}, and the records have ${credits}`)
    }
  }

  /** L1: the proxy's books are the vendor's, but for what nobody can know. */
  function conserved(redis: RedisServer | null, reports: readonly StatusReport[]): void {
    if (!isPlainSync || plan.jobs > 0 || (restarts && !redis && !plan.disk) || (redis && forgets) || faults.wallSteps)
      return
    for (const { name, perDay } of plan.clients) {
      if (perDay === null) continue
      const own = bills.filter(({ call }) => asks.get(call.requestId)?.client.name === name)
      const calls = [...courses.values()]
        .flatMap(({ calls }) => calls)
        .filter(({ requestId }) => asks.get(requestId)?.client.name === name)
      const unsure = calls.filter(
        ({ ended, isBilled }) => (!ended || ended.class === 'ambiguous' || ended.class === 'aborted') && !isBilled,
      )
      const least = own.length * PRICE
      const most = calls.filter(({ isBilled }) => isBilled).length * PRICE + unsure.length * PRICE
      const spent = redis ? spentIn(redis, name) : spentBy(reports, name)
      if (spent === null) continue
      // What a lost replica held is swept later.
      const held = redis && restarts ? heldIn(redis, name) : 0
      if (spent + held < least) fail('L1', `${name} is said to have spent ${spent}, and was charged ${least}`)
      // What was marked and not heard of for a minute counts as charged, whatever its replica says when it is back.
      const mayBeSwept = restarts || (redis !== null && (redisIsSick || faults.pauses))
      if (spent > most && !mayBeSwept)
        fail('L1', `${name} is said to have spent ${spent}, and may have been charged ${most} at the most`)
    }
  }

  function spentBy(reports: readonly StatusReport[], name: string): number {
    return reports
      .flatMap(({ budgets }) => budgets)
      .filter(({ client, period }) => client === name && period === 'day')
      .reduce((sum, { spent }) => sum + spent, 0)
  }

  function heldIn(redis: RedisServer, name: string): number {
    return (sumIn(redis, name, 'risk') ?? 0) - (sumIn(redis, name, 'spent') ?? 0)
  }

  function spentIn(redis: RedisServer, name: string): number | null {
    return sumIn(redis, name, 'spent')
  }

  function sumIn(redis: RedisServer, name: string, field: string): number | null {
    const books = redis.keys().filter((key) => key.startsWith(`slp:limits:{${name}}:credits:`))
    if (books.length === 0) return null
    return books.reduce((sum, key) => {
      const book = redis.read(key)
      return sum + (book?.type === 'hash' ? Number(book.fields.get(field) ?? 0) : 0)
    }, 0)
  }
}

function nameOf({ replica, life }: { readonly replica: number; readonly life: number }): string {
  return `${replica}.${life}`
}

function count(into: Map<string, number>, name: string, by = 1): void {
  into.set(name, (into.get(name) ?? 0) + by)
}

function headerReader(headers: readonly string[]): (name: string) => string | null {
  return (name) => {
    const at = headers.findIndex((one, index) => index % 2 === 0 && one === name)
    return at < 0 ? null : (headers[at + 1] ?? '')
  }
}

/** The sum over all series of a metric. */
function metricReader(text: string): (name: string) => number {
  const lines = text.split('\n')
  return (name) => {
    const own = lines.filter(
      (line) => line.startsWith(`scrapellm_proxy_${name}{`) || line.startsWith(`scrapellm_proxy_${name} `),
    )
    return own.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }
}

/** The key was at fault, and another one took over: that uses up no attempt. */
function isFailover(before: UpstreamCall, next: UpstreamCall): boolean {
  return before.ended !== null && keyIsAtFault.has(before.ended.class) && before.key !== next.key
}
