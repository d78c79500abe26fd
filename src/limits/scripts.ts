/**
 * What replicas decide together, as Lua that Redis runs in one piece: rates, places, credits, and how many replicas there are. The
 * contract of each is above it. All take the time from Redis, because replicas' clocks differ, and touch only their KEYS,
 * which share a hash tag. Longer than other files: the script for credits is one piece.
 */
import type { SharedScript } from '../ports.ts'

/** All keys of what is named so are in one slot; a name may hold anything. */
export function tagged(kind: string, name: string): string {
  return `limits:{${encodeURIComponent(name)}}:${kind}`
}

const nowMs = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/** What became of a change. */
export const Change = { done: 0, denied: 1, wary: 2, gone: 3 } as const
/** How the arguments of the script below are counted. */
const fieldsPerChange = 11
const fieldsBeforeChanges = 11

/**
 * Credits of one client: a list of changes to its records, each a hold, an allowance or a tab. A change says how the record
 * is to be, not by how much it differs, so that one which comes twice changes nothing.
 *
 * KEYS: totals (hash), records (hash), when each record expires (sorted set).
 * ARGV: limit per day, per month (-1 = none); the epoch and the number of runs that the caller knows ('' and 0 = none), an
 * unused epoch; what it knows: day, shares, month, shares; after how long without any call owners get some time before they
 * are taken for dead; how long it is wary; then per change: id, step, sent (0/1), spent, held; the spent
 * and the total credits and the mark that the caller knows to be in the record, the epoch it knows that of; number of the
 * change, ttl.
 * Steps: reserve (more is held only if there is enough left) · lease (the same, and only from what is to spare) · keep · tab
 * (spent without being held) · end · adopt (tells what is in it) · refund (`spent` credits that were spent at the time `held`).
 * Reply: epoch, runs, now, day, spent, refunded, held, month, spent, refunded, held, swept records, swept credits, shares of the
 * day, of the month, then per change: what became of it, held, spent.
 *
 * After every run, per period: held = the sum over its records, and left = limit - held - spent + refunded. Spent and refunded never get fewer.
 *
 * A Redis that has lost its memory, or its latest writes, is noticed by the epoch, or by runs that the caller knows and Redis does not; a
 * new epoch begins. What was spent is kept by epochs (shares: epoch, spent, refunded, ...): within one, the most that anybody
 * knows is right, and they add up, so that what is spent before the last has told what it knows is not taken for that. Nobody
 * is granted more before as much time has passed as anybody may be silent, nor before it knows of the epoch: it has told then
 * what it holds. An expired record counts as charged if it was marked as sent, else it is refunded.
 */
export const creditsScript: SharedScript = {
  numberOfKeys: 3,
  replies: 'text',
  lua: `${nowMs}local totals, records, due = KEYS[1], KEYS[2], KEYS[3]
local knownEpoch, knownRuns, patience = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[10])

local function total(field) return tonumber(redis.call('HGET', totals, field)) or 0 end
local function spentIn(period) return total(period .. ':spent') - total(period .. ':refunded') end
local function add(field, credits) redis.call('HINCRBY', totals, field, credits) end

-- Days since 1970 to a date, after Howard Hinnant.
local function dateOf(days)
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local doe = shifted - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', year, month, doy - math.floor((153 * mp + 2) / 5) + 1)
end
local today = math.floor(now / 86400000)
local day = dateOf(today)
local month = string.sub(day, 1, 7)

local epoch, runs = redis.call('HGET', totals, 'epoch'), total('runs')

-- Shares
local function sharesOf(text)
  local shares = {}
  local of, spent, refunded = string.match(text, '^(%S+) (%d+) (%d+)')
  while of do
    table.insert(shares, { of = of, spent = tonumber(spent), refunded = tonumber(refunded) })
    text = string.sub(text, #of + #spent + #refunded + 4)
    of, spent, refunded = string.match(text, '^(%S+) (%d+) (%d+)')
  end
  return shares
end
local function textOf(shares, without)
  local text = ''
  for _, one in ipairs(shares) do
    if one.of ~= without then text = text .. string.format('%s %.0f %.0f ', one.of, one.spent, one.refunded) end
  end
  return text
end
-- Those of former epochs are kept; what is not theirs is of this one.
local function sharesIn(period)
  local own = { of = epoch, spent = total(period .. ':spent'), refunded = total(period .. ':refunded') }
  local shares = sharesOf(redis.call('HGET', totals, period .. ':former') or '')
  for _, one in ipairs(shares) do
    own.spent = own.spent - one.spent
    own.refunded = own.refunded - one.refunded
  end
  table.insert(shares, own)
  return shares
end
local function keep(period, shares)
  local former = textOf(shares, epoch)
  if former ~= '' then redis.call('HSET', totals, period .. ':former', former) end
end
local function learn(period, text)
  local shares = sharesIn(period)
  for _, told in ipairs(sharesOf(text)) do
    local known = nil
    for _, one in ipairs(shares) do if one.of == told.of then known = one end end
    if not known then
      known = { of = told.of, spent = 0, refunded = 0 }
      table.insert(shares, known)
    end
    for _, kind in ipairs({ 'spent', 'refunded' }) do
      if told[kind] > known[kind] then
        add(period .. ':' .. kind, told[kind] - known[kind])
        known[kind] = told[kind]
      end
    end
  end
  keep(period, shares)
end

-- Has Redis forgotten something?
local function beWary(since) redis.call('HSET', totals, 'waryUntil', math.max(total('waryUntil'), since + ARGV[11])) end
if not epoch or (knownEpoch == epoch and runs < knownRuns) then
  local ofDay, ofMonth = epoch and sharesIn(day), epoch and sharesIn(month)
  epoch = ARGV[5]
  if ofDay then
    keep(day, ofDay)
    keep(month, ofMonth)
  end
  redis.call('HSET', totals, 'epoch', epoch, 'bornAt', now)
  if knownEpoch ~= '' then beWary(now) end
elseif knownEpoch ~= '' and knownEpoch ~= epoch then
  beWary(total('bornAt'))
end
local hasToldAll = knownEpoch == '' or knownEpoch == epoch
redis.call('HSET', totals, 'runs', math.max(runs, knownEpoch == epoch and knownRuns or 0) + 1)
for i = 6, 8, 2 do
  if ARGV[i] == day or ARGV[i] == month then learn(ARGV[i], ARGV[i + 1]) end
end

-- Periods that are over, once nothing is held in them; yesterday is kept, because clocks can be set back.
if redis.call('HGET', totals, 'day') ~= day then
  redis.call('HSET', totals, 'day', day)
  local yesterday = dateOf(today - 1)
  for _, field in ipairs(redis.call('HKEYS', totals)) do
    local period = string.match(field, '^(%d[%d%-]+):')
    if period and period < string.sub(yesterday, 1, #period) and total(period .. ':held') == 0 then
      redis.call('HDEL', totals, field)
    end
  end
end

-- Records
local function read(id)
  local text = redis.call('HGET', records, id)
  if not text then return nil end
  local d, m, step, sent, held, spent, number = string.match(text, '^(%S+) (%S+) (%a+) (%d) (%d+) (%d+) (%d+)$')
  return { day = d, month = m, isLease = step == 'lease', sent = sent == '1', held = tonumber(held),
    spent = tonumber(spent), number = tonumber(number) }
end
local function move(record, held, spent)
  for _, period in ipairs({ record.day, record.month }) do
    add(period .. ':held', held - record.held)
    add(period .. ':spent', spent - record.spent)
  end
  if record.isLease then add('leased', held - record.held) end
  record.held, record.spent = held, spent
end
local function write(id, record, number, ttl)
  redis.call('HSET', records, id, string.format('%s %s %s %d %.0f %.0f %.0f', record.day, record.month,
    record.isLease and 'lease' or 'hold', record.sent and 1 or 0, record.held, record.spent, number))
  redis.call('ZADD', due, now + ttl, id)
end
local function drop(id)
  redis.call('HDEL', records, id)
  redis.call('ZREM', due, id)
end

-- Sweep. After a silence it is Redis that was away: those who live get the time to say so.
local sweptRecords, sweptCredits = 0, 0
if now - total('seenAt') > patience then redis.call('HSET', totals, 'sweepFrom', now + patience) end
redis.call('HSET', totals, 'seenAt', now)
if now >= total('sweepFrom') then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 200)) do
    local record = read(id)
    if record then
      local lost = record.sent and record.held or 0
      if record.isLease then
        add(record.day .. ':lost', lost)
        add(record.month .. ':lost', lost)
      end
      if lost > 0 then
        sweptRecords = sweptRecords + 1
        sweptCredits = sweptCredits + lost
      end
      move(record, 0, record.spent + lost)
    end
    drop(id)
  end
end

local function isThereRoom(record, credits, step)
  for i, period in ipairs({ record.day, record.month }) do
    local limit = tonumber(ARGV[i])
    local left = limit - total(period .. ':held') - spentIn(period)
    if limit >= 0 and left < credits then return false end
    if limit >= 0 and step == 'lease' then
      -- Allowances never keep the last fifth from anybody, nor do they take more than a fifth, the lost ones included.
      local fifth = math.floor(limit / 5)
      if left - credits < fifth or total('leased') + total(period .. ':lost') + credits > fifth then return false end
    end
  end
  return true
end

local function change(id, step, sent, spent, held, toldSpent, toldTotal, toldSent, toldEpoch, number, ttl)
  local record = read(id)
  if step == 'adopt' then
    if not record then return ${Change.gone}, 0, 0 end
    write(id, record, 0, ttl)
    return ${Change.done}, record.held, record.spent
  end
  if step == 'refund' then
    if record then return ${Change.done}, 0, 0 end
    local date = dateOf(math.floor(held / 86400000))
    for _, period in ipairs({ date, string.sub(date, 1, 7) }) do
      add(period .. ':refunded', math.max(0, math.min(spent, spentIn(period))))
    end
    write(id, { day = day, month = month, sent = false, held = 0, spent = 0 }, 0, ttl)
    return ${Change.done}, 0, 0
  end
  if record and step ~= 'end' and number < record.number then return ${Change.done}, record.held, record.spent end
  local isNew = not record
  local isForgotten = isNew and toldEpoch ~= '' and toldEpoch ~= epoch
  if isNew then
    -- Of this epoch and not here: it has ended, or was swept as what it was.
    local isOver = toldEpoch == epoch
    local before = isOver and toldSent and toldTotal or toldSpent
    if isOver and (step == 'keep' or step == 'lease') then return ${Change.gone}, 0, before end
    record = { day = day, month = month, isLease = step == 'lease', sent = isForgotten and toldSent, held = 0,
      spent = before }
  end
  local wanted = spent + held
  spent = math.max(spent, record.spent)
  held = math.max(0, wanted - spent)
  local outcome = ${Change.done}
  local growth = spent + held - (isForgotten and toldTotal or record.spent + record.held)
  if growth > 0 and (step == 'reserve' or step == 'lease') then
    if now < total('waryUntil') or not hasToldAll then outcome = ${Change.wary}
    elseif not isThereRoom(record, spent + held - record.spent - record.held, step) then outcome = ${Change.denied} end
    if outcome ~= ${Change.done} then
      if isNew and not isForgotten then return outcome, 0, spent end
      held = math.max(0, held - growth)
    end
  end
  move(record, step == 'end' and 0 or held, spent)
  if step == 'end' then
    drop(id)
  else
    record.sent = record.sent or (sent and outcome == ${Change.done})
    write(id, record, number, ttl)
  end
  return outcome, record.held, spent
end

local outcomes = {}
for i = ${fieldsBeforeChanges + 1}, #ARGV, ${fieldsPerChange} do
  local what, held, spent = change(ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1', tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]),
    tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6]), ARGV[i + 7] == '1', ARGV[i + 8], tonumber(ARGV[i + 9]), ARGV[i + 10])
  table.insert(outcomes, what)
  table.insert(outcomes, held)
  table.insert(outcomes, spent)
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 3456000000) end

local reply = { epoch, total('runs'), now, day, total(day .. ':spent'), total(day .. ':refunded'), total(day .. ':held'), month,
  total(month .. ':spent'), total(month .. ':refunded'), total(month .. ':held'), sweptRecords, sweptCredits,
  textOf(sharesIn(day)), textOf(sharesIn(month)) }
for _, value in ipairs(outcomes) do table.insert(reply, value) end
return reply
`,
}
