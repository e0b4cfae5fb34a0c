-- Moves a user's cutoff forward, with or without an excepted session: the sum of all calls ever made (DESIGN §1).
-- KEYS: user, index of sessions, seq, share, epoch.
-- ARGV: ms of the cutoff ('' for now), ms for which it is kept after that, reason, ms by which it may be ahead (beyond now it
--       is taken as now; '' where it is put back, and stays as it is), excepted sid or '',
--       ms of the present from which on it is refused: the request has expired ('' or none: never).
-- Returns: ms of the standing cutoff ('ahead' where it was too far ahead, 'expired'), ms of this one, seq, share, epoch.
local user = read_user(KEYS[1])
local now = now_ms()
local at, ahead, expires = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[6])
if expires and now >= expires then return {'expired'} end
if ahead then
  if at and at > now + ahead then return {'ahead'} end
  if not at or at > now then at = math.max(user_now(user, KEYS[2]), user.hard, user.soft) end
end
local sid = ARGV[5]
local standing = math.max(user.hard, user.soft)
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
if at >= standing then user.reason = ARGV[3] ~= '' and ARGV[3] or nil end
user.last = math.max(user.last, user.hard, user.soft)
write_user(KEYS[1], user, tonumber(ARGV[2]))
return answer(digits(math.max(user.hard, user.soft)), digits(at))
