-- Stands before the scripts that change one session kept here.
-- A record is text: generation, when that was first given out, last use, end, auth_time (ms; auth_time in s),
-- length of auth, then auth (JSON: amr, acr) and profile (JSON: sub, client_id, scope, …).

local function read_session(key)
  local text = redis.call('GET', key)
  if not text then return nil end
  local gen, given, used, ends, auth_time, length, rest =
    string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  length = tonumber(length)
  return {
    gen = tonumber(gen), given = tonumber(given), used = tonumber(used), ends = tonumber(ends),
    auth_time = tonumber(auth_time), auth = string.sub(rest, 1, length), profile = string.sub(rest, length + 1),
  }
end

local function session_text(s)
  return table.concat({
    digits(s.gen), digits(s.given), digits(s.used), digits(s.ends), digits(s.auth_time), #s.auth,
    s.auth .. s.profile,
  }, ' ')
end

-- A session lives until its end, or until it has been idle too long.
local function write_session(key, s, idle)
  redis.call('SET', key, session_text(s), 'PXAT', digits(math.min(s.ends, s.used + idle)))
end

-- Ends a session for good: its cutoff outlives every token of it.
local function end_session(record, cutoff, index, sid, start, keep)
  local at = math.max(now_ms(), start)
  put(cutoff, digits(at), at + keep, now_ms())
  redis.call('DEL', record)
  redis.call('ZREM', index, sid)
  return at
end

-- Why a session may not be used now; nil where it may.
local function unusable(s, user, cutoff, sid, start, idle, now)
  if user.blocked > now then return 'blocked' end
  if covered(user, sid, start) or redis.call('EXISTS', cutoff) == 1 then return 'revoked' end
  if not s or s.ends <= now or s.used + idle <= now then return 'ended' end
  return nil
end
