-- Moves a user's cutoff forward, with or without an excepted session. The record covers what all calls together cover. Its time
-- is that of rules.cutoff_time.
-- KEYS: user, index of sessions, seq, share, list of writers, epoch.
-- ARGV:
--   1 time of the cutoff (ms; '' for now).
--   2 how long it is stored after that (ms).
--   3 reason.
--   4 by how much the time may be ahead (ms); a time ahead is replaced by now. '' to restore a cutoff with the time it had.
--   5 excepted sid, or ''.
--   6 the request expires at this time (ms; '' or none: never).
--   7 who makes it ('' or none: that is not stored).
--   8 when it was made (ms; '' or none: as the time of the cutoff says).
-- Returns: the time of the user's latest cutoff, the time of this one (ms); or 'ahead', 'expired'.
local user = read_user(KEYS[1])
local now = now_ms()
local at, ahead, expires = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[6])
if expires and now >= expires then return {'expired'} end
if ahead then
  if at and at > now + ahead then return {'ahead'} end
  if not at or at > now then at = user_now(user, KEYS[2]) end
end
local sid = ARGV[5]
local latest = math.max(user.hard, user.soft)
if sid == '' then
  user.hard = math.max(user.hard, at)
elseif sid == user.sid then
  user.soft = math.max(user.soft, at)
elseif at >= user.soft then
  user.hard = math.max(user.hard, user.soft)
  user.soft = at
  user.sid = sid
else
  user.hard = math.max(user.hard, at)
end
if at >= latest then user.reason = ARGV[3] ~= '' and ARGV[3] or nil end
user.last = math.max(user.last, user.hard, user.soft)
local expiry = write_user(KEYS[1], user, tonumber(ARGV[2]))
local cutoff = math.max(user.hard, user.soft)
if at >= latest then
  write_audit(KEYS[1], tonumber(ARGV[8]) or ahead and now or math.min(at, now), cutoff, ARGV[7], expiry)
end
return answer(digits(cutoff), digits(at))
