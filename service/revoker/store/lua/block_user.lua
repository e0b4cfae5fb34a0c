-- Blocks a user until a time. A block never gets shorter.
-- KEYS: user, blocks, seq, share, list of writers, epoch.
-- ARGV:
--   1 end of the block (ms).
--   2 how long the record is stored after that (ms).
--   3 reason.
--   4 u, the user's tag.
--   5 '1' to refuse an end that is past.
--   6 who blocks ('' or none: that is not stored).
--   7 when that was (ms; '' or none: now).
-- Returns: the end of the block (ms); or 'past'.
if ARGV[5] == '1' and tonumber(ARGV[1]) <= now_ms() then return {'past'} end
local user = read_user(KEYS[1])
local ends = math.max(user.blocked, tonumber(ARGV[1]))
local longer = ends > user.blocked
if longer and ARGV[3] ~= '' then user.block_reason = ARGV[3] end
user.blocked = ends
local expiry = write_user(KEYS[1], user, tonumber(ARGV[2]))
if longer or redis.call('EXISTS', audit_key(KEYS[1], 'block')) == 0 then
  write_audit(KEYS[1], tonumber(ARGV[7]) or now_ms(), ends, ARGV[6], expiry, 'block')
end
if ends > now_ms() then
  redis.call('HSET', KEYS[2], ARGV[4], digits(ends))
else
  redis.call('HDEL', KEYS[2], ARGV[4])
end
return answer(digits(ends))
