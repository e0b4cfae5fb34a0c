-- Takes back a cutoff: the one way in which anything revoked becomes active again.
-- What was lifted of late is noted, so that no process puts it back after a loss of data.
-- KEYS: cutoff or user, lifted, seq, share, epoch.
-- ARGV: 'user' where it is a user's record, ms for which the rest of that is kept, id of the request.
-- Returns: ms of the cutoff that stood (0: none), seq, share, epoch.
local before = result_before(KEYS[2])
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
note_result(KEYS[2], digits(stood))
local reply = answer(digits(stood))
redis.call('ZADD', KEYS[2], digits(now_ms()), digits(reply[2][1]) .. ' ' .. KEYS[1])
return reply
