-- Starts a session, later than anything else dated for the user: rules.session_start_time. Older sessions beyond the limit end
-- only once the new one is confirmed.
-- The key of the session contains its start, so the script makes it; it lies in the slot of the declared keys.
-- KEYS: user, index, seq, share, list of writers, epoch.
-- ARGV:
--   1 prefix of the user's keys.
--   2 u, the user's tag.
--   3 random end of the sid.
--   4 auth.
--   5 profile.
--   6 idle time-out (ms).
--   7 lifetime (ms).
--   8 limit on the number of sessions (0: none).
--   9 nothing starts after this time, because nobody waits for it any more (ms; '' for never).
-- Returns: sid, 1 if there are more sessions than the limit (else 0), start (ms), the present (ms); or 'blocked', 'late'.
local prefix, idle, life, limit = ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local user = read_user(KEYS[1])
local now = now_ms()
if user.blocked > now then return {'blocked'} end
if now > (tonumber(ARGV[9]) or now) then return {'late'} end
local start = math.max(now, user.last + 1, latest_start(KEYS[2]) + 1)

local function time_of(ms)
  local text = ''
  for _ = 1, 8 do
    local digit = ms % 64
    text = string.sub(alphabet, digit + 1, digit + 1) .. text
    ms = (ms - digit) / 64
  end
  return text
end

local sid = time_of(start) .. ARGV[2] .. ARGV[3]
local session = {
  gen = 1, start = start, issued = start, used = start, ends = start + life, rest = rest_text(0, ARGV[4], ARGV[5]),
}
write_session(prefix .. ':session:' .. sid, session, idle)
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now)
redis.call('ZADD', KEYS[2], digits(session.ends), sid)
redis.call('ZADD', KEYS[2], digits(-start), '')
if now + redis.call('PTTL', KEYS[2]) < session.ends then redis.call('PEXPIREAT', KEYS[2], digits(session.ends)) end
local more = limit > 0 and redis.call('ZCARD', KEYS[2]) - 1 > limit
return {sid, more and 1 or 0, digits(start), digits(now)}
