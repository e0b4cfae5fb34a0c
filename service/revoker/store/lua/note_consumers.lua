-- A process says which consumers of the feed it has; others learn from it how far these have come.
-- KEYS: what every process says, seq, share, list of writers, epoch.
-- ARGV: process; what it says ('' if it has no consumers); for how long that is of interest (ms).
-- Returns: the present (ms).
-- All of it expires a minute after the last process has said something, or when that is of no interest any more.
-- What one has said is removed likewise.
-- The field without a name has the time at which that was last looked for, and the time since which all of this exists.
local now, key, lasts = now_ms(), KEYS[1], tonumber(ARGV[3])
if ARGV[2] == '' then
  redis.call('HDEL', key, ARGV[1])
else
  redis.call('HSET', key, ARGV[1], digits(now) .. ' ' .. digits(lasts) .. ' ' .. ARGV[2])
end
local looked, since = string.match(redis.call('HGET', key, '') or '', '^(%d+) (%d+)$')
local is_new = not looked
looked, since = tonumber(looked or now), math.min(tonumber(since or now), now)
if is_new or now - looked > 10000 or looked > now then
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local at, for_ms = string.match(fields[i + 1], '^(%d+) (%d+) ')
    if fields[i] ~= '' and not (at and now - at <= tonumber(for_ms)) then redis.call('HDEL', key, fields[i]) end
  end
  redis.call('HSET', key, '', digits(now) .. ' ' .. digits(since))
end
if redis.call('PTTL', key) < lasts then redis.call('PEXPIRE', key, digits(lasts)) end
return {now}
