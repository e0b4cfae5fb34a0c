-- A running process enters itself, with the server that it has looked at and what it repairs; or says that it leaves.
-- KEYS: running processes, seq, share, list of writers, epoch.
-- ARGV: process; id of the server, a space, what it repairs ('' for nothing, 'left' if it leaves).
-- Returns: the present (ms), and all processes with the time (ms) at which they last did so, a space, and what they said.
-- One that has not done so for an hour is removed.
local now = now_ms()
redis.call('HSET', KEYS[1], ARGV[1], digits(now) .. ' ' .. ARGV[2])
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if now - tonumber(string.match(fields[i + 1], '^%d+')) > 3600000 then redis.call('HDEL', KEYS[1], fields[i]) end
end
return {now, fields}
