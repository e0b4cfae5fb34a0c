-- Before the scripts that change sessions held by this service.
-- A record is text: generation, when that was first issued, last use and end (ms after the start); then the rest: auth_time (s
-- after the start's), length of auth, auth (JSON: amr, acr) and profile (JSON: sub, client_id, scope, …).
-- Lua writes numbers of up to 14 digits in full when it joins them to text, which is faster than digits().

local alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

-- The start of a session (ms), which its sid begins with.
local function start_of(sid)
  local ms = 0
  for i = 1, 8 do ms = ms * 64 + string.find(alphabet, string.sub(sid, i, i), 1, true) - 1 end
  return ms
end

local function session_of(text, start)
  if not text then return nil end
  local gen, issued, used, ends, rest = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  return {gen = gen + 0, start = start, issued = start + issued, used = start + used, ends = start + ends, rest = rest}
end

-- auth_time (s after the start's), auth and profile of a record's rest.
local function rest_of(s)
  local auth_time, length, texts = string.match(s.rest, '^(%d+) (%d+) (.*)$')
  return auth_time + 0, string.sub(texts, 1, length), string.sub(texts, length + 1)
end

local function rest_text(auth_time, auth, profile)
  return auth_time .. ' ' .. #auth .. ' ' .. auth .. profile
end

local function session_text(s)
  local start = s.start
  return s.gen .. ' ' .. s.issued - start .. ' ' .. s.used - start .. ' ' .. s.ends - start .. ' ' .. s.rest
end

-- Writes a record, which expires when the session ends or has been idle for too long. Returns its text.
local function write_session(key, s, idle)
  local text = session_text(s)
  redis.call('SET', key, text, 'PXAT', math.min(s.ends, s.used + idle) .. '')
  return text
end

-- Whether the text of a session's own cutoff (false: none) covers a session: rules.covers.
local function cutoff_covers(text, start)
  return text and start <= tonumber(string.match(text, '^%d+'))
end

-- Ends a session for good: its cutoff is stored for longer than any of its tokens lives. A cutoff that covers the session
-- already stays, with its reason. Returns the time of the cutoff (ms).
local function end_session(record, cutoff, index, sid, start, lifetime, who)
  local now = now_ms()
  local at, value = math.max(now, start), nil
  local stored = redis.call('GET', cutoff)
  if cutoff_covers(stored, start) then
    value = stored
    at = tonumber(string.match(value, '^%d+'))
  end
  local expiry = put(cutoff, value or digits(at), math.max(now, at) + lifetime, now)
  if not value then write_audit(cutoff, now, at, who, expiry) end
  redis.call('DEL', record)
  redis.call('ZREM', index, sid)
  return at
end

-- Why a session gives no token, or nil: rules.session_refusal. Takes the text of the session's own cutoff. Sets the end of the
-- session by the present settings if that is earlier, because cutoffs are stored only for as long as these require.
local function refusal(s, user, cutoff, sid, start, idle, life, now)
  if user.blocked > now then return 'blocked' end
  if user_cutoff_covers(user, sid, start) or cutoff_covers(cutoff, start) then return 'revoked' end
  if not s then return 'ended' end
  s.ends = math.min(s.ends, start + life)
  if s.ends <= now or s.used + idle <= now then return 'ended' end
  return nil
end
