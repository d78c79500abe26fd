-- Says again who makes the call, and what others can go on with. Also takes the lease back where it was forgotten and nobody took it.
--
-- KEYS: lease, record. ARGV: token, owner, how long the lease and the record are kept (ms), job.
-- Reply: 1, or 0 when the lease is another owner's by now, or the flight is over.
local r = redis.call('HMGET', KEYS[2], 'token', 'over')
local holder = redis.call('GET', KEYS[1])
if tonumber(r[1] or '0') > tonumber(ARGV[1]) or r[2] == ARGV[1] or (holder and holder ~= ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'owner', ARGV[2], 'state', 'sent', 'job', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
