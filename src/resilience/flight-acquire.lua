-- Who makes the call that this flight is about.
--
-- KEYS: lease, record. ARGV: owner; how long the lease and the record are kept; how long ago the question was asked (negative: how an
--   earlier flight ended does not matter); the mark to be ignored; the process that is gone ('' = none): its lease may be taken; the
--   newest lease that the caller has seen ('0' = none). All times in ms.
-- Reply, by its first element:
--   marked: the flight has ended after the question was asked; then the token of the mark, and the mark.
--   leased: the call is the owner's, also when it asks again because the first reply was lost; then the token, `sent` if an owner that is
--     gone has made a call, and the job that it left.
--   held: another owner has it; then its token, the owner, and the job under way.
--   forgotten: this server does not know the lease that the caller has seen: it has lost data.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local r = redis.call('HMGET', KEYS[2], 'token', 'state', 'job', 'mark', 'marker', 'markedAt', 'markUntil', 'owner')
local last, state, job, mark, owner = tonumber(r[1] or '0'), r[2] or '', r[3] or '', r[4], r[8] or ''
local since, gone = tonumber(ARGV[3]), ARGV[5]
if last < tonumber(ARGV[6]) then return { 'forgotten' } end
if mark and since >= 0 and tonumber(r[5]) > tonumber(ARGV[4]) then
  local markedAt = tonumber(r[6])
  if markedAt >= now - since * 1000 and markedAt <= now and now <= tonumber(r[7]) then
    return { 'marked', r[5], mark }
  end
end
local holder = redis.call('GET', KEYS[1])
if holder and owner == ARGV[1] then return { 'leased', holder, '', job } end
if holder and (gone == '' or string.sub(owner, 1, #gone) ~= gone) then
  return { 'held', holder, owner, job }
end
local token = string.format('%.0f', math.max(last + 1, now))
if state ~= 'sent' then state, job = '', '' end
redis.call('HSET', KEYS[2], 'token', token, 'owner', ARGV[1], 'state', 'sent', 'job', job)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
return { 'leased', token, state, job }
