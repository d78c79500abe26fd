/** What befalls replicas and the Redis that they share: killed, stopped, told to go, cut off, emptied. */
import { setTimeout as pause } from 'node:timers/promises'
import { request } from '../support/proxy.ts'
import { until } from '../support/redis.ts'
import type { Dice } from './dice.ts'
import type { FleetOptions, Life } from './fleet.ts'
import { newPrompt } from './load.ts'
import type { Fault, Stage } from './stage.ts'

/** On a busy machine a reply may take longer than the 250 ms that are usual: that is not what is asked here. */
export const sharedSettings = ['redis.timeout=3s']

export function replicas(dice: Dice): FleetOptions {
  const isDurable = dice.chance(0.4)
  return {
    size: 3,
    store: 'redis',
    isDurable,
    teamCredits: dice.pick([150, 1_500, 100_000]),
    latency: isDurable ? { minMs: 100, maxMs: 1_500 } : { minMs: 2, maxMs: 200 },
    sets: sharedSettings,
  }
}

/** kill -9 of some, but not all, in any phase of what they do; others take their place. */
export const kill: Fault = async (stage) => {
  const { fleet, dice } = stage
  if (dice.chance(0.3)) fleet.redisLine?.delay(dice.whole(1, 30))
  if (dice.chance(0.3)) fleet.upstreamLine.slice(dice.whole(40, 200))
  const traffic = stage.load(dice.chance(0.5) ? {} : { together: 0 })
  await traffic.moves(dice.whole(10, 60))
  await dice.moment(100)
  stage.mayLackRedis()
  for (const victim of dice.some(fleet.up(), dice.whole(1, fleet.options.size - 1))) {
    stage.expose(victim)
    await fleet.kill(victim)
    stage.count('kill -9 of a replica')
    await dice.moment(50)
  }
  await traffic.moves(dice.whole(5, 30))
  fleet.redisLine?.heal()
  fleet.upstreamLine.heal()
  await replenish(stage)
  await traffic.moves(dice.whole(5, 30))
  await traffic.stop()
}

/** SIGSTOP, for longer than a lease lasts or not: who wakes up finds that others have gone on. */
export const stop: Fault = async (stage) => {
  const { fleet, dice, isShort } = stage
  const traffic = stage.load({ together: 0.4 })
  await traffic.moves(dice.whole(10, 60))
  await dice.moment(100)
  stage.mayLackRedis()
  const victims = dice.some(fleet.up(), dice.whole(1, fleet.options.size - 1))
  for (const victim of victims) {
    stage.expose(victim)
    fleet.stop(victim)
    stage.count('SIGSTOP of a replica')
  }
  const isZombie = !isShort && dice.chance(0.5)
  // Who was not read by then has, to who wakes up, taken too long to ask.
  if (isZombie)
    stage.mayAnswer(({ status, headers }) => status === 408 && headers['x-proxy-code'] === 'REQUEST_INVALID')
  // The pause is the fault: a lease lasts 15 s.
  await pause(isZombie ? dice.whole(15_500, 20_000) : dice.whole(200, 3_000))
  if (isZombie) stage.count('of these, for longer than its lease')
  // To who wakes up, Redis has been silent for all that time.
  stage.apart()
  for (const victim of victims) fleet.resume(victim)
  await traffic.moves(dice.whole(20, 60))
  await traffic.stop()
}

/** SIGTERM while it is asked: what it has begun it ends, and it ends with 0. */
export const term: Fault = async (stage) => {
  const { fleet, dice } = stage
  const isGentle = fleet.options.sets?.includes(GENTLE) === true
  const traffic = stage.load()
  await traffic.moves(dice.whole(10, 60))
  const [leaver] = dice.some(fleet.up(), 1)
  if (!leaver) return
  if (isGentle) {
    // As behind a balancer: it is asked until it says that it goes, and a moment longer.
    leaver.program.signal('SIGTERM')
    await leaver.program.saw(/"msg":"draining"/)
    await dice.moment(600)
    leaver.state = 'leaving'
    await leaver.program.ended
    leaver.state = 'over'
  } else await dismiss(stage, leaver)
  stage.count('SIGTERM under load')
  const { code } = await leaver.program.ended
  const how = leaver.program.lines().find(({ msg }) => msg === 'stopped')?.['how']
  if (code !== 0 || how !== 'clean') stage.complain(`${leaver.name} ended with ${code}, ${String(how)}`)
  await replenish(stage)
  await traffic.moves(dice.whole(5, 30))
  await traffic.stop()
}

/** SIGTERM when all that it was asked has arrived: what is asked after that and answered shows it. */
export async function dismiss({ fleet, ask }: Stage, life: Life): Promise<void> {
  life.state = 'leaving'
  await ask(life, newPrompt('anonymous')).done
  await fleet.dismiss(life)
}

const GENTLE = 'shutdown.readinessDelay=3s'

export function leavers(dice: Dice): FleetOptions {
  const drawn = replicas(dice)
  return { ...drawn, sets: [...(drawn.sets ?? []), ...(dice.chance(0.5) ? [GENTLE] : [])] }
}

export function sharers(dice: Dice): FleetOptions {
  return { ...replicas(dice), sets: [`redis.timeout=${dice.pick(['100ms', '250ms', '1s'])}`] }
}

/** Redis dies and comes back empty, hangs, or its line is bad: no question fails because of it. */
export const redis: Fault = async (stage) => {
  const { fleet, dice, isShort } = stage
  const { redis: server, redisLine: line } = fleet
  if (!server || !line) throw new Error('There is no Redis in this fleet')
  const longestMs = isShort ? 2_000 : 20_000
  const troubles: readonly (readonly [name: string, happen: () => Promise<void>])[] = [
    [
      'kill -9 of Redis, back empty',
      async () => {
        stage.forget()
        await server.kill()
        await pause(dice.whole(0, 3_000))
        await server.restart()
      },
    ],
    [
      'SIGSTOP of Redis',
      async () => {
        server.pause()
        await pause(dice.whole(isShort ? 300 : 1_000, longestMs))
        server.resume()
      },
    ],
    ['resets on the line of Redis', async () => repeated(dice.whole(1, 5), line.reset)],
    ['a slow line to Redis', async () => spoilt(() => line.delay(dice.whole(100, 500)))],
    ['a thin line to Redis', async () => spoilt(() => line.throttle(dice.whole(500, 5_000)))],
    ['a line to Redis in slices', async () => spoilt(() => line.slice(dice.whole(1, 20)))],
    ['a line to Redis that is cut again and again', async () => spoilt(() => line.limit(dice.whole(100, 5_000)))],
    ['a half-open line to Redis', async () => spoilt(line.blackhole)],
    [
      'a line to Redis that is slow to close',
      async () => spoilt(() => (line.closeSlowly(1_500), server.ask('CLIENT', 'KILL', 'TYPE', 'normal'))),
    ],
  ]
  async function repeated(times: number, what: () => void): Promise<void> {
    for (let turn = 0; turn < times; turn++) {
      what()
      await dice.moment(300)
    }
  }
  async function spoilt(spoil: () => unknown): Promise<void> {
    await spoil()
    await pause(dice.whole(200, 3_000))
    line?.heal()
  }

  stage.apart()
  stage.mayLackRedis()
  const traffic = stage.load()
  await traffic.moves(dice.whole(10, 60))
  await dice.moment(100)
  const [name, happen] = dice.chance(0.7) ? dice.pick(troubles.slice(0, 2)) : dice.pick(troubles.slice(2))
  await happen()
  stage.count(name)
  await traffic.moves(dice.whole(10, 30))
  await traffic.stop()
  for (const { program } of fleet.up()) {
    await until(async () => (await request(undefined, `${program.adminUrl}/status`)).json['redis'] === 'up')
  }
}

/** As many as there were. */
async function replenish({ fleet }: Stage): Promise<void> {
  const missing = fleet.options.size - fleet.up().length
  await Promise.all(Array.from({ length: missing }, fleet.begin))
}
