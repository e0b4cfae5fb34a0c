-- Stands before the scripts that change one session kept here.
-- A record is text: generation, when that was first given out, last use, end (ms after the start), auth_time (s after
-- the start's), length of auth, then auth (JSON: amr, acr) and profile (JSON: sub, client_id, scope, …).

local function read_session(key, start)
  local text = redis.call('GET', key)
  if not text then return nil end
  local gen, given, used, ends, auth_time, length, rest =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  length = tonumber(length)
  return {
    gen = tonumber(gen), start = start, given = start + given, used = start + used, ends = start + ends,
    auth_time = math.floor(start / 1000) + auth_time,
    auth = string.sub(rest, 1, length), profile = string.sub(rest, length + 1),
  }
end

local function session_text(s)
  return table.concat({
    digits(s.gen), digits(s.given - s.start), digits(s.used - s.start), digits(s.ends - s.start),
    digits(s.auth_time - math.floor(s.start / 1000)), #s.auth, s.auth .. s.profile,
  }, ' ')
end

-- A session lives until its end, or until it has been idle too long.
local function write_session(key, s, idle)
  redis.call('SET', key, session_text(s), 'PXAT', digits(math.min(s.ends, s.used + idle)))
end

-- Whether a session's own cutoff covers it.
local function cut(cutoff, start)
  local stood = redis.call('GET', cutoff)
  return stood and start <= tonumber(string.match(stood, '^%d+'))
end

-- Ends a session for good: its cutoff outlives every token of it. One that covers it already stands on, with its reason.
local function end_session(record, cutoff, index, sid, start, keep)
  local now = now_ms()
  local at, value = math.max(now, start), nil
  if cut(cutoff, start) then
    value = redis.call('GET', cutoff)
    at = tonumber(string.match(value, '^%d+'))
  end
  put(cutoff, value or digits(at), math.max(now, at) + keep, now)
  redis.call('DEL', record)
  redis.call('ZREM', index, sid)
  return at
end

-- Why a session may not be used now; nil where it may. The end is that of the present settings if it is sooner:
-- cutoffs are kept no longer than these ask for.
local function unusable(s, user, cutoff, sid, start, idle, life, now)
  if user.blocked > now then return 'blocked' end
  if covered(user, sid, start) or cut(cutoff, start) then return 'revoked' end
  if not s then return 'ended' end
  s.ends = math.min(s.ends, start + life)
  if s.ends <= now or s.used + idle <= now then return 'ended' end
  return nil
end
