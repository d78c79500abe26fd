/**
 * One seed, from the first request to the last timer: replicas, callers, vendor, Redis and faults in one virtual time, with the oracle
 * looking on. The same seed does the same, event by event. Longer than other files: the life of a simulated fleet is read in one go.
 */
import { noDirectives } from '../../src/http/cache-directives.ts'
import type { ProxyRequest, Target } from '../../src/model.ts'
import type { Clock, Timer } from '../../src/ports.ts'
import { createVirtualClock } from '../../src/replay/virtual-clock.ts'
import type { Loaded } from '../../src/config/load.ts'
import type { Ask } from './ask.ts'
import { type Chance, createChance } from './chance.ts'
import { mistakes } from './clumsy.ts'
import { createMachine } from './disk.ts'
import { createOracle } from './oracle.ts'
import { type ClientPlan, planOf, PROBE, secretOf } from './plan.ts'
import { createProcess, type Process } from './process.ts'
import { createRedisServer, type RedisServer } from './redis-server.ts'
import { createRedisHost, createRedisLink, type RedisLink } from './redis-link.ts'
import { createReplica, type Replica } from './replica.ts'
import { createTrace } from './trace.ts'
import { createVendor, type Fate, questionOf } from './vendor.ts'

export interface Result {
  readonly seed: number
  readonly requests: number
  readonly calls: number
  readonly charged: number
  readonly virtualMs: number
  readonly hash: string
  readonly reached: ReadonlySet<string>
  readonly broken: Broken | null
  readonly tail: readonly string[]
}

export interface Broken {
  readonly invariant: string
  readonly what: string
  readonly atMs: number
}

export interface SimulationOptions {
  /** The most requests of this seed. */
  readonly requests?: number
  /** So many of the latest events are kept. */
  readonly tailLines?: number
  /** Looks over the shoulder of Redis. */
  readonly watchRedis?: (server: RedisServer, timeUs: () => number) => void
}

interface Slot {
  replica: Replica | null
  life: number
  readonly machine: ReturnType<typeof createMachine>
  link: RedisLink | null
  isDraining: boolean
}

const STARTS_AT = Date.UTC(2026, 0, 15, 12)
const WARM_UP_MS = 2_000
const SETTLE_MS = 5 * 60_000
const PROBE_EVERY_MS = 5_000
/** Whatever is left after all deadlines: leases, delayed writes, polls. */
const QUIET_MS = 80_000
/** Asked most often of all. */
const BAD_PROMPT = 'question 0'
/** Of `Prefer: wait`. */
const LONGEST_WAIT_MS = 5_000
/** Events of one moment. */
const MOST_AT_A_TIME = 50_000
const LONGEST_MS = 24 * 60 * 60_000

/** What somebody asks for. */
interface Wish {
  readonly client: ClientPlan
  readonly scraper: string
  readonly prompt: string
  readonly kind: Ask['kind']
  /** Repeats a submission. */
  readonly key?: string
  readonly country?: string
  readonly isAsync?: boolean
  readonly jobId?: string
  readonly question?: string
  readonly isProbe?: boolean
  readonly on?: Replica
}

class Stop extends Error {}

export async function simulate(
  seed: number,
  { requests = 1_000, tailLines = 0, watchRedis }: SimulationOptions = {},
): Promise<Result> {
  const plan = planOf(seed, requests)
  const { faults } = plan
  const chance = createChance(`run/${seed}`)
  const trace = createTrace(tailLines)
  const virtual = createVirtualClock(STARTS_AT, setImmediate)
  let broken: Broken | null = null
  let asked = 0
  let ids = 0
  let wrong = 0
  let moment = 0
  let sameMoment = 0
  let isCalm = false
  let isOver = false

  const time: Pick<Clock, 'now' | 'after'> = { now: virtual.now, after }
  const oracle = createOracle(plan, virtual.now, fail)
  const vendor = createVendor(time, chance.of('vendor'), {
    started(call) {
      note(
        `call ${call.number} by ${call.replica}.${call.life} for ${call.requestId} ${call.endpoint} ${call.question} ${call.key}`,
      )
      oracle.callStarted(call)
    },
    ended(call) {
      note(`call ${call.number} ended ${call.ended?.class}`)
      oracle.callEnded(call)
    },
    charged(charge) {
      note(`charged ${charge.serial} for call ${charge.call.number}`)
      oracle.charged(charge)
    },
  })
  let redisAheadUs = 0
  const timeUs = (): number => Math.floor(virtual.now() * 1000) + redisAheadUs
  const server = plan.redis ? createRedisServer(timeUs, faults.redisLoss) : null
  if (server) watchRedis?.(server, timeUs)
  const host = server ? createRedisHost(server) : null
  if (server) server.onWrite = oracle.redisWrote
  const slots: Slot[] = Array.from({ length: plan.replicas }, () => ({
    replica: null,
    life: 0,
    machine: createMachine(),
    link: null,
    isDraining: false,
  }))
  if (faults.twoOwners && slots[0] && slots[1]) Object.assign(slots[1], { machine: slots[0].machine })
  const openAsks = new Set<Ask>()
  const pressed = new Set<number>()
  let settingsNow = (): Loaded => plan.loaded
  const traffic = chance.of('traffic')
  const clumsy = chance.of('clumsy')
  const targets = new Map<string, Target>()
  /** Submissions with a key, the newest last. */
  const keyed: Wish[] = []
  const jobs: {
    readonly id: string
    readonly question: string
    readonly scraper: string
    readonly client: ClientPlan
  }[] = []

  begin()
  try {
    await virtual.run()
  } catch (error) {
    if (!(error instanceof Stop)) throw error
  }
  return {
    seed,
    requests: asked,
    calls: vendor.calls,
    charged: vendor.ledger.length,
    virtualMs: virtual.now() - STARTS_AT,
    hash: trace.hash,
    reached: oracle.reached,
    broken,
    tail: trace.tail,
  }

  function after(ms: number, job: () => void): Timer {
    return virtual.after(ms, () => {
      if (broken) throw new Stop()
      if (virtual.now() - STARTS_AT > LONGEST_MS) fail('S7', 'timers are set for ever')
      sameMoment = virtual.now() === moment ? sameMoment + 1 : 0
      moment = virtual.now()
      if (sameMoment > MOST_AT_A_TIME) fail('S7', 'time stands still: timers are set for now, again and again')
      job()
      if (broken) throw new Stop()
    })
  }

  function note(text: string): void {
    trace.note(`${(virtual.now() - STARTS_AT).toFixed(3)} ${text}`)
  }

  function fail(invariant: string, what: string): void {
    broken ??= { invariant, what, atMs: virtual.now() - STARTS_AT }
  }

  /** A bug of the harness, or a rejection that nobody has handled in the proxy. */
  function unexpected(error: unknown): void {
    fail('errors', error instanceof Error ? (error.stack ?? error.message) : String(error))
  }

  // The fleet

  function start(index: number): void {
    const slot = slots[index]
    if (!slot || isOver) return
    slot.life += 1
    const { life } = slot
    const own = chance.of(`replica/${index}.${life}`)
    const process = createProcess(time, () => died(index, life))
    let made = 0
    const random = {
      next: own.next,
      id: () =>
        `${String(index).padStart(8, '0')}-${String(life).padStart(4, '0')}-4000-8000-${String((made += 1)).padStart(12, '0')}`,
    }
    const link = host ? createRedisLink(host, process, time, chance.of(`link/${index}.${life}`)) : noLink
    slot.link = link
    note(`replica ${index}.${life} starts`)
    const replica = createReplica({
      loaded: plan.loaded,
      source: { read: () => settingsNow(), files: [] },
      memory: () => (pressed.has(index) ? 0.99 : 0.3),
      index,
      life,
      process,
      random,
      vendor,
      machine: slot.machine,
      link,
      wrote(text, where) {
        trace.note(withoutRealTime(text))
        oracle.wrote(text, where)
        if (where === 'log') oracle.logged(`${index}.${life}`, text)
      },
    })
    slot.replica = replica
    slot.isDraining = false
    replica.app.listen().catch(unexpected)
  }

  function died(index: number, life: number): void {
    note(`replica ${index}.${life} dies`)
    for (const ask of openAsks) {
      if (ask.replica !== index || ask.life !== life) continue
      ask.isOver = true
      openAsks.delete(ask)
    }
    oracle.died(index, life)
    const slot = slots[index]
    if (slot) slot.replica = null
    after(chance.between(100, 15_000), () => start(index))
  }

  /** SIGTERM, and the supervisor starts it again. */
  async function restart(index: number): Promise<void> {
    const slot = slots[index]
    const replica = slot?.replica
    if (!slot || !replica?.isOpen || slot.isDraining) return
    slot.isDraining = true
    note(`replica ${index}.${slot.life} is told to stop`)
    const { life } = slot
    await replica.app.drain()
    oracle.counted(await replica.metrics())
    await stop(index, replica, life)
    oracle.died(index, life)
    if (slot.replica === replica) slot.replica = null
    after(chance.between(100, 5_000), () => start(index))
  }

  async function stop(index: number, replica: Replica, life: number): Promise<void> {
    note(`replica ${index}.${life} drained`)
    await replica.app.close()
    note(`replica ${index}.${life} closed`)
    if (replica.process.isAlive && replica.process.timers > 0)
      fail('S7', `replica ${index}.${life} has closed and left ${replica.process.timers} timers`)
  }

  // Callers

  function ready(): Replica[] {
    return slots.flatMap(({ replica }) => (replica?.isOpen ? [replica] : []))
  }

  function arrive(left: number): void {
    const rush = traffic.happens(0.05) ? traffic.whole(2, 12) : 1
    const prompt = promptNow()
    for (let i = 0; i < Math.min(rush, left); i += 1) askSomething(prompt)
    if (clumsy.happens(0.02)) askWrongly()
    if (left - rush <= 0) return after(1_000, calm) && undefined
    after((-Math.log(1 - traffic.next()) * 1_000) / plan.perSecond, () => arrive(left - rush))
  }

  /** Few are asked often, and most seldom. */
  function promptNow(): string {
    const rank = Math.floor(plan.prompts ** traffic.next())
    return `question ${rank}`
  }

  function askSomething(prompt: string): void {
    const client = clientNow()
    const scraper = traffic.pick(plan.scrapers as [string, ...string[]])
    const luck = traffic.next()
    if (luck < plan.jobs / 3) {
      const again = traffic.happens(0.4) ? keyed.at(-traffic.whole(1, 5)) : undefined
      return ask(again ?? { client, scraper, prompt, kind: 'submit' })
    }
    if (luck < (2 * plan.jobs) / 3) {
      const job = jobs[Math.floor(traffic.next() * jobs.length)]
      if (job) return ask({ ...job, prompt, kind: 'poll', jobId: job.id })
    }
    if (luck < plan.jobs) return ask({ client, scraper, prompt, kind: 'answer', isAsync: true })
    if (traffic.happens(plan.purges)) {
      oracle.purged()
      ready()[0]?.purge('{}').catch(unexpected)
    }
    ask({ client, scraper, prompt, kind: 'answer' })
  }

  function clientNow(): ClientPlan {
    const shares = plan.clients.reduce((sum, { share }) => sum + share, 0)
    let luck = traffic.next() * shares
    for (const client of plan.clients) {
      luck -= client.share
      if (luck < 0) return client
    }
    return plan.clients[0] as ClientPlan
  }

  function ask(wish: Wish): void {
    const open = ready()
    const replica = wish.on ?? open[Math.floor(traffic.next() * open.length)]
    if (!replica) return
    const index = slots.findIndex((slot) => slot.replica === replica)
    const { life } = slots[index] as Slot
    const { client, scraper, prompt, kind, isAsync = false, isProbe = false } = wish
    const isBypass = kind === 'answer' && !isProbe && traffic.happens(plan.bypasses)
    const cacheDirectives =
      !isProbe && traffic.happens(plan.bypasses / 2)
        ? { ...noDirectives, noCache: traffic.happens(0.5), noStore: traffic.happens(0.5) }
        : noDirectives
    const isImpatient = !isProbe && traffic.happens(plan.impatience)
    const patienceMs = isImpatient ? Math.round(traffic.between(1_000, plan.deadlineMs)) : null
    const id = `request-${(asked += 1)}`
    const listeners = new Set<() => void>()
    const { clock } = replica.process
    const country = wish.country ?? (!isProbe && traffic.happens(0.1) ? 'DE' : 'US')
    const isKeyed = kind === 'submit' && traffic.happens(0.5)
    const key = wish.key ?? (isKeyed ? `key-${(ids += 1)}` : null)
    if (key !== null && !wish.key) keyed.push({ client, scraper, prompt, kind, key, country })
    const request: ProxyRequest = {
      id,
      method: kind === 'submit' ? 'POST' : 'GET',
      target: targetOf(kind, scraper, prompt, country, isBypass, wish.jobId ?? ''),
      token: client.token,
      cacheDirectives,
      ifNoneMatch: null,
      patienceMs,
      idempotencyKey: key,
      respondAsyncAfterMs: isAsync ? traffic.pick([0, LONGEST_WAIT_MS]) : null,
      traceparent: null,
      source: { host: null, origin: null, fetchSite: null },
      arrivedAt: clock.now(),
      onGone(listener) {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    }
    const one: Ask = {
      request,
      client,
      kind,
      question: wish.question ?? questionOf(scraper, prompt, country),
      scraper,
      replica: index,
      life,
      askedAt: clock.now(),
      // Who takes a job id waits for an answer first, and that begins when the question has been understood.
      deadlineAt:
        clock.now() +
        Math.min(plan.deadlineMs, patienceMs ?? Number.POSITIVE_INFINITY) +
        (isAsync ? LONGEST_WAIT_MS : 0),
      isShared: kind === 'answer' && !isBypass && !cacheDirectives.noCache && !cacheDirectives.noStore,
      isAsync,
      isGone: false,
      isOver: false,
    }
    openAsks.add(one)
    oracle.asked(one)
    note(
      `${id} of ${client.name} to ${index}.${life}: ${kind} ${one.question} ${isBypass ? 'bypass' : ''} ${JSON.stringify(cacheDirectives)}`,
    )
    answerIsDue(one, replica.process, one.deadlineAt)
    if (!isProbe && traffic.happens(plan.aborts)) {
      replica.process.deliver(traffic.between(0, plan.deadlineMs / 3), () => {
        if (one.isOver) return
        one.isGone = true
        note(`${id} hangs up`)
        for (const listener of listeners) listener()
      })
    }
    replica
      .ask(request)
      .then((response) => {
        if (!replica.process.isAlive) return
        one.isOver = true
        openAsks.delete(one)
        note(`${id} is told ${response?.status} ${response?.headers.join()} ${response?.body?.toString()}`)
        if (response) remember(one, response)
        oracle.answered(one, response)
        if (listeners.size > 0 && !broken)
          fail('S7', `${id} is answered, and ${listeners.size} still listen for its end`)
      })
      .catch(unexpected)
  }

  function askWrongly(): void {
    const open = ready()
    const replica = open[Math.floor(clumsy.next() * open.length)]
    if (!replica) return
    const index = slots.findIndex((slot) => slot.replica === replica)
    const name = `${index}.${slots[index]?.life}`
    const { code, make } = clumsy.pick(mistakes)
    const prompt = `mistake ${(wrong += 1)}`
    const request = make({
      id: `mistake-${wrong}`,
      method: 'GET',
      target: { path: `/scrapers/${plan.scrapers[0]}`, params: [['prompt', prompt]], token: null },
      // Without limits of its own.
      token: plan.clients.find(({ name }) => name === PROBE)?.token ?? null,
      cacheDirectives: noDirectives,
      ifNoneMatch: null,
      patienceMs: null,
      idempotencyKey: null,
      respondAsyncAfterMs: null,
      traceparent: null,
      source: { host: null, origin: null, fetchSite: null },
      arrivedAt: replica.process.clock.now(),
      onGone: () => () => {},
    })
    replica
      .ask(request)
      .then((response) => {
        const at = response?.headers.indexOf('X-Proxy-Code') ?? -1
        if (replica.process.isAlive) oracle.misasked(name, at < 0 ? null : (response?.headers[at + 1] ?? null), code)
      })
      .catch(unexpected)
  }

  /** S3: nobody waits longer than their deadline, but for a process that is stopped. */
  function answerIsDue(one: Ask, process: Process, at: number): void {
    after(at + 1_001 - virtual.now(), () => {
      if (one.isOver) return
      if (process.pausedUntil > at) answerIsDue(one, process, process.pausedUntil)
      else fail('S3', `${one.request.id} has not been answered ${virtual.now() - one.deadlineAt} ms after its deadline`)
    })
  }

  function remember(
    { client, question, scraper, kind, isAsync }: Ask,
    { status, body }: { readonly status: number; readonly body: Buffer | null },
  ): void {
    if (status !== 202 || (kind !== 'submit' && !isAsync)) return
    const { job_id: id } = JSON.parse(body?.toString() ?? '{}') as { readonly job_id?: string }
    if (id !== undefined) jobs.push({ id, question, scraper, client })
  }

  function targetOf(
    kind: Ask['kind'],
    scraper: string,
    prompt: string,
    country: string,
    isBypass: boolean,
    jobId: string,
  ): Target {
    const name = [kind, scraper, prompt, country, isBypass, jobId].join('|')
    const known = targets.get(name)
    if (known) return known
    const params: [string, string][] = [['prompt', prompt]]
    if (country !== 'US') params.push(['country', country])
    if (isBypass) params.push(['bypass_cache', 'true'])
    const path = kind === 'poll' ? `/jobs/${jobId}` : `/scrapers/${scraper}${kind === 'submit' ? '/jobs' : ''}`
    const target: Target = { path, params: kind === 'poll' ? [] : params, token: null }
    targets.set(name, target)
    return target
  }

  // The course of things

  function begin(): void {
    const { weather } = vendor
    ;[weather.leastMs, weather.mostMs] = plan.latency
    weather.failureMs = plan.failureMs
    weather.capacity = faults.capacity
    weather.badPrompt = faults.badQuestion ? BAD_PROMPT : null
    weather.fates = faults.fates
    weather.retryAfter = faults.retryAfter
    if (faults.spentKeys) for (const key of plan.keys) weather.credits.set(secretOf(key), chance.whole(5, 100) * 3)
    for (let index = 0; index < plan.replicas; index += 1) start(index)
    after(WARM_UP_MS, () => {
      arrive(plan.requests)
      trouble(chance.of('trouble'))
    })
  }

  /** Faults come one after the other until the traffic ends. */
  function trouble(luck: Chance): void {
    const { weather } = vendor
    const spanMs = (plan.requests / plan.perSecond) * 1_000
    const every = (meanMs: number, job: () => void): void => {
      const next = (): void => {
        after(-Math.log(1 - luck.next()) * meanMs, () => {
          if (isCalm) return
          job()
          next()
        })
      }
      next()
    }
    const anyone = (): Slot | undefined => slots[luck.whole(0, slots.length - 1)]
    const often = Math.max(10_000, spanMs / 6)

    if (faults.crashes) {
      every(often, () => {
        const replica = anyone()?.replica
        if (luck.happens(0.5)) replica?.process.kill()
        else replica?.process.killAfter(luck.whole(0, 12))
      })
    }
    if (faults.powerCuts) {
      every(often, () => {
        const machine = anyone()?.machine
        note('the power of a machine is cut')
        for (const slot of slots) if (slot.machine === machine) slot.replica?.process.kill()
        machine?.cutPower(luck.next())
      })
    }
    if (faults.pauses) every(often, () => anyone()?.replica?.process.pause(luck.between(100, 60_000)))
    if (faults.drains) every(2 * often, () => void restart(luck.whole(0, slots.length - 1)).catch(unexpected))
    if (faults.wallSteps) every(often, () => stepWall(luck.between(-600_000, 600_000), luck.whole(0, slots.length - 1)))
    if (faults.reloads) {
      every(often, () => {
        settingsNow = luck.pick(plan.otherSettings as [() => Loaded, ...(() => Loaded)[]])
        anyone()?.replica?.app.reload('asked for')
      })
    }
    if (faults.pressure) {
      every(often, () => {
        const index = luck.whole(0, slots.length - 1)
        pressed.add(index)
        after(luck.between(1_000, 20_000), () => pressed.delete(index))
      })
    }
    if (faults.outages) {
      every(often, () => {
        const scraper = luck.pick(plan.scrapers as [string, ...string[]])
        weather.outages.set(
          scraper,
          luck.pick<Fate>(['500', '503', '504', '502-html', 'refused', 'reset-before', '408', '429-queue', 'not-json']),
        )
        after(luck.between(5_000, 120_000), () => weather.outages.delete(scraper))
      })
    }
    if (faults.revokedKeys) {
      every(often, () => {
        const key = secretOf(luck.pick(plan.keys as [string, ...string[]]))
        weather.revoked.add(key)
        after(luck.between(5_000, 90_000), () => weather.revoked.delete(key))
      })
    }
    if (faults.spentKeys)
      every(often, () =>
        weather.credits.set(secretOf(luck.pick(plan.keys as [string, ...string[]])), luck.whole(0, 60) * 3),
      )
    if (faults.diskTrouble) {
      every(often, () => {
        const machine = anyone()?.machine
        machine?.setDisk(luck.pick(['full', 'away']))
        after(luck.between(1_000, 30_000), () => machine?.setDisk('up'))
      })
    }
    if (!host || !server) return
    const { weather: net } = host
    net.delayMs = luck.pick([0.2, 1, 20])
    if (faults.redisSlow) Object.assign(net, { slow: 0.02, slowMs: 600 })
    if (faults.redisReplies)
      Object.assign(net, {
        replyLost: luck.pick([0.001, 0.01, 0.05]),
        commandLost: luck.pick([0, 0.01]),
        error: luck.pick([0, 0.02]),
      })
    if (faults.redisMessages) net.messageLost = luck.pick([0.1, 0.5, 1])
    if (faults.redisResets) {
      net.reset = 0.002
      every(often, () => slots.forEach(({ link }) => link?.reset()))
    }
    if (faults.partitions) {
      every(often, () => {
        const link = anyone()?.link
        link?.cut(true)
        after(luck.between(100, 60_000), () => link?.cut(false))
      })
    }
    if (faults.redisHangs) every(often, () => void (net.hungUntil = virtual.now() + luck.between(50, 10_000)))
    if (faults.redisSkew) every(often, () => void (redisAheadUs += Math.round(luck.between(-5e6, 5e6))))
    if (faults.redisLoss) every(often, () => outage(luck, () => server.loseLast(luck.whole(1, 40))))
    if (faults.redisEmpty) every(2 * often, () => outage(luck, () => server.forgetAll()))
  }

  function outage(luck: Chance, change: () => void): void {
    if (!host) return
    note('Redis goes')
    change()
    host.weather.isDown = true
    slots.forEach(({ link }) => link?.reset())
    after(luck.between(50, 5_000), () => {
      note('Redis returns')
      if (host) host.weather.isDown = false
    })
  }

  function stepWall(ms: number, index: number): void {
    slots[index]?.replica?.process.stepWall(ms)
    oracle.stepped(index)
  }

  /** The last fault has ended: from now on all must get well. */
  function calm(): void {
    note('calm')
    isCalm = true
    const { weather } = vendor
    Object.assign(weather, { fates: {}, leastMs: 200, mostMs: 3_000, capacity: null, badPrompt: null })
    weather.outages.clear()
    weather.revoked.clear()
    weather.credits.clear()
    pressed.clear()
    for (const slot of slots) {
      slot.machine.setDisk('up')
      slot.link?.cut(false)
      slot.replica?.process.killAfter(Number.POSITIVE_INFINITY)
    }
    if (host) {
      Object.assign(host.weather, {
        slow: 0,
        replyLost: 0,
        commandLost: 0,
        error: 0,
        reset: 0,
        messageLost: 0,
        isDown: false,
      })
      host.weather.hungUntil = Math.min(host.weather.hungUntil, virtual.now())
    }
    const until = virtual.now() + SETTLE_MS
    probe(until)
    after(SETTLE_MS, judge)
  }

  /** New questions keep coming: nothing gets well that is not tried. */
  function probe(until: number): void {
    if (virtual.now() >= until) return
    const client = plan.clients.find(({ name }) => name === PROBE)
    if (client) {
      for (const replica of ready()) {
        for (const scraper of plan.scrapers)
          ask({ client, scraper, prompt: `probe ${(ids += 1)}`, kind: 'answer', isProbe: true, on: replica })
      }
    }
    after(PROBE_EVERY_MS * (0.9 + 0.2 * traffic.next()), () => probe(until))
  }

  function judge(): void {
    const open = slots.filter(({ replica }) => replica?.isOpen)
    if (open.length < slots.length && !slots.some(({ isDraining }) => isDraining))
      fail('liveness', `${slots.length - open.length} replicas have not come back`)
    slots.forEach(({ replica }, index) => replica?.isOpen && oracle.healthy(replica.status(), index))
    after(Math.max(QUIET_MS, plan.deadlineMs - SETTLE_MS + QUIET_MS), () => void close().catch(unexpected))
  }

  async function close(): Promise<void> {
    note('quiet')
    const reports = []
    for (const [index, { replica, life }] of slots.entries()) {
      if (!replica) continue
      const report = replica.status()
      reports.push(report)
      oracle.quiet(report, await replica.metrics(), index, life)
    }
    oracle.finished(server, reports)
    isOver = true
    for (const [index, { replica, life, isDraining }] of slots.entries()) {
      if (!replica || isDraining) continue
      await replica.app.drain()
      await stop(index, replica, life)
    }
  }
}

const noLink: RedisLink = {
  connect() {
    throw new Error('This fleet has no Redis')
  },
  cut() {},
  reset() {},
}

/** The log's own lines are dated by the real clock. */
function withoutRealTime(text: string): string {
  return text.replaceAll(/"time":"[^"]*"/g, '')
}
