-- GCRA, one request, by the clock of Redis; and with it, far from their limit, permits for the requests that are on their way.
--
-- KEYS: when the bucket is full again; permits (see permits-take.lua), where they are asked for. ARGV: microseconds per request, tolerance in
--   microseconds; the caller's process, how many questions it has open with those on their way, the limit, how long the hash is kept (ms).
-- Reply: 1, how far the bucket is from full now, and whether the permits are granted; or 0 and how long to wait (both microseconds).
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local perRequest, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local ahead = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or now) - now)
-- The clock of Redis was set back, or the limit was lowered: nobody waits longer than for a whole bucket.
ahead = math.min(ahead, tolerance + perRequest)
if ahead > tolerance then return { 0, ahead - tolerance } end
ahead = ahead + perRequest
redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
if not KEYS[2] then return { 1, ahead, 0 } end
local flat, open = redis.call('HGETALL', KEYS[2]), tonumber(ARGV[4])
for i = 1, #flat, 2 do
  if flat[i] ~= ARGV[3] then open = open + tonumber(flat[i + 1]) end
end
if open * 4 > tonumber(ARGV[5]) then return { 1, ahead, 0 } end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return { 1, ahead, 1 }
