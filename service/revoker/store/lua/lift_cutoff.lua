-- Takes back a cutoff: the one way in which anything revoked becomes active again.
-- What was lifted of late is noted, so that no process puts it back after a loss of data.
-- KEYS: cutoff or user, lifted, result of the request, seq, share, epoch.
-- ARGV: 'user' where it is a user's record, ms for which the rest of that is kept.
-- Returns: ms of the cutoff that stood (0: none), seq, share, epoch.
local before = result_before()
if before then return answer(before) end
local stood = 0
if ARGV[1] == 'user' then
  local user = read_user(KEYS[1])
  stood = math.max(user.hard, user.soft)
  user.hard, user.soft, user.sid, user.reason = 0, 0, '', nil
  redis.call('DEL', KEYS[1])
  write_user(KEYS[1], user, tonumber(ARGV[2]))
else
  local text = redis.call('GET', KEYS[1])
  if text then stood = tonumber(string.match(text, '^%d+')) end
  redis.call('DEL', KEYS[1])
end
note_result(digits(stood))
local reply, now = answer(digits(stood)), now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[2], 0, digits(now - 3600000))
redis.call('ZADD', KEYS[2], digits(now), digits(reply[2][1]) .. ' ' .. KEYS[1])
redis.call('PEXPIRE', KEYS[2], 3600000)
return reply
