-- Records that a second factor was passed: new amr and acr, auth_time is now. The start of the session does not change.
-- KEYS: session, its cutoff, user, seq, share, list of writers, epoch.
-- ARGV: sid, start (ms), idle time-out (ms), lifetime (ms), auth.
-- Returns: 'elevated', the present (ms), the record; or 'blocked', 'revoked', 'ended'.
local sid, start, idle, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local record, cutoff, user_text = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local user = user_of(user_text)
local s = session_of(record, start)
local present = now_ms()
local now = math.max(present, s and s.used or 0)
local why = refusal(s, user, cutoff, sid, start, idle, life, now)
if why then return {why} end
local _, _, profile = rest_of(s)
s.rest = rest_text(math.floor(now / 1000) - math.floor(start / 1000), ARGV[5], profile)
s.used = now
return {'elevated', digits(present), write_session(KEYS[1], s, idle)}
