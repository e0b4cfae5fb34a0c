-- Begins a session, later than all that is dated for the user. Older ones beyond the limit end only when this one is confirmed.
-- The key of the session carries its start, so it is made here; it lies in the slot of the declared ones.
-- KEYS: user, index, seq, share, epoch.
-- ARGV: prefix of the user's keys, u, random end of the sid, auth, profile, ms of idleness, ms of life, limit (0: none),
--       ms after which nothing begins any more, since nobody waits for it ('' for never).
-- Returns: 'blocked', 'late', or sid, 1 where there are more sessions than the limit (else 0), start (ms), the present (ms).
local prefix, idle, life, limit = ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local user = read_user(KEYS[1])
local now = now_ms()
if user.blocked > now then return {'blocked'} end
if now > (tonumber(ARGV[9]) or now) then return {'late'} end
local start = math.max(now, user.last + 1, last_start(KEYS[2]) + 1)

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
  gen = 1, start = start, given = start, used = start, ends = start + life, rest = rest_text(0, ARGV[4], ARGV[5]),
}
write_session(prefix .. ':session:' .. sid, session, idle)
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, now)
redis.call('ZADD', KEYS[2], digits(session.ends), sid)
redis.call('ZADD', KEYS[2], digits(-start), '')
if now + redis.call('PTTL', KEYS[2]) < session.ends then redis.call('PEXPIREAT', KEYS[2], digits(session.ends)) end
local more = limit > 0 and redis.call('ZCARD', KEYS[2]) - 1 > limit
return {sid, more and 1 or 0, digits(start), digits(now)}
