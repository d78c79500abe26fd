/**
 * The model of Redis answers as Redis does: all that simulated fleets have said to it is said again to a real server, command by command,
 * and each reply must be the same. Time is the model's: a few lines of Lua in front of each script put the model's clock in the place
 * of the server's, and what has expired in the model is deleted there before the next command.
 */
import { Redis } from 'ioredis'
import t from 'tap'
import { startRedis } from '../support/redis.ts'
import { compileLua, LuaTable } from './lua.ts'
import { planOf } from './plan.ts'
import { digestOf, type RedisServer, type Reply, ReplyError } from './redis-server.ts'
import { simulate } from './simulation.ts'

interface Step {
  readonly name: string
  readonly args: readonly string[]
  readonly timeUs: number
  readonly info: string
  /** Of each key: how long it has to live, -1 = for ever, null = it is not there. */
  readonly keys: readonly (readonly [key: string, leftMs: number | null])[]
  readonly reply: Reply | Error
}

const CLOCK = `local real = redis
local redis = {}
function redis.pcall(name, ...)
  if name == 'INFO' then return real.call('HGET', 'model:clock', 'info') end
  return real.pcall(name, ...)
end
function redis.call(name, key, ...)
  if name == 'TIME' then return real.call('HMGET', 'model:clock', 's', 'us') end
  if name == 'PTTL' then return tonumber(real.call('HGET', 'model:left', key) or '-2') end
  if name == 'PEXPIRE' then return real.call('EXISTS', key) end
  if name == 'SET' then
    local value = ...
    return real.call('SET', key, value)
  end
  return real.call(name, key, ...)
end
`
const FLEETS = 4

void t.test('what a fleet says to the model gets the same replies from Redis', async (t) => {
  const server = await startRedis(t, ['--hash-max-listpack-entries', '100000', '--hash-max-listpack-value', '1000000'])
  const redis = new Redis(server.port, '127.0.0.1')
  t.teardown(() => redis.disconnect())
  const scripts = new Set<string>()
  let fleets = 0
  let commands = 0
  for (let seed = 1; fleets < FLEETS; seed += 1) {
    const { redis: hasRedis, faults } = planOf(seed, 200)
    if (!hasRedis || faults.redisLoss || faults.redisEmpty) continue
    fleets += 1
    const steps: Step[] = []
    await simulate(seed, { requests: 200, watchRedis: (model, timeUs) => listenIn(model, timeUs, steps) })
    await redis.flushall()
    const differences = await replay(redis, steps, scripts)
    t.strictSame(differences.slice(0, 3), [], `seed ${seed}: ${steps.length} commands`)
    commands += steps.length
  }
  t.comment(`${commands} commands, ${scripts.size} scripts`)
  t.ok(scripts.size >= 12, 'nearly all scripts were run')
})

void t.test('the Lua of the model', async (t) => {
  const run = (lua: string, ...args: string[]): unknown => {
    const value = compileLua(lua)(() => 1, [], args)
    return value instanceof LuaTable ? value.list : value
  }
  t.equal(run("return '10' + 5"), 15, 'texts are numbers where numbers are needed')
  t.equal(run("return 1 .. ''"), '1')
  t.equal(run("return 0.1 .. ''"), '0.1')
  t.strictSame(run("local a, b = string.match('12 ab', '^(%d+) (%a+)$') return { a, b }"), ['12', 'ab'])
  t.equal(run('local x = 0 for i = 2, 9, 3 do x = x + i end return x'), 15)
  t.equal(run("return string.format('%04d-%.0f-%s', 7, 2.5, 'x')"), '0007-2-x', 'halves go to the even one')
  t.equal(run('local function f(x) if x > 1 then return f(x - 1), 2 end return x end local a = f(3) return a'), 1)
  t.equal(run('local n = nil return n and 1 or 2'), 2)
  t.equal(run('return #ARGV .. ARGV[2]', 'a', 'b'), '2b')
  t.throws(() => run('return x'), SyntaxError, 'what it does not know is no Lua of ours')
  t.throws(() => run('return {} + 1'))
})

/** Every command, with what the model made of it. */
function listenIn(model: RedisServer, timeUs: () => number, steps: Step[]): void {
  const { command } = model
  model.command = (name, args) => {
    const isScript = name.startsWith('eval')
    const keys = isScript
      ? args.slice(2, 2 + Number(args[1]))
      : name === 'publish'
        ? []
        : args.slice(0, name === 'unlink' ? undefined : 1)
    const nowMs = Math.floor(timeUs() / 1000)
    const before = keys.map((key) => {
      const kept = model.read(key)
      return [key, kept ? (kept.dueAt === null ? -1 : kept.dueAt - nowMs) : null] as const
    })
    const step = { name, args, timeUs: timeUs(), info: JSON.stringify(command('info', [])), keys: before }
    try {
      const reply = command(name, args)
      steps.push({ ...step, reply })
      return reply
    } catch (error) {
      if (error instanceof ReplyError && !error.message.startsWith('NOSCRIPT')) steps.push({ ...step, reply: error })
      throw error
    }
  }
}

async function replay(redis: Redis, steps: readonly Step[], scripts: Set<string>): Promise<object[]> {
  const texts = new Map<string, string>()
  const differences: object[] = []
  for (let from = 0; from < steps.length; from += 200) {
    const batch = redis.pipeline()
    const at: number[] = []
    const some = steps.slice(from, from + 200)
    let count = 0
    const add = (name: string, args: readonly string[]): void => {
      batch.callBuffer(name, ...args.map((text) => Buffer.from(text, 'latin1')))
      count += 1
    }
    for (const { name, args, timeUs, info, keys } of some) {
      add('hset', ['model:clock', 's', `${Math.floor(timeUs / 1e6)}`, 'us', `${timeUs % 1e6}`, 'info', info])
      for (const [key, leftMs] of keys) {
        add('hset', ['model:left', key, `${leftMs ?? -2}`])
        if (leftMs === null) add('unlink', [key])
      }
      at.push(count)
      if (name.startsWith('eval')) {
        const [script = '', ...rest] = args
        if (name === 'eval') texts.set(digestOf(script), script)
        const lua = name === 'eval' ? script : (texts.get(script) ?? '')
        scripts.add(lua)
        add('eval', [CLOCK + lua, ...rest])
      } else {
        add(name, name === 'set' ? args.slice(0, 2) : args)
      }
    }
    const replies = (await batch.exec()) ?? []
    some.forEach((step, index) => {
      const [error, value] = replies[at[index] ?? -1] ?? []
      const real = error ? 'error' : plain(value)
      const model = step.reply instanceof Error ? 'error' : plain(step.reply)
      if (step.name !== 'publish' && JSON.stringify(real) !== JSON.stringify(model))
        differences.push({ ...step, real, model })
    })
  }
  return differences
}

function plain(reply: unknown): unknown {
  if (Buffer.isBuffer(reply)) return reply.toString('latin1')
  if (Array.isArray(reply)) return reply.map(plain)
  return typeof reply === 'object' && reply !== null && 'ok' in reply ? reply.ok : (reply ?? null)
}
