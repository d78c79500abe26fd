-- Gives one request back to the bucket of rate.lua.
--
-- KEYS[1]: when the bucket is full again. ARGV: microseconds of the request that have not passed yet. Reply: 1 = there was something to give back.
local fullAt = tonumber(redis.call('GET', KEYS[1]))
if not fullAt then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local ahead = fullAt - tonumber(ARGV[1]) - now
if ahead > 0 then
  redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
else
  redis.call('DEL', KEYS[1])
end
return 1
