-- Begins a session, later than all that is dated for the user; beyond the limit the oldest ends.
-- The keys of sessions carry their start, so those of this one and of the oldest are made here; they lie in the
-- slot of the declared ones.
-- KEYS: user, index, seq, share, epoch.
-- ARGV: prefix of the user's keys, u, random end of the sid, auth, profile, ms of idleness, ms of life, limit (0: none),
--       ms for which a cutoff is kept.
-- Returns: 'blocked', or sid, for each session ended its sid and the ms of its end, start (ms), the present (ms); seq, share,
--          epoch.
local prefix, idle, life, limit, keep = ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local user = read_user(KEYS[1])
local now = now_ms()
if user.blocked > now then return {'blocked'} end
local start = math.max(now, user.last + 1, last_start(KEYS[2]) + 1)

local alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
local function time_of(ms)
  local text = ''
  for _ = 1, 8 do
    local digit = ms % 64
    text = string.sub(alphabet, digit + 1, digit + 1) .. text
    ms = (ms - digit) / 64
  end
  return text
end

local function start_of(sid)
  local ms = 0
  for i = 1, 8 do ms = ms * 64 + string.find(alphabet, string.sub(sid, i, i), 1, true) - 1 end
  return ms
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

local ended = {}
if limit > 0 and redis.call('ZCARD', KEYS[2]) - 1 > limit then
  local live = {}
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, '+inf')) do
    local record, began = prefix .. ':session:' .. each, start_of(each)
    local stood = redis.call('GET', prefix .. ':session-cutoff:' .. each)
    if covered(user, each, began) or cut(stood, began) then redis.call('DEL', record) end
    if redis.call('EXISTS', record) == 1 then
      live[#live + 1] = each
    else
      redis.call('ZREM', KEYS[2], each)
    end
  end
  table.sort(live, function(a, b) return start_of(a) < start_of(b) end)
  for i = 1, #live - limit do
    local oldest = live[i]
    local began = start_of(oldest)
    local at = end_session(prefix .. ':session:' .. oldest, prefix .. ':session-cutoff:' .. oldest, KEYS[2], oldest, began, keep)
    ended[#ended + 1], ended[#ended + 2] = oldest, digits(at)
  end
end
if #ended == 0 then return {sid, ended, digits(start), digits(now)} end
return answer(sid, ended, digits(start), digits(now))
