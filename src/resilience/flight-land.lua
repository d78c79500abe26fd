-- Ends the flight of this token, unless a newer one has begun.
--
-- KEYS: lease, record. ARGV: token; mark: how it ended, sealed ('' = the next one may make the call); for how long the mark counts; how long
--   ago it is taken to have ended; the job that is under way, if any; how long the record is kept from now on; channel; message. Times in ms.
-- Reply: 1, or 0 when a newer flight has begun.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token, mark, job = ARGV[1], ARGV[2], ARGV[5]
if tonumber(redis.call('HGET', KEYS[2], 'token') or '0') > tonumber(token) then
  return 0
end
redis.call('HSET', KEYS[2], 'token', token, 'over', token, 'state', job == '' and 'landed' or 'sent', 'job', job)
if mark ~= '' then
  local at = string.format('%.0f', now - ARGV[4] * 1000)
  local till = string.format('%.0f', now + ARGV[3] * 1000)
  redis.call('HSET', KEYS[2], 'mark', mark, 'marker', token, 'markedAt', at, 'markUntil', till)
end
redis.call('PEXPIRE', KEYS[2], ARGV[6])
if redis.call('GET', KEYS[1]) == token then
  redis.call('DEL', KEYS[1])
end
redis.pcall('PUBLISH', ARGV[7], ARGV[8])
return 1
