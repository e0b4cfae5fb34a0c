-- A second factor was passed: new amr and acr, auth_time now; the start of the session stays.
-- KEYS: session, its cutoff, user, seq, share, epoch.
-- ARGV: sid, start (ms), ms of idleness, ms of life, auth.
-- Returns: 'elevated' with the present (ms) and the record; 'blocked', 'revoked', 'ended'.
local sid, start, idle, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local user = read_user(KEYS[3])
local s = read_session(KEYS[1], start)
local present = now_ms()
local now = math.max(present, s and s.used or 0)
local why = unusable(s, user, KEYS[2], sid, start, idle, life, now)
if why then return {why} end
s.auth, s.auth_time, s.used = ARGV[5], math.floor(now / 1000), now
write_session(KEYS[1], s, idle)
return {'elevated', digits(present), session_text(s)}
