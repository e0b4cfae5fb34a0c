-- A second factor was passed: new amr and acr, auth_time now; the start of the session stays.
-- KEYS: session, its cutoff, user, seq, share, epoch.
-- ARGV: sid, start (ms), ms of idleness, auth.
-- Returns: 'elevated' with the present (ms) and the record; 'blocked', 'revoked', 'ended'.
local user = read_user(KEYS[3])
local s = read_session(KEYS[1])
local now = math.max(now_ms(), s and s.used or 0)
local why = unusable(s, user, KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), now)
if why then return {why} end
s.auth, s.auth_time, s.used = ARGV[4], math.floor(now / 1000), now
write_session(KEYS[1], s, tonumber(ARGV[3]))
return {'elevated', digits(now), session_text(s)}
