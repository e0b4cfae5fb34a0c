-- A process takes part in the repair of a data set that has lost data. It says what it knew of the data set. If it vouches, it
-- also sets its share, after it has written back all that this counts. A share that is higher stays.
-- KEYS: contributions to the repair, seq, share, list of writers, epoch.
-- ARGV: the epoch as read, process, contribution, the share that it vouches for ('' if it does not).
-- Returns: 1 or 0 (the epoch is another one), the present (ms), contributions by process, the numbers of the data set.
local n = #KEYS
local same = redis.call('GET', KEYS[n]) == ARGV[1]
local seq, share = number(KEYS[n - 3]), own_share()
if same then
  local vouched = tonumber(ARGV[4])
  if vouched and vouched > share then
    seq, share = set_share(vouched, vouched - share), vouched
  end
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[1], 86400000)
end
return {same and 1 or 0, now_ms(), redis.call('HGETALL', KEYS[1]), numbers(seq, share)}
