-- Ends one session. One that begins further ahead than any clock of the store can be was never begun.
-- KEYS: session, its cutoff, index, seq, share, epoch.
-- ARGV: sid, start (ms), ms for which the cutoff is kept, ms by which the start may be ahead.
-- Returns: ms of the end, seq, share, epoch; 'ahead'.
if tonumber(ARGV[2]) > now_ms() + tonumber(ARGV[4]) then return {'ahead'} end
return answer(digits(end_session(KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))))
