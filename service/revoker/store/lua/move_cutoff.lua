-- Moves the cutoff of a session, client, claim or issuer forward, never back. Its time is that of rules.cutoff_time.
-- KEYS: cutoff, seq, share, list of writers, epoch.
-- ARGV:
--   1 time of the cutoff (ms; '' for now).
--   2 how long it is stored after that (ms).
--   3 reason.
--   4 by how much the time may be ahead (ms); a time ahead is replaced by now. '' to restore a cutoff with the time it had.
--   5 a cutoff made now is not dated before this time (ms): the start of a session held by this service, or the latest time of
--     the store that the process has read.
--   6 by how much that may be ahead (ms).
--   7 the request expires at this time (ms; '' or none: never).
--   8 who makes it ('' or none: that is not stored).
--   9 when it was made (ms; '' or none: as the time of the cutoff says).
-- Returns: the time of the cutoff in the store, the time of this one (ms); or 'ahead', 'expired'.
local now = now_ms()
local at, ahead, expires = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[7])
if expires and now >= expires then return {'expired'} end
if ahead then
  if at and at > now + ahead then return {'ahead'} end
  if not at or at > now then at = math.max(now, math.min(tonumber(ARGV[5]), now + (tonumber(ARGV[6]) or 0))) end
end
local stored = redis.call('GET', KEYS[1])
local before = stored and tonumber(string.match(stored, '^%d+'))
if before and before >= at then
  local expiry = put(KEYS[1], stored, before + tonumber(ARGV[2]), now)
  if expiry and expiry[2] then redis.call('PEXPIREAT', audit_key(KEYS[1]), expiry[2]) end
  return answer(digits(before), digits(at))
end
local value = digits(at)
if ARGV[3] ~= '' then value = value .. ' ' .. ARGV[3] end
local expiry = put(KEYS[1], value, at + tonumber(ARGV[2]), now)
write_audit(KEYS[1], tonumber(ARGV[9]) or ahead and now or math.min(at, now), at, ARGV[8], expiry)
return answer(digits(at), digits(at))
