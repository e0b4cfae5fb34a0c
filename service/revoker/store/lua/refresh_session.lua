-- Takes one generation of a session's refresh token and says what comes of it; a refusal consumes nothing.
-- A use is marked until the service has seen that it is stored for good. While the mark is there, the same generation may be
-- used again whenever that is: its first answer may never have come. The use is then written anew, so that replicas confirm it.
-- KEYS: session, its cutoff, user, index, mark of the use of this generation, seq, share, epoch.
-- ARGV: sid, start (ms), generation, ms of idleness, ms of life, ms of grace, ms for which a cutoff is kept, scopes asked for.
-- Returns: 'rotated', 'completed' (used before, and not confirmed until now) or 'repeated' with the present (ms) and the
--          record; 'blocked', 'revoked', 'ended', 'scope', 'ahead';
--          'reused' with how many generations ago and the ms of the session's end, seq, share, epoch.
local sid, start, gen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local idle, life, grace, keep = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local record, stood, kept = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local user = user_of(kept)
local s = session_of(record, start)
local present = now_ms()
local now = math.max(present, s and s.used or 0)
local why = unusable(s, user, stood, sid, start, idle, life, now)
if why then return {why} end
if gen > s.gen then return {'ahead'} end

local previous = gen == s.gen - 1
local unconfirmed = previous and redis.call('EXISTS', KEYS[5]) == 1
if gen < s.gen and not unconfirmed and not (previous and now < s.given + grace) then
  local at = end_session(KEYS[1], KEYS[2], KEYS[4], sid, start, keep)
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
s.given, s.used = now, now
local text = write_session(KEYS[1], s, idle)
redis.call('SET', KEYS[5], '', 'PXAT', math.min(s.ends, s.used + idle) .. '')
return {previous and 'completed' or 'rotated', present .. '', text}
