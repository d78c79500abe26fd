/** What befalls a proxy at its edges: the wall clock steps, callers are slow or half gone, upstream breaks off, drips, hangs. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Step } from '../../src/simulator/step.ts'
import { until } from '../support/redis.ts'
import type { Scope } from '../support/scope.ts'
import type { Dice } from './dice.ts'
import type { Fleet, FleetOptions, Life } from './fleet.ts'
import { answerTo, newPrompt } from './load.ts'
import { sharedSettings } from './replica-faults.ts'
import type { Fault } from './stage.ts'

const HOUR_MS = 3_600_000

export function timekeepers(dice: Dice, scope: Scope): FleetOptions {
  const folder = mkdtempSync(join(tmpdir(), 'slp-clock-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const offsetFile = join(folder, 'offset')
  writeFileSync(offsetFile, '0')
  const common = {
    preload: new URL('clock-step.ts', import.meta.url).href,
    environment: { CLOCK_OFFSET_FILE: offsetFile },
  }
  // Shared money goes by the clock of Redis; that of one replica by its own, and another day is another budget.
  if (dice.chance(0.5)) return { ...common, size: 2, store: 'redis', teamCredits: 1_500, sets: sharedSettings }
  return { ...common, size: 1, store: { diskPath: join(folder, 'cache.db') } }
}

/** Steps of the wall clock, forward and back, of one replica or of all: nobody waits longer, nothing is older than nothing. */
export const clock: Fault = async (stage) => {
  const { fleet, dice } = stage
  const traffic = stage.load()
  await traffic.moves(dice.whole(10, 40))
  stage.apart()
  // Answers of the future, and of long ago, are asked for anew.
  stage.forget()
  for (let steps = dice.whole(1, 3); steps > 0; steps--) {
    const offsetMs = dice.pick([1, -1]) * dice.pick([2_000, 60_000, HOUR_MS, 25 * HOUR_MS, 24 * 40 * HOUR_MS])
    const some = dice.some(fleet.up(), dice.whole(1, fleet.options.size))
    await Promise.all(some.map((life) => step(fleet, life, offsetMs)))
    stage.count('step of a wall clock')
    await traffic.moves(dice.whole(10, 40))
  }
  await Promise.all(fleet.up().map((life) => step(fleet, life, 0)))
  await traffic.moves(dice.whole(10, 40))
  await traffic.stop()
  for (const one of stage.asked()) {
    const age = answerTo(one)?.headers['age']
    if (age !== undefined && !/^\d{1,9}$/.test(age)) stage.complain(`"${one.prompt}" has the age ${age}`)
  }
  for (const { name, program } of fleet.lives) {
    const strange = program.lines().find((line) => Number(line['duration_ms']) < 0)
    if (strange) stage.complain(`${name}: ${JSON.stringify(strange)}`)
  }
}

async function step({ options }: Fleet, { program }: Life, offsetMs: number): Promise<void> {
  const turn = program.stdout().split('"msg":"clock stepped"').length
  writeFileSync(options.environment?.['CLOCK_OFFSET_FILE'] ?? '', String(offsetMs))
  program.signal('SIGUSR2')
  await program.saw(new RegExp(`"msg":"clock stepped","turn":${turn}\\b`))
}

// Callers

export function host(dice: Dice): FleetOptions {
  return { size: 1, store: 'redis', sets: sharedSettings, latency: { minMs: 2, maxMs: dice.whole(20, 200) } }
}

const HALF_CLOSED = 'a caller who closes one half'

type Manner = (socket: Socket, target: string) => void

const manners: Readonly<Record<string, Manner>> = {
  'a caller who sends a byte a second': (socket, target) => {
    const text = head(target)
    let sent = 0
    const timer = setInterval(() => socket.write(text.charAt((sent += 1) - 1)), 1_000)
    socket.once('close', () => clearInterval(timer))
  },
  'a caller who says nothing': () => undefined,
  'a caller who stops in the middle of a line': (socket, target) => void socket.write(head(target).slice(0, 40)),
  'a caller who stops in the middle of a body': (socket) =>
    void socket.write('POST /scrapers/grok/jobs?prompt=x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf'),
  'a caller who does not read': (socket, target) => {
    socket.pause()
    socket.write(head(target).repeat(3))
  },
  [HALF_CLOSED]: (socket, target) => void socket.end(head(target)),
  'a caller who resets': (socket, target) => {
    socket.write(head(target))
    setTimeout(() => socket.resetAndDestroy(), 5)
  },
  'a caller who resets in the middle': (socket, target) => {
    socket.write(head(target).slice(0, 60))
    setTimeout(() => socket.resetAndDestroy(), 5)
  },
}

function head(target: string): string {
  return `GET ${target} HTTP/1.1\r\nHost: a\r\n\r\n`
}

/** Many bad callers at once: the good ones do not notice, and the bad ones are gone in the end. */
export const clients: Fault = async (stage) => {
  const { fleet, dice, isShort } = stage
  const [life] = fleet.up()
  if (!life) return
  fleet.sim.setSwitches({ resultBytes: dice.pick([0, 0, 200_000]) })
  const traffic = stage.load({ leaving: 0.2 })
  await traffic.moves(20)
  const { hostname, port } = new URL(life.program.url)
  const sockets: Socket[] = []
  const halfClosed: string[] = []
  for (let more = dice.whole(20, 60); more > 0; more--) {
    const [name, behave] = dice.pick(Object.entries(manners))
    const prompt = newPrompt('anonymous')
    const target = `/scrapers/chatgpt?${new URLSearchParams({ prompt, timeout: '10' }).toString()}`
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true })
    socket.resume()
    socket.on('error', () => undefined)
    // The proxy may close it at any time, and then we do.
    socket.on('end', () => socket.end())
    sockets.push(socket)
    if (name === HALF_CLOSED) halfClosed.push(prompt)
    behave(socket, target)
    stage.count(name)
    await dice.moment(10)
  }
  await traffic.moves(40)
  // They count as gone, and their call is finished and kept: once more, it costs nothing more.
  await Promise.all(halfClosed.map((prompt) => stage.ask(life, prompt).done))
  // Who sends no whole request is told so after 10 s, or 30 s for a body.
  if (!isShort) await pause(dice.whole(0, 35_000))
  await traffic.stop()
  for (const socket of sockets) socket.destroy()
  life.agent.destroy()
  fleet.sim.setSwitches({ resultBytes: 0 })
}

// Upstream

export function customer(dice: Dice): FleetOptions {
  return {
    size: 2,
    store: 'redis',
    sets: [...sharedSettings, 'upstream.maxResponseSize=1MiB'],
    teamCredits: dice.pick([600, 100_000]),
    latency: { minMs: 2, maxMs: 100 },
  }
}

const free: readonly Step[] = [
  '503',
  '500',
  '429-queue',
  '504-html',
  '502-html',
  '408',
  'garbage',
  'reset-before-charge',
  'hang',
  '400',
]
const charged: readonly Step[] = [
  'truncated',
  'truncated-chunked',
  'reset-after-charge',
  'not-json',
  'empty-200',
  'status-failed-200',
  'stall',
  'huge',
  'gzip',
]
/** Until the attempt's time is up. */
const drip: Step = { kind: 'drip', everyMs: 20 }

/** Every way to break an answer off, or never to give one: what may have been charged is repeated once at most. */
export const upstream: Fault = async (stage) => {
  const { fleet, dice, isShort } = stage
  const { sim, upstreamLine: line } = fleet
  const costly = isShort ? charged : [...charged, drip]
  stage.ambiguous()
  stage.mayAnswer(({ status, headers }) => {
    const code = headers['x-proxy-code']
    if (code === undefined) return [400, 408, 429, 500, 502, 503, 504].includes(status)
    return code === 'UPSTREAM_INVALID' || code === 'UPSTREAM_UNREACHABLE'
  })
  const traffic = stage.load({
    leaving: 0.1,
    prepare(prompt) {
      const luck = dice.luck()
      if (luck < 0.3) sim.script({ prompt }, [dice.pick(free), dice.pick([...free, ...costly])])
      else if (luck < 0.5) sim.script({ prompt }, [dice.pick(costly), dice.pick(costly)])
    },
  })
  const troubles: readonly (readonly [name: string, spoil: () => void])[] = [
    ['resets on the line to upstream', line.reset],
    ['a line to upstream that is refused', line.refuse],
    ['a slow line to upstream', () => line.delay(dice.whole(50, 400))],
    ['a thin line to upstream', () => line.throttle(dice.whole(2_000, 20_000))],
    ['a line to upstream in slices', () => line.slice(dice.whole(20, 100))],
    ['a line to upstream that is cut again and again', () => line.limit(dice.whole(10, 3_000))],
    ['a half-open line to upstream', line.blackhole],
    ['a line to upstream that is slow to close', () => line.closeSlowly(dice.whole(100, 1_000))],
  ]
  // What hangs, stalls or drips takes all callers' time until somebody lets go.
  const releasing = setInterval(() => sim.release(), 200)
  for (const [name, spoil] of dice.some(troubles, dice.whole(1, 3))) {
    await pause(dice.whole(50, 500))
    spoil()
    await pause(dice.whole(50, 700))
    line.heal()
    stage.count(name)
  }
  await traffic.moves(dice.whole(10, 40))
  await traffic.stop()
  // A drip ends when the attempt's time is up.
  await until(() => sim.open === 0)
  clearInterval(releasing)
}
