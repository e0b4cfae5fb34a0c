-- Marks that a process is writing its revocations again after a loss of data, and how many steps are done. At the end the
-- process can tell by its mark whether all of them went to one data set, and others can wait for it. A mark that was not
-- renewed for 30 seconds is that of a process that has ended.
-- KEYS: marks, seq, share, list of writers, epoch.
-- ARGV:
--   1 'begin', 'renew', 'end', or 'count' for the number of processes at it.
--   2 process.
--   3 id of this refill.
--   4 steps that must be marked already.
--   5 steps that are done.
-- Returns: 1 or 0 (the mark is gone or has fewer steps), or the number of processes; the numbers of the data set.
local step, process, id, now = ARGV[1], ARGV[2], ARGV[3], now_ms()
local result = 1
if step == 'count' then
  result = 0
  local marks = redis.call('HGETALL', KEYS[1])
  for i = 1, #marks, 2 do
    if now - tonumber(string.match(marks[i + 1], '%d+$')) < 30000 then result = result + 1 end
  end
else
  local of, done = string.match(redis.call('HGET', KEYS[1], process) or '', '^(%S+) (%d+) ')
  if step ~= 'begin' and (of ~= id or tonumber(done) < tonumber(ARGV[4])) then
    result = 0
  elseif step == 'end' then
    redis.call('HDEL', KEYS[1], process)
  else
    redis.call('HSET', KEYS[1], process, id .. ' ' .. ARGV[5] .. ' ' .. digits(now))
    redis.call('PEXPIRE', KEYS[1], 86400000)
  end
end
return {result, numbers(number(KEYS[#KEYS - 3]), number(KEYS[#KEYS - 2]))}
