-- Ends a user's block; cutoffs stay. A record that lived only for the block is forgotten.
-- KEYS: user, blocks, lifted, result of the request, seq, share, epoch.
-- ARGV: ms for which the record is kept after its last cutoff, u.
-- Returns: ms of the end that stood (0: none), seq, share, epoch.
local before = result_before()
if before then return answer(before) end
local user = read_user(KEYS[1])
local stood = user.blocked
user.blocked = 0
user.block_reason = nil
if user.last == 0 then
  redis.call('DEL', KEYS[1])
else
  -- within a second of it: TIME may go on in a script, where the lives of keys stand still
  if redis.call('PTTL', KEYS[1]) + now_ms() <= stood + tonumber(ARGV[1]) + 1000 then redis.call('DEL', KEYS[1]) end
  write_user(KEYS[1], user, tonumber(ARGV[1]))
end
redis.call('HDEL', KEYS[2], ARGV[2])
note_result(digits(stood))
return answer(digits(stood))
