-- Ends a user's block; cutoffs stay. A record that was stored only for the block is deleted.
-- KEYS: user, blocks, lifted, result of the request, seq, share, list of writers, epoch.
-- ARGV: how long the record is stored after its last cutoff (ms), u, the user's tag, 'again' or none.
-- Returns: the end of the block (ms; 0: there was none).
undone(KEYS[1], 'block')
-- A block that was written back has no record of who made it. One that was made since the first time has, and stays.
local before = result_before(again and redis.call('EXISTS', audit_key(KEYS[1], 'block')) == 0)
if before then return answer(before) end
local user = read_user(KEYS[1])
local ended = user.blocked
user.blocked = 0
user.block_reason = nil
if user.last == 0 then
  redis.call('DEL', KEYS[1])
else
  -- TIME may advance in a script while the expiry of keys does not: they are compared to the second.
  if redis.call('PTTL', KEYS[1]) + now_ms() <= ended + tonumber(ARGV[1]) + 1000 then redis.call('DEL', KEYS[1]) end
  write_user(KEYS[1], user, tonumber(ARGV[1]))
end
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('DEL', audit_key(KEYS[1], 'block'))
store_result(digits(ended))
return answer(digits(ended))
