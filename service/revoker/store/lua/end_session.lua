-- Ends one session. A start further ahead than the clock of any server of the store is that of no session.
-- KEYS: session, its cutoff, index, seq, share, list of writers, epoch.
-- ARGV: sid, start (ms), how long the cutoff is stored (ms), by how much the start may be ahead (ms), who ends it ('' or none:
--   that is not stored).
-- Returns: the time of the cutoff (ms); or 'ahead'.
if tonumber(ARGV[2]) > now_ms() + tonumber(ARGV[4]) then return {'ahead'} end
return answer(digits(end_session(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[5])))
