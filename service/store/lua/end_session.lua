-- Ends one session.
-- KEYS: session, its cutoff, index, seq, share, epoch.
-- ARGV: sid, start (ms), ms for which the cutoff is kept.
-- Returns: ms of the end, seq, share, epoch.
return answer(digits(end_session(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))))
