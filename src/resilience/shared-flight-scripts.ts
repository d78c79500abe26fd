/**
 * The atomic steps of a flight that replicas share. Two keys: the *lease* holds a token and vanishes when its holder is not
 * heard of; the *record* outlives it and tells whoever takes over how far the flight had come, and whoever waits how it ended.
 *
 * Tokens are microseconds of the store's own clock, made to grow where that clock does not: even a store that has lost
 * everything gives out newer ones than before. No clock of a replica counts, only the lengths of time that it names.
 */
import type { SharedScript } from '../ports.ts'

const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
`

/**
 * KEYS lease, record. ARGV owner, leaseMs, overdueMs, sinceMs, ignored, recordMs.
 * `marked`: the flight has ended after the question was asked (that was `sinceMs` ago; negative = this does not matter).
 * `leased`: the flight is the owner's, also when it asks again because it has not heard the first reply; a holder that has sent
 * nothing and missed a heartbeat (less than `overdueMs` are left) has lost it. With it, how far whoever was lost had come.
 * `held`: somebody else flies.
 */
export const acquire: SharedScript = {
  numberOfKeys: 2,
  replies: 'text',
  lua: `${NOW}
local r = redis.call('HMGET', KEYS[2], 'token', 'state', 'job', 'mark', 'marker', 'markedAt', 'markUntil', 'owner')
local last, state, job, mark = tonumber(r[1] or '0'), r[2] or '', r[3] or '', r[4]
local since = tonumber(ARGV[4])
if mark and since >= 0 and tonumber(r[5]) > tonumber(ARGV[5]) then
  local markedAt = tonumber(r[6])
  if markedAt >= now - since * 1000 and markedAt <= now and now <= tonumber(r[7]) then
    return {'marked', r[5], mark}
  end
end
local holder = redis.call('GET', KEYS[1])
if holder and r[8] == ARGV[1] then
  return {'leased', holder, '', job}
end
if holder and (state ~= 'queued' or redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[3])) then
  return {'held', job}
end
local token = string.format('%.0f', math.max(last + 1, now))
if state ~= 'queued' and state ~= 'sent' then state, job = '', '' end
redis.call('HSET', KEYS[2], 'token', token, 'owner', ARGV[1], 'state', job == '' and 'queued' or 'sent', 'job', job)
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
return {'leased', token, state, job}
`,
}

/**
 * KEYS lease, record. ARGV token, owner, leaseMs, state, job, recordMs. Says 1 and holds the lease for so long again, also when
 * it ran out and nobody took it; 0 when it is somebody else's, or over.
 */
export const renew: SharedScript = {
  numberOfKeys: 2,
  replies: 'text',
  lua: `
local r = redis.call('HMGET', KEYS[2], 'token', 'over')
local holder = redis.call('GET', KEYS[1])
if tonumber(r[1] or '0') > tonumber(ARGV[1]) or r[2] == ARGV[1] or (holder and holder ~= ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'owner', ARGV[2], 'state', ARGV[4], 'job', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
`,
}

/**
 * KEYS lease, record. ARGV token, mark, markMs, agoMs, job, recordMs, channel, message. Ends the flight of this token, unless a
 * newer one has begun (0): how it ended is marked, as if that had been `agoMs` ago; or the next one may have it (no mark), with
 * the job that is under way, if any.
 */
export const land: SharedScript = {
  numberOfKeys: 2,
  replies: 'text',
  lua: `${NOW}
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
`,
}
