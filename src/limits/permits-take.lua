-- One more open question of a client, counted over all processes.
--
-- KEYS[1]: a hash, process -> how many questions it has open. ARGV: the limit; the caller's process; how many it has open with this
--   one; how long the hash is kept (ms); processes that are gone.
-- Reply: { 1 }, or { 0, the other processes that have questions open }.
local flat = redis.call('HGETALL', KEYS[1])
local gone, others, taken = {}, { 0 }, 0
for i = 5, #ARGV do gone[ARGV[i]] = true end
for i = 1, #flat, 2 do
  if gone[flat[i]] then
    redis.call('HDEL', KEYS[1], flat[i])
  elseif flat[i] ~= ARGV[2] then
    taken = taken + tonumber(flat[i + 1])
    table.insert(others, flat[i])
  end
end
if taken + tonumber(ARGV[3]) > tonumber(ARGV[1]) then return others end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 1 }
