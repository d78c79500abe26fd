-- How many questions of a client a process has open now.
--
-- KEYS[1]: as in permits-take.lua. ARGV: process, how many, how long the hash is kept (ms).
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
