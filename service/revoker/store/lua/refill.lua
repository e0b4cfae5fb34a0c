-- Marks that a process is putting back what it knows, and how far it is: at the end it can tell by its mark whether all of it
-- went into one data set, and others can wait for it. A mark that is not renewed for half a minute is of a process that is gone.
-- KEYS: marks, seq, share, epoch.
-- ARGV: 'begin', 'renew', 'end', or 'count' for how many processes are at it; process, id of this refill, writes known to be
--       marked, writes done.
-- Returns: 1 or 0 (the mark is gone, or of fewer writes), or the count; seq, share, epoch.
local step, process, id, now = ARGV[1], ARGV[2], ARGV[3], now_ms()
local said = 1
if step == 'count' then
  said = 0
  local marks = redis.call('HGETALL', KEYS[1])
  for i = 1, #marks, 2 do
    if now - tonumber(string.match(marks[i + 1], '%d+$')) < 30000 then said = said + 1 end
  end
else
  local of, done = string.match(redis.call('HGET', KEYS[1], process) or '', '^(%S+) (%d+) ')
  if step ~= 'begin' and (of ~= id or tonumber(done) < tonumber(ARGV[4])) then
    said = 0
  elseif step == 'end' then
    redis.call('HDEL', KEYS[1], process)
  else
    redis.call('HSET', KEYS[1], process, id .. ' ' .. ARGV[5] .. ' ' .. digits(now))
    redis.call('PEXPIRE', KEYS[1], 86400000)
  end
end
local n = #KEYS
local function number(key)
  return tonumber(redis.call('GET', key) or 0)
end
return {said, number(KEYS[n - 2]), number(KEYS[n - 1]), redis.call('GET', KEYS[n]) or ''}
