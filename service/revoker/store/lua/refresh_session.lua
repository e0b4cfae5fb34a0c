-- Uses one generation of a session's refresh token. The decision is that of rules.session_refusal and rules.refresh_outcome.
-- A refusal changes nothing. A use is marked until the service has confirmed that it is stored for good. While the mark exists,
-- the same generation may be used again at any time, because its first answer may have been lost. The use is then written
-- again, so that replicas confirm it.
-- KEYS: session, its cutoff, user, index, mark of an unconfirmed use of this generation, seq, share, list of writers, epoch.
-- ARGV:
--   1 sid.
--   2 start (ms).
--   3 generation.
--   4 idle time-out (ms).
--   5 lifetime (ms).
--   6 grace for the previous generation (ms).
--   7 how long a cutoff is stored (ms).
--   8 and on: requested scopes.
-- Returns: 'rotated', 'completed' (used before, but not confirmed) or 'repeated', then the present (ms) and the record;
--          'reused', how many generations ago, and the time of the session's cutoff (ms);
--          or 'blocked', 'revoked', 'ended', 'scope', 'ahead'.
local sid, start, gen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local idle, life, grace, lifetime = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local record, cutoff, user_text = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local user = user_of(user_text)
local s = session_of(record, start)
local present = now_ms()
local now = math.max(present, s and s.used or 0)
local why = refusal(s, user, cutoff, sid, start, idle, life, now)
if why then return {why} end
if gen > s.gen then return {'ahead'} end

local previous = gen == s.gen - 1
local unconfirmed = previous and redis.call('EXISTS', KEYS[5]) == 1
if gen < s.gen and not unconfirmed and not (previous and now < s.issued + grace) then
  local at = end_session(KEYS[1], KEYS[2], KEYS[4], sid, start, lifetime)
  return answer('reused', s.gen - gen, digits(at))
end

if #ARGV > 7 then
  local granted = {}
  local _, _, profile = rest_of(s)
  for scope in string.gmatch(cjson.decode(profile)[3], '[^ ]+') do granted[scope] = true end
  for i = 8, #ARGV do
    if not granted[ARGV[i]] then return {'scope'} end
  end
end

if previous and not unconfirmed then return {'repeated', digits(present), session_text(s)} end
if not previous then s.gen = s.gen + 1 end
s.issued, s.used = now, now
local text = write_session(KEYS[1], s, idle)
redis.call('SET', KEYS[5], '', 'PXAT', math.min(s.ends, s.used + idle) .. '')
return {previous and 'completed' or 'rotated', present .. '', text}
