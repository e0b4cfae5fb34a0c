-- Undoes a cutoff, the only way in which a revoked token becomes active again.
-- The key is added to the set of recently lifted cutoffs, so that no process restores it after a loss of data.
-- KEYS: cutoff or user, lifted, result of the request, seq, share, list of writers, epoch.
-- ARGV: 'user' if it is a user's record, how long the rest of that is stored (ms), 'again' or none.
-- Returns: the time of the cutoff (ms; 0: there was none).
undone(KEYS[1], 'cutoff')
local before = result_before(again)
if before then return answer(before) end
local lifted = 0
if ARGV[1] == 'user' then
  local user = read_user(KEYS[1])
  lifted = math.max(user.hard, user.soft)
  user.hard, user.soft, user.sid, user.reason = 0, 0, '', nil
  redis.call('DEL', KEYS[1])
  write_user(KEYS[1], user, tonumber(ARGV[2]))
else
  local text = redis.call('GET', KEYS[1])
  if text then lifted = tonumber(string.match(text, '^%d+')) end
  redis.call('DEL', KEYS[1])
end
redis.call('DEL', audit_key(KEYS[1]))
store_result(digits(lifted))
local reply, now = answer(digits(lifted)), now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, digits(now - 3600000))
redis.call('ZADD', KEYS[2], digits(now), digits(reply[2][1]) .. ' ' .. KEYS[1])
redis.call('PEXPIRE', KEYS[2], 3600000)
return reply
