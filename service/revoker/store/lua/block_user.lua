-- Blocks a user until a time; a block never gets shorter.
-- KEYS: user, blocks, seq, share, epoch.
-- ARGV: ms of the end, ms for which the record is kept after that, reason, u, '1' where a past end is refused.
-- Returns: ms of the end that stands ('past' where it was refused), seq, share, epoch.
if ARGV[5] == '1' and tonumber(ARGV[1]) <= now_ms() then return {'past'} end
local user = read_user(KEYS[1])
local till = math.max(user.blocked, tonumber(ARGV[1]))
if till > user.blocked and ARGV[3] ~= '' then user.block_reason = ARGV[3] end
user.blocked = till
write_user(KEYS[1], user, tonumber(ARGV[2]))
if till > now_ms() then
  redis.call('HSET', KEYS[2], ARGV[4], digits(till))
else
  redis.call('HDEL', KEYS[2], ARGV[4])
end
return answer(digits(till))
