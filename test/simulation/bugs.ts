/**
 * Bugs planted by hand, to prove that the simulation would notice: one change each to a copy of `src/`. `invariants` names those that may
 * give it away; anything else that breaks is a catch all the same, and is shown.
 */
import type { Plan } from './plan.ts'

export interface Bug {
  readonly name: string
  readonly file: string
  /** Occurs exactly once. */
  readonly find: string
  readonly replace: string
  readonly invariants: readonly string[]
  /** Seeds whose plan cannot show it are passed over. */
  readonly needs?: (plan: Plan) => boolean
}

const withRedis = ({ redis }: Plan): boolean => redis
const alone = ({ redis }: Plan): boolean => !redis
const fails = ({ faults }: Plan): boolean => Object.keys(faults.fates).length > 0
const loses = ({ faults }: Plan): boolean =>
  (faults.fates.truncated ?? 0) + (faults.fates['reset-after'] ?? 0) + (faults.fates.hang ?? 0) > 0
const isLimited = ({ clients }: Plan): boolean => clients.some(({ perDay }) => perDay !== null)
const keepsMoney = ({ disk, clients }: Plan): boolean => disk && clients.some(({ perDay }) => perDay !== null)
const tellsToWait = ({ faults }: Plan): boolean => faults.retryAfter === 'seconds'
const all =
  (...needs: readonly ((plan: Plan) => boolean)[]) =>
  (plan: Plan): boolean =>
    needs.every((need) => need(plan))

export const bugs: readonly Bug[] = [
  // Retries
  {
    name: 'no jitter in the backoff',
    file: 'resilience/backoff.ts',
    find: 'const jitteredMs = chance * Math.min(backoff.max',
    replace: 'const jitteredMs = Math.min(backoff.max',
    invariants: ['R6'],
    needs: all(alone, fails),
  },
  {
    name: 'Retry-After is ignored',
    file: 'resilience/backoff.ts',
    find: 'const askedMs = retryAfterMs ?? 0',
    replace: 'const askedMs = retryAfterMs === null ? 0 : 0',
    invariants: ['R7'],
    needs: tellsToWait,
  },
  {
    name: 'Retry-After is read as milliseconds',
    file: 'scrapellm/retry-after.ts',
    find: 'Number(text) * 1000',
    replace: 'Number(text)',
    invariants: ['R7'],
    needs: tellsToWait,
  },
  {
    name: 'one attempt too many',
    file: 'resilience/retry.ts',
    find: "if (counted(state) >= state.policy.attempts) return { kind: 'stop', reason: 'attempts' }\n    const waitMs",
    replace:
      "if (counted(state) > state.policy.attempts) return { kind: 'stop', reason: 'attempts' }\n    const waitMs",
    invariants: ['R3'],
    needs: fails,
  },
  {
    name: 'the limit of a class does not hold',
    file: 'resilience/retry.ts',
    find: 'if (sameClass >= policy.attempts)',
    replace: 'if (sameClass >= 99)',
    invariants: ['R3'],
    needs: fails,
  },
  {
    name: 'an answer of the caller’s own fault is repeated',
    file: 'scrapellm/error-class.ts',
    find: "[400, 499, null, 'rejected']",
    replace: "[400, 499, null, 'serverError']",
    invariants: ['R4'],
    needs: ({ faults }) => (faults.fates['400'] ?? 0) + (faults.fates['404'] ?? 0) > 0,
  },
  {
    name: 'attempts start beyond the deadline, and when nobody waits',
    file: 'resilience/retry.ts',
    find: "    if (state.flight.patienceUntil() === 0) return 'abandoned'\n",
    replace: '    if (state.flight.patienceUntil() >= 0) return null\n',
    invariants: ['R3', 'R11'],
    needs: all(fails, ({ impatience, aborts }) => impatience + aborts > 0),
  },
  {
    name: 'a submitted job is submitted again when its fate is unknown',
    file: 'resilience/retry-policy.ts',
    find: "if (call.endpoint !== 'submit') return true",
    replace: "if (call.endpoint !== 'status') return true",
    invariants: ['R5'],
    needs: all(loses, ({ jobs }) => jobs > 0),
  },
  {
    name: 'repeating costs nothing',
    file: 'resilience/retry-budget.ts',
    find: 'bucket.missing += price',
    replace: 'bucket.missing += 0 * price',
    invariants: ['R1'],
    needs: all(fails, ({ faults, perSecond }) => faults.outages && perSecond >= 3),
  },
  {
    name: 'each answer gives the retry budget ten times what it should',
    file: 'resilience/retry-budget.ts',
    find: 'succeeded: () => giveBack(lastCost === 0 ? 1 : lastCost)',
    replace: 'succeeded: () => giveBack(lastCost === 0 ? 10 : 4 * lastCost)',
    invariants: ['R1'],
    needs: all(fails, ({ perSecond }) => perSecond >= 3),
  },
  {
    name: 'the next attempt uses the key that was refused',
    file: 'keys/key-state.ts',
    find: 'if (restMs > 0) return rested(condition,',
    replace: 'if (restMs < 0) return rested(condition,',
    invariants: ['R3', 'R7', 'liveness'],
    needs: ({ keys, faults }) => keys.length > 1 && faults.revokedKeys,
  },
  {
    name: 'a place in the bulkhead is left before the attempt ends',
    file: 'fetch.ts',
    find: '      const keyLease = await keys.lease(call, turn)\n',
    replace: '      const keyLease = await keys.lease(call, turn)\n      permit.leave()\n',
    invariants: ['R9'],
    needs: ({ maxConcurrent, perScraper }) => maxConcurrent < 100 || perScraper !== null,
  },
  {
    name: 'a place in the bulkhead is kept when an attempt throws',
    file: 'fetch.ts',
    find: '    } finally {\n      permit.leave()\n    }\n',
    replace: '    } finally {\n      if (turn.number < 0) permit.leave()\n    }\n',
    invariants: ['liveness', 'S7'],
  },
  {
    name: 'a caller’s place is kept when its flight fails',
    file: 'limits/concurrency.ts',
    find: 'taken.set(name, open(name) - 1)',
    replace: 'if (open(name) > 1) taken.set(name, open(name) - 1)',
    invariants: ['S7'],
    needs: alone,
  },
  // Circuits
  {
    name: 'a stale success closes a circuit on trial',
    file: 'resilience/breaker.ts',
    find: 'if (began !== this.#generation) return\n',
    replace:
      "if (this.#opening && began !== this.#generation && health === 'up') return this.#close()\n    if (began !== this.#generation) return\n",
    invariants: ['C3'],
    needs: all(alone, fails, ({ faults }) => faults.outages),
  },
  {
    name: 'the caller’s own errors count against the circuit',
    file: 'resilience/breaker.ts',
    find: 'evidence.ended(call, health, now)',
    replace: "evidence.ended(call, health === 'neutral' ? 'down' : health, now)",
    invariants: ['C5'],
    needs: all(alone, fails),
  },
  {
    name: 'the circuit never opens',
    file: 'resilience/breaker.ts',
    find: 'if (isFailure(health) && this.#evidence.isDamning(policy, now)) this.#open(policy)',
    replace: 'if (isFailure(health) && policy.window < 0) this.#open(policy)',
    invariants: ['C6'],
    needs: all(alone, ({ faults }) => faults.outages),
  },
  {
    name: 'the circuit is open for a tenth of its time',
    file: 'resilience/breaker.ts',
    find: 'return Math.min(openFor * 2 ** this.#doublings, openForMax) *',
    replace: 'return 0.1 * Math.min(openFor * 2 ** this.#doublings, openForMax) *',
    invariants: ['C9'],
    needs: all(alone, ({ faults }) => faults.outages),
  },
  {
    name: 'many trials at a time',
    file: 'resilience/breaker.ts',
    find: 'return !isTrialWaiting(opening) && (this.#clock.now() >= opening.nextTrialAt || this.#isLastLookDue(opening))',
    replace: 'return opening.trials.size < 50',
    invariants: ['C9'],
    needs: all(alone, ({ faults }) => faults.outages),
  },
  {
    name: 'an open circuit refuses at once',
    file: 'resilience/breaker.ts',
    find: 'if (this.#held.size >= MOST_HELD || (this.#opening && this.#isHoldOver(this.#opening))) throw this.#circuitOpen()',
    replace: 'if (this.#opening) throw this.#circuitOpen()',
    invariants: ['C10'],
    needs: all(alone, ({ faults }) => faults.outages),
  },
  // Sharing
  {
    name: 'nobody joins a flight under way',
    file: 'resilience/coalesce.ts',
    find: 'if (key !== null) this.#joinable.set(key, place)',
    replace: 'if (key !== null && this.#clock.now() < 0) this.#joinable.set(key, place)',
    invariants: ['S1'],
  },
  {
    name: 'answers cross from one client to another',
    file: 'cache/tiered.ts',
    find: "return client.cache.scope === 'shared' ? call.key :",
    replace: "return client.cache.scope !== 'none' ? call.key :",
    invariants: ['S6'],
    needs: ({ clients }) => clients.some(({ scope }) => scope === 'client') && clients.length > 2,
  },
  {
    name: 'the country is not part of the question',
    file: 'scrapellm/params.ts',
    find: "name: 'country',\n    only: null,\n    inKey: true,",
    replace: "name: 'country',\n    only: null,\n    inKey: false,",
    invariants: ['S6'],
  },
  {
    name: 'an asker who leaves takes the others along',
    file: 'resilience/coalesce.ts',
    find: 'if (!openFlight.waiting.delete(waiting)) return',
    replace: 'if (!openFlight.waiting.delete(waiting) || openFlight.waiting.size > 1) return',
    invariants: ['S3', 'R3'],
  },
  {
    name: 'no deadline while waiting for a flight',
    file: 'resilience/coalesce.ts',
    find: 'this.#clock.after(waiter.deadlineAt - this.#clock.now(), () => leave(timeIsUp))',
    replace: 'this.#clock.after(1e9 + waiter.deadlineAt - this.#clock.now(), () => leave(timeIsUp))',
    invariants: ['S3'],
  },
  {
    name: 'a flight that fails stays joinable',
    file: 'resilience/coalesce.ts',
    find: '    if (key !== null) this.#joinable.delete(key)\n',
    replace: '    if (key !== null && openFlight.progress === null) this.#joinable.delete(key)\n',
    invariants: ['S3', 'S7', 'R3'],
    needs: fails,
  },
  {
    name: 'fresh answers are looked up and not given',
    file: 'cache/tiered.ts',
    find: "if (freshness === 'fresh') return { kind: 'fresh', entry, tier }",
    replace: "if (freshness === 'fresh') return NOTHING",
    invariants: ['S2'],
    needs: alone,
  },
  {
    name: 'no fencing: a late leader overwrites what is newer',
    file: 'cache/shared-tier.ts',
    find: "if fence and ARGV[5] ~= '' and fence > ARGV[5] then return 0 end",
    replace: "if fence == '' then return 0 end",
    invariants: ['S4'],
    needs: all(withRedis, ({ faults, replicas }) => replicas > 1 && (faults.pauses || faults.partitions)),
  },
  {
    name: 'the lease of a flight is given to everybody',
    file: 'resilience/flight-acquire.lua',
    find: "  return { 'held', holder, owner, job }",
    replace: "  return { 'leased', holder, '', job }",
    invariants: ['S1'],
    needs: all(withRedis, ({ replicas }) => replicas > 1),
  },
  {
    name: 'the lease of a flight is not given back',
    file: 'resilience/flight-land.lua',
    find: "  redis.call('DEL', KEYS[1])\n",
    replace: "  redis.call('PEXPIRE', KEYS[1], 86400000)\n",
    invariants: ['S7', 'S3', 'liveness'],
    needs: withRedis,
  },
  {
    name: 'messages between replicas are not waited for, nor is anything looked at without them',
    file: 'resilience/shared-flight.ts',
    find: 'await notifier.pause(this.#pollMs * (0.75 + 0.5 * this.#random.next()))',
    replace: 'await notifier.pause(1e9)',
    invariants: ['S3', 'S7', 'liveness'],
    needs: all(withRedis, ({ faults, replicas }) => replicas > 1 && faults.redisMessages),
  },
  // Limits and money
  {
    name: 'a call is sent though what was set aside for it is not safe',
    file: 'limits/local-hold.ts',
    find: '(await store.secure())) return',
    replace: '(await store.secure()) || hasLimit) return',
    invariants: ['L1', 'L2'],
    needs: all(keepsMoney, ({ faults }) => faults.powerCuts),
  },
  {
    name: 'what others have spent is not added when the records have been read',
    file: 'limits/accounts.ts',
    find: 'const others = this.#storedCredits(key) - account.settledCredits',
    replace: 'const others = 0 * this.#storedCredits(key)',
    invariants: ['L1', 'L2'],
    needs: all(keepsMoney, ({ faults }) => faults.twoOwners && faults.diskTrouble),
  },
  {
    name: 'an Idempotency-Key that a crash left unresolved is free again',
    file: 'jobs/idempotency.ts',
    find: "if (there.state !== 'submitting' || (await this.#session.isGone(there.processId))) throw fateUnknown()",
    replace:
      "if (there.state !== 'submitting' || (await this.#session.isGone(there.processId))) { await this.#store.put([freed(name)]); continue }",
    invariants: ['J1'],
    needs: ({ disk, jobs, faults }) => disk && jobs > 0 && (faults.crashes || faults.powerCuts),
  },
  {
    name: 'the budget is checked and not reserved',
    file: 'limits/accounts.ts',
    find: '      account.heldCredits += credits\n      account.touchedAt = this.#clock.now()\n    }\n',
    replace: '      account.touchedAt = this.#clock.now()\n    }\n',
    invariants: ['L2', 'S7', 'L1'],
    needs: all(alone, isLimited),
  },
  {
    name: 'what an attempt cost is not written down',
    file: 'fetch.ts',
    find: '    hold.spend(end.charge, started.keyName)\n',
    replace: "    if (end.charge.state !== 'charged') hold.spend(end.charge, started.keyName)\n",
    invariants: ['L1', 'L2'],
    needs: isLimited,
  },
  {
    name: 'what may have been charged counts as free',
    file: 'scrapellm/credits.ts',
    find: "priceCredits === 0 ? FREE : { state: 'unknown', credits: priceCredits }",
    replace: 'priceCredits === 0 ? FREE : FREE',
    invariants: ['L1', 'L2'],
    needs: all(isLimited, loses),
  },
  {
    name: 'a hold is never settled',
    file: 'fetch.ts',
    find: '      return landing\n    } finally {\n      hold.settle()\n',
    replace: '      return landing\n    } finally {\n      if (key === null) hold.settle()\n',
    invariants: ['S7', 'L1'],
    needs: isLimited,
  },
  {
    name: 'who joins a flight pays for it as well',
    file: 'fetch.ts',
    find: '      if (!isLeader) hold.settle()\n',
    replace: "      if (!isLeader) hold.spend({ state: 'charged', credits: fetch.call.priceCredits })\n",
    invariants: ['L1', 'S7'],
    needs: all(isLimited, ({ prompts }) => prompts <= 30),
  },
  {
    name: 'in Redis, more is leased than is left',
    file: 'limits/credits.lua',
    find: 'math.min(left(), math.max(short,',
    replace: 'math.min(999, math.max(short,',
    invariants: ['L2'],
    needs: all(withRedis, isLimited),
  },
  {
    name: 'in Redis, what is marked can be taken back',
    file: 'limits/credits.lua',
    find: 'return math.max(r[3], r[4] - r[5]) end',
    replace: 'return r[3] end',
    invariants: ['L1', 'L2'],
    needs: all(withRedis, isLimited),
  },
  {
    name: 'in Redis, a failover is not noticed',
    file: 'limits/credits.lua',
    find: " or redis.call('HGET', state, 'server') ~= server",
    replace: '',
    invariants: ['L2'],
    needs: all(withRedis, isLimited, ({ faults, replicas }) => faults.redisLoss && replicas > 1 && !faults.crashes),
  },
  {
    name: 'the rate limit lets twice as many through',
    file: 'limits/rate.ts',
    find: 'bucket.fullAtUs = nowUs + nextUs',
    replace: 'bucket.fullAtUs = nowUs + nextUs / 2',
    invariants: ['L4'],
    needs: all(alone, ({ clients }) => clients.some(({ rate }) => rate !== null)),
  },
  {
    name: 'a client has more open questions than it may',
    file: 'limits/concurrency.ts',
    find: 'before >= concurrency',
    replace: 'before > concurrency',
    invariants: ['L4'],
    needs: all(alone, ({ clients }) => clients.some(({ concurrency }) => concurrency !== null && concurrency < 20)),
  },
  {
    name: 'the price is not in the header',
    file: 'http/respond.ts',
    find: "outcome.kind === 'stale' || outcome.role === 'leader'",
    replace: "outcome.kind === 'stale' || outcome.role === 'joined'",
    invariants: ['L1'],
  },
  // Outputs
  {
    name: 'upstream’s echo of the key is passed on',
    file: 'scrapellm/credentials.ts',
    find: "if (secret === null || secret === '') return reply",
    replace: "if (secret === null || secret !== '') return reply",
    invariants: ['secrets'],
    needs: ({ faults }) => (faults.fates['echo-key'] ?? 0) > 0,
  },
  {
    name: 'the gauge of open requests only grows',
    file: 'pipeline.ts',
    find: '    const outcome = await deciding\n    place.leave()\n',
    replace: '    const outcome = await deciding\n',
    invariants: ['S7'],
  },
  {
    name: 'a resting key is never tried again',
    file: 'keys/key-state.ts',
    find: "if (condition.kind === 'ready' || condition.trialAt !== null) return false",
    replace: "if (condition.kind === 'ready' || now > 0) return false",
    invariants: ['liveness'],
    needs: ({ faults }) => faults.revokedKeys || faults.spentKeys,
  },
]
