-- GCRA, one request, by the clock of Redis.
--
-- KEYS[1]: when the bucket is full again. ARGV: microseconds per request, tolerance in microseconds.
-- Reply: 1 and how far the bucket is from full now, or 0 and how long to wait (both microseconds).
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local perRequest, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local ahead = math.max(0, (tonumber(redis.call('GET', KEYS[1])) or now) - now)
-- The clock of Redis was set back, or the limit was lowered: nobody waits longer than for a whole bucket.
ahead = math.min(ahead, tolerance + perRequest)
if ahead > tolerance then return { 0, ahead - tolerance } end
ahead = ahead + perRequest
redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
return { 1, ahead }
