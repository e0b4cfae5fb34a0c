-- Moves the cutoff of a session, client or issuer forward, never back.
-- KEYS: cutoff, seq, share, epoch.
-- ARGV: ms of the cutoff ('' for now), ms for which it is kept after that, reason, ms by which it may be ahead (beyond now it
--       is taken as now; '' where it is put back, and stays as it is),
--       ms before which a cutoff made now is not dated (the start of a session kept here, or the latest time of the store that
--       the service has seen), ms by which that may be ahead,
--       ms of the present from which on it is refused: the request has expired ('' or none: never).
-- Returns: ms of the standing cutoff ('ahead' where it was too far ahead, 'expired'), ms of this one, seq, share, epoch.
local now = now_ms()
local at, ahead, expires = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[7])
if expires and now >= expires then return {'expired'} end
if ahead then
  if at and at > now + ahead then return {'ahead'} end
  if not at or at > now then at = math.max(now, math.min(tonumber(ARGV[5]), now + (tonumber(ARGV[6]) or 0))) end
end
local stood = redis.call('GET', KEYS[1])
local before = stood and tonumber(string.match(stood, '^%d+'))
if before and before >= at then
  put(KEYS[1], stood, before + tonumber(ARGV[2]), now)
  return answer(digits(before), digits(at))
end
local value = digits(at)
if ARGV[3] ~= '' then value = value .. ' ' .. ARGV[3] end
put(KEYS[1], value, at + tonumber(ARGV[2]), now)
return answer(digits(at), digits(at))
