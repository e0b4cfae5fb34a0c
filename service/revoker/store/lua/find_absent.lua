-- Finds which acknowledged revocations of a process the store lacks, or would drop too early, while the process writes back what
-- it knows. It marks that as one more step: a server that has the mark has all that was found present, too. See refill.lua.
-- It is stricter than Written.is_held_by, which must not take for lost what is only stored otherwise.
-- KEYS: marks, then of each revocation its own key; seq, share, list of writers, epoch.
-- ARGV:
--   1 process.
--   2 id of this refill.
--   3 steps that must be marked already.
--   then of each revocation three: its time (ms; 0 where any will do), when it expires (ms), and the session that it excepts.
-- Returns: 1 or 0 (the mark is gone or has fewer steps); then the numbers of those that are to be written.
local now, marked = now_ms(), tonumber(ARGV[3])
local of, done = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) (%d+) ')
if of ~= ARGV[2] or tonumber(done) < marked then return {0} end

local function user_holds(stored, at, sid)
  local read, user = pcall(cjson.decode, stored)
  if not read or type(user) ~= 'table' then return false end
  return (user.hard or 0) >= at or sid ~= '' and user.sid == sid and (user.soft or 0) >= at
end

local function holds(key, at, expiry, sid)
  local stored = redis.call('GET', key)
  if not stored then return false end
  local left = redis.call('PTTL', key)
  if left >= 0 and now + left + 1000 < expiry then return false end
  if string.match(key, '}:user$') then return user_holds(stored, at, sid) end
  return (tonumber(string.match(stored, '^%d+')) or -1) >= at
end

local reply = {1}
for i = 2, #KEYS - 4 do
  local at, expiry, sid = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  if tonumber(expiry) > now and not holds(KEYS[i], tonumber(at), tonumber(expiry), sid) then reply[#reply + 1] = i - 1 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. digits(marked + 1) .. ' ' .. digits(now))
return reply
