-- The credits of one client: merges what a replica knows, and leases it more. No command is needed in order, or only once.
--
-- A run is one replica on one UTC day, `2026-11-29/<session>`, and with `+` after it what that replica pays for those who may use the reserve. Its record is six counters that only grow and are merged by the
-- maximum of each: taken, taken back (or refused to a run that is gone), spent, marked (may be charged), cleared (was not), refunded.
-- KEYS: state, a hash: `line` (replaced when this server may have lost data), `server` (its run id), `settled` (the line on which all
--   replicas have told what they know), `@<session>` = the line it has told everything to · book, a hash of one month: the record of
--   each run, and the sums `used`, `risk` and `spent` of the month, and of each day as `used:<day>`.
-- ARGV: session · the line it has told everything to ('' = it knows nothing) · a new line · limits of day and month (-1 = none) ·
--   credits to mark · credits wanted beside them · replicas · is it known who lives (0/1) · taken, as last replied · copy of the book wanted (0/1) · number of
--   sessions that live, and each · number of runs that are gone, and each · for each known run its name and record, the caller's first.
-- Reply: line, settled (0/1), marked, runs that are gone and may have been charged, their credits, used, risk and spent of the day and
--   of the month, the caller's record, then the book.
local state, book, me, told = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local perDay, perMonth, marks, need = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local function parse(text)
  local a, b, c, d, e, f = string.match(text or '0 0 0 0 0 0', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  return { tonumber(a), tonumber(b), tonumber(c), tonumber(d), tonumber(e), tonumber(f) }
end
local function read(run) return parse(redis.call('HGET', book, run) or nil) end
local function riskOf(r) return math.max(r[3], r[4] - r[5]) end
local function usedOf(r) return math.max(r[1] - r[2], riskOf(r)) end
local function sum(field) return tonumber(redis.call('HGET', book, field) or '0') end
local function add(field, run, credits)
  if credits == 0 then return end
  redis.call('HINCRBY', book, field, credits)
  redis.call('HINCRBY', book, field .. ':' .. string.sub(run, 1, 10), credits)
end
local function merge(run, new)
  local old = read(run)
  for i = 1, 6 do new[i] = math.max(new[i], old[i]) end
  add('used', run, usedOf(new) - new[6] - usedOf(old) + old[6])
  add('risk', run, riskOf(new) - new[6] - riskOf(old) + old[6])
  add('spent', run, new[3] - new[6] - old[3] + old[6])
  redis.call('HSET', book, run, string.format('%.0f %.0f %.0f %.0f %.0f %.0f', new[1], new[2], new[3], new[4], new[5], new[6]))
  return new
end

local goneAt = 13 + ARGV[12]
local mineAt = goneAt + 1 + ARGV[goneAt]
local run = ARGV[mineAt]
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local line = redis.call('HGET', state, 'line')
if not line or redis.call('HGET', state, 'server') ~= server or read(run)[1] < tonumber(ARGV[10]) then
  -- Nobody has told anything yet, and the caller knows of nothing: a new client.
  if not line and told == '' then redis.call('HSET', state, 'settled', ARGV[3]) end
  if line then redis.call('DEL', state) end
  line = ARGV[3]
  redis.call('HSET', state, 'line', line, 'server', server)
end
local hasTold = told == '' or told == line
if hasTold then redis.call('HSET', state, '@' .. me, line) else redis.call('HDEL', state, 'settled') end
for i = mineAt, #ARGV, 2 do merge(ARGV[i], parse(ARGV[i + 1])) end
local mine = read(run)
local function teller(of) return '@' .. string.match(string.sub(of, 12), '^[^+]+') end
local function isWhole(of) return redis.call('HGET', state, teller(of)) == line end
local lostRuns, lostCredits = 0, 0
for i = goneAt + 1, mineAt - 1 do
  local r = read(ARGV[i])
  local spent = isWhole(ARGV[i]) and riskOf(r) or usedOf(r)
  if spent > r[3] then lostRuns, lostCredits = lostRuns + 1, lostCredits + spent - r[3] end
  merge(ARGV[i], { r[1], math.max(r[2], r[1] - spent), spent, r[4], r[5], r[6] })
end
for i = goneAt + 1, mineAt - 1 do redis.call('HDEL', state, teller(ARGV[i])) end

local settled = redis.call('HGET', state, 'settled') == line
if not settled and hasTold and ARGV[9] == '1' then
  settled = true
  for i = 13, goneAt - 1 do if not isWhole('0000-00-00/' .. ARGV[i]) then settled = false end end
  if settled then redis.call('HSET', state, 'settled', line) end
end
local function left()
  local credits = perDay < 0 and 9007199254740991 or perDay - sum('used:' .. string.sub(run, 1, 10))
  return perMonth < 0 and credits or math.min(credits, perMonth - sum('used'))
end
local function spare() return mine[1] - mine[2] - riskOf(mine) end
local short = marks + need - spare()
if marks + need > 0 and short > 0 and settled and hasTold then
  -- What others have and have not marked is taken back: they ask again before they use it.
  local flat = left() < short and redis.call('HGETALL', book) or {}
  for i = 1, #flat, 2 do
    if string.sub(flat[i], 11, 11) == '/' and flat[i] ~= run and isWhole(flat[i]) then
      local r = parse(flat[i + 1])
      if usedOf(r) > riskOf(r) then merge(flat[i], { r[1], r[1] - riskOf(r), r[3], r[4], r[5], r[6] }) end
    end
  end
  mine[1] = mine[1] + math.max(0, math.min(left(), math.max(short, math.min(50, math.floor(left() / 2 / ARGV[8])))))
end
local marked = math.max(0, math.min(marks, spare()))
mine[4] = mine[4] + marked
mine = merge(run, mine)
-- As long as the report looks at the book.
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 34560000000) end
local reply = { line, settled and 1 or 0, marked, lostRuns, lostCredits, redis.call('HGET', book, run) }
for _, field in ipairs({ 'used', 'risk', 'spent' }) do
  table.insert(reply, sum(field .. ':' .. string.sub(run, 1, 10)))
  table.insert(reply, sum(field))
end
if ARGV[11] == '1' then for _, text in ipairs(redis.call('HGETALL', book)) do table.insert(reply, text) end end
return reply
