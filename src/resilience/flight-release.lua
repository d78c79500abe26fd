-- The owner makes no call (any more): its lease is free, if it has one.
--
-- KEYS: lease, record. ARGV: owner. Reply: 1.
local r = redis.call('HMGET', KEYS[2], 'owner', 'token')
if r[1] == ARGV[1] and redis.call('GET', KEYS[1]) == r[2] then redis.call('DEL', KEYS[1]) end
return 1
