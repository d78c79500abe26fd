-- A sign of life of one process, and who else lives.
--
-- KEYS[1]: one hash for all processes: id -> `time generation` (of the last sign of life; generation 0: it has ended), and beside the ids
--   `server` (run id of the Redis server that wrote last), `beatAt` (time of the last sign of life of anybody) and
--   `changedAt` (since then this server has been asked without a gap; what was written before may have been lost).
-- ARGV: id, generation, the longest gap, how long entries are kept (both ms).
-- Reply: now, changedAt, server, the caller's entry as it was ('' = none), then id and entry of all others. Times are of Redis, in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local keepMs = tonumber(ARGV[4])
local flat = redis.call('HGETALL', KEYS[1])
local before = { server = '', beatAt = '0', changedAt = '0' }
for i = 1, #flat, 2 do before[flat[i]] = flat[i + 1] end

-- The clock of a standby may be behind: nobody has been seen in the future.
local changedAt = math.min(now, tonumber(before.changedAt))
if before.server ~= server or now - tonumber(before.beatAt) > tonumber(ARGV[3]) then changedAt = now end
local reply = { now, changedAt, server, before[ARGV[1]] or '' }
redis.call('HSET', KEYS[1], 'server', server, 'beatAt', now, 'changedAt', changedAt, ARGV[1], now .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], keepMs)
for i = 1, #flat, 2 do
  local id = flat[i]
  local at, generation = string.match(flat[i + 1], '^(%d+) (%d+)$')
  if at and id ~= ARGV[1] then
    if tonumber(at) > now then
      at = now
      redis.call('HSET', KEYS[1], id, now .. ' ' .. generation)
    end
    if now - tonumber(at) > keepMs then
      redis.call('HDEL', KEYS[1], id)
    else
      table.insert(reply, id)
      table.insert(reply, at .. ' ' .. generation)
    end
  end
end
return reply
