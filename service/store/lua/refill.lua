-- Marks that a process is putting back what it knows: at the end it can tell by its mark whether that went into one data set
-- throughout, and others can wait for it. A mark that is not renewed for half a minute is of a process that is gone.
-- KEYS: marks, seq, share, epoch.
-- ARGV: 'begin', 'renew', 'end', or 'count' for how many processes are at it; process, id of this refill.
-- Returns: 1 or 0 (the mark is gone), or the count; seq, share, epoch.
local step, process, id, now = ARGV[1], ARGV[2], ARGV[3], now_ms()
local said = 1
if step == 'count' then
  said = 0
  local marks = redis.call('HGETALL', KEYS[1])
  for i = 1, #marks, 2 do
    if now - tonumber(string.match(marks[i + 1], '%d+$')) < 30000 then said = said + 1 end
  end
else
  local mark = redis.call('HGET', KEYS[1], process)
  if step ~= 'begin' and not (mark and string.match(mark, '^%S+') == id) then
    said = 0
  elseif step == 'end' then
    redis.call('HDEL', KEYS[1], process)
  else
    redis.call('HSET', KEYS[1], process, id .. ' ' .. digits(now))
    redis.call('PEXPIRE', KEYS[1], 86400000)
  end
end
local n = #KEYS
local function number(key)
  return tonumber(redis.call('GET', key) or 0)
end
return {said, number(KEYS[n - 2]), number(KEYS[n - 1]), redis.call('GET', KEYS[n]) or ''}
