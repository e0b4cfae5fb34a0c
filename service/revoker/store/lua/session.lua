-- Stands before the scripts that change one session kept here.
-- A record is text: generation, when that was first given out, last use, end (ms after the start), then the rest: auth_time (s
-- after the start's), length of auth, auth (JSON: amr, acr) and profile (JSON: sub, client_id, scope, …).
-- Numbers of up to 14 digits become text as they are where they meet text, which takes less than digits().

local alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

-- When a session began (ms), which its sid begins with.
local function start_of(sid)
  local ms = 0
  for i = 1, 8 do ms = ms * 64 + string.find(alphabet, string.sub(sid, i, i), 1, true) - 1 end
  return ms
end

local function session_of(text, start)
  if not text then return nil end
  local gen, given, used, ends, rest = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  return {gen = gen + 0, start = start, given = start + given, used = start + used, ends = start + ends, rest = rest}
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
  return s.gen .. ' ' .. s.given - start .. ' ' .. s.used - start .. ' ' .. s.ends - start .. ' ' .. s.rest
end

-- A session lives until its end, or until it has been idle too long. Returns the record.
local function write_session(key, s, idle)
  local text = session_text(s)
  redis.call('SET', key, text, 'PXAT', math.min(s.ends, s.used + idle) .. '')
  return text
end

-- Whether a session's own cutoff, as it stands, covers it.
local function cut(stood, start)
  return stood and start <= tonumber(string.match(stood, '^%d+'))
end

-- Ends a session for good: its cutoff outlives every token of it. One that covers it already stands on, with its reason.
local function end_session(record, cutoff, index, sid, start, keep)
  local now = now_ms()
  local at, value = math.max(now, start), nil
  local stood = redis.call('GET', cutoff)
  if cut(stood, start) then
    value = stood
    at = tonumber(string.match(value, '^%d+'))
  end
  put(cutoff, value or digits(at), math.max(now, at) + keep, now)
  redis.call('DEL', record)
  redis.call('ZREM', index, sid)
  return at
end

-- Why a session may not be used now, by its own cutoff as it stands; nil where it may. The end is that of the present settings if it is sooner:
-- cutoffs are kept no longer than these ask for.
local function unusable(s, user, stood, sid, start, idle, life, now)
  if user.blocked > now then return 'blocked' end
  if covered(user, sid, start) or cut(stood, start) then return 'revoked' end
  if not s then return 'ended' end
  s.ends = math.min(s.ends, start + life)
  if s.ends <= now or s.used + idle <= now then return 'ended' end
  return nil
end
