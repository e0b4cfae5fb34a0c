-- A process says which consumers of the feed it has; others learn from it how far these have come.
-- KEYS: what every process says, seq, share, list of writers, epoch.
-- ARGV: process; what it says ('' if it has no consumers).
-- Returns: the present (ms).
-- All of it expires a minute after the last process has said something; what one has said a minute ago is removed before that.
-- The field without a name has the time at which that was last looked for.
local now, key = now_ms(), KEYS[1]
if ARGV[2] == '' then
  redis.call('HDEL', key, ARGV[1])
else
  redis.call('HSET', key, ARGV[1], digits(now) .. ' ' .. ARGV[2])
  redis.call('PEXPIRE', key, 60000)
end
if now - tonumber(redis.call('HGET', key, '') or 0) > 10000 then
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if now - tonumber(string.match(fields[i + 1], '^%d+')) > 60000 then redis.call('HDEL', key, fields[i]) end
  end
  if #fields > 0 then redis.call('HSET', key, '', digits(now)) end
end
return {now}
